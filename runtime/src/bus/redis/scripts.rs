//! The scripts: every change that is more than one command is one of these, so that it happens whole or not at all.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline, Script};

/// A script and the command that calls it.
pub(super) struct Stored {
    code: &'static str,
    hash: String,
}

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $($file:literal)+;)+) => {
        $(
            $(#[$doc])*
            pub(super) static $name: LazyLock<Stored> = LazyLock::new(|| Stored::new(concat!($(include_str!($file)),+)));
        )+

        /// Commands that load all scripts.
        pub(super) fn load_all() -> Pipeline {
            let mut load = Pipeline::new();
            $(load.cmd("SCRIPT").arg("LOAD").arg($name.code);)+
            load
        }
    };
}

scripts! {
    /// Acknowledge with effects.
    COMMIT = "misused.lua" "stores.lua" "held.lua" "commit.lua";
    /// Effects without a delivery.
    APPLY = "misused.lua" "unheld.lua" "commit.lua";
    /// Look whether an acknowledgement would be taken.
    CHECK = "misused.lua" "stores.lua" "held.lua" "check.lua";
    /// Move to the retry store.
    RETRY = "misused.lua" "stores.lua" "held.lua" "retry.lua";
    /// Store as a dead letter.
    DEAD = "misused.lua" "stores.lua" "held.lua" "dead.lua";
    /// Record an attempt.
    BEGIN = "misused.lua" "stores.lua" "held.lua" "begin.lua";
    /// Keep in hand what was trimmed.
    RESCUE = "misused.lua" "stores.lua" "held.lua" "rescue.lua";
    /// The same six for groups with order.
    COMMIT_OWNED = "misused.lua" "stores.lua" "owned.lua" "commit.lua";
    /// See `CHECK`.
    CHECK_OWNED = "misused.lua" "stores.lua" "owned.lua" "check.lua";
    /// See `RETRY`.
    RETRY_OWNED = "misused.lua" "stores.lua" "owned.lua" "retry.lua";
    /// See `DEAD`.
    DEAD_OWNED = "misused.lua" "stores.lua" "owned.lua" "dead.lua";
    /// See `BEGIN`.
    BEGIN_OWNED = "misused.lua" "stores.lua" "owned.lua" "begin.lua";
    /// See `RESCUE`.
    RESCUE_OWNED = "misused.lua" "stores.lua" "owned.lua" "rescue.lua";
    /// Acknowledge without effects, in a group with order.
    ACKS = "acks.lua";
    /// Make stream and group, register the consumer.
    JOIN = "join.lua";
    /// Take what is due.
    TAKE = "take.lua";
    /// The same in a group with order.
    TAKE_OWNED = "take-owned.lua";
    /// Take over what others left.
    CLAIM = "claim.lua";
    /// Renew leases.
    RENEW = "later.lua" "renew.lua" "mark.lua";
    /// The same in a group with order.
    RENEW_OWNED = "later.lua" "renew-owned.lua" "mark.lua";
    /// Give everything back.
    LEAVE = "leave.lua";
    /// The same in a group with order.
    LEAVE_OWNED = "leave-owned.lua";
    /// Remove dead consumers.
    SWEEP = "sweep.lua";
    /// Order: what is this consumer's, and what lies there.
    LOOK = "later.lua" "look.lua";
    /// Order: read, in one's turn.
    READ = "read.lua";
    /// Order: what was read and not placed.
    UNPLACED = "unplaced.lua";
    /// Order: hand what was read to the slices.
    PLACE = "later.lua" "place.lua";
    /// Order: divide the slices.
    DIVIDE = "later.lua" "divide.lua";
    /// Order: give up slices.
    GIVE = "give.lua";
    /// Order: take what was left from when there was none.
    GATHER = "gather.lua";
    /// Order: the same for the retry store.
    LODGE = "lodge.lua";
    /// Order: let go of what was trimmed.
    GONE = "gone.lua";
    /// No order: take over what a group with order left in its retry store.
    UNITE = "unite.lua";
    /// Move dead letters back.
    REQUEUE = "misused.lua" "requeue.lua";
    /// Write a ledger.
    LEDGER = "misused.lua" "ledger.lua";
    /// List keys of a space.
    LIST = "list.lua";
    /// Remove what every group has acknowledged.
    TRIM = "trim.lua";
    /// Who is in a group.
    WHO = "who.lua";
    /// Count a page of entries.
    COUNT = "count.lua";
}

/// Asks whether the server knows them: whoever loads one loads all.
pub(super) fn are_known() -> Cmd {
    let mut ask = redis::cmd("SCRIPT");
    ask.arg("EXISTS").arg(&JOIN.hash);
    ask
}

// === impl Stored ===

impl Stored {
    fn new(code: &'static str) -> Self {
        Self { code, hash: Script::new(code).get_hash().to_owned() }
    }

    /// A command that calls the script with these keys; the caller appends the arguments.
    pub(super) fn call(&self, keys: &[&str]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.hash).arg(keys.len()).arg(keys);
        command
    }
}
