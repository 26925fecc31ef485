use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn container(digit: char) -> ShortId {
    ShortId::parse(&digit.to_string().repeat(12)).unwrap()
}

fn journal() -> Journal {
    Journal::new("unix:///run/docker.sock".parse().unwrap())
}

fn shown(journal: &Journal) -> Vec<(String, String)> {
    journal.problems().into_iter().map(|problem| (problem.place, problem.expected)).collect()
}

#[test]
fn an_engine_that_is_away_is_a_problem_until_it_is_back_and_says_what_is_known_of_it() {
    let mut journal = journal();
    journal.take_loss(seconds(1), false, "no socket at /run/docker.sock");
    let [problem] = &journal.problems()[..] else { panic!("one problem") };
    assert_eq!(
        (&*problem.place, &*problem.found),
        ("--docker-host unix:///run/docker.sock", "no socket at /run/docker.sock")
    );
    assert!(
        problem
            .expected
            .ends_with("until then containers of this host are not known yet; names of other hosts are answered")
    );
    journal.take_return(seconds(2));
    assert_eq!(journal.problems(), []);
    journal.take_loss(seconds(3), true, "the event stream ended");
    assert_eq!(journal.problems(), [], "a connection that ends is no outage yet");
    journal.take_loss(seconds(4), false, "no socket");
    assert!(shown(&journal)[0].1.ends_with("until then names of this host stay as last seen"), "{:?}", shown(&journal));
}

#[test]
fn refused_inspects_are_one_problem_until_no_container_of_them_fails() {
    let mut journal = journal();
    let (web, db) = (container('a'), container('b'));
    assert!(!journal.settle(seconds(1), |_| true), "nothing was refused");
    journal.take_refusal(seconds(1), web, "refused");
    journal.take_refusal(seconds(1), db, "refused");
    let [(place, expected)] = &shown(&journal)[..] else { panic!("one problem: {:?}", shown(&journal)) };
    assert_eq!(place, "--docker-host unix:///run/docker.sock, GET /containers/<id>/json");
    assert!(expected.starts_with("a proxy before the engine that allows GET /containers/<id>/json; until then"));
    assert!(!journal.settle(seconds(2), |id| id == db));
    assert_eq!(journal.problems().len(), 1, "the other is still refused");
    assert!(journal.settle(seconds(3), |_| false));
    assert_eq!(journal.problems(), []);
    assert!(!journal.settle(seconds(4), |_| false), "it is told once");
}

#[test]
fn an_engine_that_is_away_and_refused_inspects_are_two_problems() {
    let mut journal = journal();
    journal.take_refusal(seconds(1), container('a'), "refused");
    journal.take_loss(seconds(2), false, "no socket");
    assert_eq!(journal.problems().len(), 2);
    journal.take_return(seconds(3));
    assert_eq!(shown(&journal).len(), 1, "what was refused was not asked for again");
}
