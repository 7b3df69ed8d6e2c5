//! `wasi:http`: the side that asks. The side that answers is linked to functions that refuse, as no handler is a server.

use std::sync::Arc;

use hyper::Method;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, LinkerInstance, Lower, Resource, ResourceType};

use super::served::{InputStream, IoError, OutputStream, Pollable, own};
use crate::sandbox::host::State;
use crate::sandbox::http::{Body, ErrorCode, Request, Side, Thing, Times, gone};
use crate::sandbox::limits;

mod answer;
mod headers;

/// `fields`, and so `headers` and `trailers`.
struct Headers;
struct OutgoingRequest;
struct RequestOptions;
struct OutgoingBody;
struct FutureResponse;
struct IncomingResponse;
struct IncomingBody;
struct FutureTrailers;

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Verb {
    #[component(name = "get")]
    Get,
    #[component(name = "head")]
    Head,
    #[component(name = "post")]
    Post,
    #[component(name = "put")]
    Put,
    #[component(name = "delete")]
    Delete,
    #[component(name = "connect")]
    Connect,
    #[component(name = "options")]
    Options,
    #[component(name = "trace")]
    Trace,
    #[component(name = "patch")]
    Patch,
    #[component(name = "other")]
    Other(String),
}

#[derive(Clone, Debug, ComponentType, Lift, Lower)]
#[component(variant)]
enum Scheme {
    #[component(name = "HTTP")]
    Http,
    #[component(name = "HTTPS")]
    Https,
    #[component(name = "other")]
    Other(String),
}

pub(super) type Cx<'a> = StoreContextMut<'a, State>;
type Done = wasmtime::Result<(Result<(), ()>,)>;

/// The type of a resource of `wasi:http/types` that functions here give out.
pub(super) fn resource(name: &str) -> Option<ResourceType> {
    Some(match name {
        "fields" => ResourceType::host::<Headers>(),
        "outgoing-request" => ResourceType::host::<OutgoingRequest>(),
        "request-options" => ResourceType::host::<RequestOptions>(),
        "outgoing-body" => ResourceType::host::<OutgoingBody>(),
        "future-incoming-response" => ResourceType::host::<FutureResponse>(),
        "incoming-response" => ResourceType::host::<IncomingResponse>(),
        "incoming-body" => ResourceType::host::<IncomingBody>(),
        "future-trailers" => ResourceType::host::<FutureTrailers>(),
        _ => return None,
    })
}

/// Links one function if it is served; says whether it is.
pub(super) fn link(to: &mut LinkerInstance<'_, State>, interface: &str, name: &str) -> wasmtime::Result<bool> {
    let of = |resource: &str| name.split_once(']').is_some_and(|(_, rest)| rest.split('.').next() == Some(resource));
    match interface {
        "http/outgoing-handler" => handle(to, name),
        "http/types" if of("fields") => headers::link(to, name),
        "http/types" if of("outgoing-request") => request(to, name),
        "http/types" if of("request-options") => options(to, name),
        "http/types" if of("outgoing-body") => body(to, name),
        "http/types" => answer::link(to, name),
        _ => Ok(false),
    }
}

/// What a stream or an error is behind, when the guest drops it.
pub(super) fn drop_thing(state: &mut State, rep: u32) {
    let Some(table) = state.http.as_mut() else { return };
    if let Some(Thing::Outgoing(body)) = table.take(rep) {
        body.give_up();
    }
}

fn handle(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    type Asked = wasmtime::Result<(Result<Resource<FutureResponse>, ErrorCode>,)>;
    if name != "handle" {
        return Ok(false);
    }
    type Arguments = (Resource<OutgoingRequest>, Option<Resource<RequestOptions>>);
    to.func_wrap(name, |mut cx: Cx<'_>, (request, options): Arguments| -> Asked {
        let Some(Thing::Request(request)) = take(&mut cx, &request) else { return Err(gone()) };
        let times = match options.map(|options| take(&mut cx, &options)) {
            None => Times::default(),
            Some(Some(Thing::Options(times))) => times,
            Some(_) => return Err(gone()),
        };
        let asked = cx.data_mut().ask(*request, times);
        Ok((match asked {
            Ok(exchange) => Ok(add(&mut cx, Thing::Future(Arc::new(exchange)))?),
            Err(code) => Err(code),
        },))
    })?;
    Ok(true)
}

fn request(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    type This = Resource<OutgoingRequest>;
    match name {
        "[constructor]outgoing-request" => to.func_wrap(name, |mut cx: Cx<'_>, (fields,): (Resource<Headers>,)| {
            let Some(Thing::Fields(fields)) = take(&mut cx, &fields) else { return Err(gone()) };
            Ok((add::<OutgoingRequest>(&mut cx, Thing::Request(Box::new(Request::new(fields))))?,))
        })?,
        "[method]outgoing-request.body" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (This,)| {
                let request = asked(&mut cx, &this)?;
                if request.body.is_some() {
                    return Ok((Err(()),));
                }
                let (body, finished) = Body::new();
                request.body = Some(finished);
                Ok((Ok(add::<OutgoingBody>(&mut cx, Thing::Outgoing(body))?),))
            })?;
        }
        "[method]outgoing-request.method" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (This,)| Ok((verb(&asked(&mut cx, &this)?.method),)))?;
        }
        "[method]outgoing-request.set-method" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this, verb): (This, Verb)| -> Done {
                let Ok(method) = method(verb) else { return Ok((Err(()),)) };
                asked(&mut cx, &this)?.method = method;
                Ok((Ok(()),))
            })?;
        }
        "[method]outgoing-request.path-with-query" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (This,)| Ok((asked(&mut cx, &this)?.path_and_query.clone(),)))?
        }
        "[method]outgoing-request.set-path-with-query" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this, path): (This, Option<String>)| -> Done {
                set_text(&mut asked(&mut cx, &this)?.path_and_query, path)
            })?;
        }
        "[method]outgoing-request.scheme" => to.func_wrap(name, |mut cx: Cx<'_>, (this,): (This,)| {
            let https = asked(&mut cx, &this)?.https;
            Ok((https.map(|https| if https { Scheme::Https } else { Scheme::Http }),))
        })?,
        "[method]outgoing-request.set-scheme" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this, scheme): (This, Option<Scheme>)| -> Done {
                let https = match scheme {
                    None => None,
                    Some(Scheme::Http) => Some(false),
                    Some(Scheme::Https) => Some(true),
                    Some(Scheme::Other(name)) if name.eq_ignore_ascii_case("http") => Some(false),
                    Some(Scheme::Other(name)) if name.eq_ignore_ascii_case("https") => Some(true),
                    Some(Scheme::Other(_)) => return Ok((Err(()),)),
                };
                asked(&mut cx, &this)?.https = https;
                Ok((Ok(()),))
            })?;
        }
        "[method]outgoing-request.authority" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (This,)| Ok((asked(&mut cx, &this)?.authority.clone(),)))?
        }
        "[method]outgoing-request.set-authority" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this, authority): (This, Option<String>)| -> Done {
                set_text(&mut asked(&mut cx, &this)?.authority, authority)
            })?;
        }
        "[method]outgoing-request.headers" => to.func_wrap(name, |mut cx: Cx<'_>, (this,): (This,)| {
            let fields = asked(&mut cx, &this)?.headers();
            Ok((add::<Headers>(&mut cx, Thing::Fields(fields))?,))
        })?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Part of a URL. What is wrong with it is said when it is asked for.
fn set_text(part: &mut Option<String>, text: Option<String>) -> Done {
    if text.as_ref().is_some_and(|text| text.len() > limits::HTTP_URL_BYTES) {
        return Ok((Err(()),));
    }
    *part = text;
    Ok((Ok(()),))
}

fn options(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    type This = Resource<RequestOptions>;
    type Part = fn(&mut Times) -> &mut Option<u64>;
    fn times<'a>(cx: &'a mut Cx<'_>, this: &This) -> wasmtime::Result<&'a mut Times> {
        match cx.data_mut().http().get(this.rep())? {
            Thing::Options(times) => Ok(times),
            _ => Err(gone()),
        }
    }
    if name == "[constructor]request-options" {
        to.func_wrap(name, |mut cx: Cx<'_>, ()| {
            Ok((add::<RequestOptions>(&mut cx, Thing::Options(Times::default()))?,))
        })?;
        return Ok(true);
    }
    let Some(method) = name.strip_prefix("[method]request-options.") else { return Ok(false) };
    let part: Part = match method.strip_prefix("set-").unwrap_or(method) {
        "connect-timeout" => |times| &mut times.connect,
        "first-byte-timeout" => |times| &mut times.first_byte,
        "between-bytes-timeout" => |times| &mut times.between_bytes,
        _ => return Ok(false),
    };
    if method.starts_with("set-") {
        to.func_wrap(name, move |mut cx: Cx<'_>, (this, nanos): (This, Option<u64>)| -> Done {
            *part(times(&mut cx, &this)?) = nanos;
            Ok((Ok(()),))
        })?;
    } else {
        to.func_wrap(name, move |mut cx: Cx<'_>, (this,): (This,)| Ok((*part(times(&mut cx, &this)?),)))?;
    }
    Ok(true)
}

fn body(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    type This = Resource<OutgoingBody>;
    type Finished = wasmtime::Result<(Result<(), ErrorCode>,)>;
    match name {
        "[method]outgoing-body.write" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (This,)| {
                let Thing::Outgoing(body) = cx.data_mut().http().get(this.rep())? else { return Err(gone()) };
                Ok((match body.take_stream() {
                    Some(stream) => Ok(add::<OutputStream>(&mut cx, Thing::Output(stream))?),
                    None => Err(()),
                },))
            })?;
        }
        "[static]outgoing-body.finish" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this, trailers): (This, Option<Resource<Headers>>)| -> Finished {
                let Some(Thing::Outgoing(body)) = take(&mut cx, &this) else { return Err(gone()) };
                let trailers = trailers.map(|trailers| take(&mut cx, &trailers));
                if let Some(Some(Thing::Fields(fields))) = &trailers
                    && !fields.is_empty()
                {
                    // They would need chunks, and hardly a server reads them.
                    body.give_up();
                    return Ok((Err(ErrorCode::HttpRequestTrailerSectionSize(Some(0))),));
                }
                let most = cx.data().handling.spec.limits.http_request_bytes as u64;
                Ok((body.finish().map_err(|()| ErrorCode::HttpRequestBodySize(Some(most))),))
            })?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn asked<'a>(cx: &'a mut Cx<'_>, this: &Resource<OutgoingRequest>) -> wasmtime::Result<&'a mut Request> {
    match cx.data_mut().http().get(this.rep())? {
        Thing::Request(request) => Ok(request),
        _ => Err(gone()),
    }
}

/// A resource for the guest to keep.
fn add<T>(cx: &mut Cx<'_>, thing: Thing) -> wasmtime::Result<Resource<T>> {
    let rep = cx.data_mut().http().add(thing)?;
    Ok(own(cx, rep))
}

/// One that the guest has given away.
fn take<T>(cx: &mut Cx<'_>, resource: &Resource<T>) -> Option<Thing> {
    cx.data_mut().wasi.take_back();
    cx.data_mut().http().take(resource.rep())
}

/// Something to wait for.
fn awaited(cx: &mut Cx<'_>, exchange: Arc<crate::sandbox::http::Exchange>, side: Side) -> Resource<Pollable> {
    let place = cx.data_mut().wasi.add_exchange(exchange, side);
    own(cx, place)
}

fn verb(method: &Method) -> Verb {
    match *method {
        Method::GET => Verb::Get,
        Method::HEAD => Verb::Head,
        Method::POST => Verb::Post,
        Method::PUT => Verb::Put,
        Method::DELETE => Verb::Delete,
        Method::CONNECT => Verb::Connect,
        Method::OPTIONS => Verb::Options,
        Method::TRACE => Verb::Trace,
        Method::PATCH => Verb::Patch,
        ref other => Verb::Other(other.as_str().to_owned()),
    }
}

fn method(verb: Verb) -> Result<Method, ()> {
    Ok(match verb {
        Verb::Get => Method::GET,
        Verb::Head => Method::HEAD,
        Verb::Post => Method::POST,
        Verb::Put => Method::PUT,
        Verb::Delete => Method::DELETE,
        Verb::Connect => Method::CONNECT,
        Verb::Options => Method::OPTIONS,
        Verb::Trace => Method::TRACE,
        Verb::Patch => Method::PATCH,
        Verb::Other(name) if name.len() <= limits::CODE_BYTES => Method::from_bytes(name.as_bytes()).map_err(drop)?,
        Verb::Other(_) => return Err(()),
    })
}
