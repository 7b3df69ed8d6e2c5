//! The files of all modules: each is read once, and looked at for all its handlers before anything is compiled.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use bytes::Bytes;

use super::Error;
use crate::config::{Config, HandlerConfig};
use crate::sandbox::{LoadError, Module, Sandbox};

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

    /// Compiles the module of a handler.
    pub(super) fn load(&self, sandbox: &Sandbox, handler: &HandlerConfig) -> Result<Module, Error> {
        sandbox.load_trusted(&self.bytes(handler), &handler.trust).map_err(|error| refused(handler, error))
    }
}

fn refused(handler: &HandlerConfig, source: LoadError) -> Error {
    Error::Module { handler: handler.name.clone(), path: handler.module.clone(), source }
}
