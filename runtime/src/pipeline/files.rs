//! The files of all modules: each is read once, and looked at for all its handlers before anything is compiled.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::available_parallelism;

use bytes::Bytes;

use super::Error;
use crate::config::{Config, HandlerConfig};
use crate::sandbox::{LoadError, Module, Sandbox};

/// What files were compiled to. Handlers that name the same one share it.
pub(super) type Modules<'a> = HashMap<&'a Path, Module>;

/// What was read. The bytes that were looked at are those that are compiled and whose digest is told.
pub(super) struct Files<'a>(HashMap<&'a Path, Bytes>);

// === impl Files ===

impl<'a> Files<'a> {
    /// # Errors
    ///
    /// If one cannot be read, or is not what one of its handlers asks for.
    pub(super) fn read(config: &'a Config) -> Result<Self, Error> {
        let mut files = HashMap::new();
        for handler in &config.handlers {
            let path = handler.module.as_path();
            let wasm: &Bytes = match files.entry(path) {
                Entry::Occupied(read) => read.into_mut(),
                Entry::Vacant(place) => {
                    let unreadable =
                        |source| Error::Unreadable { handler: handler.name.clone(), path: path.to_owned(), source };
                    place.insert(std::fs::read(path).map_err(unreadable)?.into())
                }
            };
            handler.trust.check(wasm).map_err(|error| refused(handler, error.into()))?;
        }
        Ok(Self(files))
    }

    /// The bytes of a handler's module.
    pub(super) fn bytes(&self, handler: &HandlerConfig) -> Bytes {
        self.0.get(handler.module.as_path()).cloned().unwrap_or_default()
    }

    /// Loads the modules of all handlers, each file once and several at a time.
    ///
    /// # Errors
    ///
    /// If one is refused; then no other one is begun.
    pub(super) fn load(&self, sandbox: &Sandbox, handlers: &'a [HandlerConfig]) -> Result<Modules<'a>, Error> {
        let mut seen = HashSet::new();
        let wanted: Vec<_> = handlers.iter().filter(|handler| seen.insert(handler.module.as_path())).collect();
        let next = AtomicUsize::new(0);
        let load_some = || {
            let mut modules = Modules::new();
            while let Some(handler) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let loaded = sandbox.load_trusted(&self.bytes(handler), &handler.trust).map_err(|error| {
                    next.store(wanted.len(), Ordering::Relaxed);
                    refused(handler, error)
                });
                modules.insert(&handler.module, loaded?);
            }
            Ok(modules)
        };
        let others = available_parallelism().map_or(1, usize::from).min(wanted.len()).saturating_sub(1);
        let parts: Result<Vec<Modules<'_>>, Error> = std::thread::scope(|scope| {
            let others: Vec<_> = (0..others).map(|_| scope.spawn(load_some)).collect();
            let own = load_some();
            let theirs = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            std::iter::once(own).chain(theirs).collect()
        });
        Ok(parts?.into_iter().flatten().collect())
    }
}

fn refused(handler: &HandlerConfig, source: LoadError) -> Error {
    Error::Module { handler: handler.name.clone(), path: handler.module.clone(), source }
}
