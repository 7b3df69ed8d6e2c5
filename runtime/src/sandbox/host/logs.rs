//! What a guest says becomes lines of the host's log: cleaned, capped, under the handler's name and the event's id.

use crate::sandbox::{limits, text};

/// The tracing target of everything a guest says.
const TARGET: &str = "handler";

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

/// What one call has said so far.
#[derive(Default)]
pub(in crate::sandbox) struct Logs {
    lines: u32,
    bytes: usize,
    dropped: u64,
    /// Of standard output and error, the line that has not ended yet.
    open: [Vec<u8>; 2],
    last_words: String,
}

// === impl Logs ===

impl Logs {
    pub(in crate::sandbox) fn write(&mut self, handler: &str, event: &str, level: Level, message: &str) {
        if self.lines >= limits::LOG_LINES || self.bytes >= limits::LOG_BYTES {
            self.dropped += 1;
            return;
        }
        let room = limits::LOG_LINE_BYTES.min(limits::LOG_BYTES - self.bytes);
        let line = text::line(message, room);
        self.lines += 1;
        self.bytes += line.len();
        emit(handler, event, level, &line);
    }

    /// Takes what was written to a standard stream, and logs the lines that are whole.
    pub(in crate::sandbox) fn print(&mut self, handler: &str, event: &str, stream: Stream, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(stream, &bytes[..end]);
            self.end_line(handler, event, stream);
            bytes = &bytes[end + 1..];
        }
        self.keep(stream, bytes);
    }

    /// Logs what is left over, and how much was dropped.
    pub(in crate::sandbox) fn finish(&mut self, handler: &str, event: &str) {
        for stream in [Stream::Out, Stream::Err] {
            if !self.open[stream as usize].is_empty() {
                self.end_line(handler, event, stream);
            }
        }
        if self.dropped > 0 {
            let (dropped, lines, bytes) = (self.dropped, limits::LOG_LINES, limits::LOG_BYTES);
            let message = format!("{dropped} log lines dropped: a call may write {lines} lines and {bytes} bytes");
            emit(handler, event, Level::Warn, &message);
        }
    }

    /// What the guest wrote last to its standard error: where a panic says what it was.
    pub(in crate::sandbox) fn last_words(&self) -> &str {
        &self.last_words
    }

    fn keep(&mut self, stream: Stream, bytes: &[u8]) {
        let open = &mut self.open[stream as usize];
        let room = (limits::LOG_LINE_BYTES + 1).saturating_sub(open.len());
        open.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self, handler: &str, event: &str, stream: Stream) {
        let bytes = std::mem::take(&mut self.open[stream as usize]);
        let message = String::from_utf8_lossy(&bytes);
        if stream == Stream::Err && !message.trim().is_empty() {
            // Rust's panic message has two lines and a note; together they say what happened.
            let joined = format!("{} {}", self.last_words, message.trim());
            let from = joined.len().saturating_sub(limits::LAST_WORDS_BYTES);
            let from = (from..=joined.len()).find(|at| joined.is_char_boundary(*at)).unwrap_or_default();
            joined[from..].trim().clone_into(&mut self.last_words);
        }
        let level = match stream {
            Stream::Out => Level::Info,
            Stream::Err => Level::Warn,
        };
        self.write(handler, event, level, &message);
    }
}

fn emit(handler: &str, event: &str, level: Level, message: &str) {
    let event = text::line(event, limits::CODE_BYTES * 4);
    match level {
        Level::Trace => tracing::trace!(target: TARGET, handler, event, "{message}"),
        Level::Debug => tracing::debug!(target: TARGET, handler, event, "{message}"),
        Level::Info => tracing::info!(target: TARGET, handler, event, "{message}"),
        Level::Warn => tracing::warn!(target: TARGET, handler, event, "{message}"),
        Level::Error => tracing::error!(target: TARGET, handler, event, "{message}"),
    }
}
