//! What the hosts of a group agree on about a handler beside its events: which module it is to run, and the module itself.

use bytes::Bytes;

use crate::event::Topic;

/// Names a handler's ledger: its group, and the first of its topics, beside which the ledger lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LedgerName {
    /// The first topic, without prefix.
    pub topic: Topic,
    /// The group.
    pub group: String,
}

/// A ledger as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    /// Grows with every entry; the first is 1.
    pub revision: u64,
    /// What was written.
    pub text: String,
}

/// What is written into a ledger, whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The new text.
    pub text: String,
    /// Bytes to keep, by name.
    pub add: Vec<(String, Bytes)>,
    /// The names of all that is kept from here on; whatever else there is goes.
    pub keep: Vec<String>,
}
