//! The computation alone: the benchmark builds this file for the machine too.

/// Steps that take about 100 µs on a core of 3 GHz.
const STEPS: u32 = 50_000;

/// Random numbers of xorshift64, each made of the one before, so no step can be left out or done beside another.
pub(crate) fn compute(seed: u64) -> u64 {
    let mut state = seed | 1;
    for _ in 0..STEPS {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    state
}
