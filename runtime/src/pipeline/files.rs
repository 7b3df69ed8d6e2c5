//! The files of all modules: each is read once, and looked at for all its handlers before anything is compiled.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::Path;

use super::Error;
use crate::config::{Config, HandlerConfig};
use crate::sandbox::{LoadError, Module, Sandbox};

/// What was read. The bytes that were looked at are those that are compiled and whose digest is told.
pub(super) struct Files<'a>(HashMap<&'a Path, Vec<u8>>);

// === impl Files ===

impl<'a> Files<'a> {
    /// # Errors
    ///
    /// If one cannot be read, or is not what one of its handlers asks for.
    pub(super) fn read(config: &'a Config) -> Result<Self, Error> {
        let mut files = HashMap::new();
        for handler in &config.handlers {
            let path = handler.module.as_path();
            let wasm: &Vec<u8> = match files.entry(path) {
                Entry::Occupied(read) => read.into_mut(),
                Entry::Vacant(place) => place.insert(std::fs::read(path).map_err(|source| Error::Unreadable {
                    handler: handler.name.clone(),
                    path: path.to_owned(),
                    source,
                })?),
            };
            handler.trust.check(wasm).map_err(|error| refused(handler, error.into()))?;
        }
        Ok(Self(files))
    }

    /// Compiles the module of a handler.
    pub(super) fn load(&self, sandbox: &Sandbox, handler: &HandlerConfig) -> Result<Module, Error> {
        let wasm = self.0.get(handler.module.as_path()).map_or(&[][..], Vec::as_slice);
        sandbox.load_trusted(wasm, &handler.trust).map_err(|error| refused(handler, error))
    }
}

fn refused(handler: &HandlerConfig, source: LoadError) -> Error {
    Error::Module { handler: handler.name.clone(), path: handler.module.clone(), source }
}
