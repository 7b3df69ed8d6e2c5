//! Which imports something here serves, and what is said of the others.

use super::grants::Capability;
use super::modules::LoadError;
use super::{contract_v0_1, text, wasi};

fn is_ours(import: &str) -> bool {
    let parts = import.strip_prefix("sandbar:handler/").and_then(|rest| rest.split_once('@'));
    parts.is_some_and(|(interface, version)| {
        version == contract_v0_1::VERSION && contract_v0_1::INTERFACES.contains(&interface)
    })
}

/// Whether something serves an import, going by its name: only interfaces are served.
pub(super) fn served(name: &str, is_instance: bool) -> Result<(), LoadError> {
    let known = is_instance && (is_ours(name) || wasi::interface(name).is_some());
    if known { Ok(()) } else { Err(unserved(name)) }
}

/// What is said of a component that is no handler.
pub(super) fn no_guest(exports: &[String]) -> LoadError {
    let exports = match exports.is_empty() {
        true => "nothing".to_owned(),
        false => exports.iter().map(|name| format!("`{}`", text::name(name))).collect::<Vec<_>>().join(", "),
    };
    LoadError::NoGuest { exports, served: "`sandbar:handler/guest@0.1.0`" }
}

fn unserved(name: &str) -> LoadError {
    const SERVED: &str = "sandbar:handler/{log,outbox,keys,config,secrets}@0.1.0 and wasi:{cli,io,clocks,random,filesystem,sockets,http}@0.2 are";
    let version = name.split_once('@').map_or("", |(_, version)| version);
    let package = name.split(['/', '@']).next().unwrap_or(name);
    let shown = text::name(name);
    if package.starts_with("wasi:") && version.starts_with("0.3") {
        return LoadError::Async(format!("it imports `{shown}`"));
    }
    let hint = match package {
        "sandbar:handler" => {
            "this host serves version 0.1.0 of log, outbox, keys, config and secrets; build against that version"
                .to_owned()
        }
        "wasi:http" => "of HTTP version 0.2 is served; build against that version".to_owned(),
        "wasi:keyvalue" => "use sandbar:handler/keys@0.1.0".to_owned(),
        "wasi:config" => "use sandbar:handler/config@0.1.0".to_owned(),
        "wasi:logging" => "use sandbar:handler/log@0.1.0, or write to standard output".to_owned(),
        "wasi:messaging" => "use sandbar:handler/outbox@0.1.0".to_owned(),
        _ => SERVED.to_owned(),
    };
    LoadError::Import { name: shown, hint }
}

/// Which grants these imports can make use of.
pub(super) fn capabilities(imports: &[String]) -> Vec<Capability> {
    let imported = |capability: &Capability| imports.iter().any(|name| capability.is_behind(name));
    Capability::ALL.into_iter().filter(imported).collect()
}
