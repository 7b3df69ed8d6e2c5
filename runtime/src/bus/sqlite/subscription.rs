//! A subscription: fetches by looking first and taking then, and settles on the writer's thread.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rusqlite::{Connection, params};
use tokio::runtime::Handle;
use tokio::sync::{OwnedMutexGuard, oneshot};
use tokio::time::Instant;

use super::super::durability::Trimming;
use super::super::{Delivery, DeliveryId, Error, Fetched, Group, Settled, Subscription, unique_consumer};
use super::fault::Fault;
use super::look::{Look, look};
use super::member::{Lease, Member, Reader};
use super::place::{self, Ahead};
use super::settle::Batch;
use super::store::{Store, Synced, Watching};
use super::take::{Gap, Taken, Want, take};
use super::trim::Trimmer;
use super::{Names, lease, topics};
use crate::event::{Lane, Message, Settlement, from_unix_millis};

/// A look that promised something, and a transaction that then found it gone: how long until the next look.
const BEATEN: Duration = Duration::from_millis(10);

/// Waits are cut to this, so that adding one to a point in time cannot overflow.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) struct Consumer {
    store: Arc<Store>,
    member: Arc<Member>,
    trimmer: Trimmer,
    _watching: Watching,
}

// === impl Consumer ===

impl Consumer {
    pub(super) async fn join(
        store: &Arc<Store>,
        names: &Names,
        group: &Group,
        trimming: Trimming,
    ) -> Result<Self, Error> {
        let watching = store.watch();
        let (lease, group, names) = (group.lease, group.clone(), names.clone());
        let member = store.write(move |db| enter(db, &group, &names, trimming.max_len)).await?;
        let trimmer = Trimmer::new(trimming, lease);
        Ok(Self { store: Arc::clone(store), member: Arc::new(member), trimmer, _watching: watching })
    }

    /// Takes what there is, in one transaction that happens even if nobody waits for it.
    async fn take(
        &self,
        taking: OwnedMutexGuard<()>,
        max: usize,
        want: Want,
        ahead: Vec<Ahead<Lane>>,
    ) -> Result<Vec<Delivery>, Error> {
        let (member, handing, store) = (Arc::clone(&self.member), Arc::clone(&self.member), Arc::clone(&self.store));
        let run = move |db: &Connection| take(db, &member, max, want, &ahead);
        let finish = move |taken: Result<Taken, Fault>| {
            let moved = taken.as_ref().is_ok_and(|taken| taken.moved);
            let deliveries = handing.hand_out(taken, max, want);
            if moved {
                store.wake();
            }
            // If nobody waits any more they are dropped, and in this order: first they come back, then the next may take.
            (deliveries, taking)
        };
        let (deliveries, _taking) = self.store.write_then(Synced::Later, run, finish).await?;
        self.say_gaps();
        deliveries.map_err(|fault| fault.error(self.store.path()))
    }

    /// Reads for the whole group and finds out which slices that belongs to. What an earlier fetch that was dropped has
    /// begun goes on without it and is found here: else a caller that often changes its mind would never get anything.
    async fn read_ahead(&self, readers: Vec<usize>) -> Result<Vec<Ahead<Lane>>, Error> {
        let named = || self.member.state().named.take();
        let Some(order) = self.member.order.clone().filter(|_| !readers.is_empty()) else {
            return Ok(named().unwrap_or_default());
        };
        let reading = Arc::clone(&self.member.reading).lock_owned().await;
        if let Some(ahead) = named() {
            return Ok(ahead);
        }
        let (member, naming, executor) = (Arc::clone(&self.member), Arc::clone(&self.member), Handle::current());
        let (done, told) = oneshot::channel();
        let run = move |db: &Connection| place::read(db, &member, &readers);
        let finish = move |ahead: Result<Vec<Ahead<Message>>, Fault>| {
            let name = move || {
                let ahead = ahead.map(|ahead| place::name(ahead, &order));
                let failed = ahead.map(|ahead| naming.state().named = Some(ahead));
                drop(reading);
                // Nobody may be waiting any more.
                let _ = done.send(failed);
            };
            drop(executor.spawn_blocking(name));
        };
        self.store.read_then(run, finish).await?;
        let stopped = |_| Fault::Other("naming a lane ended in a panic".into());
        told.await.map_err(stopped).flatten().map_err(|fault| fault.error(self.store.path()))?;
        Ok(named().unwrap_or_default())
    }

    /// Says what was found trimmed unread: nobody is told of the same messages twice.
    fn say_gaps(&self) {
        for Gap { topic, count, first, last } in std::mem::take(&mut self.member.state().gaps) {
            tracing::warn!(
                %topic,
                consumer = %self.member.name,
                count,
                first,
                last,
                "messages were trimmed before the group had read them; they are lost: trim less, or read faster"
            );
        }
    }

    /// True if a third of the lease has passed: a consumer that waits in `fetch` is alive.
    fn lease_is_old(&self) -> bool {
        let (lease, left) = (self.member.state().lease, |until: i64| until - topics::now());
        // A renewal extends the second to where the last fetch puts it: less than the first, by what it waits at most.
        let inactive = self.member.order.is_some() && left(lease.active_until) < self.member.lease_ms / 2;
        inactive || left(lease.until) < self.member.lease_ms * 2 / 3
    }

    async fn fetch_some(&self, max: usize, wait: Duration, want: Want) -> Result<Fetched, Error> {
        let member = &self.member;
        let deadline = Instant::now() + wait.min(LONGEST);
        let mut changes = self.store.changes();
        loop {
            let taking = Arc::clone(&member.taking).lock_owned().await;
            if let Some(news) = member.news() {
                return Ok(Fetched::Turnover(news));
            }
            if member.state().closed || (max == 0 && member.order.is_none()) {
                return Ok(Fetched::Deliveries(Vec::new()));
            }
            changes.mark_unchanged();
            member.is_fetching(topics::now());
            let mut pause = deadline;
            let ready = member.collect_dropped(max, want);
            let hurry = ready || member.state().is_urgent() || self.lease_is_old();
            let looking = Arc::clone(member);
            // Who reads for others looks whether there is anything to read, whatever else it has to do.
            let found = if hurry && member.order.is_none() {
                Look::default()
            } else {
                self.store.read(move |db| look(db, &looking, max, want)).await?
            };
            let ahead = self.read_ahead(found.read).await?;
            let placing = !ahead.is_empty();
            if hurry || found.work || placing {
                let deliveries = self.take(taking, max, want, ahead).await?;
                if !deliveries.is_empty() {
                    return Ok(Fetched::Deliveries(deliveries));
                }
                pause = pause.min(Instant::now() + if placing { Duration::ZERO } else { BEATEN });
            } else {
                drop(taking);
            }
            if let Some(next) = found.next_ms {
                let next = from_unix_millis(next.try_into().unwrap_or(0));
                pause = pause.min(Instant::now() + next.duration_since(SystemTime::now()).unwrap_or_default());
            }
            if let Some(news) = member.news() {
                return Ok(Fetched::Turnover(news));
            }
            if Instant::now() >= deadline {
                return Ok(Fetched::Deliveries(Vec::new()));
            }
            let renew_in = Duration::from_millis(member.lease_ms.unsigned_abs() / 3);
            tokio::select! {
                _ = changes.changed() => {}
                () = member.in_hand.returned() => {}
                () = tokio::time::sleep_until(pause.min(Instant::now() + renew_in)) => {}
            }
        }
    }
}

/// Makes the rows of a new consumer, and those of its topics and group where they are missing.
fn enter(db: &Connection, group: &Group, names: &Names, stream_max_len: Option<u64>) -> Result<Member, Fault> {
    lease::sweep(db)?;
    let lease_ms = i64::try_from(group.lease.as_millis()).unwrap_or(i64::MAX);
    let name = unique_consumer(&group.consumer);
    let until = topics::now().saturating_add(lease_ms);
    db.prepare_cached("INSERT INTO consumer (name, lease_until_ms) VALUES (?1, ?2)")?.execute(params![name, until])?;
    let consumer = db.last_insert_rowid();
    let mut readers = Vec::new();
    for topic in &group.topics {
        let topic_id = topics::ensure(db, &names.stored(topic))?;
        let id = topics::ensure_reader(db, topic_id, &group.name, &group.start)?;
        lease::join(db, id, consumer)?;
        readers.push(Reader { id, topic_id, topic: topic.clone() });
    }
    let lease = Lease { until, ..Lease::default() };
    Ok(Member::new(consumer, name, lease_ms, group.order.clone(), readers, names.clone(), stream_max_len, lease))
}

#[async_trait]
impl Subscription for Consumer {
    fn consumer(&self) -> &str {
        &self.member.name
    }

    async fn fetch(&self, max: usize, wait: Duration) -> Result<Fetched, Error> {
        self.fetch_some(max, wait, Want::All).await
    }

    async fn fetch_due(&self, max: usize, wait: Duration) -> Result<Fetched, Error> {
        self.fetch_some(max, wait, Want::Due).await
    }

    async fn settle(&self, batch: Vec<(Delivery, Settlement)>) -> Vec<Settled> {
        if batch.is_empty() {
            return Vec::new();
        }
        let (batch, answer) = Batch::new(&self.store, &self.member, batch);
        self.store.submit(batch);
        // The writer always answers: even without a thread the batch is told that it failed.
        answer.await.unwrap_or_default()
    }

    async fn begin(&self, delivery: &Delivery) -> Result<bool, Error> {
        let id = delivery.id();
        let Some(slot) = self.member.in_hand.with(|held| held.get(&id).map(|item| item.slot)) else {
            return Ok(false);
        };
        let (consumer, member) = (self.member.consumer, Arc::clone(&self.member));
        let finish = move |begun: Result<bool, Fault>| {
            let begun = begun?;
            if begun {
                member.in_hand.with(|held| held.get_mut(&id).map(|item| item.attempts += 1));
            } else {
                member.in_hand.remove(id);
            }
            Ok::<bool, Fault>(begun)
        };
        let begun = self.store.write_then(Synced::AtCommit, move |db| lease::begin(db, consumer, slot), finish).await?;
        begun.map_err(|fault| fault.error(self.store.path()))
    }

    fn report(&self, text: String) {
        self.member.state().report = text;
    }

    async fn renew(&self) -> Result<Vec<DeliveryId>, Error> {
        let (member, renewed) = (Arc::clone(&self.member), Arc::clone(&self.member));
        let run = move |db: &Connection| {
            if member.state().closed {
                return Ok(None);
            }
            let lease = lease::extend(db, &member, topics::now())?;
            let report = member.state().report.clone();
            if !report.is_empty() {
                lease::report(db, member.consumer, &report)?;
            }
            Ok(Some((lease, lease::owned(db, &member)?)))
        };
        let finish = move |outcome: Result<_, Fault>| {
            // Jobs finish in the order in which they ran, so what is known here is what was known there.
            let Some((lease, owned)) = outcome? else { return Ok(Vec::new()) };
            renewed.state().lease = lease;
            Ok::<_, Fault>(renewed.forget_lost(&owned))
        };
        let lost = self
            .store
            .write_then(Synced::AtCommit, run, finish)
            .await?
            .map_err(|fault| fault.error(self.store.path()))?;
        self.trimmer.trim(&self.store).await;
        Ok(lost)
    }

    async fn close(&self) -> Result<(), Error> {
        self.member.state().closed = true;
        let consumer = self.member.consumer;
        self.store.write(move |db| lease::release(db, consumer)).await?;
        self.member.forget_all();
        self.store.wake();
        Ok(())
    }
}
