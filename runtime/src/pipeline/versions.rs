//! Where a module is SWAPPED: another one is verified, compiled aside and tested, recorded on the bus, then served. Whatever
//! goes wrong leaves the one that is served.
//!
//! What the hosts of a group run is written in the handler's ledger on the bus ([`record`]): all of them look there, and so
//! does a host that starts. A handler without a ledger runs the file that its configuration names.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;

use super::selftest::{Bench, Fixture, Outcome};
use super::services::HandlerServices;
use super::signing::Signer;
use crate::bus::{self, Bus};
use crate::config::HandlerConfig;
use crate::sandbox::{self, Handler, LoadError, Module, Sandbox, Spec};

mod keeper;
mod record;
mod watching;

pub use record::{Entry, Record, Unreadable, ledger_of};

pub(super) use keeper::Keeper;
pub(super) use watching::look;

/// A module that is to be served from now on.
#[derive(Debug)]
pub struct Swap {
    /// Its bytes.
    pub wasm: Bytes,
    /// What it has to pass before.
    pub fixtures: Vec<Fixture>,
    /// Who asks.
    pub by: String,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// SHA-256 of the module that is served now, in hex.
    pub digest: String,
    /// And of the one before. The same if there was nothing to do.
    pub before: String,
    /// Fixtures that passed.
    pub passed: usize,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No such handler.
    #[error(transparent)]
    Unknown(#[from] super::UnknownHandler),
    /// The module cannot be used, or is not what the configuration asks for.
    #[error("the module {0}")]
    Module(#[from] LoadError),
    /// It does not fit its handler.
    #[error("the module does not fit its handler: {0}")]
    Unfit(#[from] sandbox::Error),
    /// Its fixtures do not pass.
    #[error("the module fails its own tests: {}", .0.join("; "))]
    Tests(Vec<String>),
    /// The bus could not be asked, or not be told.
    #[error("the bus has trouble, and if it has taken this nevertheless all hosts will follow: {0}")]
    Bus(#[from] bus::Error),
    /// Somebody else was faster.
    #[error("another module was recorded at the same time: see what `sandbar status` says, then ask again")]
    Moved,
    /// There was never another one.
    #[error("there is no module to go back to: the one that the configuration names is the first")]
    First,
    /// It is recorded, and its bytes are no longer kept.
    #[error("module {0} is no longer kept on the bus")]
    Gone(String),
    /// What lies on the bus is something else.
    #[error("what is kept on the bus as module {0} is something else")]
    Altered(String),
    /// The ledger cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// Nobody is there to do it.
    #[error("the host is starting or ending")]
    Absent,
}

/// What a handler's keeper is asked to do.
#[derive(Debug)]
pub(super) enum Wish {
    Swap(Swap, oneshot::Sender<Result<Swapped, Refusal>>),
    Rollback(String, oneshot::Sender<Result<Swapped, Refusal>>),
}

/// Makes the versions of one handler.
pub(super) struct Maker {
    pub(super) settings: HandlerConfig,
    /// With the values of its secrets.
    pub(super) spec: Spec,
    pub(super) sandbox: Arc<Sandbox>,
    pub(super) bus: Arc<dyn Bus>,
    /// For no module yet.
    pub(super) signer: Signer,
    pub(super) bench: Bench,
    /// How the module's file looked before it was read.
    pub(super) file: Option<(std::time::SystemTime, u64)>,
}

// === impl Maker ===

impl Maker {
    /// Joins a module with what its handler may do, in the place of `old` if there is one.
    pub(super) fn join(&self, module: &Module, old: Option<&Handler>) -> Result<Arc<Handler>, sandbox::Error> {
        let digest = Bytes::copy_from_slice(module.digest().as_bytes());
        let signer = Signer { module: digest, ..self.signer.clone() };
        let services = Arc::new(HandlerServices::new(signer, Arc::clone(&self.bus)));
        match old {
            Some(old) => self.sandbox.successor(old, module, self.spec.clone(), services),
            None => self.sandbox.handler(module, self.spec.clone(), services),
        }
    }

    /// Verifies, compiles and tests a module, on this thread.
    fn make(&self, old: &Handler, wasm: &[u8], fixtures: &[Fixture]) -> Result<(Arc<Handler>, usize), Refusal> {
        let module = self.sandbox.load_trusted(wasm, &self.settings.trust)?;
        let handler = self.join(&module, Some(old))?;
        let tried = self.bench.run(&self.sandbox, &module, fixtures);
        let mut wrong = Vec::new();
        let mut passed = 0;
        for one in tried {
            match one.outcome {
                Outcome::Failed(differences) => {
                    wrong.extend(differences.into_iter().map(|difference| format!("{}: {difference}", one.name)));
                }
                Outcome::Passed => passed += 1,
                Outcome::Skipped => {}
            }
        }
        if !wrong.is_empty() {
            return Err(Refusal::Tests(wrong));
        }
        for missing in handler.missing_grants() {
            let (handler, interface) = (&*self.settings.name, missing.capability.interface());
            tracing::warn!(handler, "the module imports {interface}, which it was not given: {}", missing.line);
        }
        Ok((handler, passed))
    }
}

fn digest(wasm: &[u8]) -> String {
    Sha256::digest(wasm).iter().map(|byte| format!("{byte:02x}")).collect()
}
