//! Whether one module fails more often than another. Pure.

use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// Calls of either side before anything is said.
pub const LEAST: u64 = 50;

/// Calls of a module on trial after which it is as good as the other, unless another number is asked for.
pub const MOST: u64 = 500;

/// How seldom a module that is as good is taken for a worse one.
const WRONGLY: f64 = 0.01;

/// Calls that ended, and how many of them failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Calls that ended with a verdict.
    pub calls: u64,
    /// How many of them failed.
    pub failed: u64,
}

/// Decides about a module on trial while its calls come in.
///
/// It is looked at when it has 50 calls, and each time they have doubled, at last when it has as many as it is to have. Each
/// look may err less often than the one before, so that all looks together err no more often than one may.
#[derive(Clone, Debug)]
pub struct Judge {
    /// Calls at the next look.
    stage: u64,
    /// Calls at the last look.
    most: u64,
    looks: u32,
}

/// What can be said of a module on trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It fails more often.
    Worse,
    /// It has had all its calls, and did not fail more often.
    Good,
}

// === impl Judge ===

impl Judge {
    /// For a module that is to have so many calls (50 at least), of which `before` were looked at already.
    #[must_use]
    pub fn new(most: u64, before: u64) -> Self {
        let mut judge = Self { stage: LEAST, most: most.max(LEAST), looks: 0 };
        while judge.stage <= before && judge.stage < judge.most {
            judge.next();
        }
        judge
    }

    /// Calls that it is to have before anything more is said: until then it gets no others.
    #[must_use]
    pub fn wants(&self) -> u64 {
        self.stage
    }

    /// Looks at what calls of both came to.
    pub fn look(&mut self, old: Sample, new: Sample) -> Option<Judgement> {
        while new.calls >= self.stage && old.calls >= LEAST {
            let look = f64::from(self.looks + 1);
            if chance(old, new) < WRONGLY / (look * (look + 1.0)) {
                return Some(Judgement::Worse);
            }
            if self.stage >= self.most {
                return Some(Judgement::Good);
            }
            self.next();
        }
        None
    }

    fn next(&mut self) {
        self.stage = (self.stage * 2).min(self.most);
        self.looks += 1;
    }
}

// === impl Sample ===

impl Add for Sample {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { calls: self.calls.saturating_add(other.calls), failed: self.failed.saturating_add(other.failed) }
    }
}

impl Sub for Sample {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { calls: self.calls.saturating_sub(other.calls), failed: self.failed.saturating_sub(other.failed) }
    }
}

/// The chance that a module which is as good fails as often as `new` did, or more often: Fisher's exact test, one side of
/// it. Small is bad.
#[must_use]
pub fn chance(old: Sample, new: Sample) -> f64 {
    // They come from the bus, where more may be written than can be.
    let sound = |Sample { calls, failed }: Sample| {
        let calls = calls.min(u64::from(u32::MAX));
        Sample { calls, failed: failed.min(calls) }
    };
    let (old, new) = (sound(old), sound(new));
    let (failed, calls) = (old.failed + new.failed, old.calls + new.calls);
    let all = ln_choose(calls, new.calls);
    let of = |count: u64| (ln_choose(failed, count) + ln_choose(calls - failed, new.calls - count) - all).exp();
    // The others of the failures must have fallen to the old one, which had no more calls than it had.
    let least = new.failed.max(failed.saturating_sub(old.calls));
    (least..=failed.min(new.calls)).map(of).sum::<f64>().min(1.0)
}

/// The logarithm of the number of ways to choose `count` of `all`.
fn ln_choose(all: u64, count: u64) -> f64 {
    ln_factorial(all) - ln_factorial(count) - ln_factorial(all - count)
}

/// Stirling's series: good to ten digits from 8 on.
fn ln_factorial(number: u64) -> f64 {
    if number < 8 {
        return (2..=number).map(|factor| (factor as f64).ln()).sum();
    }
    let n = number as f64;
    let series = 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3)) + 1.0 / (1_260.0 * n.powi(5));
    n.mul_add(n.ln(), -n) + 0.5 * (std::f64::consts::TAU * n).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(old: (u64, u64), new: (u64, u64)) -> f64 {
        chance(Sample { calls: old.0, failed: old.1 }, Sample { calls: new.0, failed: new.1 })
    }

    #[test]
    fn it_is_the_exact_test() {
        // Fisher's tea: all eight cups right by chance, 1 in 70; six or more, 17 in 70.
        assert!((of((4, 0), (4, 4)) - 1.0 / 70.0).abs() < 1e-9);
        assert!((of((4, 1), (4, 3)) - 17.0 / 70.0).abs() < 1e-9);
        // Nothing failed, or as much as can: it says nothing.
        assert!((of((1_000, 0), (50, 0)) - 1.0).abs() < 1e-9);
        assert!((of((50, 50), (50, 50)) - 1.0).abs() < 1e-9);
        assert!((of((0, 0), (9, 3)) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_fifth_that_fails_is_told_from_none_in_fifty_calls() {
        assert!(of((950, 0), (50, 5)) < 1e-6);
        assert!(of((50, 0), (50, 10)) < 1e-3);
        assert!(of((950, 190), (50, 10)) > 0.4, "the old one is as bad");
        assert!(of((1_000_000, 200_000), (500, 100)) > 0.4);
    }

    /// Numbers in `0.0..1.0` that are the same in every run: splitmix64.
    struct Dice(u64);

    impl Dice {
        fn fails(&mut self, rate: f64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = self.0;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            u64::from(((bits ^ (bits >> 31)) >> 11) as f64 / ((1_u64 << 53) as f64) < rate)
        }
    }

    /// One trial of so many events, `share` calls of the old one to each of the new one; and its calls when it was over.
    fn trial(seed: u64, share: u64, old_rate: f64, new_rate: f64) -> (Judgement, u64) {
        let (mut dice, mut judge) = (Dice(seed), Judge::new(MOST, 0));
        let (mut old, mut new) = (Sample::default(), Sample::default());
        loop {
            for _ in 0..share {
                old = old + Sample { calls: 1, failed: dice.fails(old_rate) };
            }
            new = new + Sample { calls: 1, failed: dice.fails(new_rate) };
            if let Some(judgement) = judge.look(old, new) {
                return (judgement, new.calls);
            }
        }
    }

    #[test]
    fn one_that_fails_a_fifth_is_found_within_five_hundred_calls_and_one_that_is_as_good_is_not_given_up() {
        const RUNS: u64 = 2_000;
        for share in [1, 9] {
            for old_rate in [0.0, 0.01, 0.05] {
                let calls: Vec<u64> = (0..RUNS)
                    .map(|seed| trial(seed, share, old_rate, 0.2))
                    .filter_map(|(judgement, calls)| (judgement == Judgement::Worse).then_some(calls))
                    .collect();
                let soon = calls.iter().filter(|calls| **calls <= 2 * LEAST).count() as u64;
                // All but one in a thousand; and most of them at the first look or the second.
                assert!(calls.len() as u64 >= RUNS - 2, "{share} {old_rate}: {} of {RUNS}", calls.len());
                assert!(soon >= RUNS / 2, "{share} {old_rate}: {soon} of {RUNS}");
            }
            for rate in [0.0, 0.001, 0.01, 0.05, 0.2, 0.5, 1.0] {
                let wrong =
                    (0..RUNS).filter(|seed| trial(*seed, share, rate, rate).0 == Judgement::Worse).count() as u64;
                // One in a hundred may be.
                assert!(wrong <= RUNS / 100, "{share} {rate}: {wrong} of {RUNS} given up");
            }
        }
    }

    /// A trial on so many hosts, each of which looks for itself at what all have told and at its own.
    fn on_hosts(seed: u64, hosts: usize, old_rate: f64, new_rate: f64) -> Judgement {
        /// Events of a host between two times that it tells what it has seen.
        const TELLS: u64 = 70;
        let none = Sample::default();
        let (mut dice, mut told) = (Dice(seed), (none, none));
        let mut all = vec![(Judge::new(MOST, 0), none, none); hosts];
        for event in 1.. {
            for (judge, old, new) in &mut all {
                let wanted = told.1.calls + new.calls < judge.wants() && dice.fails(0.5) == 1;
                let (seen, rate) = if wanted { (&mut *new, new_rate) } else { (&mut *old, old_rate) };
                *seen = *seen + Sample { calls: 1, failed: dice.fails(rate) };
                if let Some(judgement) = judge.look(told.0 + *old, told.1 + *new) {
                    return judgement;
                }
            }
            if event % TELLS == 0 {
                for (_, old, new) in &mut all {
                    told = (told.0 + *old, told.1 + *new);
                    (*old, *new) = (none, none);
                }
            }
        }
        unreachable!("a trial ends")
    }

    #[test]
    fn hosts_that_look_each_for_itself_err_no_more_often() {
        const RUNS: u64 = 1_000;
        let worse = |hosts, old_rate, new_rate| {
            (0..RUNS).filter(|seed| on_hosts(*seed, hosts, old_rate, new_rate) == Judgement::Worse).count() as u64
        };
        for hosts in [2, 4] {
            for rate in [0.01, 0.05, 0.2, 0.5] {
                let wrong = worse(hosts, rate, rate);
                assert!(wrong <= RUNS / 100, "{hosts} {rate}: {wrong} of {RUNS} given up");
            }
            assert!(worse(hosts, 0.01, 0.2) >= RUNS - 2);
        }
    }

    #[test]
    fn what_cannot_be_is_no_reason_to_fall() {
        let of = |calls, failed| Sample { calls, failed };
        let many = of(u64::MAX, u64::MAX);
        for (old, new) in [(many, of(0, 0)), (many, of(60, 200)), (of(50, 90), of(60, 200)), (of(0, 9), of(0, 9))] {
            assert!((0.0..=1.0).contains(&chance(old, new)));
        }
    }

    #[test]
    fn it_is_looked_at_in_stages_and_goes_on_where_it_was() {
        let none = |calls| Sample { calls, failed: 0 };
        let mut judge = Judge::new(300, 0);
        assert_eq!((judge.look(none(49), none(1_000)), judge.wants()), (None, 50), "too few of the other's");
        assert_eq!((judge.look(none(50), none(49)), judge.wants()), (None, 50));
        assert_eq!((judge.look(none(50), none(50)), judge.wants()), (None, 100));
        assert_eq!((judge.look(none(50), none(120)), judge.wants()), (None, 200));
        assert_eq!(judge.look(none(50), none(300)), Some(Judgement::Good));
        assert_eq!(Judge::new(MOST, 120).wants(), 200);
        assert_eq!(Judge::new(10, 0).wants(), LEAST);
        assert_eq!(Judge::new(MOST, 1_000).wants(), MOST);
    }
}
