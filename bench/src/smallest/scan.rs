//! The answers to XACK and XREADGROUP, walked by hand.

use anyhow::{Result, bail, ensure};

/// Where it stands in the answers, so that nothing is walked twice when more of them comes.
///
///     :200  *1  *2  $key  *200  ( *2  $id  *16  $field … )…
pub(super) struct Scanner {
    at: usize,
    stage: Stage,
    /// Entries that were not begun yet, and all of them.
    left: u64,
    entries: u64,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Stage {
    Acknowledged,
    Streams,
    Stream,
    Key,
    Entries,
    Entry,
    Id,
    Fields,
    /// So many bulk strings.
    Field(u64),
}

/// How far a scan came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// The answer goes on in bytes that have not come yet.
    Unfinished,
    /// The answer is complete.
    Finished {
        /// Entries in it.
        entries: u64,
    },
}

// === impl Scanner ===

impl Scanner {
    /// For one answer, which follows the one to an acknowledgement or not.
    pub(super) fn new(acknowledges: bool) -> Self {
        let stage = if acknowledges { Stage::Acknowledged } else { Stage::Streams };
        Self { at: 0, stage, left: 0, entries: 0 }
    }

    /// Goes on in `bytes`, which must begin as in the last call. Calls `counted` with the number of entries when it is
    /// known, and then copies each id to `ids`, with its head and its end, as it lies in the answer.
    pub(super) fn scan(
        &mut self,
        bytes: &[u8],
        ids: &mut Vec<u8>,
        mut counted: impl FnMut(&mut Vec<u8>, u64),
    ) -> Result<Scan> {
        loop {
            let Some((head, number, body)) = header(bytes, self.at)? else { return Ok(Scan::Unfinished) };
            match (self.stage, head) {
                (Stage::Acknowledged, b':') => self.go(body, Stage::Streams),
                (Stage::Streams, b'*') if number < 0 => return Ok(Scan::Finished { entries: 0 }),
                (Stage::Streams, b'*') => self.go(body, Stage::Stream),
                (Stage::Stream, b'*') => self.go(body, Stage::Key),
                (Stage::Key, b'$') => {
                    let Some(end) = end_of(bytes, body, number)? else { return Ok(Scan::Unfinished) };
                    self.go(end, Stage::Entries);
                }
                (Stage::Entries, b'*') => {
                    self.entries = u64::try_from(number)?;
                    self.left = self.entries;
                    ensure!(self.left > 0, "a stream without an entry");
                    counted(ids, self.entries);
                    self.go(body, Stage::Entry);
                }
                (Stage::Entry, b'*') => {
                    self.left -= 1;
                    self.go(body, Stage::Id);
                }
                (Stage::Id, b'$') => {
                    let Some(end) = end_of(bytes, body, number)? else { return Ok(Scan::Unfinished) };
                    ids.extend_from_slice(&bytes[self.at..end]);
                    self.go(end, Stage::Fields);
                }
                (Stage::Fields, b'*') if number > 0 => self.go(body, Stage::Field(u64::try_from(number)?)),
                (Stage::Field(count), b'$') => {
                    let Some(end) = end_of(bytes, body, number)? else { return Ok(Scan::Unfinished) };
                    match (count, self.left) {
                        (1, 0) => return Ok(Scan::Finished { entries: self.entries }),
                        (1, _) => self.go(end, Stage::Entry),
                        _ => self.go(end, Stage::Field(count - 1)),
                    }
                }
                _ => bail!("the server answered {:?}", String::from_utf8_lossy(&bytes[self.at..body])),
            }
        }
    }

    fn go(&mut self, at: usize, stage: Stage) {
        self.at = at;
        self.stage = stage;
    }
}

/// The kind of the value that begins at `at`, its number and where that line ends; none if not all of it is there.
fn header(bytes: &[u8], at: usize) -> Result<Option<(u8, i64, usize)>> {
    let Some(&head) = bytes.get(at) else { return Ok(None) };
    let mut number = 0_i64;
    let mut negative = false;
    for (place, &byte) in bytes.iter().enumerate().skip(at + 1) {
        match byte {
            b'0'..=b'9' => number = number.wrapping_mul(10).wrapping_add(i64::from(byte - b'0')),
            b'-' if place == at + 1 => negative = true,
            b'\r' if bytes.len() > place + 1 => {
                return Ok(Some((head, if negative { -number } else { number }, place + 2)));
            }
            b'\r' => return Ok(None),
            // An error: it is told with all that is there of it.
            _ => bail!("the server answered {:?}", String::from_utf8_lossy(&bytes[at..])),
        }
    }
    Ok(None)
}

/// Where a bulk string of this length ends; none if not all of it is there.
fn end_of(bytes: &[u8], body: usize, length: i64) -> Result<Option<usize>> {
    let end = body + usize::try_from(length)? + 2;
    Ok((bytes.len() >= end).then_some(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "*1\r\n*2\r\n$3\r\nkey\r\n*2\r\n\
        *2\r\n$3\r\n1-1\r\n*4\r\n$1\r\na\r\n$0\r\n\r\n$1\r\nb\r\n$4\r\n\r\n*9\r\n\
        *2\r\n$4\r\n1-20\r\n*2\r\n$1\r\na\r\n$1\r\nx\r\n";

    /// What a scan of `text` makes of it when it comes in pieces of `piece` bytes.
    fn scan(text: &str, acknowledges: bool, piece: usize) -> Result<(Scan, String)> {
        let (mut scanner, mut ids) = (Scanner::new(acknowledges), Vec::new());
        let mut end = 0;
        loop {
            end = (end + piece).min(text.len());
            let counted = |ids: &mut Vec<u8>, count: u64| ids.extend_from_slice(format!("[{count}]").as_bytes());
            let scan = scanner.scan(&text.as_bytes()[..end], &mut ids, counted)?;
            if scan != Scan::Unfinished || end == text.len() {
                return Ok((scan, String::from_utf8(ids)?));
            }
        }
    }

    #[test]
    fn ids_are_copied_however_the_answer_is_cut() {
        for piece in 1..=ANSWER.len() {
            let (end, ids) = scan(ANSWER, false, piece).unwrap();
            assert_eq!(end, Scan::Finished { entries: 2 }, "in pieces of {piece}");
            assert_eq!(ids, "[2]$3\r\n1-1\r\n$4\r\n1-20\r\n", "in pieces of {piece}");
            let (end, _) = scan(&format!(":200\r\n{ANSWER}"), true, piece).unwrap();
            assert_eq!(end, Scan::Finished { entries: 2 }, "after an acknowledgement, in pieces of {piece}");
        }
    }

    #[test]
    fn it_is_not_finished_before_the_last_byte() {
        for end in 0..ANSWER.len() {
            assert_eq!(scan(&ANSWER[..end], false, ANSWER.len()).unwrap().0, Scan::Unfinished, "after {end} bytes");
        }
    }

    #[test]
    fn nil_is_the_end() {
        assert_eq!(scan(":1\r\n*-1\r\n", true, 3).unwrap(), (Scan::Finished { entries: 0 }, String::new()));
    }

    #[test]
    fn an_error_is_told() {
        let error = scan("-NOGROUP No such key\r\n", false, 100).unwrap_err().to_string();
        assert!(error.contains("NOGROUP No such key"), "{error}");
        assert!(scan("+OK\r\n", false, 100).is_err());
        assert!(scan(":1\r\n", false, 100).is_err());
    }
}
