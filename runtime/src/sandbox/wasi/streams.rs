//! `wasi:io/streams`: standard input, which is closed; standard output and error, which are the log; and the bodies of HTTP.

use std::sync::Arc;

use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, LinkerInstance, Lower, Resource};

use super::served::{InputStream, IoError, OutputStream, own, ready_now};
use crate::sandbox::host::{State, Stream};
use crate::sandbox::http::{self, Exchange, Failure, Read, Side, Thing, gone};
use crate::sandbox::limits;

#[derive(ComponentType, Lower)]
#[component(variant)]
enum StreamError {
    #[component(name = "last-operation-failed")]
    LastOperationFailed(Resource<IoError>),
    #[component(name = "closed")]
    Closed,
}

/// The number of standard output.
pub(super) const OUT: u32 = 1;
/// The number of standard error.
pub(super) const ERR: u32 = 2;

type Cx<'a> = StoreContextMut<'a, State>;
type In = Resource<InputStream>;
type Out = Resource<OutputStream>;
type Streamed<T> = wasmtime::Result<(Result<T, StreamError>,)>;
type Outcome<T> = wasmtime::Result<Result<T, StreamError>>;

/// Links one function if it is served; says whether it is.
pub(super) fn link(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name.split_once(']').and_then(|(_, rest)| rest.split_once('.')) {
        Some(("input-stream", _)) => input(to, name),
        Some(("output-stream", _)) => output(to, name),
        _ => Ok(false),
    }
}

fn input(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    let waits = name.contains(".blocking-");
    match name {
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => {
            to.func_wrap(name, move |mut cx: Cx<'_>, (from, most): (In, u64)| -> Streamed<Vec<u8>> {
                Ok((read(&mut cx, &from, most, waits)?,))
            })?;
        }
        "[method]input-stream.skip" | "[method]input-stream.blocking-skip" => {
            to.func_wrap(name, move |mut cx: Cx<'_>, (from, most): (In, u64)| -> Streamed<u64> {
                Ok((read(&mut cx, &from, most, waits)?.map(|bytes| bytes.len() as u64),))
            })?;
        }
        "[method]input-stream.subscribe" => to.func_wrap(name, |mut cx: Cx<'_>, (from,): (In,)| {
            let Some(exchange) = received(&mut cx, &from)? else { return Ok((ready_now(&mut cx),)) };
            let place = cx.data_mut().wasi.add_exchange(exchange, Side::Body);
            Ok((own(&mut cx, place),))
        })?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn output(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    let waits = name.contains(".blocking-");
    match name {
        "[method]output-stream.check-write" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (out,): (Out,)| -> Streamed<u64> {
                Ok((Ok(room(&mut cx, &out) as u64),))
            })?;
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (out, bytes): (Out, Vec<u8>)| -> Streamed<()> {
                Ok((write(&mut cx, &out, &bytes)?,))
            })?;
        }
        "[method]output-stream.write-zeroes" | "[method]output-stream.blocking-write-zeroes-and-flush" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (out, count): (Out, u64)| -> Streamed<()> {
                // Zeroes are control characters: nothing of them would be left in a log line.
                if out.rep() < http::FIRST {
                    return Ok((Ok(()),));
                }
                // One more than there is room for is too many, however many more are asked for.
                let most = room(&mut cx, &out).saturating_add(1);
                let zeroes = vec![0; usize::try_from(count).map_or(most, |count| count.min(most))];
                Ok((write(&mut cx, &out, &zeroes)?,))
            })?;
        }
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            to.func_wrap(name, |_: Cx<'_>, _: (Out,)| -> Streamed<()> { Ok((Ok(()),)) })?;
        }
        "[method]output-stream.splice" | "[method]output-stream.blocking-splice" => {
            to.func_wrap(name, move |mut cx: Cx<'_>, (out, from, most): (Out, In, u64)| -> Streamed<u64> {
                let most = most.min(room(&mut cx, &out) as u64);
                Ok((match read(&mut cx, &from, most, waits)? {
                    Ok(bytes) => write(&mut cx, &out, &bytes)?.map(|()| bytes.len() as u64),
                    Err(error) => Err(error),
                },))
            })?;
        }
        "[method]output-stream.subscribe" => {
            to.func_wrap(name, |mut cx: Cx<'_>, _: (Out,)| Ok((ready_now(&mut cx),)))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// What comes of a body, at least something if it `waits`. Standard input has ended.
fn read(cx: &mut Cx<'_>, from: &In, most: u64, waits: bool) -> Outcome<Vec<u8>> {
    let Some(exchange) = received(cx, from)? else { return Ok(Err(StreamError::Closed)) };
    let most = usize::try_from(most).map_or(limits::HTTP_BUFFER, |most| most.min(limits::HTTP_BUFFER));
    if waits {
        cx.data_mut().wait_for(&exchange, Side::Body)?;
    }
    match exchange.read(most) {
        Read::Bytes(bytes) => Ok(Ok(bytes.into())),
        Read::Nothing => Ok(Ok(Vec::new())),
        Read::End => Ok(Err(StreamError::Closed)),
        Read::Failed(failure) => failed(cx, failure),
    }
}

/// The answer whose body this is; `None` for standard input.
fn received(cx: &mut Cx<'_>, from: &In) -> wasmtime::Result<Option<Arc<Exchange>>> {
    if from.rep() < http::FIRST {
        return Ok(None);
    }
    match cx.data_mut().http().get(from.rep())? {
        Thing::Input(exchange) => Ok(Some(Arc::clone(exchange))),
        _ => Err(gone()),
    }
}

/// How much may be written. One byte at least: a guest that has none left is told so when it writes.
fn room(cx: &mut Cx<'_>, out: &Out) -> usize {
    if out.rep() < http::FIRST {
        return limits::LOG_BYTES;
    }
    let most = cx.data().handling.spec.limits.http_request_bytes;
    cx.data_mut().http().room(most).clamp(1, limits::HTTP_BUFFER)
}

fn write(cx: &mut Cx<'_>, out: &Out, bytes: &[u8]) -> Outcome<()> {
    if out.rep() < http::FIRST {
        let stream = if out.rep() == ERR { Stream::Err } else { Stream::Out };
        cx.data_mut().print(stream, bytes);
        return Ok(Ok(()));
    }
    let most = cx.data().handling.spec.limits.http_request_bytes;
    let table = cx.data_mut().http();
    let Thing::Output(body) = table.get(out.rep())? else { return Err(gone()) };
    let body = body.clone();
    if let Err(failure) = table.send(bytes.len(), most) {
        body.cut();
        return failed(cx, failure);
    }
    Ok(if body.write(bytes) { Ok(()) } else { Err(StreamError::Closed) })
}

/// An error that the guest can ask what it was.
fn failed<T>(cx: &mut Cx<'_>, failure: Failure) -> Outcome<T> {
    let table = cx.data_mut().http();
    table.failed(failure.clone());
    let rep = table.add(Thing::Error(failure))?;
    Ok(Err(StreamError::LastOperationFailed(own(cx, rep))))
}
