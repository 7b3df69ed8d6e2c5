//! A module with what it may do, as it is called.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::grants::{MissingGrant, missing_grants};
use super::host::Hears;
use super::http::Outlet;
use super::isolate::Apart;
use super::modules::Module;
use super::overruns::Overruns;
use super::reuse::{Hand, Shelf};
use super::secret::Secret;
use super::{Services, Spec};

/// One handler as it is called: a module with what it may do. Cloning shares it.
#[derive(Clone)]
pub struct Handler {
    pub(super) handling: Arc<Handling>,
    pub(super) shut: Arc<AtomicBool>,
    pub(super) shelf: Arc<Shelf>,
}

pub(super) struct Handling {
    pub(super) module: Module,
    pub(super) spec: Spec,
    pub(super) services: Arc<dyn Services>,
    /// Seeds its random numbers.
    pub(super) secret: Secret,
    /// Where its requests go, if it may send any.
    pub(super) outlet: Option<Arc<Outlet>>,
    /// Where its calls run if not in this process.
    pub(super) apart: Option<Apart>,
    /// Who hears what it says if that is not for the log of this process.
    pub(super) heard: Option<Arc<dyn Hears>>,
    /// Goes up with each call that was stopped for its time, and down with each other one.
    pub(super) overruns: Overruns,
}

// === impl Handler ===

impl Handler {
    /// While it is shut, jobs that wait for a worker come back as not called; calls that have started end as ever.
    /// Instances that wait for their next event are dropped.
    pub fn shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::Relaxed);
        if shut {
            self.shelf.clear();
        }
    }

    /// Another takes its place: calls that were submitted still run on it, and no instance waits for more. There is no way
    /// back.
    pub fn retire(&self) {
        self.shelf.close();
        if let Some(apart) = &self.handling.apart {
            apart.close();
        }
    }

    /// What a thread calls it with, one event after the other.
    pub(super) fn hand(&self) -> Hand<'_> {
        Hand::new(&self.handling, &self.shelf)
    }

    /// Whether a call of it was stopped for its time of late.
    pub(super) fn overran(&self) -> bool {
        self.handling.overruns.any()
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }

    /// What it may do and how far it may go.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.handling.spec
    }

    /// What it runs.
    #[must_use]
    pub fn module(&self) -> &Module {
        &self.handling.module
    }

    /// What its module imports that it was not given, with the line to add for each.
    #[must_use]
    pub fn missing_grants(&self) -> Vec<MissingGrant> {
        missing_grants(&self.handling.module, &self.handling.spec.grants)
    }
}

impl std::fmt::Debug for Handler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handler").field("spec", self.spec()).field("module", self.module()).finish()
    }
}
