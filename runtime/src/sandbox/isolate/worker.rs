//! The worker: an ordinary sandbox with one place, whose imports ask the host at the other end of a socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::engine::{Sandbox, Settings};
use super::super::handler::{Handler, Handling};
use super::super::host::{Hears, Level, Waiting};
use super::super::modules::{Module, chain};
use super::super::pool::Room;
use super::super::process::end_now;
use super::super::secret::Secret;
use super::super::{
    Draft, DraftError, Grants, Http, Limits, Prepared, PublishGrant, Ran, Secrets, Services, Spec, Unread, call, limits,
};
use super::cell;
use super::wire::{Frame, Link, Values, garbled, kind, number_of};
use crate::event::{Event, Fields, KeyList, Outgoing, Versioned};

/// Places of the pool: for the call, and for the instance that waits for the next one, with some to spare.
const ROOM: usize = 4;

/// What a worker is started with: the handler, its secrets, its code.
pub(super) fn start(handling: &Handling) -> Result<Vec<u8>, String> {
    let Handling { module, spec, secret, .. } = handling;
    let code = module.code().map_err(|error| chain(&error))?;
    let frame = Frame::new(kind::START).text(&spec.name).text(&spec.group);
    let frame = frame.number(spec.max_attempts.into()).number(spec.reuse.into());
    let frame = write_grants(write_limits(frame, &spec.limits), &spec.grants);
    Ok(frame.bytes(secret.bytes()).text(module.digest()).number(module.size() as u64).bytes(&code).finish())
}

fn write_limits(frame: Frame, limits: &Limits) -> Frame {
    let &Limits {
        time,
        memory,
        // It is for the host's threads, of which each call of a worker has one.
        core_slots: _,
        handles,
        host_calls,
        host_call_bytes,
        published_events,
        published_bytes,
        key_operations,
        key_bytes,
        // Requests are refused, but not made: what a call may put into their headers holds here too.
        http_header_bytes,
        // A handler that may send requests is not isolated.
        http_calls: _,
        http_request_bytes: _,
        http_response_bytes: _,
        http_connections: _,
        http_connect: _,
        log_lines,
        log_bytes,
        reason_bytes,
    } = limits;
    let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let sizes = [
        handles,
        host_call_bytes,
        published_events,
        published_bytes,
        key_operations,
        key_bytes,
        log_bytes,
        reason_bytes,
        http_header_bytes,
    ];
    let frame = frame.number(time).number(memory).number(host_calls).number(log_lines.into());
    sizes.into_iter().fold(frame, |frame, size| frame.number(size as u64))
}

fn read_limits(values: &mut Values<'_>) -> io::Result<Limits> {
    let (time, memory, host_calls, log_lines) =
        (Duration::from_nanos(values.number()?), values.number()?, values.number()?, values.small()?);
    Ok(Limits {
        time,
        memory,
        core_slots: 1,
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
        http_header_bytes: values.small()?,
        ..Limits::default()
    })
}

fn write_grants(frame: Frame, grants: &Grants) -> Frame {
    // Every grant is named here: one that is added has to cross, with the questions that come of it, or a handler that has
    // it and is isolated has to be refused, as an error of `start`.
    let Grants { publish, keys, key_bytes, config, secrets, http: _, clock, random } = grants;
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
    let known = secrets.into_iter().filter_map(|(name, value)| Some((name, Secret::new(value?.as_bytes()))));
    Ok(Grants {
        publish,
        keys,
        key_bytes,
        config: config.map(|values| values.into_iter().collect()),
        secrets: Secrets::known(known),
        http: Http::default(),
        clock: values.flag()?,
        random: values.flag()?,
    })
}

/// Serves one host until it is gone.
pub(super) fn work(stream: UnixStream) -> io::Result<()> {
    let most = usize::try_from(limits::COMPILED_BYTES).unwrap_or(usize::MAX);
    let host = Arc::new(Host(Mutex::new(Link::new(stream, most))));
    let first = host.lock().hear()?;
    let (sandbox, handler) = match prepare(&first, &host) {
        Ok(made) => made,
        Err(why) => return host.lock().send(Frame::new(kind::UNABLE).text(&why)),
    };
    drop(first);
    host.lock().send(Frame::new(kind::READY))?;
    loop {
        let (kind, content) = host.lock().hear()?;
        let mut values = Values::of(&content);
        if kind != kind::CALL {
            return Err(garbled());
        }
        let about = (values.small()?, values.flag()?);
        // The host's account is the one that counts; this one is for looking at the clock often enough to ask.
        if values.flag()? {
            handler.handling.overruns.add();
        }
        let event = Arc::new(values.event()?);
        drop(content);
        let waiting = Arc::clone(&host) as Arc<dyn Waiting>;
        let ended = match call::run(&sandbox, &mut handler.hand(), &event, about, Some(waiting)) {
            Ran::Called { verdict, effects, .. } => Frame::new(kind::DONE).verdict(&verdict).writes(&effects.writes),
            Ran::NotCalled(why) => Frame::new(kind::NOT_CALLED).text(&why),
        };
        host.lock().send(ended)?;
    }
}

fn prepare((kind, content): &(u8, Vec<u8>), host: &Arc<Host>) -> Result<(Arc<Sandbox>, Arc<Handler>), String> {
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
    // SAFETY: the bytes came over the socket that came with the request for this worker, from the host, which had them
    // from `Module::code`.
    let module = unsafe { Module::from_code(&sandbox.engine, code, digest, size) };
    let module = module.map_err(|error| error.to_string())?;
    let handler = sandbox.handler_apart(&module, spec, Arc::clone(host) as _, Arc::clone(host) as _);
    cell::work().map_err(|error| error.to_string())?;
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
        isolated: false,
        limits: read_limits(&mut values)?,
        grants: read_grants(&mut values)?,
    };
    let secret = Secret::new(values.bytes()?);
    let (digest, size, code) = (values.text()?, values.small()?, values.bytes()?);
    values.end()?;
    Ok((spec, secret, digest, size, code))
}

/// The host at the other end, as a call sees it.
struct Host(Mutex<Link>);

/// A refusal, and whether it is by a limit.
type Refusal = (String, bool);

// === impl Host ===

impl Host {
    fn lock(&self) -> MutexGuard<'_, Link> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask<T>(&self, frame: Frame, read: impl FnOnce(&mut Values<'_>) -> io::Result<T>) -> Result<T, Refusal> {
        let mut link = self.lock();
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
        answered.unwrap_or_else(|_| end_now(false))
    }

    fn tell(&self, frame: Frame) {
        // If the host is gone the call will see it.
        drop(self.lock().send(frame));
    }
}

impl Services for Host {
    fn prepare(&self, _event: &Event, _index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        let id = self.ask(Frame::new(kind::PUBLISH).draft(&draft), |values| values.text());
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

impl Hears for Host {
    fn line(&self, level: Level, line: &str) {
        self.tell(Frame::new(kind::LOG).number(number_of(level)).text(line));
    }

    fn dropped(&self, lines: u64) {
        self.tell(Frame::new(kind::DROPPED).number(lines));
    }
}

impl Waiting for Host {
    // What a call waits for the host waits for too.
    fn begins(&self) {}

    fn ends(&self) {}

    fn rests(&self, _overran: bool) -> bool {
        false
    }

    fn goes_on(&self) {}

    // Whether it overran the host knows itself.
    fn rest(&self, _overran: bool) -> Duration {
        let rested = self.ask(Frame::new(kind::REST), |values| values.number());
        rested.map_or(Duration::ZERO, Duration::from_nanos)
    }
}

/// Whether it may pass is for the host to know.
fn unread((reason, _): Refusal) -> Unread {
    Unread { reason, passing: false }
}
