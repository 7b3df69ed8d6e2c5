//! The worker: an ordinary sandbox with one place, whose imports ask the host at the other end of a socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::field::{Field, Visit};
use tracing::span;

use super::super::engine::{Room, Sandbox, Secret, Settings};
use super::super::modules::{Handler, Module};
use super::super::{
    Draft, DraftError, Grants, Limits, Prepared, PublishGrant, Ran, Secrets, Services, Spec, Unread, limits,
};
use super::wire::{Frame, Link, Values, garbled, kind};
use crate::event::{Event, Fields, KeyList, Outgoing, Versioned};

/// Calls at once: one, and what was kept of others.
const ROOM: usize = 4;

/// What a worker is started with: the handler, its secrets, its code.
pub(super) fn start(module: &Module, spec: &Spec, secret: &Secret) -> Result<Vec<u8>, String> {
    let code = module.code().map_err(|error| super::super::modules::chain(&error))?;
    let frame = Frame::new(kind::START).text(&spec.name).text(&spec.group);
    let frame = frame.number(spec.max_attempts.into()).number(spec.reuse.into());
    let frame = write_grants(write_limits(frame, &spec.limits), &spec.grants);
    Ok(frame.bytes(secret.bytes()).text(module.digest()).number(module.size() as u64).bytes(&code).finish())
}

fn write_limits(frame: Frame, limits: &Limits) -> Frame {
    let &Limits {
        time,
        memory,
        handles,
        host_calls,
        host_call_bytes,
        published_events,
        published_bytes,
        key_operations,
        key_bytes,
        log_lines,
        log_bytes,
        reason_bytes,
    } = limits;
    let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let sizes =
        [handles, host_call_bytes, published_events, published_bytes, key_operations, key_bytes, log_bytes, reason_bytes];
    let frame = frame.number(time).number(memory).number(host_calls).number(log_lines.into());
    sizes.into_iter().fold(frame, |frame, size| frame.number(size as u64))
}

fn read_limits(values: &mut Values<'_>) -> io::Result<Limits> {
    let (time, memory, host_calls, log_lines) =
        (Duration::from_nanos(values.number()?), values.number()?, values.number()?, values.small()?);
    Ok(Limits {
        time,
        memory,
        host_calls,
        log_lines,
        handles: values.small()?,
        host_call_bytes: values.small()?,
        published_events: values.small()?,
        published_bytes: values.small()?,
        key_operations: values.small()?,
        key_bytes: values.small()?,
        log_bytes: values.small()?,
        reason_bytes: values.small()?,
    })
}

fn write_grants(frame: Frame, grants: &Grants) -> Frame {
    let Grants { publish, keys, key_bytes, config, secrets, clock, random } = grants;
    let frame = frame.each(publish.iter(), |frame, grant| {
        frame.text(&grant.topic).each(grant.types.iter(), |frame, kind| frame.text(kind))
    });
    let frame = frame.flag(*keys).maybe(*key_bytes, Frame::number);
    let frame = frame.maybe(config.as_ref(), |frame, config| {
        frame.each(config.iter(), |frame, (name, value)| frame.text(name).text(value))
    });
    let secrets: Vec<_> = secrets.names().map(|name| (name, secrets.get(name))).collect();
    let frame = frame.each(secrets.into_iter(), |frame, (name, value)| frame.text(name).maybe(value, Frame::text));
    frame.flag(*clock).flag(*random)
}

fn read_grants(values: &mut Values<'_>) -> io::Result<Grants> {
    let publish =
        values.each(|values| Ok(PublishGrant { topic: values.text()?, types: values.each(Values::text)? }))?;
    let (keys, key_bytes) = (values.flag()?, values.maybe(Values::number)?);
    let config = values.maybe(|values| values.each(|values| Ok((values.text()?, values.text()?))))?;
    let secrets = values.each(|values| Ok((values.text()?, values.maybe(Values::text)?)))?;
    let known = secrets.into_iter().filter_map(|(name, value)| Some((name, Secret::new(value?.into_bytes()))));
    Ok(Grants {
        publish,
        keys,
        key_bytes,
        config: config.map(|values| values.into_iter().collect()),
        secrets: Secrets::known(known),
        clock: values.flag()?,
        random: values.flag()?,
    })
}

/// Serves one host until it is gone.
pub(super) fn work(stream: UnixStream) -> io::Result<()> {
    let most = usize::try_from(limits::COMPILED_BYTES).unwrap_or(usize::MAX);
    let link = Arc::new(Mutex::new(Link::new(stream, most)));
    let first = lock(&link).hear()?;
    let (sandbox, handler) = match prepare(&first, &link) {
        Ok(made) => made,
        Err(why) => return lock(&link).send(Frame::new(kind::UNABLE).text(&why)),
    };
    drop(first);
    // Nobody else has set one: this process has done nothing but this.
    drop(tracing::subscriber::set_global_default(Voice(Arc::clone(&link))));
    lock(&link).send(Frame::new(kind::READY))?;
    loop {
        let (kind, content) = lock(&link).hear()?;
        let mut values = Values::of(&content);
        if kind != kind::CALL {
            return Err(garbled());
        }
        let (attempt, replayed, event) = (values.small()?, values.flag()?, values.event()?);
        let ended = match sandbox.call(&handler, &event, attempt, replayed) {
            Ran::Called { verdict, effects, .. } => Frame::new(kind::DONE).verdict(&verdict).writes(&effects.writes),
            Ran::NotCalled(why) => Frame::new(kind::NOT_CALLED).text(&why),
        };
        lock(&link).send(ended)?;
    }
}

fn prepare((kind, content): &(u8, Vec<u8>), link: &Arc<Mutex<Link>>) -> Result<(Arc<Sandbox>, Arc<Handler>), String> {
    let (spec, secret, digest, size, code) = read_start(*kind, content).map_err(|error| error.to_string())?;
    let settings = Settings {
        threads: 1,
        max_memory: spec.limits.memory,
        secret: Some(secret),
        reuse: spec.reuse > 1,
        ..Settings::default()
    };
    let room = Room { calls: ROOM, memories: limits::MEMORIES };
    let sandbox = Sandbox::with_room(&settings, room).map_err(|error| error.to_string())?;
    let module = Module::from_code(&sandbox.engine, code, digest, size).map_err(|error| error.to_string())?;
    let services = Arc::new(Asking(Arc::clone(link)));
    let handler = sandbox.handler(&module, spec, services).map_err(|error| error.to_string())?;
    Ok((sandbox, handler))
}

fn read_start(kind: u8, content: &[u8]) -> io::Result<(Spec, Secret, String, usize, &[u8])> {
    if kind != kind::START {
        return Err(garbled());
    }
    let mut values = Values::of(content);
    let spec = Spec {
        name: values.text()?,
        group: values.text()?,
        max_attempts: values.small()?,
        reuse: values.small()?,
        limits: read_limits(&mut values)?,
        grants: read_grants(&mut values)?,
        isolated: false,
    };
    let secret = Secret::new(values.bytes()?.to_vec());
    let (digest, size, code) = (values.text()?, values.small()?, values.bytes()?);
    values.end()?;
    Ok((spec, secret, digest, size, code))
}

fn lock(link: &Mutex<Link>) -> MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a call asks of the rest of the host: the host.
struct Asking(Arc<Mutex<Link>>);

/// A refusal, and whether it is by a limit.
type Refusal = (String, bool);

// === impl Asking ===

impl Asking {
    fn ask<T>(&self, frame: Frame, read: impl FnOnce(&mut Values<'_>) -> io::Result<T>) -> Result<T, Refusal> {
        let mut link = lock(&self.0);
        let answered = link.send(frame).and_then(|()| link.hear()).and_then(|(kind, content)| {
            let mut values = Values::of(&content);
            Ok(match kind {
                kind::ANSWER => Ok(read(&mut values)?),
                kind::REFUSED => Err((values.text()?, false)),
                kind::LIMIT => Err((values.text()?, true)),
                _ => return Err(garbled()),
            })
        });
        // A worker is nothing without its host.
        answered.unwrap_or_else(|_| std::process::exit(1))
    }
}

impl Services for Asking {
    fn prepare(&self, _event: &Event, _index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        let id = self.ask(Frame::new(kind::PUBLISH).draft(&draft), Values::text);
        let id = id.map_err(|(why, limit)| if limit { DraftError::Limit(why) } else { DraftError::Invalid(why) })?;
        // The host keeps the message.
        Ok(Prepared { id, outgoing: Outgoing { topic: draft.topic.into(), fields: Fields::default() } })
    }

    fn read_key(&self, _space: &str, key: &str, _deadline: Instant) -> Result<Versioned, Unread> {
        let read = |values: &mut Values<'_>| values.maybe(|values| values.bytes().map(Bytes::copy_from_slice));
        let value = self.ask(Frame::new(kind::GET).text(key), read).map_err(unread)?;
        // The host keeps the version.
        Ok(Versioned { value, version: 0 })
    }

    fn list_keys(&self, _space: &str, prefix: &str, limit: usize, _deadline: Instant) -> Result<KeyList, Unread> {
        let frame = Frame::new(kind::LIST).text(prefix).number(limit as u64);
        let keys = self.ask(frame, |values| values.each(Values::text)).map_err(unread)?;
        Ok(KeyList { keys, version: 0 })
    }
}

/// Whether it may pass is for the host to know.
fn unread((reason, _): Refusal) -> Unread {
    Unread { reason, passing: false }
}

/// Tells the host what the guest says.
struct Voice(Arc<Mutex<Link>>);

/// The text of a line.
struct Line(String);

// === impl Voice ===

impl tracing::Subscriber for Voice {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target() == super::super::host::LOG_TARGET
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        let level = match *event.metadata().level() {
            tracing::Level::TRACE => 0,
            tracing::Level::DEBUG => 1,
            tracing::Level::INFO => 2,
            tracing::Level::WARN => 3,
            tracing::Level::ERROR => 4,
        };
        // If the host is gone the call will see it.
        drop(lock(&self.0).send(Frame::new(kind::LOG).number(level).text(&line.0)));
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
