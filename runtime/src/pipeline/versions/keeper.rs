//! The keeper of one handler: swaps its module when it is asked to, and follows what the ledger says.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::super::Prepared;
use super::super::consumer::{Change, Version};
use super::super::control::{Shown, Steering};
use super::super::selftest::Fixture;
use super::record::{Candidate, Wanted};
use super::telling::Untold;
use super::trial::Trial;
use super::watching::Watched;
use super::{Maker, Record, Refusal, Swap, Swapped, Wish, digest, ledger_of};
use crate::bus::LedgerName;
use crate::event::from_unix_millis;
use crate::sandbox::Handler;

/// How often it looks whether another module is wanted.
const LOOK: Duration = Duration::from_secs(1);

/// How often it looks what came of a trial.
const TRIAL_LOOK: Duration = Duration::from_millis(50);

/// Decides which version of a handler its consumer serves.
pub(in crate::pipeline) struct Keeper {
    pub(super) maker: Arc<Maker>,
    pub(super) name: LedgerName,
    steering: Arc<Steering>,
    wishes: Option<mpsc::Receiver<Wish>>,
    pub(super) serve: mpsc::UnboundedSender<Change>,
    pub(super) current: Version,
    /// The bytes of the configuration's module, to go back to: kept until there is a ledger, which has them then. The file
    /// may be overwritten before it is swapped in.
    pub(super) first: Option<Bytes>,
    pub(super) since: SystemTime,
    /// The ledger's revision that was looked at last.
    pub(super) seen: u64,
    /// What it wanted that cannot be served here.
    refused: Option<Wanted>,
    pub(super) trial: Option<Trial>,
    /// The file, if it is to be swapped in when it changes.
    pub(super) watched: Option<Watched>,
    /// What was served before, and what of its calls is not told yet.
    pub(super) untold: Vec<Untold>,
}

// === impl Keeper ===

impl Keeper {
    /// Begins with the module that the ledger wants; with `first`, that of the configuration, if there is no ledger or its
    /// module cannot be served here. With `insist` it is the first that is wanted from now on. Returns what the consumer
    /// begins with.
    pub(in crate::pipeline) async fn begin(
        first: Prepared,
        steering: Arc<Steering>,
        serve: mpsc::UnboundedSender<Change>,
        insist: bool,
    ) -> (Self, Version) {
        let Prepared { handler, maker, wasm } = first;
        let (name, wishes) = (ledger_of(&maker.settings), steering.take_wishes());
        let current = Version::new(handler);
        let since = SystemTime::now();
        let watched = maker.settings.watch.then(|| Watched::new(maker.settings.module.clone(), maker.file));
        let untold = vec![Untold::of(&current)];
        let mut keeper = Self {
            maker,
            name,
            steering,
            wishes,
            serve,
            current,
            first: Some(wasm),
            since,
            seen: 0,
            refused: None,
            trial: None,
            watched,
            untold,
        };
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
        let mut trial_looks = interval_at(Instant::now() + TRIAL_LOOK, TRIAL_LOOK);
        trial_looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = trial_looks.tick(), if self.trial.is_some() => self.look_at_trial().await,
                wish = wish(&mut self.wishes) => self.grant(wish).await,
                _ = looks.tick() => {
                    self.follow().await;
                    self.look_at_file().await;
                    self.tell_calls(false).await;
                    self.tell_trial().await;
                }
                () = ended(&mut over) => break,
            }
        }
        self.tell_trial().await;
        self.tell_calls(true).await;
        self.steering.give_wishes(self.wishes);
    }

    async fn grant(&mut self, wish: Wish) {
        // What others have wished since the last look counts.
        self.follow().await;
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

    pub(super) async fn swap(&mut self, swap: Swap) -> Result<Swapped, Refusal> {
        let Swap { wasm, fixtures, by, beside } = swap;
        let (digest, before) = (digest(&wasm), self.digest().to_owned());
        if digest == before {
            return Ok(Swapped { digest, before, passed: 0, beside: false });
        }
        let (handler, passed) = self.make(wasm.clone(), fixtures).await?;
        let (at, add) = (SystemTime::now(), Some((digest.clone(), wasm)));
        if let Some(way) = beside {
            let candidate = Candidate::new(&digest, at, &by, way);
            self.write(add, |record| record.begin(&candidate)).await?;
            if let Err(refusal) = self.begin_trial(handler, candidate.clone()) {
                self.write(None, |record| record.reject(&candidate, at)).await?;
                return Err(refusal);
            }
        } else {
            self.write(add, |record| record.push(&digest, at, &by)).await?;
            self.change(handler, at, &by);
        }
        Ok(Swapped { digest, before, passed, beside: beside.is_some() })
    }

    /// Ends what runs beside, if anything does; else goes back to the module before.
    async fn roll_back(&mut self, by: &str) -> Result<Swapped, Refusal> {
        self.tell_trial().await;
        let ledger = self.maker.bus.ledger(&self.name).await?.ok_or(Refusal::First)?;
        let (record, before) = (Record::parse(&ledger.text)?, self.digest().to_owned());
        let at = SystemTime::now();
        if let Some(candidate) = record.candidate {
            self.write(None, |record| record.reject(&candidate, at)).await?;
            self.end_trial();
            return Ok(Swapped { digest: before, before: candidate.digest, passed: 0, beside: true });
        }
        let digest = record.previous().ok_or(Refusal::First)?.digest.clone();
        let wasm = self.kept(&digest).await?;
        let (handler, passed) = self.make(wasm.clone(), Vec::new()).await?;
        self.write(Some((digest.clone(), wasm)), |record| record.push(&digest, at, by)).await?;
        self.change(handler, at, by);
        Ok(Swapped { digest, before, passed, beside: false })
    }

    /// Serves what the ledger wants, if that is another module.
    pub(super) async fn follow(&mut self) {
        let handler = self.maker.settings.name.clone();
        let ledger = match self.maker.bus.ledger(&self.name).await {
            Ok(Some(ledger)) if ledger.revision != self.seen => ledger,
            Ok(_) => return,
            Err(error) => return tracing::debug!(handler, %error, "the record of its modules could not be read"),
        };
        let record = match Record::parse(&ledger.text) {
            Ok(record) => record,
            Err(unreadable) => {
                self.seen = ledger.revision;
                tracing::error!(handler, %unreadable, "what its group is to run is not known: the module before goes on");
                return self.show(Some(unreadable.to_string()));
            }
        };
        let wanted = record.wishes();
        if self.refused.as_ref() == Some(&wanted) {
            self.seen = ledger.revision;
            return;
        }
        match self.adopt(record).await {
            Ok(()) => {
                self.seen = ledger.revision;
                self.refused = None;
                self.show(None);
            }
            // It is looked at again soon.
            Err(Refusal::Bus(error)) => tracing::debug!(handler, %error, "the wanted module could not be read"),
            Err(refusal) => {
                self.seen = ledger.revision;
                self.refused = Some(wanted);
                tracing::error!(handler, %refusal, "the module that its group is to run is not served here: the one before goes on");
                self.show(Some(refusal.to_string()));
            }
        }
    }

    async fn adopt(&mut self, record: Record) -> Result<(), Refusal> {
        let Some(wanted) = record.wanted() else { return Ok(()) };
        self.first = None;
        let at = from_unix_millis(wanted.at_ms);
        // Even if what is wanted instead cannot be served here.
        self.end_trial_unless(&record);
        if wanted.digest == self.digest() {
            self.since = at;
        } else {
            let handler = match self.tried(&wanted.digest) {
                Some(handler) => handler?,
                None => {
                    let wasm = self.kept(&wanted.digest).await?;
                    self.make(wasm, Vec::new()).await?.0
                }
            };
            self.change(handler, at, &wanted.by);
        }
        self.follow_trial(record.candidate).await
    }

    /// The bytes of a module that is kept on the bus. Whoever may write there could have put others in their place.
    pub(super) async fn kept(&self, wanted: &str) -> Result<Bytes, Refusal> {
        let found = self.maker.bus.ledger_bytes(&self.name, wanted).await?;
        let wasm = found.ok_or_else(|| Refusal::Gone(wanted.to_owned()))?;
        if digest(&wasm) == wanted { Ok(wasm) } else { Err(Refusal::Altered(wanted.to_owned())) }
    }

    /// Compiles and tests aside: it takes up to seconds, and belongs on no thread of the runtime.
    pub(super) async fn make(&self, wasm: Bytes, fixtures: Vec<Fixture>) -> Result<(Arc<Handler>, usize), Refusal> {
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
        self.trial = None;
        drop(self.serve.send(Change::Serve(self.current.clone())));
        self.show(None);
    }

    pub(super) fn digest(&self) -> &str {
        self.current.handler.module().digest()
    }

    pub(super) fn show(&self, trouble: Option<String>) {
        let (module, calls) = (self.digest().to_owned(), Arc::clone(&self.current.calls));
        self.steering.show_module(Shown { module, since: Some(self.since), calls, trouble });
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
