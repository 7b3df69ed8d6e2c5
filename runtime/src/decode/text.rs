//! The text of JSON.

use std::fmt::{self, Write};

/// Appends a string with quotes, escaping what JSON wants escaped and nothing else.
pub(super) fn push_string(out: &mut String, text: &str) {
    out.reserve(text.len() + 2);
    out.push('"');
    let mut rest = text;
    while let Some(clean) = next_escape(rest.as_bytes()) {
        // What is escaped is ASCII, so both cuts lie between characters.
        out.push_str(&rest[..clean]);
        let byte = rest.as_bytes()[clean];
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            _ => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{byte:04x}");
            }
        }
        rest = &rest[clean + 1..];
    }
    out.push_str(rest);
    out.push('"');
}

/// Where the first byte stands that must be escaped: a quote, a backslash or a control character.
///
/// Eight bytes at a time. In `word - ONES * n`, a byte below `n` is the only one to set its high bit that had it
/// clear, up to the first such byte: a borrow can only spoil the bytes after it. So the first hit is exact.
fn next_escape(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk() {
        let word = u64::from_le_bytes(*chunk);
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let hits = (below(word, 0x20) | quote | backslash) & HIGH;
        if hits != 0 {
            return Some(at + hits.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let tail = bytes[at..].iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\'));
    tail.map(|index| at + index)
}

/// As much of a text from outside as an error should repeat: errors end in logs and dead letters.
pub(super) fn cut(text: &str) -> String {
    const SHOWN: usize = 100;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Appends an integer.
pub(super) fn push_long(out: &mut String, long: i64) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{long}");
}

/// Writes a JSON pointer (RFC 6901).
pub(super) fn write_pointer<S: AsRef<str>>(f: &mut impl Write, steps: impl Iterator<Item = S>) -> fmt::Result {
    for step in steps {
        f.write_char('/')?;
        for c in step.as_ref().chars() {
            match c {
                '~' => f.write_str("~0")?,
                '/' => f.write_str("~1")?,
                c => f.write_char(c)?,
            }
        }
    }
    Ok(())
}

/// How deep the arrays and objects of a JSON document are nested. The document must be valid.
pub(super) fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_character_alone_at_each_place_is_escaped_as_serde_does() {
        for place in 0..20 {
            for c in (0..=0x2ff).filter_map(char::from_u32).chain(['\u{2028}', '\u{1f600}', '\u{ffff}']) {
                let text = format!("{}{c}{}", "a".repeat(place), "z\u{e9}".repeat(5));
                let mut out = String::new();
                push_string(&mut out, &text);
                assert_eq!(out, serde_json::to_string(&text).unwrap());
            }
        }
    }

    proptest! {
        #[test]
        fn strings_are_written_as_serde_writes_them(text in "([\\x00-\\x7f]|\\PC){0,64}") {
            let mut out = String::new();
            push_string(&mut out, &text);
            prop_assert_eq!(out, serde_json::to_string(&text).unwrap());
        }
    }

    #[test]
    fn depth_counts_brackets_outside_strings() {
        for (json, expected) in [("1", 0), ("[]", 1), (r#"{"a":[{}],"b":[]}"#, 3), (r#"["[[\"[[", "\\", [1]]"#, 2)] {
            assert_eq!(depth(json), expected, "{json}");
        }
    }

    #[test]
    fn errors_repeat_a_hundred_characters_at_most() {
        assert_eq!(cut(&"é".repeat(100)), "é".repeat(100));
        assert_eq!(cut(&"é".repeat(101)), format!("{}…", "é".repeat(100)));
    }

    #[test]
    fn pointers_are_escaped() {
        let mut out = String::new();
        write_pointer(&mut out, ["a/b", "~", ""].into_iter()).unwrap();
        assert_eq!(out, "/a~1b/~0/");
    }
}
