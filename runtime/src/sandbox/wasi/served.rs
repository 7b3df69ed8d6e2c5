//! The functions that language runtimes really call, each honest about there being nothing.

use ring::rand::{SecureRandom as _, SystemRandom};
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, LinkerInstance, Lower, Resource, ResourceType};

use super::{http, streams};
use crate::sandbox::call::Stop;
use crate::sandbox::host::State;
use crate::sandbox::http::{Thing, gone};
use crate::sandbox::limits;

/// Standard input: closed.
pub(super) struct InputStream;

/// Standard output or error, told apart by its number.
pub(super) struct OutputStream;

/// Something to wait for. The number is its place in the context.
pub(super) struct Pollable;

/// Why a stream failed. Only those of HTTP ever do.
pub(super) struct IoError;

struct TerminalInput;
struct TerminalOutput;
struct Descriptor;
struct Network;

#[derive(ComponentType, Lower)]
#[component(record)]
struct Datetime {
    seconds: u64,
    nanoseconds: u32,
}

type Cx<'a> = StoreContextMut<'a, State>;

/// The type of a resource that functions below give out.
pub(super) fn resource(interface: &str, name: &str) -> Option<ResourceType> {
    Some(match (interface, name) {
        ("io/streams", "input-stream") => ResourceType::host::<InputStream>(),
        ("io/streams", "output-stream") => ResourceType::host::<OutputStream>(),
        ("io/poll", "pollable") => ResourceType::host::<Pollable>(),
        ("io/error", "error") => ResourceType::host::<IoError>(),
        ("cli/terminal-input", _) => ResourceType::host::<TerminalInput>(),
        ("cli/terminal-output", _) => ResourceType::host::<TerminalOutput>(),
        ("filesystem/types", "descriptor") => ResourceType::host::<Descriptor>(),
        ("sockets/network", "network") => ResourceType::host::<Network>(),
        ("http/types", name) => return http::resource(name),
        _ => return None,
    })
}

/// Links one function if it is served; says whether it is.
pub(super) fn link(to: &mut LinkerInstance<'_, State>, interface: &str, name: &str) -> wasmtime::Result<bool> {
    match interface {
        "cli/environment" | "cli/exit" => process(to, name),
        "cli/stdin" | "cli/stdout" | "cli/stderr" => standard_streams(to, name),
        "cli/terminal-stdin" | "cli/terminal-stdout" | "cli/terminal-stderr" => terminals(to, name),
        "io/streams" => streams::link(to, name),
        "io/poll" => poll(to, name),
        "io/error" => io_error(to, name),
        "clocks/monotonic-clock" => monotonic_clock(to, name),
        "clocks/wall-clock" => wall_clock(to, name),
        "random/random" | "random/insecure" | "random/insecure-seed" => random(to, name),
        "http/types" | "http/outgoing-handler" => http::link(to, interface, name),
        "filesystem/preopens" | "sockets/instance-network" => outside(to, name),
        _ => Ok(false),
    }
}

fn process(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "get-environment" => to.func_wrap(name, |_: Cx<'_>, ()| Ok((Vec::<(String, String)>::new(),)))?,
        "get-arguments" => to.func_wrap(name, |_: Cx<'_>, ()| Ok((Vec::<String>::new(),)))?,
        "initial-cwd" => to.func_wrap(name, |_: Cx<'_>, ()| Ok((None::<String>,)))?,
        "exit" => to.func_wrap(name, |_: Cx<'_>, (status,): (Result<(), ()>,)| -> wasmtime::Result<()> {
            Err(Stop::Exit(u8::from(status.is_err())).into())
        })?,
        "exit-with-code" => {
            to.func_wrap(name, |_: Cx<'_>, (code,): (u8,)| -> wasmtime::Result<()> { Err(Stop::Exit(code).into()) })?
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn standard_streams(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "get-stdin" => to.func_wrap(name, |mut cx: Cx<'_>, ()| Ok((own::<InputStream>(&mut cx, 0),)))?,
        "get-stdout" => to.func_wrap(name, |mut cx: Cx<'_>, ()| Ok((own::<OutputStream>(&mut cx, streams::OUT),)))?,
        "get-stderr" => to.func_wrap(name, |mut cx: Cx<'_>, ()| Ok((own::<OutputStream>(&mut cx, streams::ERR),)))?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn terminals(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "get-terminal-stdin" => to.func_wrap(name, |_: Cx<'_>, ()| Ok((None::<Resource<TerminalInput>>,)))?,
        "get-terminal-stdout" | "get-terminal-stderr" => {
            to.func_wrap(name, |_: Cx<'_>, ()| Ok((None::<Resource<TerminalOutput>>,)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn poll(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    type Awaited = Resource<Pollable>;
    match name {
        "[method]pollable.ready" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (one,): (Awaited,)| Ok((cx.data_mut().wasi.ready(one.rep()),)))?;
        }
        "[method]pollable.block" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (one,): (Awaited,)| cx.data_mut().sleep_until_ready(&[one.rep()]))?
        }
        "poll" => to.func_wrap(name, |mut cx: Cx<'_>, (all,): (Vec<Awaited>,)| {
            if all.is_empty() {
                return Err(wasmtime::Error::msg("`poll` was called with an empty list"));
            }
            let reps: Vec<u32> = all.iter().map(Resource::rep).collect();
            cx.data_mut().sleep_until_ready(&reps)?;
            Ok((cx.data_mut().wasi.poll(&reps),))
        })?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn io_error(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "[method]error.to-debug-string" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (error,): (Resource<IoError>,)| {
                let Thing::Error(failure) = cx.data_mut().http().get(error.rep())? else { return Err(gone()) };
                Ok((format!("{:?}", failure.code),))
            })?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn wall_clock(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "now" => to.func_wrap(name, |mut cx: Cx<'_>, ()| {
            let State { wasi, event, .. } = cx.data_mut();
            let (seconds, nanoseconds) = wasi.wall(event);
            Ok((Datetime { seconds, nanoseconds },))
        })?,
        "resolution" => to.func_wrap(name, |cx: Cx<'_>, ()| {
            Ok((Datetime { seconds: 0, nanoseconds: cx.data().wasi.resolution() },))
        })?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn monotonic_clock(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "now" => to.func_wrap(name, |mut cx: Cx<'_>, ()| Ok((cx.data_mut().wasi.now(),)))?,
        "resolution" => to.func_wrap(name, |cx: Cx<'_>, ()| Ok((u64::from(cx.data().wasi.resolution()),)))?,
        "subscribe-instant" => to.func_wrap(name, |mut cx: Cx<'_>, (at,): (u64,)| {
            let place = cx.data_mut().wasi.add_pollable(at);
            Ok((own::<Pollable>(&mut cx, place),))
        })?,
        "subscribe-duration" => to.func_wrap(name, |mut cx: Cx<'_>, (nanos,): (u64,)| {
            let place = cx.data_mut().wasi.add_sleep(nanos);
            Ok((own::<Pollable>(&mut cx, place),))
        })?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn random(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "get-random-bytes" | "get-insecure-random-bytes" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (length,): (u64,)| {
                if length > limits::RANDOM_BYTES {
                    let most = limits::RANDOM_BYTES;
                    return Err(wasmtime::Error::msg(format!("{length} random bytes at once; {most} is the most")));
                }
                let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
                fill(&mut cx, &mut bytes)?;
                Ok((bytes,))
            })?;
        }
        "get-random-u64" | "get-insecure-random-u64" => {
            to.func_wrap(name, |mut cx: Cx<'_>, ()| Ok((number(&mut cx)?,)))?;
        }
        "insecure-seed" => {
            to.func_wrap(name, |mut cx: Cx<'_>, ()| Ok(((number(&mut cx)?, number(&mut cx)?),)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The doors to the world outside, all of them closed.
fn outside(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "get-directories" => {
            to.func_wrap(name, |_: Cx<'_>, ()| Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))?;
        }
        // Whoever holds it can do nothing: every function that takes it refuses.
        "instance-network" => to.func_wrap(name, |mut cx: Cx<'_>, ()| Ok((own::<Network>(&mut cx, 0),)))?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// A resource for the guest to keep: each is counted.
pub(super) fn own<T>(cx: &mut Cx<'_>, rep: u32) -> Resource<T> {
    cx.data_mut().wasi.hand_out();
    Resource::new_own(rep)
}

pub(super) fn ready_now(cx: &mut Cx<'_>) -> Resource<Pollable> {
    let place = cx.data_mut().wasi.add_pollable(0);
    own(cx, place)
}

/// Without the system's numbers, which there always are, the call is not the guest's to answer for: an error of input and
/// output is the host's trouble.
fn fill(cx: &mut Cx<'_>, out: &mut [u8]) -> wasmtime::Result<()> {
    let State { wasi, handling, event, .. } = cx.data_mut();
    if handling.spec.grants.random {
        let filled = SystemRandom::new().fill(out);
        return filled.map_err(|_| std::io::Error::other("the system has no random numbers").into());
    }
    wasi.random(handling.secret.bytes(), &handling.spec.group, event, out);
    Ok(())
}

fn number(cx: &mut Cx<'_>) -> wasmtime::Result<u64> {
    let mut bytes = [0; 8];
    fill(cx, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
