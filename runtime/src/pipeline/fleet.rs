//! The handlers that a host runs now: each with its consumer and its keeper. They come and go with the configuration.

use std::pin::{Pin, pin};
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::backoff::Backoff;
use super::consumer::{Consumer, Gate, Serving};
use super::control::Control;
use super::observe::Tally;
use super::versions::Keeper;
use super::{LAST_WORDS, Prepared, Shared, Stopped, cap, placing};
use crate::bus::{self, Bus, Subscription};
use crate::config::{Config, HandlerConfig};
use crate::sandbox::Spec;
use crate::settle::Breaker;

/// Handlers that ask the bus at once what they are to begin with: more save no time, and take memory.
const ASKING: usize = 32;

/// The handlers that run.
pub(super) struct Fleet<'c> {
    pub(super) bus: Arc<dyn Bus>,
    pub(super) shared: Arc<Shared>,
    profile: crate::wire::Profile,
    control: &'c Control,
    stop: mpsc::Sender<Stopped>,
    members: Vec<Member>,
    /// Members that ever were.
    made: usize,
    consumers: JoinSet<(usize, Tally)>,
    /// Of those that have ended.
    tallies: Vec<Tally>,
}

/// A handler that has joined its group and does nothing yet.
pub(super) struct Joined {
    settings: HandlerConfig,
    prepared: Prepared,
    subscription: Arc<dyn Subscription>,
}

/// A handler that runs.
struct Member {
    number: usize,
    settings: HandlerConfig,
    /// With the values of its secrets.
    spec: Spec,
    drain: watch::Sender<bool>,
    gauge: Arc<std::sync::atomic::AtomicBool>,
    over: watch::Sender<bool>,
    keeper: JoinSet<()>,
}

// === impl Fleet ===

impl<'c> Fleet<'c> {
    pub(super) fn new(
        config: &Config,
        bus: Arc<dyn Bus>,
        shared: Arc<Shared>,
        control: &'c Control,
        stop: mpsc::Sender<Stopped>,
    ) -> Self {
        Self {
            bus,
            shared,
            profile: config.profile,
            control,
            stop,
            members: Vec::new(),
            made: 0,
            consumers: JoinSet::new(),
            tallies: Vec::new(),
        }
    }

    /// Has handlers join their groups: all of them, or none. `None` if `shutdown` comes first.
    pub(super) async fn join(
        &self,
        prepared: Vec<Prepared>,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Vec<Joined>>, bus::Error> {
        let mut all = Vec::new();
        for prepared in prepared {
            let settings = prepared.maker.settings.clone();
            let order = placing::lane_of(&settings, self.profile, &self.shared.decoder);
            let group = bus::Group { order, ..settings.group.clone() };
            match join(self.bus.as_ref(), &settings, &group, shutdown.as_mut()).await {
                Ok(Some(subscription)) => all.push(Joined { settings, prepared, subscription }),
                refused => {
                    for Joined { settings, subscription, .. } in all {
                        if let Err(error) = subscription.close().await {
                            tracing::warn!(handler = settings.name, %error, "the consumer could not leave its group");
                        }
                    }
                    return refused.map(|_| None);
                }
            }
        }
        Ok(Some(all))
    }

    /// Has handlers run. Those of `named_anew` begin with the module that their configuration names, whatever the bus says
    /// so far.
    pub(super) async fn start(&mut self, joined: Vec<Joined>, named_anew: &[String]) {
        let control = self.control;
        // Each asks the bus what it is to begin with.
        let begun = joined.into_iter().map(async |Joined { settings, prepared, subscription }| {
            let (steering, spec) = (control.steering(&settings.name), prepared.maker.spec.clone());
            let (serve, next) = mpsc::unbounded_channel();
            let insist = named_anew.contains(&settings.name);
            let (keeper, version) = Keeper::begin(prepared, Arc::clone(&steering), serve, insist).await;
            (settings, spec, subscription, steering, keeper, Serving::new(version, next))
        });
        let mut begun = pin!(stream::iter(begun).buffered(ASKING));
        while let Some((settings, spec, subscription, steering, keeper, serving)) = begun.next().await {
            let (group, topics, consumer) = (&settings.group.name, &settings.group.topics, subscription.consumer());
            let (handler, module) = (&*settings.name, serving.handler().module().digest());
            tracing::info!(handler, group, ?topics, consumer, module, "the handler has joined its group");
            let cap = cap::Cap::of(&settings, &self.bus);
            let gate = Gate::new(Breaker::new(settings.breaker), steering, cap);
            let shared = Arc::clone(&self.shared);
            let consumer = Consumer::new(&settings, serving, subscription, shared, gate, self.stop.clone());
            let (gauge, number) = (consumer.gauge(), self.made);
            self.made += 1;
            let (drain, draining) = watch::channel(false);
            let (over, ending) = watch::channel(false);
            let mut kept = JoinSet::new();
            kept.spawn(keeper.run(ending));
            self.consumers.spawn(async move { (number, consumer.run(draining).await) });
            self.members.push(Member { number, settings, spec, drain, gauge, over, keeper: kept });
        }
    }

    /// True of each handler that has anything in hand.
    pub(super) fn gauges(&self) -> Vec<Arc<std::sync::atomic::AtomicBool>> {
        self.members.iter().map(|member| Arc::clone(&member.gauge)).collect()
    }

    /// Whether a handler runs with just these settings and values of secrets.
    pub(super) fn runs(&self, settings: &HandlerConfig, spec: &Spec) -> bool {
        // Where they stand in the file says nothing of what they are.
        let same = |member: &Member| {
            let moved = HandlerConfig { places: member.settings.places.clone(), ..settings.clone() };
            member.settings == moved && member.spec == *spec
        };
        self.members.iter().any(same)
    }

    /// The names of those that run.
    pub(super) fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.settings.name.clone()).collect()
    }

    /// The file of a handler's module, if it runs.
    pub(super) fn module_of(&self, name: &str) -> Option<&std::path::Path> {
        self.members.iter().find(|member| member.settings.name == name).map(|member| member.settings.module.as_path())
    }

    /// Ends handlers: they read nothing more and end what they have in hand, while others run. Returns when their keepers
    /// have ended.
    pub(super) async fn end(&mut self, names: &[String]) {
        let (gone, stay) = std::mem::take(&mut self.members)
            .into_iter()
            .partition::<Vec<_>, _>(|member| names.contains(&member.settings.name));
        self.members = stay;
        for member in gone {
            member.drain.send_replace(true);
            member.end_keeper().await;
        }
    }

    /// The next consumer that ends although nobody told it to; those that were told are counted.
    pub(super) async fn fails(&mut self) {
        loop {
            match self.consumers.join_next().await {
                Some(Ok((number, tally))) => {
                    let was_told = self.members.iter().all(|member| member.number != number);
                    self.tallies.push(tally);
                    if !was_told {
                        return;
                    }
                }
                Some(Err(error)) => return tracing::error!(%error, "a consumer ended abnormally"),
                None => std::future::pending().await,
            }
        }
    }

    /// Tells all to drain.
    pub(super) fn drain(&self) {
        for member in &self.members {
            member.drain.send_replace(true);
        }
    }

    /// Waits until all have drained.
    pub(super) async fn drained(&mut self) {
        while let Some(ended) = self.consumers.join_next().await {
            match ended {
                Ok((_, tally)) => self.tallies.push(tally),
                Err(error) => tracing::error!(%error, "a consumer ended abnormally"),
            }
        }
    }

    /// Lets keepers tell what they have to tell, and returns what all handlers did, in the order of `names`; those that
    /// were taken away come last.
    pub(super) async fn close(mut self, names: &[String]) -> Vec<Tally> {
        for member in self.members.drain(..) {
            member.end_keeper().await;
        }
        let empty = |name: &String| Tally { handler: name.clone(), ..Tally::default() };
        let mut all: Vec<Tally> = names.iter().map(empty).collect();
        for tally in self.tallies {
            match all.iter_mut().find(|known| known.handler == tally.handler) {
                Some(known) => known.add(&tally),
                None => all.push(tally),
            }
        }
        all
    }
}

// === impl Member ===

impl Member {
    /// What it tells is for people: it is not waited for long, and a swap under way ends with it.
    async fn end_keeper(mut self) {
        self.over.send_replace(true);
        drop(timeout(LAST_WORDS, self.keeper.join_next()).await);
    }
}

/// Joins a handler's group, or `None` if `shutdown` comes first. A bus that is there but cannot serve yet (it is loading
/// its data, or full) is waited for; one that is not there is an error, so that a wrong address is seen at once.
async fn join(
    bus: &dyn Bus,
    settings: &HandlerConfig,
    group: &bus::Group,
    mut shutdown: Pin<&mut impl Future<Output = ()>>,
) -> Result<Option<Arc<dyn Subscription>>, bus::Error> {
    let mut trouble = Backoff::new("join the group");
    loop {
        // Not to be cut short: a consumer that nobody holds would be left in the group.
        match bus.subscribe(group).await {
            Err(error @ bus::Error::Unavailable { .. }) => trouble.more(&settings.name, &error),
            joined => return joined.map(Some),
        }
        tokio::select! {
            () = tokio::time::sleep(trouble.pause()) => {}
            () = shutdown.as_mut() => return Ok(None),
        }
    }
}
