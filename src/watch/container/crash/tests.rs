use super::*;
use crate::watch::container::{
    Event, Inspected,
    tests::{Bed, NET, WEB, id, running},
};

/// The container in its n-th run, which its restart policy has started so many times.
fn run(number: u32, restarts: u32) -> Inspected {
    let started = Some(format!("run-{number}").into());
    Inspected { restarts, restarts_itself: true, started, ..running(WEB, "10.0.0.2") }
}

fn at(bed: &mut Bed, milliseconds: u64) -> &mut Bed {
    bed.containers.take_time(milliseconds * 1_000_000);
    bed
}

fn start(bed: &mut Bed, milliseconds: u64, inspected: &Inspected) {
    at(bed, milliseconds).connected(WEB, NET).started(WEB).answer(inspected);
}

/// In its first run from second 100 on.
fn begun() -> Bed {
    let mut bed = Bed::new();
    at(&mut bed, 100_000).start(&run(1, 0));
    bed
}

/// Died so long after it began, and was started again by its policy.
fn crashed_after(milliseconds: u64) -> Bed {
    let mut bed = begun();
    at(&mut bed, 100_000 + milliseconds).died(WEB);
    start(&mut bed, 200_000, &run(2, 1));
    bed
}

fn health(bed: &Bed) -> Health {
    bed.desired.publications[&id(WEB).short()].health
}

/// The last wait that was asked for.
fn wait(bed: &Bed) -> Option<(Ticket, Duration)> {
    bed.wishes.iter().rev().find_map(|wish| match wish {
        Wish::Wait { ticket, time, .. } => Some((*ticket, *time)),
        _ => None,
    })
}

#[test]
fn a_run_that_the_policy_began_after_a_short_one_is_held_as_long_as_that_one_lived() {
    for (lived, held) in [(0, true), (2_500, true), (9_999, true), (10_000, false), (60_000, false)] {
        let mut bed = crashed_after(lived);
        assert_eq!(health(&bed) == Health::Held, held, "after {lived} ms");
        let Some((ticket, time)) = wait(&bed) else {
            assert!(!held);
            continue;
        };
        assert_eq!(time, Duration::from_millis(lived));
        bed.apply(Event::Waited { id: id(WEB), ticket });
        assert_eq!(health(&bed), Health::None, "it has lived as long");
        // A second inspect of the same run decides nothing.
        bed.apply(Event::Changed(id(WEB))).answer(&Inspected { name: "renamed".into(), ..run(2, 1) });
        assert_eq!(health(&bed), Health::None);
    }
}

#[test]
fn whatever_a_person_or_the_engine_started_is_not_held() {
    let mut bed = begun();
    at(&mut bed, 101_000).died(WEB);
    start(&mut bed, 102_000, &run(2, 0));
    assert_eq!((health(&bed), wait(&bed)), (Health::None, None), "docker restart, docker start, the engine's start");

    // It was lost sight of: nothing is known of how long it lived.
    let mut bed = begun();
    bed.apply(Event::Lost);
    at(&mut bed, 101_000).died(WEB);
    start(&mut bed, 102_000, &run(2, 1));
    assert_eq!(health(&bed), Health::None);
    at(&mut bed, 103_000).died(WEB);
    start(&mut bed, 104_000, &run(3, 2));
    assert_eq!(health(&bed), Health::Held, "the next crash is seen");

    let mut bed = begun();
    bed.containers.set_crash_hold(false);
    at(&mut bed, 101_000).died(WEB);
    start(&mut bed, 102_000, &run(2, 1));
    assert_eq!(health(&bed), Health::None, "--crash-hold off");
}

#[test]
fn a_health_check_of_its_own_decides_alone() {
    let mut bed = begun();
    at(&mut bed, 101_000).died(WEB);
    start(&mut bed, 102_000, &Inspected { checked: true, health: Health::Starting, ..run(2, 1) });
    assert_eq!((health(&bed), wait(&bed)), (Health::Starting, None));
    bed.apply(Event::Changed(id(WEB))).answer(&Inspected { checked: true, health: Health::Healthy, ..run(2, 1) });
    assert_eq!(health(&bed), Health::Healthy);
}

#[test]
fn the_end_of_another_run_s_wait_ends_nothing() {
    let mut bed = crashed_after(5_000);
    let (first, _) = wait(&bed).unwrap();
    at(&mut bed, 201_000).died(WEB);
    start(&mut bed, 202_000, &run(3, 2));
    let (second, time) = wait(&bed).unwrap();
    assert_eq!(time, Duration::from_secs(1), "what counts is the run before");
    bed.apply(Event::Waited { id: id(WEB), ticket: first });
    assert_eq!(health(&bed), Health::Held);
    bed.apply(Event::Waited { id: id(WEB), ticket: second });
    assert_eq!(health(&bed), Health::None);
}

#[test]
fn nothing_is_presumed_of_a_start_that_may_be_a_crash_loop_s() {
    for (itself, presumed) in [(true, false), (false, true)] {
        let mut bed = Bed::new();
        let first = Inspected { restarts_itself: itself, ..run(1, 0) };
        at(&mut bed, 100_000).start(&first);
        at(&mut bed, 101_000).died(WEB);
        bed.connected(WEB, NET);
        let began = bed.containers.now();
        bed.network_shows(began, NET, &[(WEB, "10.0.0.2")]);
        at(&mut bed, 102_000).started(WEB);
        assert_eq!(!bed.desired.publications.is_empty(), presumed, "with a restart policy: {itself}");
    }
}
