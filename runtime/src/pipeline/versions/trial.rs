//! What runs beside the module that is served: a module on trial (a canary), or one in its shadow.
//!
//! Some new events go to a module on trial, and whether it fails more often than the one that is served decides
//! ([`crate::settle::compare`]). What fails on it runs again on the other. It gets no more events than can be looked at next.
//! All hosts of the group count together, in the ledger, and whoever sees first what can be said says it for all.

use std::sync::Arc;
use std::time::SystemTime;

use super::super::consumer::{Change, Version, Way};
use super::record::{Candidate, Compared};
use super::shadow::Shadow;
use super::{Keeper, Record, Refusal};
use crate::sandbox::Handler;
use crate::settle::compare::{Judge, Judgement, MOST, Sample};

/// What runs beside the module that is served, on this host.
pub(super) struct Trial {
    version: Version,
    candidate: Candidate,
    /// This host's calls of it and of the other, as far as the ledger has them.
    told: (Sample, Sample),
    course: Course,
}

enum Course {
    Judged {
        judge: Judge,
        /// Events that the consumer was given leave for.
        granted: u64,
        /// It is decided, and not known to be recorded.
        decided: Option<Judgement>,
    },
    Shadow(Shadow),
}

// === impl Trial ===

impl Trial {
    /// This host's calls.
    fn calls(&self, current: &Version) -> (Sample, Sample) {
        (self.version.calls.first(), current.calls.first())
    }

    /// With what the ledger does not have of this host yet.
    fn with_untold(&self, current: &Version) -> Candidate {
        let (new, old) = self.calls(current);
        let mut candidate = self.candidate.clone();
        candidate.new = candidate.new + (new - self.told.0);
        candidate.old = candidate.old + (old - self.told.1);
        candidate
    }

    /// What can be said now, and how many more events it is to have until more can be said.
    fn look(&mut self, current: &Version) -> (Option<Judgement>, u64) {
        let Candidate { new, old, .. } = self.with_untold(current);
        let (called, _) = self.calls(current);
        let Course::Judged { judge, granted, decided } = &mut self.course else { return (None, 0) };
        *decided = decided.or_else(|| judge.look(old, new));
        if decided.is_some() {
            return (*decided, 0);
        }
        let under_way = granted.saturating_sub(called.calls);
        let more = judge.wants().saturating_sub(new.calls + under_way);
        *granted += more;
        (None, more)
    }
}

// === impl Keeper ===

impl Keeper {
    /// Begins what runs beside the module that is served.
    pub(super) fn begin_trial(&mut self, handler: Arc<Handler>, candidate: Candidate) -> Result<(), Refusal> {
        self.end_trial();
        let before = self.current.calls.first();
        let (most, before) = match candidate.way {
            Way::Shadow => return self.begin_shadow(handler, candidate),
            // What the other does meanwhile is compared.
            Way::Percent(_) => (MOST, before),
            // The next so many leave none to the other: what it did before counts.
            Way::First(count) => (count, Sample::default()),
        };
        let (version, way) = (Version::new(handler), candidate.way);
        let judge = Judge::new(most, candidate.new.calls);
        let course = Course::Judged { judge, granted: 0, decided: None };
        let mut trial = Trial { version, candidate, told: (Sample::default(), before), course };
        let (_, events) = trial.look(&self.current);
        // Without a consumer the host is ending.
        drop(self.serve.send(Change::Try(trial.version.clone(), way, events)));
        self.trial = Some(trial);
        Ok(())
    }

    fn begin_shadow(&mut self, handler: Arc<Handler>, candidate: Candidate) -> Result<(), Refusal> {
        let (shadow, shade) = Shadow::begin(&self.maker, handler.module())?;
        let (name, module) = (&*self.maker.settings.name, handler.module().digest());
        tracing::info!(handler = name, module, before = self.digest(), "another module runs in its shadow");
        drop(self.serve.send(Change::Shade(shade)));
        let (version, course) = (Version::new(handler), Course::Shadow(shadow));
        let told = (Sample::default(), self.current.calls.first());
        self.trial = Some(Trial { version, candidate, told, course });
        Ok(())
    }

    pub(super) fn end_trial(&mut self) {
        if self.trial.take().is_some() {
            drop(self.serve.send(Change::EndTrial));
        }
    }

    /// Ends what runs beside if the ledger does not want it, neither beside nor in the place of the other.
    pub(super) fn end_trial_unless(&mut self, record: &Record) {
        let Some(trial) = &self.trial else { return };
        let goes_on = record.candidate.as_ref().is_some_and(|candidate| candidate.is(&trial.candidate));
        let is_wanted = record.wanted().is_some_and(|wanted| wanted.digest == trial.candidate.digest);
        if !goes_on && !is_wanted {
            self.end_trial();
        }
    }

    /// Begins or ends a trial as the ledger says.
    pub(super) async fn follow_trial(&mut self, candidate: Option<Candidate>) -> Result<(), Refusal> {
        match (candidate, &mut self.trial) {
            (None, _) => self.end_trial(),
            (Some(candidate), Some(trial)) if trial.candidate.is(&candidate) => trial.candidate = candidate,
            (Some(candidate), _) => {
                self.end_trial();
                let wasm = self.kept(&candidate.digest).await?;
                let (handler, _) = self.make(wasm, Vec::new()).await?;
                self.begin_trial(handler, candidate)?;
            }
        }
        Ok(())
    }

    /// The module of the trial, if it is this one: it is compiled already.
    pub(super) fn tried(&self, digest: &str) -> Option<Result<Arc<Handler>, Refusal>> {
        let module = self.trial.as_ref()?.version.handler.module();
        // What is on trial has its own instances, which go with the trial.
        (module.digest() == digest).then(|| self.maker.join(module, Some(&self.current.handler)).map_err(Refusal::from))
    }

    /// Adds what came of it on this host to what the ledger has.
    pub(super) async fn tell_trial(&mut self) {
        let Some(trial) = &self.trial else { return };
        let (now, candidate) = (trial.calls(&self.current), trial.candidate.clone());
        let (new, mut old) = (now.0 - trial.told.0, now.1 - trial.told.1);
        let mut compared = Compared::default();
        if let Course::Shadow(shadow) = &trial.course {
            (compared, old) = (shadow.take(), Sample::default());
        }
        if (new, old, &compared) == (Sample::default(), Sample::default(), &Compared::default()) {
            return;
        }
        let told = self.write(None, |record| record.count(&candidate, new, old, &compared)).await;
        let Some(trial) = &mut self.trial else { return };
        match (told, &trial.course) {
            (Ok(true), _) => {
                trial.told = now;
                trial.candidate.new = trial.candidate.new + new;
                trial.candidate.old = trial.candidate.old + old;
            }
            (Err(_), Course::Shadow(shadow)) => shadow.put_back(&compared),
            // Somebody has ended it, or it is told the next time.
            _ => {}
        }
    }

    /// Looks what came of the trial so far.
    pub(super) async fn look_at_trial(&mut self) {
        let Some(trial) = &mut self.trial else { return };
        match trial.look(&self.current) {
            (None, 0) => {}
            (None, more) => drop(self.serve.send(Change::More(more))),
            (Some(judgement), _) => self.end_trial_by(judgement).await,
        }
    }

    async fn end_trial_by(&mut self, judgement: Judgement) {
        let Some(trial) = &self.trial else { return };
        let (candidate, at) = (trial.with_untold(&self.current), SystemTime::now());
        let (handler, module) = (self.maker.settings.name.clone(), candidate.digest.clone());
        let written = match judgement {
            Judgement::Worse => {
                // At once, whatever the bus says.
                drop(self.serve.send(Change::EndTrial));
                self.write(None, |record| record.reject(&candidate, at)).await
            }
            Judgement::Good => self.write(None, |record| record.promote(&candidate, at)).await,
        };
        match written {
            Ok(true) if judgement == Judgement::Worse => {
                self.trial = None;
                let (calls, failed, calls_before, failed_before) =
                    (candidate.new.calls, candidate.new.failed, candidate.old.calls, candidate.old.failed);
                tracing::error!(
                    handler,
                    module,
                    calls,
                    failed,
                    calls_before,
                    failed_before,
                    "the module on trial fails more often than the one that is served: it is given up"
                );
            }
            // It is wanted now, and followed like any other; or somebody else has ended the trial.
            Ok(_) => {
                self.seen = 0;
                self.follow().await;
            }
            Err(refusal) => {
                tracing::debug!(handler, module, %refusal, "what came of the trial could not be recorded");
            }
        }
    }
}
