//! A consumer of the probe that a test has started and drains.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::super::control::Control;
use super::super::{Quiet, Shared, Stopped, Tally};
use super::scripted::{BOUND, Did, Scripted};
use super::{Consumer, Gate, Serving, Version};
use crate::bus::Subscription;
use crate::config::{Config, Environment};
use crate::decode::Decoder;
use crate::event::{Event, KeyList, Versioned};
use crate::sandbox::{self, Draft, DraftError, Handler, Module, Prepared, Sandbox, Services, Unread, Workers};
use crate::settle::Breaker;

/// A consumer that runs.
pub(super) struct Running {
    pub(super) bus: Arc<Scripted>,
    pub(super) control: Arc<Control>,
    /// Another version, from the next call on.
    pub(super) serve: mpsc::UnboundedSender<Version>,
    /// What it began with.
    pub(super) first: Version,
    drain: watch::Sender<bool>,
    task: JoinSet<Tally>,
    pub(super) shared: Arc<Shared>,
    pub(super) stopped: mpsc::Receiver<Stopped>,
}

// === impl Running ===

impl Running {
    /// Starts a consumer of the probe with these settings, in TOML.
    pub(super) fn start(bus: &Arc<Scripted>, settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sandbar.toml");
        let (host, handler) = settings.split_once("---").unwrap_or(("", settings));
        let first = if handler.contains("retry_first") { "" } else { "retry_first = \"20ms\"" };
        let text = format!(
            "[bus]\nurl = \"sqlite:x.db\"\n[host]\npoll_timeout = \"200ms\"\n{host}\n[[handler]]\nname = \"probe\"\n\
             module = \"probe.wasm\"\ntopics = [\"in\"]\n{first}\n{handler}\n"
        );
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&path, &Environment::default()).unwrap();
        let (sandbox, module) = probe();
        let settings = &config.handlers[0];
        let handler = sandbox.handler(module, settings.spec.clone(), Arc::new(Nothing)).unwrap();
        let shared = Arc::new(Shared {
            decoder: Arc::new(Decoder::load(&config.schemas).unwrap()),
            profile: config.profile,
            workers: Workers::start(Arc::clone(sandbox)),
            observer: Arc::new(Quiet),
            poll: config.host.poll_timeout,
            consecutive_errors_limit: config.host.consecutive_errors_limit,
        });
        let (drain, draining) = watch::channel(false);
        let (stop, stopped) = mpsc::channel(1);
        let subscription = Arc::clone(bus) as Arc<dyn Subscription>;
        let control = Control::new(&config);
        let gate = Gate::new(Breaker::new(settings.breaker), control.steering(&settings.name), None);
        let (serve, next) = mpsc::unbounded_channel();
        let first = Version::new(handler);
        let serving = Serving::new(first.clone(), next);
        let consumer = Consumer::new(settings, serving, subscription, Arc::clone(&shared), gate, stop);
        let mut task = JoinSet::new();
        task.spawn(consumer.run(draining));
        Self { bus: Arc::clone(bus), control, serve, first, drain, task, shared, stopped }
    }

    /// Drains it, and waits until it has ended.
    pub(super) async fn drain(mut self) -> (Tally, Vec<Did>) {
        self.drain.send_replace(true);
        let tally = tokio::time::timeout(BOUND, self.task.join_next())
            .await
            .expect("the drain ends")
            .unwrap()
            .expect("no panic");
        (tally, self.bus.did())
    }
}

/// The probe, compiled once.
fn probe() -> &'static (Arc<Sandbox>, Module) {
    static PROBE: OnceLock<(Arc<Sandbox>, Module)> = OnceLock::new();
    PROBE.get_or_init(|| {
        let wasm = probe_bytes();
        let sandbox = Sandbox::new(&sandbox::Settings { threads: 2, ..sandbox::Settings::default() }).unwrap();
        let module = sandbox.load(&wasm).unwrap();
        (sandbox, module)
    })
}

/// The probe under another digest, with these settings.
pub(super) fn another(old: &Arc<Handler>) -> Version {
    static OTHER: OnceLock<Module> = OnceLock::new();
    let (sandbox, _) = probe();
    let load = || {
        let mut wasm = probe_bytes();
        // A custom section: its size, the length of its name, its name, its content.
        wasm.extend([0, 3, 1, b'v', 1]);
        sandbox.load(&wasm).unwrap()
    };
    let module = OTHER.get_or_init(load);
    Version::new(sandbox.successor(old, module, old.spec().clone(), Arc::new(Nothing)).unwrap())
}

fn probe_bytes() -> Vec<u8> {
    let built = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/guests/out");
    let path = std::env::var_os("SANDBAR_GUESTS").map_or(built, PathBuf::from).join("probe.wasm");
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `make guests`", path.display()))
}

/// For calls that ask for nothing.
struct Nothing;

impl Services for Nothing {
    fn prepare(&self, _event: &Event, _index: u32, _draft: Draft) -> Result<Prepared, DraftError> {
        Err(DraftError::Invalid("not here".into()))
    }

    fn read_key(&self, _space: &str, _key: &str, _deadline: Instant) -> Result<Versioned, Unread> {
        Err(Unread { reason: "not here".into(), passing: false })
    }

    fn list_keys(&self, _: &str, _: &str, _: usize, _: Instant) -> Result<KeyList, Unread> {
        Err(Unread { reason: "not here".into(), passing: false })
    }
}
