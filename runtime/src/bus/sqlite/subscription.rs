//! A subscription: fetches by looking first and taking then, and settles on the writer's thread.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rusqlite::{Connection, params};
use tokio::time::Instant;

use super::super::durability::Trimming;
use super::super::{Delivery, DeliveryId, Error, Fetched, Group, Settled, Subscription, unique_consumer};
use super::fault::Fault;
use super::look::look;
use super::member::{Lease, Member, Reader};
use super::settle::Batch;
use super::store::{Store, Watching};
use super::take::{Gap, Want, take};
use super::trim::Trimmer;
use super::{Names, lease, topics};
use crate::event::{Settlement, from_unix_millis};

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
    async fn take(&self, max: usize, want: Want) -> Result<Vec<Delivery>, Error> {
        let (taking, handing) = (Arc::clone(&self.member), Arc::clone(&self.member));
        let run = move |db: &Connection| take(db, &taking, max, want);
        let taken = self.store.write_then(run, move |taken| handing.hand_out(taken, max, want)).await?;
        self.say_gaps();
        taken.map_err(|fault| fault.error(self.store.path()))
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
        let until = self.member.state().lease.until;
        until - topics::now() < self.member.lease_ms * 2 / 3
    }

    async fn fetch_some(&self, max: usize, wait: Duration, want: Want) -> Result<Fetched, Error> {
        let member = &self.member;
        let deadline = Instant::now() + wait.min(LONGEST);
        let mut changes = self.store.changes();
        loop {
            if let Some(news) = member.news() {
                return Ok(news);
            }
            if max == 0 || member.state().closed {
                return Ok(Fetched::Deliveries(Vec::new()));
            }
            changes.mark_unchanged();
            let mut pause = deadline;
            let ready = member.collect_dropped(want) && (!member.exclusive || member.state().active);
            let hurry = ready || member.state().suspect || self.lease_is_old();
            let looking = Arc::clone(member);
            let found = if hurry { None } else { Some(self.store.read(move |db| look(db, &looking, want)).await?) };
            if found.as_ref().is_none_or(|found| found.work) {
                let deliveries = self.take(max, want).await?;
                if !deliveries.is_empty() {
                    return Ok(Fetched::Deliveries(deliveries));
                }
                pause = pause.min(Instant::now() + BEATEN);
            }
            if let Some(next) = found.and_then(|found| found.next_ms) {
                let next = from_unix_millis(next.try_into().unwrap_or(0));
                pause = pause.min(Instant::now() + next.duration_since(SystemTime::now()).unwrap_or_default());
            }
            if let Some(news) = member.news() {
                return Ok(news);
            }
            if Instant::now() >= deadline {
                let standing_by = member.exclusive && !member.state().active;
                return Ok(if standing_by { Fetched::StandBy } else { Fetched::Deliveries(Vec::new()) });
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
    let lease = Lease { until, claim_after: 0 };
    Ok(Member::new(consumer, name, lease_ms, group.exclusive, readers, names.clone(), stream_max_len, lease))
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
        let Some(slot) = self.member.in_hand.with(|held| held.get(&id).map(|held| held.item.slot)) else {
            return Ok(false);
        };
        let (consumer, member) = (self.member.consumer, Arc::clone(&self.member));
        let finish = move |begun: Result<bool, Fault>| {
            let begun = begun?;
            if begun {
                member.in_hand.with(|held| held.get_mut(&id).map(|held| held.item.attempts += 1));
            } else {
                member.in_hand.remove(id);
            }
            Ok::<bool, Fault>(begun)
        };
        let begun = self.store.write_then(move |db| lease::begin(db, consumer, slot), finish).await?;
        begun.map_err(|fault| fault.error(self.store.path()))
    }

    async fn renew(&self) -> Result<Vec<DeliveryId>, Error> {
        let (member, renewed) = (Arc::clone(&self.member), Arc::clone(&self.member));
        let run = move |db: &Connection| {
            if member.state().closed {
                return Ok(None);
            }
            let lease = lease::extend(db, &member)?;
            Ok(Some((lease, lease::owned(db, &member)?)))
        };
        let finish = move |outcome: Result<_, Fault>| {
            // Jobs finish in the order in which they ran, so what is known here is what was known there.
            let Some((lease, owned)) = outcome? else { return Ok(Vec::new()) };
            renewed.state().lease = lease;
            Ok::<_, Fault>(renewed.forget_lost(&owned))
        };
        let lost = self.store.write_then(run, finish).await?.map_err(|fault| fault.error(self.store.path()))?;
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
