//! What must hold after a run, whatever happened during it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sandbar::bus::{DeadLetter, GroupStatus};
use sandbar::event::{Fields, code};

use super::events::{Event, Fate};
use super::plan::{Fault, Kind, Plan};
use super::store::{GROUP, OUT, Store, TOPIC};
use crate::support::events::read_all;

/// What a run left behind.
pub(super) struct Evidence<'a> {
    plan: &'a Plan,
    /// Faults that were carried out.
    faults: usize,
    status: GroupStatus,
    /// Events that are still in their topic.
    kept: HashSet<String>,
    /// What was published, in order.
    out: Vec<Out>,
    letters: Vec<DeadLetter>,
    /// Keys and what they hold.
    keys: BTreeMap<String, String>,
    /// Calls that were started, by event.
    called: HashMap<String, u32>,
    /// Events of which a call came to its end with success.
    handled: HashSet<String>,
    violations: Vec<String>,
}

/// One event that was published by the handler.
struct Out {
    id: String,
    cause: String,
    lane: u64,
    seq: u64,
    attempt: u32,
}

/// The figures of one run.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) events: usize,
    pub(super) calls: u64,
    pub(super) effects: usize,
    pub(super) dead: usize,
    pub(super) quarantined: usize,
    pub(super) lost: u64,
}

// === impl Evidence ===

impl<'a> Evidence<'a> {
    /// Gathers it, after the last host has ended.
    pub(super) async fn gather(plan: &'a Plan, store: &Store, log: &[String], faults: usize) -> Evidence<'a> {
        let (bus, topic) = (&store.bus, TOPIC.into());
        let status = bus.status(&topic, GROUP).await.unwrap();
        let letters = bus.dead_letters(&topic, GROUP, None, 10_000).await.unwrap();
        let mut keys = BTreeMap::new();
        for key in bus.list_keys(GROUP, "", 10_000).await.unwrap().keys {
            let value = bus.read_key(GROUP, &key).await.unwrap().value.unwrap_or_default();
            keys.insert(key, String::from_utf8_lossy(&value).into_owned());
        }
        let kept = read_all(bus, TOPIC).await.iter().map(|fields| text(fields, "id")).collect();
        let out = read_all(bus, OUT).await.iter().map(Out::read).collect();
        let (mut called, mut handled) = (HashMap::new(), HashSet::new());
        for line in log {
            if let Some((_, rest)) = line.split_once("event=\"")
                && let Some((id, _)) = rest.split_once('"')
            {
                if line.contains("called attempt=") {
                    *called.entry(id.to_owned()).or_default() += 1;
                } else if line.contains("handled attempt=") {
                    handled.insert(id.to_owned());
                }
            }
        }
        let violations = Vec::new();
        Evidence { plan, faults, status, kept, out, letters, keys, called, handled, violations }
    }

    /// Everything that is not as it must be, and the figures.
    pub(super) fn check(mut self) -> (Vec<String>, Figures) {
        self.nothing_is_left();
        self.effects_are_there_once();
        self.keys_say_what_the_successes_say();
        self.lanes_are_in_order();
        self.every_event_met_its_fate();
        self.nothing_looped();
        let quarantined = self.letters.iter().filter(|letter| letter.cause.code == code::HOST_DEATH).count();
        let figures = Figures {
            events: self.plan.events.len(),
            calls: self.called.values().copied().map(u64::from).sum(),
            effects: self.out.len(),
            dead: self.letters.len(),
            quarantined,
            lost: self.status.lost,
        };
        (self.violations, figures)
    }

    fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(otherwise());
        }
    }

    /// A group that was destroyed starts again before its oldest unsettled event: repeats are allowed then, loss is not.
    fn may_repeat(&self) -> bool {
        self.plan.has(Fault::DestroyGroup)
    }

    fn nothing_is_left(&mut self) {
        let GroupStatus { pending, retrying, lag, .. } = self.status;
        self.must((pending, retrying, lag) == (0, 0, Some(0)), || {
            format!("left when all had stopped: {pending} pending, {retrying} retrying, {lag:?} unread")
        });
    }

    fn effects_are_there_once(&mut self) {
        let mut ids: HashMap<&str, BTreeSet<&str>> = HashMap::new();
        let mut causes = HashMap::new();
        for out in &self.out {
            ids.entry(&out.cause).or_default().insert(&out.id);
            *causes.entry(out.id.as_str()).or_insert(0) += 1;
        }
        let several: Vec<String> =
            ids.iter().filter(|(_, ids)| ids.len() > 1).map(|(c, ids)| format!("{c}: {ids:?}")).collect();
        let twice: Vec<String> = causes.iter().filter(|(_, n)| **n > 1).map(|(id, n)| format!("{id}: {n}")).collect();
        let most = self.plan.mode.max_attempts;
        let late: Vec<String> = self.out.iter().filter(|out| out.attempt > most).map(|out| out.cause.clone()).collect();
        self.must(several.is_empty(), || format!("events published for one event under several ids: {several:?}"));
        self.must(twice.is_empty() || self.may_repeat(), || format!("effects there more than once: {twice:?}"));
        self.must(late.is_empty(), || format!("attempts beyond the last: {late:?}"));
    }

    fn keys_say_what_the_successes_say(&mut self) {
        let events: HashMap<&str, &Event> = self.plan.events.iter().map(|event| (event.id.as_str(), event)).collect();
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        let mut wrong = Vec::new();
        for out in &self.out {
            let Some(event) = events.get(out.cause.as_str()) else {
                wrong.push(format!("an effect of {}, which was never published", out.cause));
                continue;
            };
            if event.has('c') {
                *counts.entry(event.lane).or_default() += 1;
            }
            if event.fate() != Fate::Done {
                wrong.push(format!("an effect of {}, which always fails", out.cause));
            }
        }
        for lane in self.plan.events.iter().map(|event| event.lane).collect::<BTreeSet<_>>() {
            let (said, expected) = (self.keys.get(&format!("count.{lane}")), counts.get(&lane).copied().unwrap_or(0));
            if said.map_or("0", String::as_str) != expected.to_string() {
                wrong.push(format!("the counter of lane {lane} says {said:?} after {expected} successes"));
            }
        }
        let published: HashSet<&str> = self.out.iter().map(|out| out.cause.as_str()).collect();
        for event in self.plan.events.iter().filter(|event| event.has('k') && event.has('o')) {
            let said = self.keys.contains_key(&format!("done.{}", event.id));
            if said != published.contains(event.id.as_str()) {
                wrong.push(format!("of {} only one of two effects is there (the key: {said})", event.id));
            }
        }
        self.violations.extend(wrong);
    }

    fn lanes_are_in_order(&mut self) {
        if self.plan.mode.order == "none" {
            return;
        }
        let mut last: HashMap<u64, u64> = HashMap::new();
        let mut seen = HashSet::new();
        let (mut newest, mut wrong) = (None, Vec::new());
        let place: HashMap<&str, usize> =
            self.plan.events.iter().enumerate().map(|(n, e)| (e.id.as_str(), n)).collect();
        // Where repeats are allowed the first occurrences count.
        for out in self.out.iter().filter(|out| seen.insert(out.cause.clone())) {
            let before = last.insert(out.lane, out.seq);
            if before.is_some_and(|before| before >= out.seq) {
                wrong.push(format!("in lane {} number {} came after {before:?}", out.lane, out.seq));
            }
            let here = place.get(out.cause.as_str()).copied();
            if self.plan.mode.order == "topic" && here < newest {
                wrong.push(format!("{} came after one that was published later", out.cause));
            }
            newest = here.max(newest);
        }
        self.violations.extend(wrong);
    }

    fn every_event_met_its_fate(&mut self) {
        let mut letters: HashMap<String, Vec<&DeadLetter>> = HashMap::new();
        for letter in &self.letters {
            letters.entry(text(&letter.fields, "id")).or_default().push(letter);
        }
        let published: HashSet<&str> = self.out.iter().map(|out| out.cause.as_str()).collect();
        let (mut wrong, mut missing) = (Vec::new(), 0);
        for event in &self.plan.events {
            let id = event.id.as_str();
            let dead = letters.get(id).map_or(&[][..], Vec::as_slice);
            let effect = match (event.has('o'), event.has('k')) {
                (true, _) => published.contains(id),
                (_, true) => self.keys.contains_key(&format!("done.{id}")),
                _ => self.handled.contains(id),
            };
            if dead.len() > 1 && !self.may_repeat() {
                wrong.push(format!("{id} is a dead letter {} times", dead.len()));
            }
            if effect && !dead.is_empty() && !event.effects.is_empty() && !self.may_repeat() {
                wrong.push(format!("{id} has effects and is a dead letter too"));
            }
            wrong.extend(dead.iter().filter_map(|letter| self.undeserved(event, letter)));
            if !effect && dead.is_empty() {
                missing += 1;
                if self.kept.contains(id) {
                    wrong.push(format!("{id} is lost: its topic has it, and it is neither handled nor a dead letter"));
                }
            }
        }
        let (lost, gone) = (self.status.lost, self.plan.events.len().saturating_sub(self.kept.len()) as u64);
        // Who destroys a group takes its count with it; before 7.0, and after a crash, Redis does not count either.
        let counts = self.plan.mode.bus != Kind::Oldest && !self.plan.has(Fault::KillBus) && !self.may_repeat();
        if lost < missing && counts {
            wrong.push(format!("{missing} events are gone with the topic's end, and {lost} are reported as lost"));
        }
        if lost > gone {
            wrong.push(format!("{lost} events are reported as lost, and only {gone} were trimmed"));
        }
        self.violations.extend(wrong);
    }

    /// Why this event should not be this dead letter.
    fn undeserved(&self, event: &Event, letter: &DeadLetter) -> Option<String> {
        let (cause, most) = (&letter.cause, self.plan.mode.max_attempts);
        let id = &event.id;
        if letter.fields != event.draft().fields() {
            return Some(format!("the dead letter of {id} holds other bytes than were published"));
        }
        if cause.code == code::HOST_DEATH {
            // Each attempt that is not the event's own failure takes a fault.
            let own = if event.fail == u32::MAX { most } else { event.fail };
            let enough = self.faults as u32 + own >= most;
            return (cause.attempts != most || !enough)
                .then(|| format!("{id} was quarantined after {} of {most} attempts", cause.attempts));
        }
        // What the handler asked for could not be had, again and again, and it said so.
        if cause.code == "unavailable" && event.has('c') && self.faults > 0 {
            return (cause.attempts != most).then(|| format!("{id} was not tried {most} times: {cause:?}"));
        }
        match event.fate() {
            Fate::Done => Some(format!("{id} is a dead letter: {cause:?}")),
            Fate::Dead(code) if cause.code != code => {
                Some(format!("{id} is a dead letter with another code: {cause:?}"))
            }
            Fate::Dead("as-told") => (cause.attempts > most).then(|| format!("{id} was tried too often: {cause:?}")),
            Fate::Dead(_) => (cause.attempts != most).then(|| format!("{id} was not tried {most} times: {cause:?}")),
        }
    }

    /// Attempts are limited, and beside them only a fault starts a call once more.
    fn nothing_looped(&mut self) {
        let most = self.plan.mode.max_attempts + 2 * self.faults as u32 + 4;
        let often: Vec<String> = self
            .plan
            .events
            .iter()
            // One that shares a counter is run again whenever another was faster.
            .filter(|event| !event.has('c'))
            .filter_map(|event| self.called.get(&event.id).filter(|calls| **calls > most).map(|n| (event, n)))
            .map(|(event, calls)| format!("{} ({}, fails {}): {calls} calls", event.id, event.how, event.fail))
            .collect();
        self.must(often.is_empty(), || format!("called more than {most} times: {often:?}"));
        let unreported = self.plan.mode.bus == Kind::Sqlite && self.called.is_empty();
        self.must(!unreported, || "no call was logged".into());
    }
}

// === impl Out ===

impl Out {
    fn read(fields: &Fields) -> Self {
        let number = |name| text(fields, name).parse().unwrap_or(u64::MAX);
        Self {
            id: text(fields, "id"),
            cause: text(fields, "cause"),
            lane: number("lane"),
            seq: number("seq"),
            attempt: u32::try_from(number("attempt")).unwrap_or(u32::MAX),
        }
    }
}

fn text(fields: &Fields, name: &str) -> String {
    String::from_utf8_lossy(fields.get(name).unwrap_or_default()).into_owned()
}
