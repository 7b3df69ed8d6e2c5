//! Nothing is lost, nothing loops, nothing is out of order: real hosts on a real bus, under faults that a seed chooses.
//!
//! A seed decides everything beforehand ([`plan`]): the bus, the number of hosts, the order, what each event makes its
//! handler do, and which fault happens when. The [`nemesis`] carries it out, mends everything, and waits until nothing
//! is left to do; the [`checker`] then goes through what the hosts left behind. Only the timing differs from one run
//! to the next.
//!
//! `SEED=7 cargo test -p sandbar-tests --test all -- faults::replay` repeats one seed; `make soak` runs hundreds.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;

use self::checker::{Evidence, Figures};
use self::fleet::Fleet;
use self::nemesis::Nemesis;
use self::plan::Plan;
use self::store::Store;

mod checker;
mod dice;
mod events;
mod fleet;
mod nemesis;
mod plan;
mod report;
mod store;

/// Seeds of one `make test`.
const SEEDS: u64 = 24;
/// Seeds that run at once. A run mostly waits.
const AT_ONCE: usize = 4;
/// Violations and log lines that are shown of each run: the first ones tell most.
const SHOWN: usize = 20;

/// What one seed came to.
struct Ran {
    plan: Plan,
    took: Duration,
    /// The figures, or what went wrong.
    outcome: Result<Figures, String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_seed_loses_repeats_or_disorders_anything() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().expect(name));
    let (from, count) = (number("SOAK_FROM", 0), number("SOAK_SEEDS", SEEDS));
    let mut seeds = from..from + count;
    let (mut running, mut ran) = (JoinSet::new(), BTreeMap::new());
    loop {
        while running.len() < AT_ONCE
            && let Some(seed) = seeds.next()
        {
            running.spawn(run(seed));
        }
        let Some(ended) = running.join_next().await else { break };
        let ended: Ran = ended.expect("the harness itself does not fail");
        if let Err(what) = &ended.outcome {
            eprintln!("{what}");
        }
        ran.insert(ended.plan.seed, ended);
    }
    report::write(&ran);
    let failed: Vec<u64> = ran.iter().filter(|(_, ran)| ran.outcome.is_err()).map(|(seed, _)| *seed).collect();
    assert!(failed.is_empty(), "seeds {failed:?} of {from}..{} failed", from + count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay() {
    let seed = std::env::var("SEED").map_or(4, |text| text.parse().expect("SEED is a number"));
    assert_eq!(Plan::of(seed).to_string(), Plan::of(seed).to_string(), "a seed stands for one plan");
    let ran = run(seed).await;
    if let Err(what) = ran.outcome {
        panic!("{what}");
    }
}

async fn run(seed: u64) -> Ran {
    let start = std::time::Instant::now();
    let plan = Plan::of(seed);
    let store = Store::start(&plan.mode).await;
    let mut fleet = Fleet::new(store.configs(&plan.mode), store.shims(&plan.mode));
    let mut nemesis = Nemesis::new(&plan, &store, &mut fleet);
    let quiet = nemesis.run().await;
    let applied = nemesis.applied;
    fleet.stop(Duration::from_secs(30)).await;
    let (mut violations, figures) = Evidence::gather(&plan, &store, &fleet.lines(), applied).await.check();
    violations.extend(quiet.err());
    violations.append(&mut fleet.misdeeds);
    let outcome = if violations.is_empty() {
        Ok(figures)
    } else {
        violations.truncate(SHOWN);
        report::keep_log(seed, &fleet.lines());
        Err(format!(
            "=== seed {seed} failed; again: SEED={seed} cargo test -p sandbar-tests --test all -- faults::replay\n\
             {plan}  violations:\n    {}\n{}",
            violations.join("\n    "),
            fleet.last_lines(SHOWN)
        ))
    };
    Ran { plan, took: start.elapsed(), outcome }
}
