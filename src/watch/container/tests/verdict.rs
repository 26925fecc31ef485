//! What the engine's own health check said of a run stands until it says something else: also where the engine is restarted
//! under its containers, and begins its checks from nothing (live-restore, engines since 25).

use super::*;

fn checked(health: Health) -> Inspected {
    Inspected { health, checked: true, ..running(WEB, "10.0.0.2") }
}

impl Bed {
    /// The engine is restarted, and its next inspect says this.
    fn engine_restarts(&mut self, inspected: &Inspected) -> &mut Self {
        self.apply(Event::Lost);
        self.listed_at(self.containers.now(), Depth::Every, &[inspected]).answer(inspected)
    }

    /// The next list's inspect says this.
    fn seen(&mut self, inspected: &Inspected) -> &mut Self {
        self.listed(&[inspected]).answer(inspected)
    }

    fn health(&self) -> Health {
        self.desired.publications.values().next().expect("it is published").health
    }
}

#[test]
fn a_restarted_engine_takes_no_verdict_back() {
    for verdict in [Health::Healthy, Health::Unhealthy] {
        let mut bed = Bed::new();
        bed.start(&checked(Health::Starting)).seen(&checked(verdict));
        assert_eq!(bed.health(), verdict);
        let before = bed.desired.clone();
        bed.engine_restarts(&checked(Health::Starting)).seen(&checked(Health::Starting));
        bed.engine_restarts(&checked(Health::Starting));
        assert_eq!(bed.desired, before, "nothing is published");
    }
}

#[test]
fn the_next_verdict_counts_at_once() {
    let mut bed = Bed::new();
    bed.start(&checked(Health::Healthy)).engine_restarts(&checked(Health::Starting));
    for verdict in [Health::Unhealthy, Health::Healthy, Health::Unhealthy] {
        bed.seen(&checked(verdict)).seen(&checked(Health::Starting));
        assert_eq!(bed.health(), verdict);
    }
}

#[test]
fn another_run_and_one_without_a_verdict_are_starting() {
    let mut bed = Bed::new();
    bed.start(&checked(Health::Starting)).engine_restarts(&checked(Health::Starting));
    assert_eq!(bed.health(), Health::Starting, "there was no verdict");
    bed.seen(&checked(Health::Healthy));
    let next = Inspected { started: Some("run-2".into()), ..checked(Health::Starting) };
    bed.died(WEB).started(WEB).answer(&next);
    assert_eq!(bed.health(), Health::Starting, "it was started again");
    bed.seen(&Inspected { health: Health::Healthy, ..next.clone() });
    // Started again while the engine was away: no event tells of it.
    bed.engine_restarts(&Inspected { started: Some("run-3".into()), ..next });
    assert_eq!(bed.health(), Health::Starting, "it was started again, unheard");
}

#[test]
fn a_container_without_a_check_any_more_has_no_health() {
    let mut bed = Bed::new();
    bed.start(&checked(Health::Healthy)).seen(&checked(Health::None));
    assert_eq!(bed.health(), Health::None);
}
