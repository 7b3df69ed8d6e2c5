//! `[handler.breaker]`, `dead_letters_max` and `dead_letters_max_age`: when a handler is left alone.

use std::time::Duration;

use super::keys;
use super::section::Section;
use crate::settle::BreakerSettings;

/// When the dead letters of a handler are too many. Then it pauses; none is dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterCap {
    /// So many, over all of its topics.
    pub max: Option<u64>,
    /// The oldest one is older than this.
    pub max_age: Option<Duration>,
}

/// Far more than fail in a row by chance, and soon there when everything fails.
const FAILURES: u64 = 50;
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// An outage that is over is noticed within it.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Each of them is remembered while they are counted.
const MOST_FAILURES: u64 = 100_000;
/// The pauses are added to a clock.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Reads `breaker`: a table, or `false` for none.
pub(super) fn breaker(section: &mut Section<'_>, label: &str) -> Option<BreakerSettings> {
    // Switched on without a table it is as it is.
    if section.switch("breaker") == Some(false) {
        return None;
    }
    let mut section = section.inner("breaker", &keys::BREAKER);
    let failures = section.number("failures", 1, MOST_FAILURES).unwrap_or(FAILURES);
    let (first, max) = (section.duration("pause_first", "1ms"), section.duration("pause_max", "1ms"));
    let place = first.as_ref().or(max.as_ref()).map(|found| found.place.clone());
    let settings = BreakerSettings {
        failures: u32::try_from(failures).unwrap_or(u32::MAX),
        pause_first: first.map_or(PAUSE_FIRST, |found| found.value.min(LONGEST)),
        pause_max: max.map_or(PAUSE_MAX, |found| found.value.min(LONGEST)),
    };
    if settings.pause_first > settings.pause_max
        && let Some(place) = place
    {
        let message = format!(
            "`pause_first` in the breaker of {label} is longer than `pause_max` ({:?} and {:?}): the first pause is the \
             shortest",
            settings.pause_first, settings.pause_max
        );
        section.problem(&place, message);
    }
    section.finish();
    Some(settings)
}

/// Reads `dead_letters_max` and `dead_letters_max_age`.
pub(super) fn dead_letters(section: &mut Section<'_>) -> DeadLetterCap {
    DeadLetterCap {
        max: section.number("dead_letters_max", 1, u64::MAX),
        max_age: section.duration("dead_letters_max_age", "1s").map(|found| found.value),
    }
}
