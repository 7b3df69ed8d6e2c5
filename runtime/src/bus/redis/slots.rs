//! Slots of a cluster: which one a key lies in, which key a command is about, who serves what.

use redis::{Arg, Cmd, Value};

use super::super::Error;
use super::url::Address;
use super::{errors, parse};

/// How many slots a cluster has.
const COUNT: u16 = 16_384;

/// Who serves a range of slots: first, last, and the master's address.
pub(super) type Range = (u16, u16, Address);

/// The slot of a key: of what stands between its first `{` and the next `}`, if that is anything, else of all of it.
pub(super) fn slot(key: &[u8]) -> u16 {
    crc16(tag(key).unwrap_or(key)) % COUNT
}

/// The part of a key that decides its slot, if it is not the whole key.
pub(super) fn tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let length = key[open + 1..].iter().position(|byte| *byte == b'}')?;
    (length > 0).then(|| &key[open + 1..open + 1 + length])
}

/// The slots of commands that are sent together. One that names no key goes with the one before it, or the first that
/// names one: `TIME` beside a read is asked of the server that the read is asked of.
pub(super) fn of_commands(commands: &[Cmd]) -> Vec<Option<u16>> {
    let mut slots: Vec<Option<u16>> = commands.iter().map(|command| key(command).map(slot)).collect();
    let mut last = slots.iter().copied().flatten().next();
    for slot in &mut slots {
        last = slot.or(last);
        *slot = last;
    }
    slots
}

/// The first key that a command names. Knows the commands that this bus sends.
fn key(command: &Cmd) -> Option<&[u8]> {
    let mut words = command.args_iter().map(|word| match word {
        Arg::Simple(bytes) => bytes,
        // A cursor: no key is one.
        _ => &b""[..],
    });
    let name = words.next()?.to_ascii_uppercase();
    match name.as_slice() {
        b"PING" | b"TIME" | b"SCRIPT" | b"CLIENT" | b"CLUSTER" | b"INFO" | b"CONFIG" | b"ROLE" | b"ASKING"
        | b"WAIT" | b"WAITAOF" | b"COMMAND" => None,
        b"EVALSHA" | b"EVAL" => match words.nth(1) {
            Some(b"0") | None => None,
            Some(_) => words.next(),
        },
        b"XINFO" | b"XGROUP" => words.nth(1),
        b"XREAD" | b"XREADGROUP" => words.find(|word| word.eq_ignore_ascii_case(b"STREAMS")).and_then(|_| words.next()),
        _ => words.next(),
    }
}

/// Reads `CLUSTER SLOTS`. A node that does not say its host is where it was asked: `asked`.
pub(super) fn ranges(answer: Value, asked: &Address) -> Result<Vec<Range>, Error> {
    const WHAT: &str = "CLUSTER SLOTS";
    let mut ranges = Vec::new();
    for entry in parse::array(answer, WHAT)? {
        let mut entry = parse::array(entry, WHAT)?.into_iter();
        let mut bound = || entry.next().as_ref().and_then(parse::int).and_then(|slot| u16::try_from(slot).ok());
        let (Some(first), Some(last)) = (bound(), bound()) else { return Err(errors::unexpected(WHAT)) };
        let Some(master) = entry.next() else { continue };
        let mut master = parse::array(master, WHAT)?.into_iter();
        let host = master.next().and_then(parse::text).filter(|host| !host.is_empty());
        let port = master.next().as_ref().and_then(parse::int).and_then(|port| u16::try_from(port).ok());
        // A host of `?` is one that the node itself does not know yet.
        if let (Some(port), false) = (port, host.as_deref() == Some("?")) {
            ranges.push((first, last, Address { host: host.unwrap_or_else(|| asked.host.clone()), port }));
        }
    }
    ranges.sort_unstable_by_key(|(first, ..)| *first);
    Ok(ranges)
}

/// CRC-16/XMODEM, by the cluster specification.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % COUNT, "an empty tag is none");
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"{dev-t}.retry.g"), slot(b"dev-t"), "what belongs to a topic lies with it");
    }

    #[test]
    fn a_command_goes_where_its_first_key_lies() {
        let of = |words: &[&str]| {
            let mut command = redis::cmd(words[0]);
            command.arg(&words[1..]);
            key(&command).map(|key| String::from_utf8_lossy(key).into_owned())
        };
        assert_eq!(of(&["XADD", "k", "*", "n", "1"]).as_deref(), Some("k"));
        assert_eq!(of(&["EVALSHA", "hash", "2", "k", "l", "x"]).as_deref(), Some("k"));
        assert_eq!(of(&["EVALSHA", "hash", "0", "x"]), None);
        assert_eq!(of(&["XINFO", "STREAM", "k"]).as_deref(), Some("k"));
        let read = ["XREADGROUP", "GROUP", "g", "c", "COUNT", "1", "BLOCK", "5", "STREAMS", "k", "l", ">", ">"];
        assert_eq!(of(&read).as_deref(), Some("k"));
        let (time, get) = (redis::cmd("TIME"), redis::cmd("GET").arg("foo").to_owned());
        assert_eq!(of_commands(&[time.clone(), get, time]), [Some(12_182); 3]);
    }
}
