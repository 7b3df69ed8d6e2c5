//! A component made larger: functions that nobody calls are added to its largest core module.

use anyhow::{Context, Result, ensure};

/// Magic and version, of a component as of a core module.
const PREAMBLE: usize = 8;
/// Section of a component that holds a core module.
const CORE_MODULE: u8 = 1;
/// Sections of a core module: the type of each function, and its code.
const FUNCTION: u8 = 3;
const CODE: u8 = 10;
/// One store to the memory: `i32.const 8`, `i32.const 42`, `i32.store`. A compiler leaves none of them out.
const STORE: [u8; 7] = [0x41, 0x08, 0x41, 0x2a, 0x36, 0x02, 0x00];
/// After this the stack is whatever the function's type asks for: `unreachable`, `end`.
const TAIL: [u8; 2] = [0x00, 0x0b];
/// Stores in each function.
const STORES: usize = 140;

struct Section<'a> {
    id: u8,
    content: &'a [u8],
}

/// Adds about so many bytes of code.
pub(super) fn pad(component: &[u8], bytes: usize) -> Result<Vec<u8>> {
    let mut sections = sections(component)?;
    let largest = sections.iter().enumerate().filter(|(_, section)| section.id == CORE_MODULE);
    let (index, _) = largest.max_by_key(|(_, section)| section.content.len()).context("a component without code")?;
    let larger = pad_module(sections[index].content, bytes)?;
    sections[index].content = &larger;
    Ok(joined(&component[..PREAMBLE], &sections))
}

fn pad_module(module: &[u8], bytes: usize) -> Result<Vec<u8>> {
    let mut body = vec![0];
    for _ in 0..STORES {
        body.extend_from_slice(&STORE);
    }
    body.extend_from_slice(&TAIL);
    let mut function = Vec::new();
    write(&mut function, body.len());
    function.extend_from_slice(&body);
    let count = bytes.div_ceil(function.len());

    let mut sections = sections(module)?;
    // All of the first type there is.
    let types = extended(&sections, FUNCTION, count, &[0])?;
    let code = extended(&sections, CODE, count, &function)?;
    for section in &mut sections {
        match section.id {
            FUNCTION => section.content = &types,
            CODE => section.content = &code,
            _ => {}
        }
    }
    Ok(joined(&module[..PREAMBLE], &sections))
}

/// The content of a section that is a vector, with `item` put at its end so many times.
fn extended(sections: &[Section<'_>], id: u8, times: usize, item: &[u8]) -> Result<Vec<u8>> {
    let section = sections.iter().find(|section| section.id == id).context("a module without functions")?;
    let mut rest = section.content;
    let before = read(&mut rest)?;
    let mut out = Vec::with_capacity(rest.len() + times * item.len() + 5);
    write(&mut out, before + times);
    out.extend_from_slice(rest);
    for _ in 0..times {
        out.extend_from_slice(item);
    }
    Ok(out)
}

fn sections(binary: &[u8]) -> Result<Vec<Section<'_>>> {
    let mut rest = binary.get(PREAMBLE..).context("no WebAssembly binary")?;
    let mut sections = Vec::new();
    while let [id, tail @ ..] = rest {
        rest = tail;
        let size = read(&mut rest)?;
        ensure!(size <= rest.len(), "a section goes beyond the end");
        let (content, tail) = rest.split_at(size);
        sections.push(Section { id: *id, content });
        rest = tail;
    }
    Ok(sections)
}

fn joined(preamble: &[u8], sections: &[Section<'_>]) -> Vec<u8> {
    let mut out = preamble.to_vec();
    for section in sections {
        out.push(section.id);
        write(&mut out, section.content.len());
        out.extend_from_slice(section.content);
    }
    out
}

/// A number in LEB128, taken off the front.
fn read(bytes: &mut &[u8]) -> Result<usize> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let (first, rest) = bytes.split_first().context("a number goes beyond the end")?;
        *bytes = rest;
        value |= usize::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    anyhow::bail!("a number of more than 32 bits")
}

fn write(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_they_were_written() {
        for number in [0, 1, 127, 128, 300, 1 << 20, u32::MAX as usize] {
            let mut bytes = Vec::new();
            write(&mut bytes, number);
            let mut rest = &bytes[..];
            assert_eq!((read(&mut rest).unwrap(), rest.len()), (number, 0));
        }
        assert!(read(&mut &[0x80_u8][..]).is_err());
        assert!(read(&mut &[0xff_u8; 6][..]).is_err());
    }

    #[test]
    fn a_padded_component_is_valid_and_larger() {
        let wasm = include_bytes!("../../../../tests/contract/handler-0.1.0.wasm");
        let padded = pad(wasm, 100_000).unwrap();
        assert!((100_000..110_000).contains(&(padded.len() - wasm.len())));
        let sandbox = sandbar::sandbox::Sandbox::new(&sandbar::sandbox::Settings::default()).unwrap();
        assert_eq!(sandbox.load(&padded).unwrap().imports(), sandbox.load(wasm).unwrap().imports());
    }
}
