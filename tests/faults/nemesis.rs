//! Carries out a plan: publishes, breaks things, mends them, and waits until everything is quiet again.

use std::collections::VecDeque;
use std::time::Duration;

use sandbar::bus::GroupStatus;
use tokio::time::{Instant, sleep, sleep_until};

use super::events::Event;
use super::fleet::Fleet;
use super::plan::{Act, Fault, Plan};
use super::store::{GROUP, Store, TOPIC};
use crate::support::BOUND;
use crate::support::proxy::Rule;

/// A run under way.
pub(super) struct Nemesis<'a> {
    plan: &'a Plan,
    store: &'a Store,
    fleet: &'a mut Fleet,
    /// What is to be published and waits for the bus to be well.
    waiting: VecDeque<Event>,
    /// The bus itself cannot serve, so nobody but the hosts tries.
    bus_is_away: bool,
    /// Faults that were carried out.
    pub(super) applied: usize,
}

// === impl Nemesis ===

impl<'a> Nemesis<'a> {
    pub(super) fn new(plan: &'a Plan, store: &'a Store, fleet: &'a mut Fleet) -> Self {
        Self { plan, store, fleet, waiting: VecDeque::new(), bus_is_away: false, applied: 0 }
    }

    /// Goes through the plan, mends everything, and waits until nothing is left to do. Says so if that does not come.
    pub(super) async fn run(&mut self) -> Result<(), String> {
        let mut rest = self.plan.events.iter().cloned();
        // The topic and its group are there before the first fault.
        let first: Vec<Event> = rest.by_ref().take(1).collect();
        self.store.publish(&first, None).await;
        (0..self.plan.mode.hosts).for_each(|host| self.fleet.start(host));
        self.joined().await?;
        let start = Instant::now();
        for step in &self.plan.steps {
            sleep_until(start + Duration::from_millis(step.at)).await;
            self.fleet.supervise();
            match &step.act {
                Act::Publish(count) => self.waiting.extend(rest.by_ref().take(*count)),
                Act::Fault(fault) => self.fault(*fault).await,
                Act::Mend(fault) => self.mend(*fault).await,
            }
            self.publish(usize::MAX, None).await;
        }
        self.waiting.extend(rest);
        self.publish(usize::MAX, None).await;
        for host in 0..self.plan.mode.hosts {
            self.fleet.thaw(host);
            self.fleet.limit_files(host, None);
            self.store.proxies.get(host).inspect(|proxy| proxy.heal());
            self.fleet.start(host);
        }
        self.quiet().await
    }

    /// Waits until the group is there: what is trimmed before was never its own.
    async fn joined(&mut self) -> Result<(), String> {
        let end = Instant::now() + BOUND;
        while !self.store.bus.status(&TOPIC.into(), GROUP).await.is_ok_and(|status| status.exists) {
            if Instant::now() > end {
                return Err("no host joined".into());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn publish(&mut self, most: usize, max_len: Option<u64>) {
        // A host that is frozen in the middle of a write of the embedded bus holds up every other.
        let held_up = self.store.server.is_none() && self.fleet.is_frozen();
        if !self.bus_is_away && !held_up {
            let count = most.min(self.waiting.len());
            let events: Vec<Event> = self.waiting.drain(..count).collect();
            if !events.is_empty() {
                self.store.publish(&events, max_len).await;
            }
        }
    }

    async fn fault(&mut self, fault: Fault) {
        let both = |host: usize, to_server, to_client| {
            if let Some(proxy) = self.store.proxies.get(host) {
                proxy.rule(to_server, to_client);
            }
        };
        self.applied += 1;
        match fault {
            Fault::Kill(host) => self.fleet.kill(host),
            Fault::Terminate(host) => self.fleet.terminate(host),
            Fault::Freeze(host) => self.fleet.freeze(host),
            Fault::Cut(host, how) => self.store.proxies[host].cut(how),
            Fault::HalfOpen(host) => both(host, Rule::Swallow, Rule::Swallow),
            Fault::Deaf(host) => both(host, Rule::Pass, Rule::Swallow),
            Fault::Mute(host) => both(host, Rule::Swallow, Rule::Pass),
            Fault::Delay(host, time) => {
                let rule = Rule::Delay(Duration::from_millis(time));
                both(host, rule, rule);
            }
            Fault::Throttle(host, size) => both(host, Rule::Throttle(size), Rule::Throttle(size)),
            Fault::Truncate(host, size) => both(host, Rule::Pass, Rule::Truncate(size)),
            Fault::DiskFull(host) => self.fleet.limit_files(host, Some(self.store.log_bytes() + 10_000)),
            Fault::BadDisk(host, error) => self.fleet.shims[host].refuse_writes(Some(error)),
            Fault::ClockJump(by) => self.turn_clocks(by),
            Fault::Trim(length) if self.store.server.is_none() => {
                self.publish(1, Some(length as u64)).await;
            }
            _ if self.bus_is_away => self.applied -= 1,
            Fault::Trim(length) => self.store.command(&["XTRIM", TOPIC, "MAXLEN", "=", &length.to_string()]).await,
            Fault::DestroyGroup => self.store.command(&["XGROUP", "DESTROY", TOPIC, GROUP]).await,
            Fault::KillClients => self.store.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await,
            Fault::FlushScripts => self.store.command(&["SCRIPT", "FLUSH"]).await,
            Fault::OutOfMemory => {
                self.store.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
                self.bus_is_away = true;
            }
            Fault::ReadOnlyBus => {
                // Of a master that is not there: it keeps what it has.
                self.store.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
                self.bus_is_away = true;
            }
            Fault::PauseBus(time) => {
                self.store.command(&["CLIENT", "PAUSE", &time.to_string(), "ALL"]).await;
                self.bus_is_away = true;
            }
            Fault::KillBus => {
                self.store.server.iter().for_each(|server| server.kill());
                self.bus_is_away = true;
            }
            Fault::FreezeBus => {
                self.store.server.iter().for_each(|server| server.signal("-STOP"));
                self.bus_is_away = true;
            }
        }
    }

    async fn mend(&mut self, fault: Fault) {
        match fault {
            Fault::Kill(host) | Fault::Terminate(host) => self.fleet.start(host),
            Fault::Freeze(host) => self.fleet.thaw(host),
            Fault::DiskFull(host) => self.fleet.limit_files(host, None),
            Fault::BadDisk(host, _) => self.fleet.shims[host].refuse_writes(None),
            Fault::ClockJump(_) => self.turn_clocks(0),
            Fault::HalfOpen(host)
            | Fault::Deaf(host)
            | Fault::Mute(host)
            | Fault::Delay(host, _)
            | Fault::Throttle(host, _)
            | Fault::Truncate(host, _) => self.store.proxies[host].heal(),
            Fault::OutOfMemory => {
                self.bus_is_away = false;
                self.store.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
            Fault::ReadOnlyBus => {
                self.store.command(&["REPLICAOF", "NO", "ONE"]).await;
                self.bus_is_away = false;
            }
            Fault::PauseBus(_) => self.bus_is_away = false,
            Fault::KillBus => {
                if let Some(server) = &self.store.server {
                    server.revive().await;
                }
                self.bus_is_away = false;
            }
            Fault::FreezeBus => {
                self.store.server.iter().for_each(|server| server.signal("-CONT"));
                self.bus_is_away = false;
            }
            _ => {}
        }
    }

    /// The clocks of all machines, which are kept together.
    fn turn_clocks(&self, by: i64) {
        self.fleet.shims.iter().for_each(|shim| shim.turn_clock(by));
        self.store.turn_clock(by);
    }

    /// Waits until every message is read and settled and only the hosts that run are in the group.
    async fn quiet(&mut self) -> Result<(), String> {
        let end = Instant::now() + BOUND;
        let hosts = self.plan.mode.hosts;
        let quiet = |status: &GroupStatus| {
            (status.lag, status.pending, status.retrying, status.consumers.len()) == (Some(0), 0, 0, hosts)
        };
        loop {
            self.fleet.supervise();
            let status = match self.store.bus.status(&TOPIC.into(), GROUP).await {
                Ok(status) if quiet(&status) => return Ok(()),
                status => status,
            };
            if Instant::now() > end {
                return Err(format!(
                    "after {BOUND:?} there is still something to do, or a consumer too many: {status:?}"
                ));
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}
