use super::{
    super::tests::{Bed, DB, WEB, id, running, stopped},
    *,
};
use crate::watch::container::{Depth, Event, State};

const IP: &str = "10.0.0.2";

/// `web` runs.
fn bed() -> Bed {
    let mut bed = Bed::new();
    bed.start(&running(WEB, IP));
    bed
}

impl Bed {
    fn kill(&mut self, signal: i32) -> &mut Self {
        self.apply(Event::Killed { id: id(WEB), signal })
    }

    /// How long the last signal is given to stop the container, and the end of that time.
    fn wait(&self) -> (Duration, Event) {
        let wait = |wish: &Wish| match wish {
            Wish::Wait { id, ticket, time } => Some((*time, Event::Waited { id: id.clone(), ticket: *ticket })),
            _ => None,
        };
        self.wishes.iter().rev().find_map(wait).expect("a time to wait")
    }

    fn drain(&mut self, text: &str) -> Vec<String> {
        self.order(&Command::Drain(Target::Named(text.into())))
    }

    fn undrain(&mut self, text: &str) -> Vec<String> {
        self.order(&Command::Undrain(Target::Named(text.into())))
    }

    /// Whom it is about, or why it cannot be done.
    fn order(&mut self, command: &Command) -> Vec<String> {
        match self.command(command) {
            Ok(outcome) => outcome.containers.iter().map(|(id, name)| format!("{id} {name}")).collect(),
            Err(error) => vec![error.to_string()],
        }
    }
}

/// The same container in its next run.
fn again() -> Inspected {
    Inspected { started: Some("run-2".into()), ..running(WEB, IP) }
}

#[test]
fn the_stop_signal_drains_at_once_and_no_other_does() {
    let rows = [
        (None, 15, true),
        (None, 2, true),
        (None, 3, true),
        (None, 9, true),
        (None, 1, false),
        (None, 10, false),
        (Some("SIGQUIT"), 3, true),
        (Some("SIGHUP"), 1, true),
        (Some("USR1"), 10, true),
        (Some("10"), 10, true),
        (Some("SIGRTMIN+3"), 37, true),
        (Some("RTMIN"), 34, true),
        (Some("SIGRTMIN+3"), 36, false),
        (Some("SIGNONSENSE"), 1, false),
        (Some("SIGUSR1"), 15, true),
    ];
    for (own, signal, drains) in rows {
        let mut bed = Bed::new();
        bed.start(&Inspected { stop_signal: own.map(Into::into), ..running(WEB, IP) });
        let expected = if drains { "10.0.0.2 draining" } else { IP };
        assert_eq!(bed.kill(signal).published(), [expected], "signal {signal} to one that stops by {own:?}");
    }
}

#[test]
fn neither_a_list_nor_an_inspect_undoes_a_drain_and_the_end_of_the_run_does() {
    let mut bed = bed();
    bed.kill(15);
    bed.listed(&[&running(WEB, IP)]);
    bed.listed_at(bed.containers.now(), Depth::Every, &[&running(WEB, IP)]).answer(&running(WEB, IP));
    bed.apply(Event::Changed(id(WEB))).answer(&running(WEB, IP));
    assert_eq!(bed.published(), ["10.0.0.2 draining"]);
    bed.died(WEB);
    bed.start(&again());
    assert_eq!(bed.published(), [IP]);
    // The end and the start were lost; the inspect tells of another run.
    bed.kill(15);
    bed.apply(Event::Changed(id(WEB))).answer(&Inspected { started: Some("run-3".into()), ..running(WEB, IP) });
    assert_eq!(bed.published(), [IP]);
}

#[test]
fn a_signal_to_a_container_that_is_not_known_yet_is_remembered() {
    let mut bed = Bed::new();
    bed.kill(15);
    bed.listed(&[&running(WEB, IP)]).answer(&running(WEB, IP));
    assert_eq!(bed.published(), ["10.0.0.2 draining"]);
}

#[test]
fn a_container_that_runs_on_after_its_time_to_stop_serves_again() {
    for (own, seconds) in [(None, 15), (Some(3), 8), (Some(0), 5), (Some(-1), 15)] {
        let mut bed = Bed::new();
        bed.start(&Inspected { stop_timeout: own, ..running(WEB, IP) });
        let (first, early) = bed.kill(2).wait();
        assert_eq!(first, Duration::from_secs(seconds), "{own:?}");
        let (_, late) = bed.kill(15).wait();
        assert_eq!(bed.apply(early).published(), ["10.0.0.2 draining"], "the second signal has its own time");
        assert_eq!(bed.apply(late).published(), [IP]);
    }
}

#[test]
fn a_container_that_is_paused_on_its_way_out_is_paused() {
    let mut bed = bed();
    bed.kill(15).apply(Event::Paused(id(WEB)));
    assert_eq!(bed.published(), ["10.0.0.2 paused"]);
    bed.apply(Event::Changed(id(WEB))).answer(&running(WEB, IP));
    assert_eq!(bed.published(), ["10.0.0.2 draining"]);
}

#[test]
fn a_command_names_a_container_or_a_service_and_says_what_it_is_about() {
    let mut bed = bed();
    bed.start(&Inspected { name: "shop-web-2".into(), ..running(DB, "10.0.0.3") });
    let (web, db) = ("aaaaaaaaaaaa shop-web-1", "bbbbbbbbbbbb shop-web-2");
    for (text, expected) in [
        ("shop-web-1", vec![web]),
        ("/shop-web-1", vec![web]),
        ("aaaa", vec![web]),
        (WEB, vec![web]),
        ("web", vec![web, db]),
        ("web.shop", vec![web, db]),
    ] {
        assert_eq!(bed.drain(text), expected, "{text}");
        assert_eq!(
            bed.desired.publications.values().filter(|p| p.phase == crate::model::Phase::Draining).count(),
            expected.len()
        );
        assert_eq!(bed.undrain(text), expected, "{text}");
        assert_eq!(bed.published(), [IP, "10.0.0.3"]);
    }
    for text in ["aaa", "web.other", "nothing", "", "cccc"] {
        let round = bed.desired.round;
        let [error] = &bed.drain(text)[..] else { panic!("{text}") };
        assert!(error.contains("docker ps") && bed.desired.round == round, "{text}: {error}");
    }
}

#[test]
fn what_is_drained_stays_so_until_it_is_undrained_or_starts_anew() {
    let mut bed = bed();
    bed.drain("web");
    assert!(bed.desired.drained);
    bed.listed(&[&running(WEB, IP)]);
    bed.apply(Event::Changed(id(WEB))).answer(&running(WEB, IP));
    assert_eq!(bed.published(), ["10.0.0.2 draining"]);
    bed.apply(Event::Killed { id: id(WEB), signal: 15 }).died(WEB);
    assert!(bed.desired.drained, "it may come back as it was, as far as anybody knows");
    bed.start(&again());
    assert_eq!((bed.published(), bed.desired.drained), (vec![IP.to_owned()], false));
}

#[test]
fn a_container_that_has_only_just_started_can_be_drained() {
    let unknown = Inspected { started: None, ..running(WEB, IP) };
    for (next, expected) in [(running(WEB, IP), "10.0.0.2 draining"), (again(), "10.0.0.2 draining")] {
        let mut bed = Bed::new();
        bed.start(&unknown);
        bed.drain("web");
        assert_eq!(bed.published(), ["10.0.0.2 draining"]);
        bed.apply(Event::Changed(id(WEB))).answer(&next);
        assert_eq!(bed.published(), [expected], "its inspect tells which run is meant");
        bed.died(WEB).start(&Inspected { started: Some("run-9".into()), ..running(WEB, IP) });
        assert_eq!((bed.published(), bed.desired.drained), (vec![IP.to_owned()], false));
    }
    let mut bed = Bed::new();
    bed.start(&unknown);
    bed.drain("web");
    bed.died(WEB).start(&again());
    assert_eq!(bed.published(), [IP], "the run that was meant is over");
}

#[test]
fn a_drain_survives_the_agent_and_goes_with_its_container() {
    let mut first = bed();
    first.drain("web");
    let held: Drains = serde_json::from_str(&serde_json::to_string(first.containers.drains()).unwrap()).unwrap();
    for (runs, expected) in
        [(Some(running(WEB, IP)), vec!["10.0.0.2 draining"]), (Some(again()), vec![IP]), (None, vec![])]
    {
        let mut bed = Bed::default();
        bed.containers.restore_drains(held.clone());
        bed.listed_at(bed.containers.now(), Depth::Every, &runs.iter().collect::<Vec<_>>());
        if let Some(inspected) = &runs {
            bed.answer(inspected);
        }
        assert_eq!(
            (bed.published(), bed.desired.drained),
            (expected.iter().map(|s| (*s).to_owned()).collect(), expected == ["10.0.0.2 draining"])
        );
    }
    first.apply(Event::Destroyed(id(WEB)));
    assert!(!first.desired.drained && !first.containers.drains().are_any());
}

#[test]
fn the_whole_host_is_drained_with_what_is_yet_to_come() {
    let mut bed = bed();
    bed.order(&Command::Drain(Target::Host));
    bed.start(&Inspected { name: "shop-web-2".into(), ..running(DB, "10.0.0.3") });
    assert_eq!(bed.published(), ["10.0.0.2 draining", "10.0.0.3 draining"]);
    let [error] = &bed.undrain("shop-web-1")[..] else { panic!() };
    assert!(error.contains("undrain --host"), "{error}");
    bed.order(&Command::Undrain(Target::Host));
    assert_eq!(
        (bed.published(), bed.desired.drained, bed.desired.round),
        (vec![IP.to_owned(), "10.0.0.3".to_owned()], false, 2)
    );
}

#[test]
fn what_has_ended_is_not_drained() {
    let mut bed = bed();
    bed.apply(Event::Changed(id(WEB))).answer(&stopped(running(WEB, IP)));
    assert!(bed.drain("shop-web-1")[0].contains("nothing that runs"));
    assert_eq!(
        bed.containers
            .entries
            .values()
            .filter(|entry| entry.inspected.as_ref().is_some_and(|i| i.state == State::Running))
            .count(),
        0
    );
}
