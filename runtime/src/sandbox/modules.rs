//! Where a module is loaded: verified, compiled and linked, so that nothing can go wrong by name when it is called.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Component, InstancePre, Linker};

use super::cache::Cache;
use super::compile::Compiling;
use super::grants::Capability;
use super::host::State;
use super::served::{capabilities, no_guest, served};
use super::trust::{Untrusted, hex};
use super::{contract_v0_1, limits, shape, text, wasi};

/// A compiled component that can be called. Cloning shares it.
#[derive(Clone)]
pub struct Module {
    inner: Arc<Compiled>,
}

struct Compiled {
    contract: Contract,
    digest: String,
    size: usize,
    cached: bool,
    imports: Vec<String>,
    capabilities: Vec<Capability>,
    /// Pages of the largest memory at its start.
    first_pages: u64,
}

/// The version of the contract a component speaks. Every version that was ever released stays here.
pub(super) enum Contract {
    V0_1(contract_v0_1::Prepared),
}

/// Why a module cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// Neither component nor core module.
    #[error("is not a WebAssembly binary: build a component, for example with `cargo build --target wasm32-wasip2`")]
    NotWasm,
    /// A module without the component around it.
    #[error(
        "is a core module, not a component: build with `cargo build --target wasm32-wasip2`, or wrap it with `wasm-tools component new`"
    )]
    CoreModule,
    /// Not the bytes that were meant, or nobody trusted signed them.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// More bytes than [`limits::MODULE_BYTES`].
    #[error("has {size} bytes; a module may have {most}: strip debug information from it")]
    TooLarge {
        /// What it has.
        size: usize,
        /// What it may have.
        most: usize,
    },
    /// It has more of something than [`limits`] allow a module; nothing was compiled.
    #[error("has {has} {what}; a module may have {most}, whichever handler it is for")]
    Limit {
        /// Of what.
        what: &'static str,
        /// What it has.
        has: u64,
        /// What it may have.
        most: u64,
    },
    /// It does not validate or compile.
    #[error("is no valid component: {0}")]
    Invalid(String),
    /// Compiling it was stopped for the time it took.
    #[error("takes more than {limit} of processor time to compile; more: [host] compile_time = \"{more}\"")]
    CompileTime {
        /// What a module may take.
        limit: String,
        /// Twice as much.
        more: String,
    },
    /// Compiling it was stopped for the memory it took.
    #[error("takes more than {limit} of memory to compile; more: [host] compile_memory = \"{more}\"")]
    CompileMemory {
        /// What a module may take.
        limit: String,
        /// Twice as much.
        more: String,
    },
    /// The compiler broke on it, or is not there.
    #[error("could not be compiled: {0}")]
    Compiler(String),
    /// It uses the asynchronous component model.
    #[error(
        "needs the asynchronous component model ({0}), which is not served: build it for WASI 0.2 with synchronous exports"
    )]
    Async(String),
    /// An import that nothing here serves.
    #[error("imports `{name}`, which is not served: {hint}")]
    Import {
        /// The import.
        name: String,
        /// What would serve instead.
        hint: String,
    },
    /// It speaks no version of the contract.
    #[error("exports no `sandbar:handler/guest`; it exports {exports}; served is {served}")]
    NoGuest {
        /// What it exports.
        exports: String,
        /// What is served.
        served: &'static str,
    },
    /// An import or export has another type than the contract's.
    #[error("does not fit its interface: {0}; build it against the contract of the version it names")]
    Link(String),
    /// It needs more than the pool has for one call.
    #[error("does not fit the pool: {0}; {1}")]
    Pool(String, &'static str),
}

/// Loads a component: those bytes are verified, compiled and linked. Those that were once before are in the cache.
pub(super) fn load(
    engine: &Engine,
    cache: Option<&Cache>,
    compiling: &Compiling,
    wasm: &[u8],
) -> Result<Module, LoadError> {
    look(wasm)?;
    shape::check(wasm)?;
    let digest: [u8; 32] = Sha256::digest(wasm).into();
    let found = cache.and_then(|cache| cache.load(engine, &digest));
    let cached = found.is_some();
    let component = match found {
        Some(component) => component,
        None => compile(engine, compiling, wasm)?,
    };
    let module = made(engine, &component, hex(&digest), wasm.len(), cached)?;
    if let Some(cache) = cache.filter(|_| !cached) {
        cache.store(&digest, &component);
    }
    Ok(module)
}

/// Links what is compiled.
fn made(
    engine: &Engine,
    component: &Component,
    digest: String,
    size: usize,
    cached: bool,
) -> Result<Module, LoadError> {
    let ty = component.component_type();
    let imports: Vec<String> = ty.imports(engine).map(|(name, _)| name.to_owned()).collect();
    let exports: Vec<String> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    if !exports.iter().any(|name| name == contract_v0_1::EXPORT) {
        return Err(no_guest(&exports));
    }
    let pre = link(engine, component)?;
    let contract = contract_v0_1::Prepared::new(engine, component, pre).map_err(|error| broken(&error))?;
    let required = component.resources_required();
    Ok(Module {
        inner: Arc::new(Compiled {
            contract: Contract::V0_1(contract),
            digest,
            size,
            cached,
            capabilities: capabilities(&imports),
            imports,
            first_pages: required.and_then(|required| required.max_initial_memory_size).unwrap_or(0),
        }),
    })
}

fn compile(engine: &Engine, compiling: &Compiling, wasm: &[u8]) -> Result<Component, LoadError> {
    let begun = Instant::now();
    let component = compiling.compile(engine, wasm)?;
    tracing::debug!(bytes = wasm.len(), took = ?begun.elapsed(), "the module is compiled");
    Ok(component)
}

/// Looks at the first bytes, for an error that says what the file is.
pub(super) fn look(wasm: &[u8]) -> Result<(), LoadError> {
    if wasm.len() > limits::MODULE_BYTES {
        return Err(LoadError::TooLarge { size: wasm.len(), most: limits::MODULE_BYTES });
    }
    // Magic, then two bytes of version and two of layer: 0 for a core module, 1 for a component.
    match wasm.get(..8) {
        Some([0, b'a', b's', b'm', _, _, 0, 0]) => Err(LoadError::CoreModule),
        Some([0, b'a', b's', b'm', ..]) => Ok(()),
        _ => Err(LoadError::NotWasm),
    }
}

fn link(engine: &Engine, component: &Component) -> Result<InstancePre<State>, LoadError> {
    let mut linker: Linker<State> = Linker::new(engine);
    contract_v0_1::link(&mut linker).map_err(|error| broken(&error))?;
    let ty = component.component_type();
    for (name, import) in ty.imports(engine) {
        let ComponentItem::ComponentInstance(instance) = &import.ty else {
            // A type that is imported by itself asks nothing of the host.
            if matches!(import.ty, ComponentItem::Type(_)) {
                continue;
            }
            served(name, false)?;
            continue;
        };
        if let Some(function) = asynchronous(engine, instance) {
            let name = text::name(name);
            return Err(LoadError::Async(format!("it imports the async function `{name}#{function}`")));
        }
        served(name, true)?;
        if let Some(interface) = wasi::interface(name) {
            wasi::link(engine, &mut linker, name, interface, instance).map_err(|error| broken(&error))?;
        }
    }
    linker.instantiate_pre(component).map_err(|error| broken(&error))
}

fn asynchronous(engine: &Engine, instance: &ComponentInstance) -> Option<String> {
    let is_async = |item: &ComponentItem| matches!(item, ComponentItem::ComponentFunc(function) if function.async_());
    instance.exports(engine).find(|(_, export)| is_async(&export.ty)).map(|(name, _)| name.to_owned())
}

/// Sorts what wasmtime says about bytes it does not take.
pub(super) fn refused(text: String) -> LoadError {
    let about_memory = text.contains("memory has a minimum byte size");
    if about_memory {
        return LoadError::Pool(text, "raise the largest `[handler.limits] memory = …`, which sizes the pool");
    }
    if text.contains("pooling allocator")
        || text.contains("exceeds the limit of")
        || text.contains("exceeds the configured maximum")
    {
        return LoadError::Pool(text, "join its core modules when it is built, or leave parts of it out");
    }
    if text.contains("async") {
        return LoadError::Async(text);
    }
    LoadError::Invalid(text)
}

fn broken(error: &wasmtime::Error) -> LoadError {
    LoadError::Link(chain(error))
}

/// An error and its causes in one line; the causes are ours to tell, as the error is not passed on.
pub(super) fn chain(error: &wasmtime::Error) -> String {
    let mut text = String::new();
    for (depth, cause) in error.chain().enumerate() {
        let _ = write!(text, "{}{cause}", if depth == 0 { "" } else { ": " });
    }
    text::line(&text, limits::REASON_BYTES)
}

// === impl Module ===

impl Module {
    /// SHA-256 of its bytes, in hex.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.inner.digest
    }

    /// Whether its code came from the code cache: nothing was compiled then.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        self.inner.cached
    }

    /// Bytes of the component as it was loaded.
    #[must_use]
    pub fn size(&self) -> usize {
        self.inner.size
    }

    /// The names of everything it imports.
    #[must_use]
    pub fn imports(&self) -> &[String] {
        &self.inner.imports
    }

    /// Which grants its imports can make use of.
    #[must_use]
    pub fn capabilities(&self) -> &[Capability] {
        &self.inner.capabilities
    }

    /// Bytes that its largest memory has at its start.
    pub(super) fn first_bytes(&self) -> u64 {
        self.inner.first_pages.saturating_mul(64 << 10)
    }

    /// What it was compiled to, for a process of the same program.
    pub(super) fn code(&self) -> wasmtime::Result<Vec<u8>> {
        let Contract::V0_1(contract) = self.contract();
        contract.component().serialize()
    }

    /// The module that [`Module::code`] of another process was asked for. Nothing is compiled, and all that has to be made
    /// for its calls is made.
    ///
    /// # Safety
    ///
    /// The code must come from there.
    pub(super) unsafe fn from_code(
        engine: &Engine,
        code: &[u8],
        digest: String,
        size: usize,
    ) -> Result<Self, LoadError> {
        // SAFETY: as above.
        let component = unsafe { Component::deserialize(engine, code) };
        let component = component.and_then(|component| {
            component.initialize_copy_on_write_image()?;
            Ok(component)
        });
        made(engine, &component.map_err(|error| refused(chain(&error)))?, digest, size, true)
    }

    pub(super) fn contract(&self) -> &Contract {
        &self.inner.contract
    }
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Module").field("digest", &self.digest()).field("size", &self.size()).finish()
    }
}
