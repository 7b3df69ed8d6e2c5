//! Durations, sizes and start positions as people write them.

use std::time::Duration;

use crate::bus::Start;
use crate::event::Position;

/// Largest first, because the units of one duration must go down.
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Binary and decimal, as `kubectl` and `docker` read them too.
const SIZE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

/// Reads `500ms`, `5m`, `1h30m`: whole numbers with units that go down, each unit at most once.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut millis, mut from) = (text.trim(), 0_u64, 0);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, tail) = after.split_at(letters);
        let index = from + DURATION_UNITS[from..].iter().position(|(name, _)| *name == unit)?;
        millis = millis.checked_add(number.checked_mul(DURATION_UNITS[index].1)?)?;
        (from, rest) = (index + 1, tail);
    }
    Some(Duration::from_millis(millis))
}

/// Reads `64MiB`, `1MB`, `4096`: bytes.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = leading_number(text.trim())?;
    let unit = unit.trim_start();
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
    number.checked_mul(*factor)
}

/// Reads `new`, `beginning`, a time with its offset, or a position on the bus.
#[must_use]
pub fn start(text: &str) -> Option<Start> {
    match text {
        "new" => return Some(Start::New),
        "beginning" => return Some(Start::Beginning),
        _ => {}
    }
    if is_position(text) {
        return Some(Start::After(Position::from(text)));
    }
    text.parse::<jiff::Timestamp>().ok().map(|time| Start::At(time.into()))
}

/// `42` on SQLite, `1526919030474-0` on Redis.
fn is_position(text: &str) -> bool {
    let number =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && part.parse::<u64>().is_ok();
    match text.split_once('-') {
        Some((millis, sequence)) => number(millis) && number(sequence),
        None => number(text),
    }
}

fn leading_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((number.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_numbers_with_units_that_go_down() {
        for (text, millis) in [
            ("1s", 1_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
            ("0s", 0),
            ("1m1ms", 60_001),
        ] {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "5S",
            "1s1s",
            "1s1m",
            "1.5s",
            "-1s",
            "1s ago",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_bytes_with_or_without_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("1MB", 1_000_000),
            ("2 gib", 2 << 30),
            ("7B", 7),
            ("1kb", 1000),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "MiB", "64 MiBs", "-1", "1.5MiB", "99999999999GiB"] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn a_start_is_a_word_a_position_or_a_time_with_offset() {
        assert_eq!(start("new"), Some(Start::New));
        assert_eq!(start("beginning"), Some(Start::Beginning));
        assert_eq!(start("1526919030474-55"), Some(Start::After("1526919030474-55".into())));
        assert_eq!(start("42"), Some(Start::After("42".into())));
        let at = std::time::UNIX_EPOCH + Duration::from_secs(1_767_225_600);
        assert_eq!(start("2026-01-01T00:00:00Z"), Some(Start::At(at)));
        assert_eq!(start("2026-01-01T02:00:00+02:00"), Some(Start::At(at)));
        for text in ["", "New", "2026-01-01", "2026-01-01T00:00:00", "1-2-3", "-5", "99999999999999999999"] {
            assert_eq!(start(text), None, "{text}");
        }
    }
}
