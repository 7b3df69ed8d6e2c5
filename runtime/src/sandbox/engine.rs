//! The engine behind all handlers: one pool of instances, sized so that every thread can be inside a guest.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::available_parallelism;

use wasmtime::Engine;

use super::cache::Cache;
use super::compile::Compiling;
use super::handler::{Handler, Handling};
use super::host::Hears;
use super::isolate::{Apart, Isolator};
use super::modules::{LoadError, Module, chain, load};
use super::monitor::{Monitor, Watch};
use super::overruns::Overruns;
use super::pool::{Room, config};
use super::reuse::Shelves;
use super::secret::Secret;
use super::{Ran, Services, Spec, Trust, call, http, limits};
use crate::event::Event;

/// How the sandbox is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Cores that may be busy with guests; 0 for all there are.
    pub threads: usize,
    /// The largest `limits.memory` of all handlers, in bytes: so large is a place in the pool.
    pub max_memory: u64,
    /// Seeds the random numbers of guests, with the delivery. `None` makes one up for this process: a delivery then
    /// runs the same way again on this host until it is started anew.
    pub secret: Option<Secret>,
    /// Whether a handler will have [`Spec::reuse`]: the pool then has places for instances that wait for their next
    /// event. Without, every call gets a fresh one.
    pub reuse: bool,
    /// The directory where compiled modules are kept for later starts; `None` for nowhere. It is made if it is missing.
    /// If it cannot be used, one warning says so and every module is compiled.
    pub code_cache: Option<PathBuf>,
    /// A file of certificates (PEM) of authorities that handlers' requests trust, beside the system's.
    pub http_ca_file: Option<PathBuf>,
    /// Where modules are compiled that are not in the code cache.
    pub compiling: Compiling,
    /// What makes processes for the calls of handlers with [`Spec::isolated`]; without, none can be set up.
    pub isolator: Option<Isolator>,
}

/// Compiles modules and calls handlers.
pub struct Sandbox {
    pub(super) engine: Engine,
    cache: Option<Cache>,
    compiling: Compiling,
    /// Modules that are being loaded.
    loading: AtomicUsize,
    isolator: Option<Isolator>,
    pub(super) monitor: Monitor,
    secret: Secret,
    pub(super) slots: usize,
    max_memory: u64,
    pub(super) shelves: Arc<Shelves>,
    http_ca_file: Option<PathBuf>,
    /// Started for the first handler that may send requests.
    http: Mutex<Option<Arc<http::Client>>>,
}

/// Why the sandbox or a handler cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The pool does not fit into this machine's address space, or its processor is not supported.
    #[error(
        "set up the pool for {slots} calls of {memory} each: {text}; lower the largest `[handler.limits] memory = …`"
    )]
    Pool {
        /// Calls at once.
        slots: usize,
        /// Memory of each.
        memory: String,
        /// What the engine says.
        text: String,
    },
    /// A thread could not be started.
    #[error("start a thread")]
    Thread(#[from] std::io::Error),
    /// The authorities that requests are to trust cannot be read.
    #[error("`http_ca_file` in [host], {path}")]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        source: http::BadRoots,
    },
    /// A handler's memory limit is larger than the pool's places.
    #[error("`[handler.limits] memory` of {name:?} is {memory}, the pool was made for {pool}")]
    Limit {
        /// The handler.
        name: String,
        /// What it wants.
        memory: String,
        /// What there is.
        pool: String,
    },
    /// A module starts with more memory than its handler may have.
    #[error(
        "{name:?} may have {limit} of memory and its module starts with {first}; more: [handler.limits] memory = \"{first}\""
    )]
    FirstMemory {
        /// The handler.
        name: String,
        /// What it may have.
        limit: String,
        /// What the module starts with.
        first: String,
    },
    /// A handler's calls cannot have processes of their own.
    #[error("the calls of {name:?} cannot have processes of their own (isolation = \"process\"): {why}")]
    Isolation {
        /// The handler.
        name: String,
        /// Why.
        why: String,
    },
}

/// Where a handler's calls run if not here, who hears what it says if not the log, and where its requests go if it may send
/// any.
type Ways = (Option<Apart>, Option<Arc<dyn Hears>>, Option<Arc<http::Outlet>>);

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            threads: 0,
            max_memory: limits::MEMORY,
            secret: None,
            reuse: false,
            code_cache: None,
            http_ca_file: None,
            compiling: Compiling::default(),
            isolator: None,
        }
    }
}

// === impl Sandbox ===

impl Sandbox {
    /// Reserves the pool and starts the thread that watches over running calls.
    ///
    /// # Errors
    ///
    /// If the pool does not fit into the address space.
    pub fn new(settings: &Settings) -> Result<Arc<Self>, Error> {
        let calls = limits::THREADS.max(cores(settings)) + limits::EXTRA_CALLS + kept(settings);
        Self::with_room(settings, Room { calls, memories: limits::MEMORIES })
    }

    /// The same with a pool for `calls` calls at once, of components with one memory each: for where there is little
    /// address space, as under a tool that emulates the processor. What a call does is the same, as long as one more
    /// than `calls` is never begun.
    ///
    /// # Errors
    ///
    /// If even this pool does not fit into the address space.
    pub fn tight(settings: &Settings, calls: usize) -> Result<Arc<Self>, Error> {
        Self::with_room(settings, Room { calls, memories: 1 })
    }

    pub(super) fn with_room(settings: &Settings, room: Room) -> Result<Arc<Self>, Error> {
        let slots = cores(settings);
        // Places are whole pages, and never so small that an ordinary module would not load at all.
        let max_memory = settings.max_memory.clamp(limits::MEMORY, limits::MEMORY_CEILING).next_multiple_of(64 << 10);
        let engine = Engine::new(&config(&room, max_memory)).map_err(|error| Error::Pool {
            slots: room.calls,
            memory: call::mebibytes(max_memory),
            text: chain(&error),
        })?;
        let cache = settings.code_cache.as_deref().and_then(|path| open(path, &engine, settings.secret.as_ref()));
        let monitor = Monitor::start(engine.clone())?;
        let shelves = Arc::new(Shelves::new(kept(settings)));
        let watch: Weak<dyn Watch> = Arc::downgrade(&(Arc::clone(&shelves) as Arc<dyn Watch>));
        monitor.watch(watch);
        let secret = settings.secret.clone().unwrap_or_else(Secret::made_up);
        let (http_ca_file, http) = (settings.http_ca_file.clone(), Mutex::default());
        let (compiling, isolator) = (settings.compiling.clone(), settings.isolator.clone());
        Ok(Arc::new(Self {
            engine,
            cache,
            compiling,
            loading: AtomicUsize::new(0),
            isolator,
            monitor,
            secret,
            slots,
            max_memory,
            shelves,
            http_ca_file,
            http,
        }))
    }

    /// Verifies, compiles and links a component. It takes milliseconds to seconds of this thread, whichever process
    /// compiles; less if the code cache has its code.
    ///
    /// # Errors
    ///
    /// What is wrong with it and what to do.
    pub fn load(&self, wasm: &[u8]) -> Result<Module, LoadError> {
        self.loading.fetch_add(1, Ordering::Relaxed);
        let loaded = load(&self.engine, self.cache.as_ref(), &self.compiling, wasm);
        if self.loading.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.compiling.one_by_one();
        }
        loaded
    }

    /// The same for bytes that have to be what `trust` asks for: nothing is made of others.
    ///
    /// # Errors
    ///
    /// In what they are not that, else what is wrong with the component.
    pub fn load_trusted(&self, wasm: &[u8], trust: &Trust) -> Result<Module, LoadError> {
        trust.check(wasm)?;
        self.load(wasm)
    }

    /// Whether a module can be called within its handler's limits at all.
    ///
    /// # Errors
    ///
    /// If the module or the limits do not fit each other or the pool.
    pub fn fits(&self, module: &Module, spec: &Spec) -> Result<(), Error> {
        let (limit, name) = (spec.limits.memory, || spec.name.clone());
        if limit > self.max_memory {
            let (memory, pool) = (call::mebibytes(limit), call::mebibytes(self.max_memory));
            return Err(Error::Limit { name: name(), memory, pool });
        }
        if module.first_bytes() > limit {
            let (limit, first) = (call::mebibytes(limit), call::mebibytes(module.first_bytes()));
            return Err(Error::FirstMemory { name: name(), limit, first });
        }
        Ok(())
    }

    /// Joins a module with what it may do.
    ///
    /// # Errors
    ///
    /// If the module or the limits do not fit each other or the pool.
    pub fn handler(&self, module: &Module, spec: Spec, services: Arc<dyn Services>) -> Result<Arc<Handler>, Error> {
        self.joined(module, spec, services, Arc::default())
    }

    /// The same for a module that takes another one's place: [`Handler::shut`] of either shuts both, so that calls of the
    /// old one that have not started come back too.
    ///
    /// # Errors
    ///
    /// If the module or the limits do not fit each other or the pool.
    pub fn successor(
        &self,
        old: &Handler,
        module: &Module,
        spec: Spec,
        services: Arc<dyn Services>,
    ) -> Result<Arc<Handler>, Error> {
        self.joined(module, spec, services, Arc::clone(&old.shut))
    }

    fn joined(
        &self,
        module: &Module,
        spec: Spec,
        services: Arc<dyn Services>,
        shut: Arc<AtomicBool>,
    ) -> Result<Arc<Handler>, Error> {
        self.fits(module, &spec)?;
        let outlet = self.outlet(&spec)?;
        let refused = |spec: &Spec, why: &str| Error::Isolation { name: spec.name.clone(), why: why.to_owned() };
        let apart = match &self.isolator {
            _ if !spec.isolated => None,
            // Its process has no network, and nobody sends for it.
            _ if !spec.grants.http.urls.is_empty() => {
                return Err(refused(&spec, "its grant `http` is for calls in the host's process only"));
            }
            Some(isolator) => Some(Apart::new(isolator.clone(), self.slots)),
            None => return Err(refused(&spec, "no process was started that makes them")),
        };
        let secret = self.secret.of(&spec.group);
        let handler = self.made(module, spec, services, secret, (apart, None, outlet), shut);
        if let Some(apart) = &handler.handling.apart {
            apart.open(&handler.handling).map_err(|why| refused(handler.spec(), &why))?;
        }
        Ok(handler)
    }

    /// Joins them where all that was looked at.
    fn made(
        &self,
        module: &Module,
        spec: Spec,
        services: Arc<dyn Services>,
        secret: Secret,
        (apart, heard, outlet): Ways,
        shut: Arc<AtomicBool>,
    ) -> Arc<Handler> {
        let shelf = self.shelves.shelf(spec.reuse, self.slots, &shut);
        let (module, overruns) = (module.clone(), Overruns::default());
        let handling = Arc::new(Handling { module, spec, services, secret, outlet, apart, heard, overruns });
        Arc::new(Handler { handling, shut, shelf })
    }

    /// The handler in the process that its calls have for themselves: this sandbox's secret is its own.
    pub(super) fn handler_apart(
        &self,
        module: &Module,
        spec: Spec,
        services: Arc<dyn Services>,
        heard: Arc<dyn Hears>,
    ) -> Arc<Handler> {
        self.made(module, spec, services, self.secret.clone(), (None, Some(heard), None), Arc::default())
    }

    /// What the requests of a handler go through, if it may send any.
    fn outlet(&self, spec: &Spec) -> Result<Option<Arc<http::Outlet>>, Error> {
        let granted = &spec.grants.http;
        if granted.urls.is_empty() || granted.refused.is_some() {
            return Ok(None);
        }
        let mut client = self.http.lock().unwrap_or_else(PoisonError::into_inner);
        let client = match &*client {
            Some(client) => Arc::clone(client),
            None => Arc::clone(client.insert(Arc::new(http::Client::start(self.http_ca_file.as_deref())?))),
        };
        Ok(http::Outlet::new(&client, &spec.name, granted, &spec.limits))
    }

    /// Calls a handler with one event, on this thread, until it is done or its time is over.
    #[must_use]
    pub fn call(&self, handler: &Handler, event: &Event, attempt: u32, replayed: bool) -> Ran {
        call::run(self, &mut handler.hand(), &Arc::new(event.clone()), (attempt, replayed), None)
    }
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox").field("slots", &self.slots).field("max_memory", &self.max_memory).finish()
    }
}

// === impl Error ===

impl From<http::Start> for Error {
    fn from(start: http::Start) -> Self {
        match start {
            http::Start::Roots(path, source) => Self::Roots { path, source },
            http::Start::Threads(error) => Self::Thread(error),
        }
    }
}

/// Instances that may wait for their next event, beside all calls there can be.
fn kept(settings: &Settings) -> usize {
    if settings.reuse { limits::KEPT } else { 0 }
}

fn cores(settings: &Settings) -> usize {
    match settings.threads {
        0 => available_parallelism().map_or(1, usize::from),
        threads => threads,
    }
}

/// A cache that cannot be used is no reason not to run.
fn open(path: &Path, engine: &Engine, secret: Option<&Secret>) -> Option<Cache> {
    let opened = Cache::open(path, engine, secret);
    opened.map_err(|error| error.tell()).ok()
}
