//! Where the guest is CALLED: one event, one instance; and whatever comes of it is a verdict.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{CallHook, PoolConcurrencyLimitError, Store, Trap, UpdateDeadline, WasmBacktrace};

use super::engine::Sandbox;
use super::host::{State, Waiting};
use super::modules::chain;
use super::reuse::{Guest, Hand};
use super::{Limits, Ran, Secrets, limits, text};
use crate::event::{Effects, Event, Verdict, code};

/// Why the host stopped a guest.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error("the call ran over its time")]
    Time,
    #[error("the handler called the host too often")]
    HostCalls,
    #[error("the handler called `exit({0})`; a handler returns from `handle`, it does not end a process")]
    Exit(u8),
    #[error("{0}")]
    Limit(String),
    #[error("the handler called `{0}`, which has nothing behind it here and no way to say so")]
    Unserved(String),
}

/// Calls a handler with one event on this thread.
pub(super) fn run(
    sandbox: &Sandbox,
    hand: &mut Hand<'_>,
    event: &Arc<Event>,
    (attempt, replayed): (u32, bool),
    waiting: Option<Arc<dyn Waiting>>,
) -> Ran {
    let started = Instant::now();
    let about = (attempt, replayed);
    let handling = hand.handling;
    if let Some(apart) = &handling.apart {
        // The monitor tells whoever holds a core too long, whichever process computes.
        let _running = sandbox.monitor.enter();
        return apart.run(handling, event, about, waiting);
    }
    let state = State::new(Arc::clone(handling), Arc::clone(event), about, started, waiting);
    let mut guest = match hand.take(state) {
        Ok(guest) => guest,
        Err(state) => match Store::try_new(&sandbox.engine, state) {
            Ok(store) => Guest::new(prepared(store, &handling.spec.limits)),
            Err(error) => return Ran::NotCalled(chain(&error)),
        },
    };
    if handling.overruns.any() {
        guest.store.data_mut().let_others_first();
        guest.store.set_epoch_deadline(1);
    } else {
        guest.store.set_epoch_deadline(ticks(handling.spec.limits.time.min(limits::SLOW_CALL)));
    }
    let running = sandbox.monitor.enter();
    let answer = catch_unwind(AssertUnwindSafe(|| guest.call(handling, event)));
    drop(running);
    // An instance that does not stay goes before the clock is read: giving its memory back is part of the call.
    let mut over = hand.end(guest, matches!(answer, Ok(Ok(_))));
    let state = over.state();
    state.finish_logs();
    state.behind = None;
    let verdict = match answer {
        Ok(Ok(verdict)) => Ok(verdict),
        Ok(Err(error)) => sort(&error, state),
        Err(panic) => Ok(panicked(state, panic.as_ref())),
    };
    let ran = close(state, verdict, started);
    hand.keep(over);
    ran
}

/// What comes of a call that is over: its verdict, or the host's own trouble as an error.
pub(super) fn close(state: &mut State, verdict: Result<Verdict, String>, started: Instant) -> Ran {
    let handling = &state.handling;
    match &verdict {
        Ok(Verdict::Retry { code, .. }) if code == code::TIME_LIMIT => handling.overruns.add(),
        Ok(_) => handling.overruns.pay(),
        Err(_) => {}
    }
    let verdict = verdict.map(|verdict| told(verdict, state));
    let verdict = match (verdict, state.trouble.take()) {
        // The guest could not go on without its keys, or ran out of time over them.
        (Ok(Verdict::Retry { .. } | Verdict::Reject { .. }), Some(trouble)) => Err(trouble),
        (verdict, _) => verdict,
    };
    match verdict {
        Ok(verdict) => {
            let effects = match verdict {
                Verdict::Done => state.take_effects(),
                Verdict::Retry { .. } | Verdict::Reject { .. } => Effects::default(),
            };
            Ran::Called { verdict, effects, elapsed: started.elapsed() }
        }
        Err(trouble) => Ran::NotCalled(trouble),
    }
}

fn prepared(mut store: Store<State>, limits: &Limits) -> Store<State> {
    store.limiter(|state| &mut state.meter);
    store.set_hostcall_fuel(limits.host_call_bytes);
    store.set_max_component_handles(limits.handles);
    store.call_hook(|mut store, hook| match hook {
        CallHook::CallingHost => store.data_mut().asked(),
        CallHook::CallingWasm | CallHook::ReturningFromWasm | CallHook::ReturningFromHost => Ok(()),
    });
    // Ticks are late when the machine is busy and none comes while it sleeps: the clock decides, the tick only asks it.
    store.epoch_deadline_callback(|mut store| {
        let left = store.data().deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Stop::Time.into());
        }
        store.data_mut().let_others_first();
        store.data_mut().make_way();
        Ok(UpdateDeadline::Continue(1))
    });
    store
}

fn ticks(left: Duration) -> u64 {
    u64::try_from(left.as_nanos() / limits::TICK.as_nanos()).unwrap_or(u64::MAX / 2).saturating_add(1)
}

/// A verdict for what the guest did, or the host's own trouble as an error.
fn sort(error: &wasmtime::Error, state: &State) -> Result<Verdict, String> {
    if error.is::<PoolConcurrencyLimitError>()
        || error.is::<wasmtime::error::OutOfMemory>()
        || error.is::<std::io::Error>()
    {
        return Err(chain(error));
    }
    let spec = &state.handling.spec;
    if matches!(error.downcast_ref(), Some(Stop::Time)) || matches!(error.downcast_ref(), Some(Trap::Interrupt)) {
        return Ok(too_long(&spec.limits));
    }
    if state.meter.refused() {
        let limit = spec.limits.memory;
        let (now, more) = (mebibytes(limit), mebibytes(limit.saturating_mul(2).min(limits::MEMORY_CEILING)));
        let reason = format!("the call asked for more memory than {now}; more: [handler.limits] memory = \"{more}\"");
        return Ok(retry(code::MEMORY_LIMIT, &reason));
    }
    if state.meter.refused_table() {
        let most = limits::TABLE_ELEMENTS;
        let reason = format!("the call asked for a table of more than {most} elements, whichever handler it is");
        return Ok(retry(code::LIMIT, &reason));
    }
    if let Some(reason) = other_limit(error, &spec.limits) {
        return Ok(retry(code::LIMIT, &reason));
    }
    let reason = trap_reason(error, state.logs.last_words(), &spec.grants.secrets);
    Ok(retry(code::TRAP, &text::line(&reason, spec.limits.reason_bytes)))
}

/// Adds what became of the last request, if that may be why a call failed: a guest is told a code without words.
fn told(verdict: Verdict, state: &State) -> Verdict {
    let with = |reason: &str| state.with_http(reason);
    match verdict {
        Verdict::Retry { code, reason, after } => match with(&reason) {
            Some((reason, limit)) => {
                // A code of the guest's own stays.
                let ours = limit && matches!(code.as_str(), code::RETRY | code::TRAP);
                Verdict::Retry { code: if ours { code::LIMIT.to_owned() } else { code }, reason, after }
            }
            None => Verdict::Retry { code, reason, after },
        },
        Verdict::Reject { code, reason } => {
            let reason = with(&reason).map_or(reason, |(reason, _)| reason);
            Verdict::Reject { code, reason }
        }
        Verdict::Done => Verdict::Done,
    }
}

/// The verdict on a call that was stopped for its time.
pub(super) fn too_long(limits: &Limits) -> Verdict {
    let (limit, more) = (limits.time, limits.time.saturating_mul(2));
    let reason = format!("the call ran longer than {limit:?}; more: [handler.limits] time = \"{more:?}\"");
    retry(code::TIME_LIMIT, &reason)
}

/// What to say if one of the limits was hit that share a code.
fn other_limit(error: &wasmtime::Error, limits: &Limits) -> Option<String> {
    if let Some(Stop::Limit(text)) = error.downcast_ref() {
        return Some(text.clone());
    }
    if matches!(error.downcast_ref(), Some(Stop::HostCalls)) {
        let most = limits.host_calls;
        let more = limits::more("host_calls", most);
        return Some(format!("the handler called the host more than {most} times in one call; {more}"));
    }
    let root = error.root_cause().to_string();
    if root.starts_with(TOO_MUCH) {
        let most = limits.host_call_bytes;
        let more = limits::more_bytes("host_call_bytes", most);
        return Some(format!("the handler handed over more than {most} bytes in one host call; {more}"));
    }
    if root.ends_with(TOO_MANY_HANDLES) {
        let most = limits.handles;
        let more = limits::more_bytes("handles", most);
        return Some(format!("the handler held more than {most} handles at once; {more}"));
    }
    None
}

fn trap_reason(error: &wasmtime::Error, last_words: &str, secrets: &Secrets) -> String {
    if last_words.starts_with(PANICKED) {
        // It says what was wrong and where; that it ended in a trap, deep in what reports panics, adds nothing.
        return secrets.line(last_words, limits::LAST_WORDS_BYTES);
    }
    let what = match (error.downcast_ref::<Stop>(), error.downcast_ref::<Trap>()) {
        (Some(stop), _) => stop.to_string(),
        (None, Some(trap @ Trap::StackOverflow)) => {
            format!("{trap}: a call has {} bytes of stack, whichever handler it is", limits::GUEST_STACK)
        }
        (None, Some(trap)) => trap.to_string(),
        (None, None) => error.root_cause().to_string(),
    };
    let mut reason = what;
    if !last_words.is_empty() {
        reason = format!("{reason}; it said last: {}", secrets.line(last_words, limits::LAST_WORDS_BYTES));
    }
    if let Some(trace) = error.downcast_ref::<WasmBacktrace>() {
        let names: Vec<&str> = trace.frames().iter().filter_map(|frame| frame.func_name()).take(FRAMES).collect();
        if !names.is_empty() {
            reason = format!("{reason}; in {}", names.join(" < "));
        }
    }
    text::line(&reason, limits::REASON_BYTES)
}

/// How wasmtime's error for that begins; its type is private.
const TOO_MUCH: &str = "too much data is being copied between the host and the guest";

/// How wasmtime's errors for that end.
const TOO_MANY_HANDLES: &str = "store handle limit exceeded";

/// How a panic begins that the SDK reports.
const PANICKED: &str = "panicked at ";

/// Innermost functions that the reason of a trap names.
const FRAMES: usize = 6;

/// A bug of ours: the guest's call is over, the host is not.
pub(super) fn panicked(state: &State, panic: &(dyn Any + Send)) -> Verdict {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = text.unwrap_or("no message");
    tracing::error!(
        handler = %state.handling.spec.name,
        event = %text::line(&state.event.metadata.id, limits::REASON_BYTES),
        "a host function panicked: {text}"
    );
    retry(code::TRAP, &format!("a host function panicked: {text}"))
}

pub(super) fn retry(code: &str, reason: &str) -> Verdict {
    Verdict::Retry { code: code.to_owned(), reason: text::line(reason, limits::REASON_BYTES), after: None }
}

/// Bytes as the configuration writes them.
pub(super) fn mebibytes(bytes: u64) -> String {
    match bytes {
        bytes if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        bytes if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        bytes => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    #[test]
    fn no_reason_of_a_trap_shows_a_secret() {
        let secrets = Secrets::known([("S".to_owned(), Secret::new(b"not for the eyes of others"))]);
        // Only what is cleaned away stands between its characters.
        let said: String = "not for the eyes of others".chars().flat_map(|c| [c, '\u{7}']).collect();
        for (last_words, reason) in [
            (format!("{PANICKED}x.rs:1:2: {said}"), "panicked at x.rs:1:2: ***"),
            (said, "wasm trap: it ended; it said last: ***"),
        ] {
            let error = wasmtime::Error::msg("wasm trap: it ended");
            assert_eq!(trap_reason(&error, &last_words, &secrets), reason);
        }
    }
}
