use super::*;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
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
