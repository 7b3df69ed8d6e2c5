//! WASI 0.2 as the empty context: no files, no environment, no arguments, no network but HTTP to where it is granted.
//!
//! Language runtimes import WASI whether or not the handler uses it, so what they import is linked, function by
//! function. Those that runtimes really call are in `served`; every other one refuses in the way its type allows, or
//! traps with its name. Sleeping moves the guest's virtual clock and returns. Only with the grant `clock` does it last,
//! never longer than the call may, with the call's core given up meanwhile.

use wasmtime::Engine;
use wasmtime::component::types::{ComponentFunc, ComponentInstance, ComponentItem, Type};
use wasmtime::component::{Linker, LinkerInstance, ResourceType, Val};

use super::call::Stop;
use super::host::State;
use super::http::FIRST;

mod context;
mod http;
mod served;
mod streams;

pub(super) use context::Context;

/// The packages of WASI 0.2 that language runtimes import.
pub(super) const PACKAGES: [&str; 7] = ["cli", "io", "clocks", "random", "filesystem", "sockets", "http"];

/// Where each resource of those packages is defined; other interfaces only mention it.
const DEFINED_IN: [(&str, &str); 25] = [
    ("input-stream", "io/streams"),
    ("output-stream", "io/streams"),
    ("pollable", "io/poll"),
    ("error", "io/error"),
    // What `wasi:http/types` calls it.
    ("io-error", "io/error"),
    // Two other names of `fields` there.
    ("headers", "fields"),
    ("trailers", "fields"),
    ("terminal-input", "cli/terminal-input"),
    ("terminal-output", "cli/terminal-output"),
    ("descriptor", "filesystem/types"),
    ("directory-entry-stream", "filesystem/types"),
    ("network", "sockets/network"),
    ("tcp-socket", "sockets/tcp"),
    ("udp-socket", "sockets/udp"),
    ("incoming-datagram-stream", "sockets/udp"),
    ("outgoing-datagram-stream", "sockets/udp"),
    ("resolve-address-stream", "sockets/ip-name-lookup"),
    ("fields", "http/types"),
    ("outgoing-request", "http/types"),
    ("request-options", "http/types"),
    ("outgoing-body", "http/types"),
    ("future-incoming-response", "http/types"),
    ("incoming-response", "http/types"),
    ("incoming-body", "http/types"),
    ("future-trailers", "http/types"),
];

/// How an error enumeration may say "you may not", the most fitting first.
const REFUSALS: [&str; 6] =
    ["access-denied", "not-permitted", "access", "not-supported", "unsupported", "permanent-resolver-failure"];

/// The interface of an import that is served here, without package `wasi:` and version: `io/streams`.
pub(super) fn interface(import: &str) -> Option<&str> {
    let (interface, version) = import.strip_prefix("wasi:")?.split_once('@')?;
    let (package, _) = interface.split_once('/')?;
    (PACKAGES.contains(&package) && version.starts_with("0.2.")).then_some(interface)
}

/// Links everything that a component imports from one instance of WASI.
pub(super) fn link(
    engine: &Engine,
    linker: &mut Linker<State>,
    import: &str,
    interface: &str,
    instance: &ComponentInstance,
) -> wasmtime::Result<()> {
    let mut target = linker.instance(import)?;
    // Resources first: the types of functions name them.
    for (name, item) in instance.exports(engine) {
        if matches!(item.ty, ComponentItem::Resource(_)) {
            link_resource(&mut target, interface, name)?;
        }
    }
    for (name, item) in instance.exports(engine) {
        if matches!(item.ty, ComponentItem::ComponentFunc(_)) && !served::link(&mut target, interface, name)? {
            let shown = format!("{import}#{name}");
            target.func_new(name, move |_, ty, _, results| refuse(&shown, &ty, results))?;
        }
    }
    Ok(())
}

fn link_resource(target: &mut LinkerInstance<'_, State>, interface: &str, name: &str) -> wasmtime::Result<()> {
    match DEFINED_IN.iter().position(|(resource, _)| *resource == name) {
        Some(index) if DEFINED_IN[index].1 == interface => match served::resource(interface, name) {
            Some(ty) => target.resource(name, ty, move |mut store, rep| {
                let state = store.data_mut();
                state.wasi.take_back();
                if name_is_pollable(ty) {
                    state.wasi.drop_pollable(rep);
                } else if rep >= FIRST {
                    http::drop_thing(state, rep);
                }
                Ok(())
            }),
            None => {
                let payload = u32::try_from(index).unwrap_or(u32::MAX);
                target.resource(name, ResourceType::host_dynamic(payload), |_, _| Ok(()))
            }
        },
        // Mentioned here, defined elsewhere: the linker finds it there.
        Some(_) => Ok(()),
        None => {
            // One that a later 0.2 brought: it can only be met in functions that refuse.
            let payload =
                name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
            target.resource(name, ResourceType::host_dynamic(payload), |_, _| Ok(()))
        }
    }
}

fn name_is_pollable(ty: ResourceType) -> bool {
    ty == ResourceType::host::<served::Pollable>()
}

/// Answers a call that nothing serves in the way its type allows.
fn refuse(name: &str, ty: &ComponentFunc, results: &mut [Val]) -> wasmtime::Result<()> {
    for (slot, result) in results.iter_mut().zip(ty.results()) {
        *slot = refusal(&result).ok_or_else(|| Stop::Unserved(name.to_owned()))?;
    }
    Ok(())
}

fn refusal(ty: &Type) -> Option<Val> {
    match ty {
        Type::Option(_) => Some(Val::Option(None)),
        Type::Result(result) => match result.err() {
            None => Some(Val::Result(Err(None))),
            Some(Type::Enum(cases)) => {
                let fits = |case: &&str| cases.names().any(|name| name == *case);
                let case = REFUSALS.iter().copied().find(fits).or_else(|| cases.names().next())?;
                Some(Val::Result(Err(Some(Box::new(Val::Enum(case.to_owned()))))))
            }
            Some(_) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_packages_that_runtimes_import_are_served() {
        assert_eq!(interface("wasi:io/streams@0.2.3"), Some("io/streams"));
        assert_eq!(interface("wasi:io/streams@0.2.99"), Some("io/streams"));
        assert_eq!(interface("wasi:http/types@0.2.3"), Some("http/types"));
        for other in ["wasi:keyvalue/store@0.2.0", "wasi:io/streams@0.3.0", "wasi:io/streams", "other:io/streams@0.2.0"]
        {
            assert_eq!(interface(other), None, "{other}");
        }
    }
}
