//! What can go wrong with a bus, and whether trying again may help.

use super::Durability;

/// Trouble with a bus.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bus cannot be reached, or not now. Worth trying again.
    #[error("bus at {url} cannot be reached: {reason}")]
    Unreachable {
        /// Without its password.
        url: String,
        /// What the client library said.
        reason: String,
    },
    /// The bus is there and cannot serve now (loading, read-only, out of memory, busy). Worth trying again.
    #[error("bus at {url} cannot serve now: {reason}")]
    Unavailable {
        /// Without its password.
        url: String,
        /// The server's words.
        reason: String,
    },
    /// The bus has taken a write and it is not known to be as safe as `bus.durability` asks. Worth trying again: a
    /// settlement is not done twice, but what is published again may be there twice.
    #[error(
        "bus at {url} has not made it as durable as asked (bus.durability): {wanted} is wanted, and {reached}; what was \
         written may be stored"
    )]
    NotDurable {
        /// Without its password.
        url: String,
        /// What was asked for.
        wanted: Durability,
        /// What was reached, or why it is not known.
        reached: String,
    },
    /// The credentials are refused.
    #[error("bus at {url} refuses the credentials: {reason}; check user and password in bus.url")]
    Credentials {
        /// Without its password.
        url: String,
        /// The server's words.
        reason: String,
    },
    /// A key that should be a topic is something else.
    #[error("{key} is a {found}, not a {expected}: rename the topic or remove the key")]
    WrongType {
        /// The key on the bus.
        key: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// Consumers of another kind are alive in the group.
    #[error(
        "group {group} on {topic} has live consumers that are not Sandbar's ({consumers}): they move its position and \
         acknowledge what fails; stop them, choose another `group`, or run with --join-foreign"
    )]
    Foreign {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// Their names.
        consumers: String,
    },
    /// The URL or another setting cannot be used.
    #[error("{0}")]
    Settings(String),
    /// The bus answered in a way it should not, or holds something that cannot be read.
    #[error("{0}")]
    Unexpected(String),
}

// === impl Error ===

impl Error {
    /// True if trying again later may help without anybody changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Unavailable { .. } | Self::NotDurable { .. })
    }
}
