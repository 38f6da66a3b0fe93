//! Many seeds of the simulation, and the proof that it would notice: each planted bug is found.
//!
//! `MEW_SIM_SEEDS` says how many seeds, `MEW_SIM_FIRST` which is the first; a failure prints both for its replay.

use mew_tests::sim::scenario::{Mutant, Scenario};
use mew_tests::sim::{Stats, run};

const FIRST: u64 = 20_261_121;
const SEEDS: u64 = 500;
/// A planted bug must show within so many seeds.
const MUTANT_SEEDS: u64 = 50;

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")),
        Err(_) => otherwise,
    }
}

#[test]
fn simulation_holds_for_many_seeds() {
    let (first, seeds) = (number("MEW_SIM_FIRST", FIRST), number("MEW_SIM_SEEDS", SEEDS));
    let mut total = Stats::default();
    for seed in first..first + seeds {
        match run(seed, Scenario::of(seed)) {
            Ok(stats) => total.add(stats),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{seeds} seeds from {first}: {total:?}");
    if seeds >= 100 {
        let busy =
            [total.writes, total.crashes, total.applied, total.held, total.rewritten].iter().all(|n| *n > seeds / 10);
        assert!(busy, "the simulation hardly does anything: {total:?}");
    }
}

#[test]
fn a_seed_is_always_the_same_run() {
    for seed in FIRST..FIRST + 20 {
        let steps = || run(seed, Scenario::of(seed)).map_err(|f| f.violation);
        assert_eq!(steps(), steps(), "seed {seed}");
    }
}

#[test]
fn planted_bugs_are_found() {
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        let found = (FIRST..FIRST + MUTANT_SEEDS).find_map(|seed| {
            let planted = Scenario::planted(seed, mutant);
            let failure = run(seed, planted.clone()).err()?;
            // The seed must be sound without the bug, or it proves nothing.
            run(seed, Scenario { mutant: None, ..planted }).ok()?;
            Some(failure)
        });
        match found {
            Some(f) => println!("{mutant:?}: seed {} violates {}: {}", f.seed, f.violation.name, f.violation.message),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not found within {MUTANT_SEEDS} seeds: {missed:?}");
}
