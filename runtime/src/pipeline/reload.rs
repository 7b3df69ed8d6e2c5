//! Takes another configuration over while the host runs: handlers are added, removed and changed. All of it, or nothing.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::fleet::Fleet;
use super::{Error, prepare, with_secrets};
use crate::config::Config;
use crate::sandbox::Sandbox;

/// What a new configuration changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// Handlers that were not there before.
    pub added: Vec<String>,
    /// Handlers with other settings or secrets: each was ended and begun anew.
    pub changed: Vec<String>,
    /// Handlers that are not there any more.
    pub removed: Vec<String>,
}

/// Why a configuration was not taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotReloaded {
    /// What concerns the whole process differs.
    #[error("what stands in {0} has changed: that takes a restart")]
    Host(&'static str),
    /// No handler is left.
    #[error("no handler is enabled: stop the host instead")]
    Nothing,
    /// The run ends by itself when it has nothing to do.
    #[error("this run ends by itself: start another one")]
    UntilIdle,
    /// A handler cannot be started.
    #[error(transparent)]
    Start(#[from] Error),
    /// The host is ending, or has not begun.
    #[error("the host is starting or ending")]
    Absent,
}

/// Asks the host to take a configuration over.
pub(super) struct Wish {
    pub(super) config: Box<Config>,
    pub(super) answer: oneshot::Sender<Result<Reloaded, NotReloaded>>,
}

/// Takes `new` over in the place of `old`. On an error nothing has changed.
pub(super) async fn reload(
    fleet: &mut Fleet<'_>,
    control: &super::Control,
    sandbox: &Arc<Sandbox>,
    old: &Config,
    new: &Config,
) -> Result<Reloaded, NotReloaded> {
    for (same, what) in [
        (old.bus == new.bus && old.profile == new.profile, "[bus]"),
        (old.schemas == new.schemas, "[schemas]"),
        (old.host == new.host, "[host]"),
    ] {
        if !same {
            return Err(NotReloaded::Host(what));
        }
    }
    if new.handlers.is_empty() {
        return Err(NotReloaded::Nothing);
    }
    let running = fleet.names();
    let mut reloaded = Reloaded::default();
    let mut to_start = Vec::new();
    for handler in &new.handlers {
        let spec = with_secrets(new, handler).map_err(Error::from)?;
        if fleet.runs(handler, &spec) {
            continue;
        }
        let list = if running.contains(&handler.name) { &mut reloaded.changed } else { &mut reloaded.added };
        list.push(handler.name.clone());
        to_start.push(handler.clone());
    }
    let is_wanted = |name: &String| new.handlers.iter().any(|handler| handler.name == *name);
    reloaded.removed = running.into_iter().filter(|name| !is_wanted(name)).collect();

    let part = Config { handlers: to_start, ..new.clone() };
    let (sandbox, bus, decoder) = (Arc::clone(sandbox), Arc::clone(&fleet.bus), Arc::clone(&fleet.shared.decoder));
    // It reads, verifies and compiles.
    let prepared = tokio::task::spawn_blocking(move || prepare(&part, &sandbox, &bus, &decoder));
    let prepared = prepared.await.map_err(|_| NotReloaded::Absent)??;
    let named_anew = |name: &String| {
        let now = new.handlers.iter().find(|handler| handler.name == *name).map(|handler| handler.module.as_path());
        fleet.module_of(name) != now
    };
    let named_anew: Vec<String> = reloaded.changed.iter().filter(|name| named_anew(name)).cloned().collect();
    let joined = fleet.join(prepared, std::pin::pin!(std::future::pending())).await.map_err(Error::from)?;
    // From here on nothing can be refused any more.
    let gone: Vec<String> = reloaded.removed.iter().chain(&reloaded.changed).cloned().collect();
    fleet.end(&gone).await;
    control.steer(new.handlers.iter().map(|handler| handler.name.clone()));
    fleet.start(joined.unwrap_or_default(), &named_anew).await;
    Ok(reloaded)
}
