//! What crosses between a host and a worker: frames, and the values in them.
//!
//! A frame is a kind, a length, and so many bytes. Whoever reads believes neither: a length is bounded, and bytes that are
//! no such value are an error.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use bytes::Bytes;

use crate::event::{Event, KeyWrite, Metadata, Payload, Verdict};
use crate::sandbox::Draft;
use crate::sandbox::host::Level;

/// What a frame is about.
pub(super) mod kind {
    /// To a worker: the handler, then its code.
    pub(in super::super) const START: u8 = 1;
    /// To a worker: attempt, whether it is replayed, whether others come first, the event.
    pub(in super::super) const CALL: u8 = 2;
    /// To a worker: what was asked for.
    pub(in super::super) const ANSWER: u8 = 3;
    /// To a worker: why it is refused, for the guest to read.
    pub(in super::super) const REFUSED: u8 = 4;
    /// To a worker: the same, for a limit.
    pub(in super::super) const LIMIT: u8 = 5;
    /// The worker can be called.
    pub(in super::super) const READY: u8 = 16;
    /// Text: why the worker cannot be called.
    pub(in super::super) const UNABLE: u8 = 17;
    /// A draft to publish; the answer is its id.
    pub(in super::super) const PUBLISH: u8 = 18;
    /// A key to read; the answer is its value, if it has one.
    pub(in super::super) const GET: u8 = 19;
    /// A prefix and a number of keys; the answer is those keys.
    pub(in super::super) const LIST: u8 = 20;
    /// A level and a line of the log. There is no answer.
    pub(in super::super) const LOG: u8 = 21;
    /// A number of lines more that were dropped. There is no answer.
    pub(in super::super) const DROPPED: u8 = 24;
    /// Whether others shall come first; the answer is for how many nanoseconds they did.
    pub(in super::super) const REST: u8 = 25;
    /// The call is over: a verdict, and keys to write.
    pub(in super::super) const DONE: u8 = 22;
    /// Text: why the guest was not called.
    pub(in super::super) const NOT_CALLED: u8 = 23;
}

/// The levels of a log line, as they cross.
const LEVELS: [Level; 5] = [Level::Trace, Level::Debug, Level::Info, Level::Warn, Level::Error];

/// Bytes before the length and the content of a frame.
const HEAD: usize = 9;

/// Bytes that are read at once; most frames have fewer.
const PIECE: usize = 16 << 10;

/// One end of what host and worker speak over.
pub(super) struct Link {
    stream: UnixStream,
    /// Read and not looked at.
    read: Vec<u8>,
    most: usize,
}

/// A frame to be sent.
pub(super) struct Frame(Vec<u8>);

/// Values of a frame that was read.
pub(super) struct Values<'a>(&'a [u8]);

// === impl Link ===

impl Link {
    /// Frames that are read have at most so many bytes.
    pub(super) fn new(stream: UnixStream, most: usize) -> Self {
        Self { stream, read: Vec::new(), most }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    pub(super) fn send(&mut self, frame: Frame) -> io::Result<()> {
        self.send_whole(&frame.finish())
    }

    /// Sends what [`Frame::finish`] made.
    pub(super) fn send_whole(&mut self, frame: &[u8]) -> io::Result<()> {
        self.stream.write_all(frame)
    }

    /// The next frame's kind and content. An end between frames is `UnexpectedEof` too.
    pub(super) fn hear(&mut self) -> io::Result<(u8, Vec<u8>)> {
        self.fill(HEAD)?;
        let mut length = [0; 8];
        length.copy_from_slice(&self.read[1..HEAD]);
        let kind = self.read[0];
        let length = usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX);
        if length > self.most {
            return Err(garbled());
        }
        self.fill(HEAD + length)?;
        let rest = self.read.split_off(HEAD + length);
        let mut content = std::mem::replace(&mut self.read, rest);
        content.drain(..HEAD);
        Ok((kind, content))
    }

    fn fill(&mut self, least: usize) -> io::Result<()> {
        while self.read.len() < least {
            let had = self.read.len();
            self.read.resize(least.max(had + PIECE), 0);
            let read = self.stream.read(&mut self.read[had..]);
            self.read.truncate(had + read.as_ref().map_or(0, |read| *read));
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A log line's level, as it crosses.
pub(super) fn number_of(level: Level) -> u64 {
    level as u64
}

/// The level that this number stands for, if it does for one.
pub(super) fn level_of(number: u64) -> Option<Level> {
    usize::try_from(number).ok().and_then(|number| LEVELS.get(number)).copied()
}

/// What is no value of the kind that is expected.
pub(super) fn garbled() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "what it says makes no sense")
}

// === impl Frame ===

impl Frame {
    pub(super) fn new(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(kind);
        bytes.extend([0; HEAD - 1]);
        Self(bytes)
    }

    /// The frame as it crosses.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = (self.0.len() - HEAD) as u64;
        self.0[1..HEAD].copy_from_slice(&length.to_le_bytes());
        self.0
    }

    pub(super) fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    pub(super) fn flag(self, flag: bool) -> Self {
        self.number(flag.into())
    }

    pub(super) fn bytes(self, bytes: &[u8]) -> Self {
        let mut with = self.number(bytes.len() as u64);
        with.0.extend(bytes);
        with
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn maybe<T>(self, value: Option<T>, write: impl FnOnce(Self, T) -> Self) -> Self {
        let with = self.flag(value.is_some());
        match value {
            Some(value) => write(with, value),
            None => with,
        }
    }

    pub(super) fn each<T>(self, values: impl ExactSizeIterator<Item = T>, write: impl Fn(Self, T) -> Self) -> Self {
        let with = self.number(values.len() as u64);
        values.fold(with, write)
    }

    fn headers(self, headers: &[(String, Bytes)]) -> Self {
        self.each(headers.iter(), |frame, (name, value)| frame.text(name).bytes(value))
    }

    fn payload(self, payload: &Payload) -> Self {
        match payload {
            Payload::Json(text) => self.flag(true).text(text),
            Payload::Raw(bytes) => self.flag(false).bytes(bytes),
        }
    }

    pub(super) fn event(self, event: &Event) -> Self {
        let Event { topic, position, first, metadata, content_type, payload } = event;
        let Metadata { id, kind, source, time, key, headers, hops } = metadata;
        let places = self.text(topic).text(position.as_str()).text(first.as_str());
        let about = places.text(id).text(kind).text(source).text(time);
        let about = about.maybe(key.as_ref(), |frame, key| frame.bytes(key)).headers(headers).number((*hops).into());
        about.text(content_type).payload(payload)
    }

    pub(super) fn draft(self, draft: &Draft) -> Self {
        let Draft { topic, kind, key, payload, headers } = draft;
        let named = self.text(topic).text(kind).maybe(key.as_ref(), |frame, key| frame.bytes(key));
        named.payload(payload).headers(headers)
    }

    pub(super) fn verdict(self, verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Done => self.number(0),
            Verdict::Retry { code, reason, after } => {
                let after = after.map(|after| u64::try_from(after.as_nanos()).unwrap_or(u64::MAX));
                self.number(1).text(code).text(reason).maybe(after, Self::number)
            }
            Verdict::Reject { code, reason } => self.number(2).text(code).text(reason),
        }
    }

    pub(super) fn writes(self, writes: &[KeyWrite]) -> Self {
        self.each(writes.iter(), |frame, write| {
            frame.text(&write.key).maybe(write.value.as_ref(), |frame, value| frame.bytes(value))
        })
    }
}

// === impl Values ===

impl<'a> Values<'a> {
    pub(super) fn of(content: &'a [u8]) -> Self {
        Self(content)
    }

    fn take(&mut self, length: u64) -> io::Result<&'a [u8]> {
        let length = usize::try_from(length).map_err(|_| garbled())?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(garbled)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn number(&mut self) -> io::Result<u64> {
        let mut number = [0; 8];
        number.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(number))
    }

    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> io::Result<T> {
        self.number()?.try_into().map_err(|_| garbled())
    }

    pub(super) fn flag(&mut self) -> io::Result<bool> {
        match self.number()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(garbled()),
        }
    }

    pub(super) fn bytes(&mut self) -> io::Result<&'a [u8]> {
        let length = self.number()?;
        self.take(length)
    }

    pub(super) fn text(&mut self) -> io::Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| garbled())
    }

    pub(super) fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> io::Result<T>) -> io::Result<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    pub(super) fn each<T>(&mut self, read: impl Fn(&mut Self) -> io::Result<T>) -> io::Result<Vec<T>> {
        // Not as many as it says there are: as many as there are.
        (0..self.number()?).map(|_| read(self)).collect()
    }

    /// All has been read.
    pub(super) fn end(self) -> io::Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(garbled()) }
    }

    fn shared(&mut self) -> io::Result<Bytes> {
        self.bytes().map(Bytes::copy_from_slice)
    }

    fn headers(&mut self) -> io::Result<Vec<(String, Bytes)>> {
        self.each(|values| Ok((values.text()?, values.shared()?)))
    }

    fn payload(&mut self) -> io::Result<Payload> {
        if self.flag()? { self.text().map(Payload::Json) } else { self.shared().map(Payload::Raw) }
    }

    pub(super) fn event(&mut self) -> io::Result<Event> {
        Ok(Event {
            topic: self.text()?.as_str().into(),
            position: self.text()?.as_str().into(),
            first: self.text()?.as_str().into(),
            metadata: Metadata {
                id: self.text()?,
                kind: self.text()?,
                source: self.text()?,
                time: self.text()?,
                key: self.maybe(Self::shared)?,
                headers: self.headers()?,
                hops: self.small()?,
            },
            content_type: self.text()?,
            payload: self.payload()?,
        })
    }

    pub(super) fn draft(&mut self) -> io::Result<Draft> {
        Ok(Draft {
            topic: self.text()?,
            kind: self.text()?,
            key: self.maybe(Self::shared)?,
            payload: self.payload()?,
            headers: self.headers()?,
        })
    }

    pub(super) fn verdict(&mut self) -> io::Result<Verdict> {
        Ok(match self.number()? {
            0 => Verdict::Done,
            1 => Verdict::Retry {
                code: self.text()?,
                reason: self.text()?,
                after: self.maybe(Self::number)?.map(std::time::Duration::from_nanos),
            },
            2 => Verdict::Reject { code: self.text()?, reason: self.text()? },
            _ => return Err(garbled()),
        })
    }

    pub(super) fn writes(&mut self) -> io::Result<Vec<(String, Option<Vec<u8>>)>> {
        self.each(|values| Ok((values.text()?, values.maybe(|values| values.bytes().map(<[u8]>::to_vec))?)))
    }
}
