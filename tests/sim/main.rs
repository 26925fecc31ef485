//! Several hosts against one model etcd in virtual time: one seed is one run, with faults first and quiet at the end.
//!
//! A failing seed is printed; `PORTOLAN_SIM_SEED=<seed> cargo nextest run --test sim` runs it alone and tells every
//! step. `PORTOLAN_SIM_SEEDS=<count>` runs that many. Seeds that found something stay below, by name.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use portolan::registry::mirror::PageSizes;

use crate::{faults::Weather, world::World};

mod drains;
mod faults;
mod hosts;
mod verdict;
mod wires;
mod world;

/// Seeds of every run of the tests: some 20 s of one core.
const SEEDS: u64 = 1_200;

/// Seeds in gentle weather, where more can be judged.
const GENTLE_SEEDS: u64 = 400;

/// A fleet here has some 30 keys: several pages of a list, and several pieces of each.
const SMALL: PageSizes = PageSizes { first: 3, smallest: 1, largest: 8, octets: 2_000, piece: 2 };

fn run(seed: u64, weather: Weather, pages: PageSizes) {
    let outcome = catch_unwind(AssertUnwindSafe(|| World::new(seed, weather, pages).run()));
    if let Err(panic) = outcome {
        eprintln!("the simulation failed: run PORTOLAN_SIM_SEED={seed} cargo nextest run --test sim --no-capture");
        resume_unwind(panic);
    }
}

fn number(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().expect("a number"))
}

fn run_all(seeds: u64, weather: Weather) {
    // Every other seed lists page by page.
    let run = |seed: u64| run(seed, weather, if seed.is_multiple_of(2) { PageSizes::default() } else { SMALL });
    match number("PORTOLAN_SIM_SEED") {
        Some(seed) => run(seed),
        None => (0..number("PORTOLAN_SIM_SEEDS").unwrap_or(seeds)).for_each(run),
    }
}

#[test]
fn hosts_agree_in_the_end_whatever_etcd_and_the_network_do() {
    run_all(SEEDS, Weather::Wild);
}

#[test]
fn restarts_and_a_full_etcd_neither_hide_the_living_nor_keep_the_dead() {
    run_all(GENTLE_SEEDS, Weather::Gentle);
}

/// A publisher whose pause was over, but which had nothing left to do, asked to be woken in the past.
#[test]
fn seed_121_nobody_spins_after_a_refused_put() {
    run(121, Weather::Rough, PageSizes::default());
}

/// A first claim that was thought lost landed when the key had been deleted by hand: the same claim once more, and harmless.
#[test]
fn seed_1603_a_first_claim_that_comes_late_changes_nothing() {
    run(1603, Weather::Wild, PageSizes::default());
}

/// A backup that was restored into a cluster which had been set up anew gave out the ids of leases once more.
#[test]
fn seed_2102_no_two_hosts_have_one_lease() {
    run(2102, Weather::Wild, PageSizes::default());
}

/// Without space and with its session key deleted by hand, a host withdrew with the key's absence as the fence. That
/// came true again after the next deletion by hand, for a withdrawal that had been thought lost.
#[test]
fn seed_710_an_absent_session_key_is_no_fence() {
    run(710, Weather::Rough, PageSizes::default());
}

/// A host whose list of an etcd that had gone back was not complete yet took its old catalog, in which others' leases had
/// ended, for the hosts that live, and told that all knew of a drain.
#[test]
fn seed_365_who_lives_is_known_only_where_our_own_word_is_seen() {
    run(365, Weather::Wild, SMALL);
}

/// A host stood still between two pages of a list. Meanwhile etcd had gone back and come to the list's revision once more.
#[test]
fn seed_2847_pages_that_are_far_apart_are_no_list() {
    run(2847, Weather::Wild, SMALL);
}
