//! What a guest says becomes lines of the host's log: cleaned, capped, under the handler's name and the event's id.

use crate::sandbox::{Limits, Secrets, limits, text};

/// The tracing target of everything a guest says.
const TARGET: &str = "handler";

/// Bytes at the end of what is written that are looked at line by line although nothing more is logged.
const FULL_LOOK: usize = 4 * limits::LAST_WORDS_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// One of the two standard streams of a guest that are written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sandbox) enum Stream {
    Out,
    Err,
}

/// Who speaks, about what, and what must not be seen of it.
pub(in crate::sandbox) struct Voice<'a> {
    pub(in crate::sandbox) handler: &'a str,
    pub(in crate::sandbox) event: &'a str,
    pub(in crate::sandbox) secrets: &'a Secrets,
    /// Who hears it instead of the log of this process.
    pub(in crate::sandbox) heard: Option<&'a dyn Hears>,
}

/// Takes what a guest says where this process has no log of its own.
pub(in crate::sandbox) trait Hears: Send + Sync {
    /// A line, clean and within what a call may say.
    fn line(&self, level: Level, line: &str);

    /// So many lines more were dropped.
    fn dropped(&self, lines: u64);
}

/// What one call has said so far.
pub(in crate::sandbox) struct Logs {
    most_lines: u32,
    most_bytes: usize,
    lines: u32,
    bytes: usize,
    dropped: u64,
    /// Of standard output and error, the line that has not ended yet.
    open: [Vec<u8>; 2],
    last_words: LastWords,
}

/// What a guest said that may tell why it ended: its last error line, or everything on its standard error since.
#[derive(Default)]
struct LastWords {
    text: String,
    /// More of standard error belongs to it.
    printed: bool,
}

// === impl Logs ===

impl Logs {
    pub(in crate::sandbox) fn new(limits: &Limits) -> Self {
        Self {
            most_lines: limits.log_lines,
            most_bytes: limits.log_bytes,
            lines: 0,
            bytes: 0,
            dropped: 0,
            open: Default::default(),
            last_words: LastWords::default(),
        }
    }

    /// So many lines were dropped before they came here.
    pub(in crate::sandbox) fn dropped(&mut self, lines: u64) {
        self.dropped = self.dropped.saturating_add(lines);
    }

    fn is_full(&self) -> bool {
        self.lines >= self.most_lines || self.bytes >= self.most_bytes
    }

    pub(in crate::sandbox) fn write(&mut self, of: &Voice<'_>, level: Level, message: &str) {
        if level == Level::Error {
            // Before the caps: what ended the call is told even if it had said too much before.
            self.last_words.say(&of.secrets.hide(message, limits::LAST_WORDS_BYTES + 1));
        }
        if self.is_full() {
            self.dropped += 1;
            return;
        }
        let room = limits::LOG_LINE_BYTES.min(self.most_bytes - self.bytes);
        let line = of.secrets.line(message, room);
        self.lines += 1;
        self.bytes += line.len();
        emit(of, level, &line);
    }

    /// Takes what was written to a standard stream, and logs the lines that are whole.
    pub(in crate::sandbox) fn print(&mut self, of: &Voice<'_>, stream: Stream, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            if self.is_full() && bytes.len() > FULL_LOOK {
                // Nothing of it is logged: megabytes of line ends are counted, and only the last words looked at.
                // Not from the middle of a line: it could be the middle of a secret.
                let look = bytes.len() - FULL_LOOK;
                let start =
                    bytes[look - 1..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| look + end);
                let (front, back) = bytes.split_at(start);
                self.dropped += front.iter().filter(|byte| **byte == b'\n').count() as u64;
                self.open[stream as usize].clear();
                bytes = back;
                continue;
            }
            self.keep(of, stream, &bytes[..end]);
            self.end_line(of, stream);
            bytes = &bytes[end + 1..];
        }
        self.keep(of, stream, bytes);
    }

    /// Logs what is left over, and how much was dropped.
    pub(in crate::sandbox) fn finish(&mut self, of: &Voice<'_>) {
        for stream in [Stream::Out, Stream::Err] {
            if !self.open[stream as usize].is_empty() {
                self.end_line(of, stream);
            }
        }
        if let Some(heard) = of.heard.filter(|_| self.dropped > 0) {
            heard.dropped(self.dropped);
        } else if self.dropped > 0 {
            let (dropped, lines, bytes) = (self.dropped, self.most_lines, self.most_bytes);
            let more = match self.lines >= lines {
                true => limits::more("log_lines", lines),
                false => limits::more_bytes("log_bytes", bytes),
            };
            let message =
                format!("{dropped} log lines dropped: a call may write {lines} lines and {bytes} bytes; {more}");
            emit(of, Level::Warn, &message);
        }
    }

    /// What the guest said last as an error: its last error line (the SDK's panics are one), or what it has written
    /// to its standard error since, where every other language says what was wrong.
    pub(in crate::sandbox) fn last_words(&self) -> &str {
        &self.last_words.text
    }

    fn keep(&mut self, of: &Voice<'_>, stream: Stream, bytes: &[u8]) {
        let open = &mut self.open[stream as usize];
        let room = kept(of).saturating_sub(open.len());
        open.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self, of: &Voice<'_>, stream: Stream) {
        let bytes = std::mem::take(&mut self.open[stream as usize]);
        let mut message = String::from_utf8_lossy(&bytes);
        if !of.secrets.is_empty() {
            message = of.secrets.hide(&message, usize::MAX).into_owned().into();
            if bytes.len() == kept(of) {
                of.secrets.drop_begun(message.to_mut());
            }
        }
        if stream == Stream::Err {
            self.last_words.print(message.trim());
        }
        let level = match stream {
            Stream::Out => Level::Info,
            Stream::Err => Level::Warn,
        };
        self.write(of, level, &message);
    }
}

// === impl LastWords ===

impl LastWords {
    fn say(&mut self, line: &str) {
        // Later they are cut to the same length; here they must not grow with what a guest says.
        let end = line.floor_char_boundary(limits::LAST_WORDS_BYTES + 1);
        line[..end].clone_into(&mut self.text);
        self.printed = false;
    }

    fn print(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        if !std::mem::replace(&mut self.printed, true) {
            self.text.clear();
        }
        // A report has several lines, which together say what happened; its end says most.
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(line);
        let over = self.text.len().saturating_sub(limits::LAST_WORDS_BYTES);
        self.text.drain(..self.text.ceil_char_boundary(over));
    }
}

/// Bytes that are kept of a line that has not ended: one more than are shown, so that it is seen to be longer.
fn kept(of: &Voice<'_>) -> usize {
    limits::LOG_LINE_BYTES + 1 + of.secrets.longest()
}

fn emit(of: &Voice<'_>, level: Level, message: &str) {
    if let Some(heard) = of.heard {
        return heard.line(level, message);
    }
    let (handler, event) = (of.handler, text::line(of.event, limits::CODE_BYTES * 4));
    match level {
        Level::Trace => tracing::trace!(target: TARGET, handler, event, "{message}"),
        Level::Debug => tracing::debug!(target: TARGET, handler, event, "{message}"),
        Level::Info => tracing::info!(target: TARGET, handler, event, "{message}"),
        Level::Warn => tracing::warn!(target: TARGET, handler, event, "{message}"),
        Level::Error => tracing::error!(target: TARGET, handler, event, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Secret;

    fn said(parts: &[(Option<Level>, &str)]) -> String {
        last_words(&Secrets::default(), parts)
    }

    fn last_words(secrets: &Secrets, parts: &[(Option<Level>, &str)]) -> String {
        let of = Voice { handler: "h", event: "e", secrets, heard: None };
        let mut logs = Logs::new(&Limits::default());
        for (level, text) in parts {
            match level {
                Some(level) => logs.write(&of, *level, text),
                None => logs.print(&of, Stream::Err, text.as_bytes()),
            }
        }
        logs.finish(&of);
        logs.last_words().to_owned()
    }

    #[test]
    fn the_last_words_are_the_last_error_or_what_was_printed_since() {
        let error = Some(Level::Error);
        for (parts, expected) in [
            (&[][..], ""),
            (&[(Some(Level::Warn), "warned")], ""),
            (&[(error, "one"), (error, "two"), (Some(Level::Info), "three")], "two"),
            (&[(None, "a report\n"), (None, "of two lines")], "a report of two lines"),
            (&[(error, "one"), (None, "a report\n\nof two"), (None, " lines\n")], "a report of two lines"),
            (&[(None, "printed\n"), (error, "panicked at x.rs:1:2:\nno")], "panicked at x.rs:1:2:\nno"),
        ] {
            assert_eq!(said(parts), expected, "{parts:?}");
        }
    }

    #[test]
    fn the_last_words_hold_no_secret() {
        let value = "not for the eyes of others";
        let secrets = Secrets::known([("S".to_owned(), Secret::new(value.as_bytes()))]);
        let (start, end) = value.split_at(9);
        let error = Some(Level::Error);
        assert_eq!(last_words(&secrets, &[(error, &format!("it is {value}"))]), "it is ***");
        assert_eq!(last_words(&secrets, &[(None, "it is "), (None, start), (None, end), (None, "!\n")]), "it is ***!");
        for before in limits::LOG_LINE_BYTES - 40..limits::LOG_LINE_BYTES + 40 {
            let long = format!("{}{value}", "x".repeat(before));
            let said = last_words(&secrets, &[(None, &long)]);
            assert!(!said.contains("not"), "{before}: {said}");
        }
    }

    #[test]
    fn the_last_words_are_kept_when_too_much_was_said_before() {
        let mut parts = vec![(Some(Level::Info), "chatter"); limits::LOG_LINES as usize];
        parts.push((Some(Level::Error), "the end"));
        assert_eq!(said(&parts), "the end");
    }

    #[test]
    fn megabytes_of_lines_are_counted_and_their_end_is_kept() {
        let mut logs = Logs::new(&Limits::default());
        let lines = 1_000_000;
        let of = Voice { handler: "h", event: "e", secrets: &Secrets::default(), heard: None };
        logs.print(&of, Stream::Err, format!("{}the end", "\n".repeat(lines)).as_bytes());
        logs.finish(&of);
        assert_eq!(logs.dropped, lines as u64 + 1 - u64::from(limits::LOG_LINES));
        assert_eq!(logs.last_words(), "the end");
    }

    #[test]
    fn the_last_words_do_not_grow_with_what_is_said() {
        let most = limits::LAST_WORDS_BYTES;
        let long = format!("start {} end", "ä".repeat(most));
        let error = said(&[(Some(Level::Error), &long)]);
        assert!(error.len() <= most + 1 && error.starts_with("start"), "{error}");
        let printed = said(&[(None, &long), (None, "\n"), (None, &long)]);
        assert!(printed.len() <= most && printed.ends_with("end"), "{printed}");
    }
}
