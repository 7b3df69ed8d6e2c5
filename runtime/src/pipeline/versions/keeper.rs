//! The keeper of one handler: swaps its module when it is asked to, and follows what the ledger says.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::super::Prepared;
use super::super::consumer::{Calls, Version};
use super::super::control::{Shown, Steering};
use super::super::selftest::{Fixture, folder_of};
use super::watching::Watched;
use super::{Maker, Record, Refusal, Swap, Swapped, Wish, digest, ledger_of};
use crate::bus::{LedgerEntry, LedgerName};
use crate::event::from_unix_millis;
use crate::sandbox::Handler;

/// How often it looks whether another module is wanted.
const LOOK: Duration = Duration::from_secs(1);

/// How often it tries to tell what calls came to, when others write the ledger too.
const TRIES: usize = 5;

/// Who asked for the first module.
const CONFIGURATION: &str = "the configuration";

/// Decides which version of a handler its consumer serves.
pub(in crate::pipeline) struct Keeper {
    maker: Arc<Maker>,
    name: LedgerName,
    steering: Arc<Steering>,
    wishes: Option<mpsc::Receiver<Wish>>,
    serve: mpsc::UnboundedSender<Version>,
    current: Version,
    /// The bytes of the configuration's module, to go back to: kept until there is a ledger, which has them then. The file
    /// may be overwritten before it is swapped in.
    first: Option<Bytes>,
    since: SystemTime,
    /// The ledger's revision that was looked at last.
    seen: u64,
    /// The file, if it is to be swapped in when it changes.
    watched: Option<Watched>,
    /// What was served before, and what of its calls is not told yet.
    untold: Vec<Untold>,
}

/// Calls of one version, and how much of them the ledger has.
struct Untold {
    digest: String,
    calls: Arc<Calls>,
    told: (u64, u64),
}

// === impl Keeper ===

impl Keeper {
    /// Begins with the module that the ledger wants; with `first`, that of the configuration, if there is no ledger or its
    /// module cannot be served here. With `insist` it is the first that is wanted from now on. Returns what the consumer
    /// begins with.
    pub(in crate::pipeline) async fn begin(
        first: Prepared,
        steering: Arc<Steering>,
        serve: mpsc::UnboundedSender<Version>,
        insist: bool,
    ) -> (Self, Version) {
        let Prepared { handler, maker, wasm } = first;
        let (name, wishes) = (ledger_of(&maker.settings), steering.take_wishes());
        let current = Version::new(handler);
        let since = SystemTime::now();
        let watched = maker.settings.watch.then(|| Watched::new(maker.settings.module.clone(), maker.file));
        let (untold, first) = (Vec::new(), Some(wasm));
        let mut keeper = Self { maker, name, steering, wishes, serve, current, first, since, seen: 0, watched, untold };
        keeper.untold.push(Untold::of(&keeper.current));
        keeper.show(None);
        if insist {
            keeper.insist().await;
        }
        keeper.follow().await;
        let begins_with = keeper.current.clone();
        (keeper, begins_with)
    }

    /// Keeps until `over` turns true.
    pub(in crate::pipeline) async fn run(mut self, mut over: watch::Receiver<bool>) {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                wish = wish(&mut self.wishes) => self.grant(wish).await,
                _ = looks.tick() => {
                    self.follow().await;
                    self.look_at_file().await;
                    self.tell_calls(false).await;
                }
                () = ended(&mut over) => break,
            }
        }
        self.tell_calls(true).await;
        self.steering.give_wishes(self.wishes);
    }

    async fn grant(&mut self, wish: Wish) {
        let (done, answer) = match wish {
            Wish::Swap(swap, answer) => (self.swap(swap).await, answer),
            Wish::Rollback(by, answer) => (self.roll_back(&by).await, answer),
        };
        if let Err(refusal) = &done {
            let handler = &*self.maker.settings.name;
            tracing::warn!(handler, %refusal, "the module was not swapped: the one before goes on");
        }
        // Whoever asked may have gone.
        drop(answer.send(done));
    }

    async fn swap(&mut self, swap: Swap) -> Result<Swapped, Refusal> {
        let Swap { wasm, fixtures, by } = swap;
        let (digest, before) = (digest(&wasm), self.digest().to_owned());
        if digest == before {
            return Ok(Swapped { digest, before, passed: 0 });
        }
        let (handler, passed) = self.make(wasm.clone(), fixtures).await?;
        let at = SystemTime::now();
        self.record(&digest, at, &by, wasm).await?;
        self.change(handler, at, &by);
        Ok(Swapped { digest, before, passed })
    }

    async fn roll_back(&mut self, by: &str) -> Result<Swapped, Refusal> {
        let ledger = self.maker.bus.ledger(&self.name).await?.ok_or(Refusal::First)?;
        let record = Record::parse(&ledger.text)?;
        let digest = record.previous().ok_or(Refusal::First)?.digest.clone();
        let before = self.digest().to_owned();
        let wasm = self.kept(&digest).await?;
        let (handler, passed) = self.make(wasm.clone(), Vec::new()).await?;
        let at = SystemTime::now();
        self.record(&digest, at, by, wasm).await?;
        self.change(handler, at, by);
        Ok(Swapped { digest, before, passed })
    }

    /// Writes into the ledger which module is wanted from now on, unless somebody else does. That others only tell what
    /// calls came to is no reason not to.
    async fn record(&mut self, digest: &str, at: SystemTime, by: &str, wasm: Bytes) -> Result<(), Refusal> {
        let mut wanted_before = None;
        for _ in 0..TRIES {
            let ledger = self.maker.bus.ledger(&self.name).await?;
            let before = ledger.as_ref().map_or(0, |ledger| ledger.revision);
            let mut record = ledger.map_or_else(|| Ok(Record::default()), |ledger| Record::parse(&ledger.text))?;
            let wanted = record.wanted().map(|entry| (entry.digest.clone(), entry.at_ms));
            if *wanted_before.get_or_insert_with(|| wanted.clone()) != wanted {
                break;
            }
            let mut add = Vec::new();
            if record.history.is_empty() {
                let first = self.digest().to_owned();
                record.push(&first, self.since, CONFIGURATION);
                add.extend(self.first.clone().map(|wasm| (first, wasm)));
            }
            record.push(digest, at, by);
            add.push((digest.to_owned(), wasm.clone()));
            let entry = LedgerEntry { text: record.text(), add, keep: record.kept() };
            if let Some(revision) = self.maker.bus.write_ledger(&self.name, before, &entry).await? {
                self.seen = revision;
                self.first = None;
                return Ok(());
            }
        }
        Err(Refusal::Moved)
    }

    /// Records the first module, if the ledger wants another.
    async fn insist(&mut self) {
        let (Ok(Some(ledger)), Some(wasm)) = (self.maker.bus.ledger(&self.name).await, self.first.clone()) else {
            return;
        };
        let record = Record::parse(&ledger.text).unwrap_or_default();
        let own = self.digest().to_owned();
        if record.wanted().is_none_or(|wanted| wanted.digest == own) {
            return;
        }
        if let Err(refusal) = self.record(&own, self.since, CONFIGURATION, wasm).await {
            let handler = &*self.maker.settings.name;
            tracing::error!(handler, %refusal, "the module that the configuration names anew could not be recorded");
        }
    }

    /// Swaps the file in that the configuration names, if it has changed and is watched.
    async fn look_at_file(&mut self) {
        let Some(watched) = &mut self.watched else { return };
        let Some(path) = watched.look().await else { return };
        let handler = self.maker.settings.name.clone();
        let folder = folder_of(&path);
        let by = format!("the file {}", path.display());
        let read = tokio::task::spawn_blocking(move || {
            let fixtures = if folder.is_dir() { Fixture::read_folder(&folder) } else { Ok(Vec::new()) };
            (std::fs::read(&path), fixtures)
        });
        let trouble = match read.await {
            Ok((Ok(wasm), Ok(fixtures))) => match self.swap(Swap { wasm: wasm.into(), fixtures, by }).await {
                Ok(_) => None,
                // Not the file's: it is looked at again soon.
                Err(Refusal::Bus(error)) => {
                    return tracing::warn!(handler, %error, "the changed file could not be recorded on the bus");
                }
                Err(refusal) => Some(refusal.to_string()),
            },
            Ok((Err(error), _)) => Some(format!("the file cannot be read: {error}")),
            Ok((_, Err(invalid))) => Some(invalid.to_string()),
            Err(_) => return,
        };
        if let Some(watched) = &mut self.watched {
            watched.read();
        }
        if let Some(trouble) = trouble {
            tracing::error!(handler, trouble, "the changed file is not served: the module before goes on");
            self.show(Some(trouble));
        }
    }

    /// Serves what the ledger wants, if that is another module.
    async fn follow(&mut self) {
        let handler = self.maker.settings.name.clone();
        let ledger = match self.maker.bus.ledger(&self.name).await {
            Ok(Some(ledger)) if ledger.revision != self.seen => ledger,
            Ok(_) => return,
            Err(error) => return tracing::debug!(handler, %error, "the record of its modules could not be read"),
        };
        match self.adopt(&ledger.text).await {
            Ok(()) => {
                self.seen = ledger.revision;
                self.show(None);
            }
            // It is looked at again soon.
            Err(Refusal::Bus(error)) => tracing::debug!(handler, %error, "the wanted module could not be read"),
            Err(refusal) => {
                self.seen = ledger.revision;
                tracing::error!(handler, %refusal, "the module that its group is to run is not served here: the one before goes on");
                self.show(Some(refusal.to_string()));
            }
        }
    }

    async fn adopt(&mut self, text: &str) -> Result<(), Refusal> {
        let record = Record::parse(text)?;
        let Some(wanted) = record.wanted() else { return Ok(()) };
        self.first = None;
        let at = from_unix_millis(wanted.at_ms);
        if wanted.digest == self.digest() {
            self.since = at;
            return Ok(());
        }
        let wasm = self.kept(&wanted.digest).await?;
        let (handler, _) = self.make(wasm, Vec::new()).await?;
        self.change(handler, at, &wanted.by);
        Ok(())
    }

    /// The bytes of a module that is kept on the bus. Whoever may write there could have put others in their place.
    async fn kept(&self, wanted: &str) -> Result<Bytes, Refusal> {
        let found = self.maker.bus.ledger_bytes(&self.name, wanted).await?;
        let wasm = found.ok_or_else(|| Refusal::Gone(wanted.to_owned()))?;
        if digest(&wasm) == wanted { Ok(wasm) } else { Err(Refusal::Altered(wanted.to_owned())) }
    }

    /// Compiles and tests aside: it takes up to seconds, and belongs on no thread of the runtime.
    async fn make(&self, wasm: Bytes, fixtures: Vec<Fixture>) -> Result<(Arc<Handler>, usize), Refusal> {
        let (maker, old) = (Arc::clone(&self.maker), Arc::clone(&self.current.handler));
        let made = tokio::task::spawn_blocking(move || maker.make(&old, &wasm, &fixtures));
        made.await.unwrap_or(Err(Refusal::Absent))
    }

    fn change(&mut self, handler: Arc<Handler>, at: SystemTime, by: &str) {
        let module = handler.module().digest();
        tracing::info!(handler = self.maker.settings.name, module, by, "another module is wanted");
        self.current = Version::new(handler);
        self.since = at;
        self.untold.push(Untold::of(&self.current));
        // Without a consumer the host is ending.
        drop(self.serve.send(self.current.clone()));
        self.show(None);
    }

    fn digest(&self) -> &str {
        self.current.handler.module().digest()
    }

    fn show(&self, trouble: Option<String>) {
        let (module, calls) = (self.digest().to_owned(), Arc::clone(&self.current.calls));
        self.steering.show_module(Shown { module, since: Some(self.since), calls, trouble });
    }

    /// Writes into the ledger what calls came to; of the version that is served now only at the end.
    async fn tell_calls(&mut self, all: bool) {
        let current = Arc::clone(&self.current.calls);
        for untold in &mut self.untold {
            let now = untold.calls.read();
            let (events, failures) = (now.0 - untold.told.0, now.1 - untold.told.1);
            if events == 0 || (Arc::ptr_eq(&untold.calls, &current) && !all) {
                continue;
            }
            for _ in 0..TRIES {
                let Ok(Some(ledger)) = self.maker.bus.ledger(&self.name).await else { break };
                let Ok(mut record) = Record::parse(&ledger.text) else { break };
                record.add(&untold.digest, events, failures);
                let entry = LedgerEntry { text: record.text(), add: Vec::new(), keep: record.kept() };
                match self.maker.bus.write_ledger(&self.name, ledger.revision, &entry).await {
                    Ok(Some(revision)) => {
                        untold.told = now;
                        if self.seen == ledger.revision {
                            self.seen = revision;
                        }
                        break;
                    }
                    // Somebody else has written.
                    Ok(None) => {}
                    Err(_) => break,
                }
            }
        }
        // A version that nobody calls any more and that is told needs no more telling.
        self.untold.retain(|untold| Arc::strong_count(&untold.calls) > 1 || untold.calls.read() != untold.told);
    }
}

/// A host that is gone without a word is over too.
async fn ended(over: &mut watch::Receiver<bool>) {
    drop(over.wait_for(|over| *over).await);
}

/// The next wish; never, if there is nobody to have one.
async fn wish(wishes: &mut Option<mpsc::Receiver<Wish>>) -> Wish {
    if let Some(wishes) = wishes
        && let Some(wish) = wishes.recv().await
    {
        return wish;
    }
    std::future::pending().await
}

// === impl Untold ===

impl Untold {
    fn of(version: &Version) -> Self {
        let digest = version.handler.module().digest().to_owned();
        Self { digest, calls: Arc::clone(&version.calls), told: (0, 0) }
    }
}
