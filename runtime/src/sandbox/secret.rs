//! What only the operator knows.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

/// Bytes that only the operator knows, and whom the operator tells: a seed, or a handler's password. They are never
/// shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

// === impl Secret ===

impl Secret {
    /// A secret of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// The bytes. Whoever asks for them keeps them hidden.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What one group has of it: it says nothing of another's.
    pub(super) fn of(&self, group: &str) -> Self {
        let hash = Sha256::new().chain_update((self.0.len() as u64).to_le_bytes()).chain_update(&self.0);
        Self::new(&hash.chain_update(group).finalize())
    }

    /// One of its own for this process.
    pub(super) fn made_up() -> Self {
        Self([uuid::Uuid::new_v4(), uuid::Uuid::new_v4()].iter().flat_map(|uuid| *uuid.as_bytes()).collect())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(***)")
    }
}
