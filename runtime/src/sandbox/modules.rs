//! Where a module is loaded: verified, compiled and linked, so that nothing can go wrong by name when it is called.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Component, InstancePre, Linker};

use super::cache::Cache;
use super::compile::Compiling;
use super::engine::Secret;
use super::grants::{Capability, MissingGrant, missing_grants};
use super::host::{Hears, State};
use super::http::Outlet;
use super::isolate::Apart;
use super::overruns::Overruns;
use super::reuse::{Hand, Shelf};
use super::trust::{Untrusted, hex};
use super::{Services, Spec, contract_v0_1, limits, shape, text, wasi};

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

/// One handler as it is called: a module with what it may do. Cloning shares it.
#[derive(Clone)]
pub struct Handler {
    pub(super) handling: Arc<Handling>,
    pub(super) shut: Arc<AtomicBool>,
    pub(super) shelf: Arc<Shelf>,
}

pub(super) struct Handling {
    pub(super) module: Module,
    pub(super) spec: Spec,
    pub(super) services: Arc<dyn Services>,
    /// Seeds its random numbers.
    pub(super) secret: Secret,
    /// Where its requests go, if it may send any.
    pub(super) outlet: Option<Arc<Outlet>>,
    /// Where its calls run if not in this process.
    pub(super) apart: Option<Apart>,
    /// Who hears what it says if that is not for the log of this process.
    pub(super) heard: Option<Arc<dyn Hears>>,
    /// Goes up with each call that was stopped for its time, and down with each other one.
    pub(super) overruns: Overruns,
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

pub(super) fn capabilities(imports: &[String]) -> Vec<Capability> {
    let imported = |capability: &Capability| imports.iter().any(|name| capability.is_behind(name));
    Capability::ALL.into_iter().filter(imported).collect()
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

// === impl Handler ===

impl Handler {
    /// While it is shut, jobs that wait for a worker come back as not called; calls that have started end as ever.
    /// Instances that wait for their next event are dropped.
    pub fn shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::Relaxed);
        if shut {
            self.shelf.clear();
        }
    }

    /// Another takes its place: calls that were submitted still run on it, and no instance waits for more. There is no way
    /// back.
    pub fn retire(&self) {
        self.shelf.close();
        if let Some(apart) = &self.handling.apart {
            apart.close();
        }
    }

    /// What a thread calls it with, one event after the other.
    pub(super) fn hand(&self) -> Hand<'_> {
        Hand::new(&self.handling, &self.shelf)
    }

    /// Whether a call of it was stopped for its time of late.
    pub(super) fn overran(&self) -> bool {
        self.handling.overruns.any()
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }

    /// What it may do and how far it may go.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.handling.spec
    }

    /// What it runs.
    #[must_use]
    pub fn module(&self) -> &Module {
        &self.handling.module
    }

    /// What its module imports that it was not given, with the line to add for each.
    #[must_use]
    pub fn missing_grants(&self) -> Vec<MissingGrant> {
        missing_grants(&self.handling.module, &self.handling.spec.grants)
    }
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").field("spec", self.spec()).field("module", self.module()).finish()
    }
}
