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
    COMMIT = "held.lua" "commit.lua";
    /// Look whether an acknowledgement would be taken.
    CHECK = "held.lua" "check.lua";
    /// Move to the retry store.
    RETRY = "held.lua" "retry.lua";
    /// Store as a dead letter.
    DEAD = "held.lua" "dead.lua";
    /// Record an attempt.
    BEGIN = "held.lua" "begin.lua";
    /// Keep in hand what was trimmed.
    RESCUE = "held.lua" "rescue.lua";
    /// Make stream and group, register the consumer.
    JOIN = "join.lua";
    /// Take what is due.
    TAKE = "take.lua";
    /// Take over what others left.
    CLAIM = "claim.lua";
    /// Renew leases.
    RENEW = "renew.lua";
    /// Give everything back.
    LEAVE = "leave.lua";
    /// Remove dead consumers.
    SWEEP = "sweep.lua";
    /// Take the turn in an exclusive group.
    TURN = "turn.lua";
    /// Read in an exclusive group.
    READ = "read.lua";
    /// Move dead letters back.
    REQUEUE = "requeue.lua";
    /// List keys of a space.
    LIST = "list.lua";
    /// Count a page of entries.
    COUNT = "count.lua";
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
