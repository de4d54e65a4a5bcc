//! Runs a test once for each of many seeds, and says which seed failed.
//!
//! `TIDEGATE_SEEDS` sets how many; `TIDEGATE_SEED` reruns one.

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use fastrand::Rng;

/// Calls `test` with the generator of each seed.
pub fn for_each_seed(default_count: u64, test: impl Fn(&mut Rng)) {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("TIDEGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TIDEGATE_SEEDS").unwrap_or(default_count),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(&mut Rng::with_seed(seed)))) {
            eprintln!("this was seed {seed}: rerun it with TIDEGATE_SEED={seed}");
            resume_unwind(panic);
        }
    }
}
