//! `fields`: a guest puts headers together and reads those of an answer.

use wasmtime::component::{LinkerInstance, Resource};

use super::{Cx, Headers, add};
use crate::sandbox::call::Stop;
use crate::sandbox::host::State;
use crate::sandbox::http::{Fields, HeaderError, Refusal, Thing, gone};
use crate::sandbox::limits;

type This = Resource<Headers>;
type Entries = Vec<(String, Vec<u8>)>;

pub(super) fn link(to: &mut LinkerInstance<'_, State>, name: &str) -> wasmtime::Result<bool> {
    match name {
        "[constructor]fields" => {
            to.func_wrap(name, |mut cx: Cx<'_>, ()| Ok((add::<Headers>(&mut cx, Thing::Fields(Fields::default()))?,)))?
        }
        "[static]fields.from-list" => to.func_wrap(name, |mut cx: Cx<'_>, (entries,): (Entries,)| {
            let most = most(&cx);
            let mut fields = Fields::default();
            let added = entries.iter().try_for_each(|(name, value)| fields.append(name, value, most));
            Ok((match told(added, most)? {
                Ok(()) => Ok(add::<Headers>(&mut cx, Thing::Fields(fields))?),
                Err(error) => Err(error),
            },))
        })?,
        "[method]fields.get" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this, name): (This, String)| Ok((of(&mut cx, &this)?.get(&name),)))?;
        }
        "[method]fields.has" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this, name): (This, String)| Ok((of(&mut cx, &this)?.has(&name),)))?;
        }
        "[method]fields.set" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this, name, values): (This, String, Vec<Vec<u8>>)| {
                let most = most(&cx);
                let set = of(&mut cx, &this)?.set(&name, &values, most);
                Ok((told(set, most)?,))
            })?;
        }
        "[method]fields.delete" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this, name): (This, String)| Ok((of(&mut cx, &this)?.delete(&name),)))?
        }
        "[method]fields.append" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this, name, value): (This, String, Vec<u8>)| {
                let most = most(&cx);
                let added = of(&mut cx, &this)?.append(&name, &value, most);
                Ok((told(added, most)?,))
            })?;
        }
        "[method]fields.entries" => {
            to.func_wrap(name, |mut cx: Cx<'_>, (this,): (This,)| Ok((of(&mut cx, &this)?.entries(),)))?;
        }
        "[method]fields.clone" => to.func_wrap(name, |mut cx: Cx<'_>, (this,): (This,)| {
            let copy = of(&mut cx, &this)?.copy();
            Ok((add::<Headers>(&mut cx, Thing::Fields(copy))?,))
        })?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn of<'a>(cx: &'a mut Cx<'_>, this: &This) -> wasmtime::Result<&'a mut Fields> {
    match cx.data_mut().http().get(this.rep())? {
        Thing::Fields(fields) => Ok(fields),
        _ => Err(gone()),
    }
}

fn most(cx: &Cx<'_>) -> usize {
    cx.data().handling.spec.limits.http_header_bytes
}

/// The type has no case for "too much", so that ends the call.
fn told(set: Result<(), Refusal>, most: usize) -> wasmtime::Result<Result<(), HeaderError>> {
    match set {
        Ok(()) => Ok(Ok(())),
        Err(Refusal::Error(error)) => Ok(Err(error)),
        Err(Refusal::TooMuch) => {
            let (lines, more) = (limits::HTTP_HEADERS, limits::more_bytes("http_header_bytes", most));
            let text = format!("a request may have {most} bytes of headers, and {lines} of them; {more}");
            Err(Stop::Limit(text).into())
        }
    }
}
