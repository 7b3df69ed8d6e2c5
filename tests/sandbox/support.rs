//! What the tests of the sandbox share: guests, events, and services that remember what they were asked.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sandbar::event::{Effects, Event, Fields, KeyList, Metadata, Outgoing, Payload, Verdict, Versioned};
use sandbar::sandbox::{
    Draft, DraftError, Grants, Handler, Isolator, Limits, Module, Prepared, PublishGrant, Ran, Sandbox, Secret,
    Secrets, Services, Settings, Spec, Unread,
};

use crate::support::host::binary;

/// The component of a test guest.
pub(crate) fn guest(name: &str) -> Vec<u8> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = std::env::var_os("SANDBAR_GUESTS").map_or_else(|| root.join("target/guests/out"), PathBuf::from);
    let path = root.join(folder).join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}: run `make guests`", path.display()))
}

/// A sandbox of two cores that the tests share, and the probe loaded into it.
pub(crate) fn shared() -> &'static (Arc<Sandbox>, Module) {
    static SHARED: OnceLock<(Arc<Sandbox>, Module)> = OnceLock::new();
    SHARED.get_or_init(|| {
        let sandbox = apart(2);
        let module = sandbox.load(&guest("probe")).unwrap();
        (sandbox, module)
    })
}

pub(crate) fn sandbox(threads: usize) -> Arc<Sandbox> {
    Sandbox::new(&Settings { threads, secret: Some(Secret::new(b"of the tests")), ..Settings::default() }).unwrap()
}

/// The same with a process that makes others, for handlers that are isolated.
pub(crate) fn apart(threads: usize) -> Arc<Sandbox> {
    let (secret, isolator) = (Some(Secret::new(b"of the tests")), Some(isolator()));
    Sandbox::new(&Settings { threads, secret, isolator, ..Settings::default() }).unwrap()
}

/// A process that makes others.
pub(crate) fn isolator() -> Isolator {
    Isolator::start(&binary()).unwrap()
}

pub(crate) fn spec() -> Spec {
    Spec {
        name: "probe".into(),
        group: "probe-group".into(),
        max_attempts: 5,
        reuse: 0,
        isolated: false,
        limits: Limits { time: Duration::from_secs(20), ..Limits::default() },
        grants: Grants::default(),
    }
}

/// The secret `TOKEN` of [`everything`].
pub(crate) const TOKEN: &str = "tok-5f\"3a/9c+77";

/// All grants but real time and real random numbers.
pub(crate) fn everything() -> Grants {
    Grants {
        publish: vec![
            PublishGrant { topic: "out".into(), types: vec![] },
            PublishGrant { topic: "typed".into(), types: vec!["org.*".into()] },
        ],
        keys: true,
        config: Some(BTreeMap::from([("base".to_owned(), "https://lms".to_owned())])),
        secrets: Secrets::known([("TOKEN".to_owned(), Secret::new(TOKEN.as_bytes()))]),
        ..Grants::default()
    }
}

/// The probe with this spec, and the services behind it.
pub(crate) fn probe(spec: Spec) -> (Arc<Handler>, Arc<Remembering>) {
    let (sandbox, module) = shared();
    let services = Arc::new(Remembering::default());
    (sandbox.handler(module, spec, Arc::clone(&services) as Arc<dyn Services>).unwrap(), services)
}

/// An event that makes the probe do `kind`, with its arguments as headers.
pub(crate) fn event(kind: &str, arguments: &[(&str, &str)]) -> Event {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let headers = arguments.iter().map(|(name, value)| ((*name).to_owned(), Bytes::from((*value).to_owned())));
    Event {
        topic: "in".into(),
        position: "5-1".into(),
        first: "5-0".into(),
        metadata: Metadata {
            id: format!("event-{}", COUNT.fetch_add(1, Ordering::Relaxed)),
            kind: kind.into(),
            source: "tests".into(),
            time: "2024-05-06T07:08:09+00:00".into(),
            key: None,
            headers: headers.collect(),
            hops: 0,
        },
        content_type: "application/json".into(),
        payload: Payload::Json("{}".into()),
    }
}

/// Calls the probe, and expects that it was called.
pub(crate) fn call(handler: &Handler, event: &Event) -> (Verdict, Effects) {
    called(shared().0.call(handler, event, 1, false))
}

pub(crate) fn called(ran: Ran) -> (Verdict, Effects) {
    match ran {
        Ran::Called { verdict, effects, .. } => {
            assert!(verdict == Verdict::Done || effects.is_empty(), "effects of a call that failed: {effects:?}");
            (verdict, effects)
        }
        Ran::NotCalled(why) => panic!("not called: {why}"),
    }
}

/// What the probe found out.
pub(crate) fn said(handler: &Handler, event: &Event) -> String {
    match call(handler, event).0 {
        Verdict::Reject { code, reason } if code == "said" => reason,
        other => panic!("{other:?}"),
    }
}

/// What `work` answers, as long as something stops it. Without a time limit it would never end and the suite would
/// hang; so the test fails, and the thread is left behind for the end of the process.
pub(crate) fn bounded<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    const BOUND: Duration = Duration::from_secs(30);
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || drop(sender.send(work())));
    match receiver.recv_timeout(BOUND) {
        Ok(answer) => answer,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("nothing has stopped it within {BOUND:?}"),
        Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it ended without an answer"))
        }
    }
}

/// Code and reason of a retry.
pub(crate) fn retried(verdict: Verdict) -> (String, String) {
    match verdict {
        Verdict::Retry { code, reason, after: None } => (code, reason),
        other => panic!("{other:?}"),
    }
}

/// The log lines that `work` writes on this thread.
pub(crate) fn logged(work: impl FnOnce()) -> Vec<String> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let writer = Lines(Arc::clone(&lines));
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.lock().unwrap();
    String::from_utf8(bytes.clone()).unwrap().lines().map(str::to_owned).collect()
}

#[derive(Clone)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Services on a map in memory.
#[derive(Default)]
pub(crate) struct Remembering {
    pub(crate) keys: Mutex<BTreeMap<String, (Vec<u8>, u64)>>,
    pub(crate) reads: AtomicU64,
    /// How long a read of a key takes.
    pub(crate) delay: Mutex<Duration>,
    /// Reads fail as they do while there is no bus.
    pub(crate) down: AtomicBool,
    /// What is wrong with the bus.
    pub(crate) broken: Mutex<Option<String>>,
}

impl Remembering {
    fn read(&self, deadline: Instant) -> Result<(), Unread> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return Err(Unread { reason: "the bus is down".into(), passing: true });
        }
        let started = Instant::now();
        // The delay may be taken back while a read waits.
        let left = || {
            let until = (started + *self.delay.lock().unwrap()).min(deadline);
            until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        };
        while let Some(left) = left() {
            std::thread::park_timeout(left.min(Duration::from_millis(20)));
        }
        if Instant::now() >= deadline {
            return Err(Unread { reason: "no answer in time".into(), passing: false });
        }
        match &*self.broken.lock().unwrap() {
            Some(why) => Err(Unread { reason: why.clone(), passing: false }),
            None => Ok(()),
        }
    }
}

impl Services for Remembering {
    fn prepare(&self, event: &Event, index: u32, draft: Draft) -> Result<Prepared, DraftError> {
        match draft.kind.as_str() {
            "invalid" => return Err(DraftError::Invalid("no such field".into())),
            "limit" => return Err(DraftError::Limit("too many hops".into())),
            "panic" => panic!("a bug in the host"),
            _ => {}
        }
        let id = format!("{}/{index}", event.first);
        let Payload::Json(text) = &draft.payload else { panic!("the probe publishes JSON") };
        let fields = Fields::from_pairs([("id", id.as_str()), ("type", &draft.kind), ("data", text)]);
        Ok(Prepared { id, outgoing: Outgoing { topic: draft.topic.into(), fields } })
    }

    fn read_key(&self, space: &str, key: &str, deadline: Instant) -> Result<Versioned, Unread> {
        assert_eq!(space, "probe");
        self.read(deadline)?;
        let keys = self.keys.lock().unwrap();
        let found = keys.get(key);
        Ok(found.map_or_else(Versioned::default, |(value, version)| Versioned {
            value: Some(Bytes::from(value.clone())),
            version: *version,
        }))
    }

    fn list_keys(&self, space: &str, prefix: &str, limit: usize, deadline: Instant) -> Result<KeyList, Unread> {
        assert_eq!(space, "probe");
        self.read(deadline)?;
        let keys = self.keys.lock().unwrap();
        let version = keys.values().map(|(_, version)| *version).max().unwrap_or(0);
        let found = keys.keys().filter(|key| key.starts_with(prefix)).take(limit).cloned();
        Ok(KeyList { keys: found.collect(), version })
    }
}
