//! Several hosts against one model etcd in virtual time: one seed is one run, with faults first and quiet at the end.
//!
//! A failing seed is printed; `PORTOLAN_SIM_SEED=<seed> cargo nextest run --test sim` runs it alone and tells every
//! step. `PORTOLAN_SIM_SEEDS=<count>` runs that many. Seeds that found something stay below, by name.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::world::World;

mod faults;
mod hosts;
mod verdict;
mod wires;
mod world;

/// Seeds of every run of the tests: some 20 s of one core.
const SEEDS: u64 = 1_200;

fn run(seed: u64) {
    let outcome = catch_unwind(AssertUnwindSafe(|| World::new(seed).run()));
    if let Err(panic) = outcome {
        eprintln!("the simulation failed: run PORTOLAN_SIM_SEED={seed} cargo nextest run --test sim --no-capture");
        resume_unwind(panic);
    }
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

#[test]
fn hosts_agree_in_the_end_whatever_etcd_and_the_network_do() {
    match number("PORTOLAN_SIM_SEED") {
        Some(seed) => run(seed),
        None => (0..number("PORTOLAN_SIM_SEEDS").unwrap_or(SEEDS)).for_each(run),
    }
}

/// A publisher whose pause was over, but which had nothing left to do, asked to be woken in the past.
#[test]
fn seed_121_nobody_spins_after_a_refused_put() {
    run(121);
}
