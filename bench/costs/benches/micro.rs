//! How long each step takes. `make bench-micro` runs it; arguments after `--` choose steps by name.
//!
//! Times are of this machine, now: they say where time goes and whether a change helps, and are compared only with
//! times of the same hour. What must not grow is counted (`make bench-count`).
#![expect(clippy::expect_used, reason = "a step that fails ends the measurement")]

use std::cell::RefCell;

use divan::Bencher;
use divan::counter::ItemsCount;
use sandbar_costs::{Named, Place, STEPS};

/// As the host allocates.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

/// Shown by name in the table.
struct Shown(Named);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.name)
    }
}

fn steps(wanted: fn(Place) -> bool) -> impl Iterator<Item = Shown> {
    STEPS.iter().copied().filter(move |step| wanted(step.place)).map(Shown)
}

/// The steps that use nothing up.
#[divan::bench(args = steps(|place| matches!(place, Place::Here | Place::HereInGuests)))]
fn memory(bencher: Bencher<'_, '_>, Shown(named): &Shown) {
    let mut step = named.make().expect("set up the step");
    bencher.counter(ItemsCount::new(named.events)).bench_local(|| step.run().expect("do the step"));
}

/// The steps that need something made ready each time, so that none can be done many times in one sample.
#[divan::bench(args = steps(|place| matches!(place, Place::HereWithRedis | Place::Elsewhere)), sample_size = 1)]
fn bus(bencher: Bencher<'_, '_>, Shown(named): &Shown) {
    let step = RefCell::new(named.make().expect("set up the step"));
    bencher
        .counter(ItemsCount::new(named.events))
        .with_inputs(|| step.borrow_mut().prepare().expect("prepare the step"))
        .bench_local_values(|()| step.borrow_mut().run().expect("do the step"));
}
