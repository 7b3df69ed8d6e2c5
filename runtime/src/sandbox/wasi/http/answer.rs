//! What comes back: the head of an answer, its body, its end.

use std::sync::Arc;

use wasmtime::component::{LinkerInstance, Resource};

use super::{
    Cx, FutureResponse, FutureTrailers, Headers, IncomingBody, IncomingResponse, InputStream, IoError, Pollable, add,
    awaited, take,
};
use crate::sandbox::host::State;
use crate::sandbox::http::{ErrorCode, Exchange, Response, Side, Thing, gone};

type Polled<T> = wasmtime::Result<(Option<Result<Result<T, ErrorCode>, ()>>,)>;

pub(super) fn link(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "[method]future-incoming-response.subscribe" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (Resource<FutureResponse>,)| {
                let exchange = future(&mut cx, &this)?;
                Ok((awaited(&mut cx, exchange, Side::Head),))
            })?;
        }
        "[method]future-incoming-response.get" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (Resource<FutureResponse>,)| come(&mut cx, &this))?;
        }
        "[method]incoming-response.status" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (Resource<IncomingResponse>,)| {
                Ok((response(&mut cx, &this)?.status,))
            })?;
        }
        "[method]incoming-response.headers" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (Resource<IncomingResponse>,)| {
                let fields = response(&mut cx, &this)?.fields.clone();
                Ok((add::<Headers>(&mut cx, Thing::Fields(fields))?,))
            })?;
        }
        "[method]incoming-response.consume" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (Resource<IncomingResponse>,)| {
                Ok((match response(&mut cx, &this)?.exchange.take() {
                    Some(exchange) => Ok(add::<IncomingBody>(&mut cx, Thing::Incoming(exchange, false))?),
                    None => Err(()),
                },))
            })?;
        }
        "[method]incoming-body.stream" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (Resource<IncomingBody>,)| {
                let Thing::Incoming(exchange, taken) = cx.data_mut().http().get(this.rep())? else {
                    return Err(gone());
                };
                if std::mem::replace(taken, true) {
                    return Ok((Err(()),));
                }
                let exchange = Arc::clone(exchange);
                Ok((Ok(add::<InputStream>(&mut cx, Thing::Input(exchange))?),))
            })?;
        }
        "[static]incoming-body.finish" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (Resource<IncomingBody>,)| {
                let Some(Thing::Incoming(exchange, _)) = take(&mut cx, &this) else { return Err(gone()) };
                exchange.discard();
                Ok((add::<FutureTrailers>(&mut cx, Thing::Trailers(exchange, false))?,))
            })?;
        }
        "[method]future-trailers.subscribe" => {
            to.func_wrap(
                name,
                |mut cx: Cx<'_>, (this,): (Resource<FutureTrailers>,)| -> wasmtime::Result<(Resource<Pollable>,)> {
                    let Thing::Trailers(exchange, _) = cx.data_mut().http().get(this.rep())? else {
                        return Err(gone());
                    };
                    let exchange = Arc::clone(exchange);
                    Ok((awaited(&mut cx, exchange, Side::Trailers),))
                },
            )?;
        }
        "[method]future-trailers.get" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (Resource<FutureTrailers>,)| trailers(&mut cx, &this))?;
        }
        "http-error-code" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (error,): (Resource<IoError>,)| {
                let Thing::Error(failure) = cx.data_mut().http().get(error.rep())? else { return Err(gone()) };
                Ok((Some(failure.code.clone()),))
            })?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The answer's head, if it has come; once.
fn come(cx: &mut Cx<'_>, this: &Resource<FutureResponse>) -> Polled<Resource<IncomingResponse>> {
    let exchange = future(cx, this)?;
    let head = match exchange.head() {
        Some(head) => head,
        None if exchange.ready(Side::Head) => return Ok((Some(Err(())),)),
        None => return Ok((None,)),
    };
    Ok((Some(Ok(match head {
        Ok(head) => {
            cx.data_mut().http().went_well();
            let response = Response { status: head.status, fields: head.fields, exchange: Some(exchange) };
            Ok(add(cx, Thing::Response(response))?)
        }
        Err(failure) => Err(cx.data_mut().http().failed(failure)),
    })),))
}

fn trailers(cx: &mut Cx<'_>, this: &Resource<FutureTrailers>) -> Polled<Option<Resource<Headers>>> {
    let Thing::Trailers(exchange, taken) = cx.data_mut().http().get(this.rep())? else { return Err(gone()) };
    let Some(end) = exchange.trailers() else { return Ok((None,)) };
    if std::mem::replace(taken, true) {
        return Ok((Some(Err(())),));
    }
    Ok((Some(Ok(match end {
        Ok(None) => Ok(None),
        Ok(Some(fields)) => Ok(Some(add(cx, Thing::Fields(fields))?)),
        Err(failure) => Err(cx.data_mut().http().failed(failure)),
    })),))
}

fn future(cx: &mut Cx<'_>, this: &Resource<FutureResponse>) -> wasmtime::Result<Arc<Exchange>> {
    match cx.data_mut().http().get(this.rep())? {
        Thing::Future(exchange) => Ok(Arc::clone(exchange)),
        _ => Err(gone()),
    }
}

fn response<'a>(cx: &'a mut Cx<'_>, this: &Resource<IncomingResponse>) -> wasmtime::Result<&'a mut Response> {
    match cx.data_mut().http().get(this.rep())? {
        Thing::Response(response) => Ok(response),
        _ => Err(gone()),
    }
}
