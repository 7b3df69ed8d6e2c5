//! Lanes and slices: which events must wait for each other, and how that is divided over hosts.

/// Into how many slices the lanes of a topic are divided. The same for every host of a group, so it is no setting:
/// more hosts than this stand by, and with a few hosts each has nearly the same share.
pub const SLICES: u16 = 64;

/// A sequence of events that run one after the other: those of one topic and one key.
///
/// Two keys may share a lane (one pair in 2^64); they wait for each other then, which does no harm. The number is kept
/// on the bus and means the same to every host and every version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(u64);

// === impl Lane ===

impl Lane {
    /// The lane of `key` within `topic`.
    #[must_use]
    pub fn of(topic: &str, key: &[u8]) -> Self {
        // Topics hold no NUL, so no two lanes have the same text. FNV-1a, then a finisher (that of SplitMix64): the low
        // bits, which choose the slice, depend on all of the key.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in topic.as_bytes().iter().chain(b"\0").chain(key) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(hash ^ (hash >> 31))
    }

    /// A lane by the number that was kept of it.
    #[must_use]
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// What a bus keeps of it.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }

    /// The slice it lies in, below [`SLICES`].
    #[must_use]
    pub fn slice(self) -> u16 {
        (self.0 % u64::from(SLICES)) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_change() {
        // Kept on the bus: another number would let an event overtake one of its key that an older host left behind.
        let lane = Lane::of("course-enrollment", b"course-v1:edX+DemoX+Demo");
        assert_eq!(lane.number(), 18_016_255_898_256_467);
        assert_eq!(Lane::from_number(lane.number()), lane);
        assert_ne!(Lane::of("ab", b"c"), Lane::of("a", b"bc"));
    }

    #[test]
    fn keys_spread_over_the_slices() {
        let mut counts = [0_u32; SLICES as usize];
        for key in 0..64_000 {
            counts[usize::from(Lane::of("t", format!("course-{key}").as_bytes()).slice())] += 1;
        }
        // A thousand each, and the standard deviation of such a draw is 31.
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }
}
