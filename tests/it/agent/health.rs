//! Checks of real containers: who is given, who is given instead, and who is still in `all.`.

use std::time::{Duration, Instant};

use super::bed::{Home, address, engine_bed, eventually};
use crate::engine::docker;

/// Serves `/health` as long as there is such a file.
const SERVER: &str = "busybox mkdir /w && busybox touch /w/health && exec busybox httpd -f -p 80 -h /w";

/// Waits until a name has these addresses and no others, and says how long that took.
#[track_caller]
fn until_addresses(home: &Home, name: &str, expected: &[&str]) -> Duration {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let began = Instant::now();
    eventually(format_args!("{name} is {expected:?}"), || {
        let mut data = home.ask(name)?.data;
        data.sort();
        (data == expected).then_some(())
    });
    began.elapsed()
}

#[test]
fn who_fails_leaves_the_answers_and_comes_back_when_nobody_is_better() {
    let (bed, home) = (engine_bed("health"), Home::new(&[]));
    let _agent = home.start();
    home.until_ready();
    let service = bed.name("web");
    let label = format!("portolan.service={service}");
    let labels = ["http=/health", "interval=1s", "fall=2"].map(|field| format!("portolan.check.{field}"));
    let mut options = vec!["--expose", "80", "--label", &label];
    labels.iter().for_each(|label| options.extend(["--label", label]));
    for container in ["one", "two"] {
        bed.run(container, &options, &["sh", "-c", SERVER]);
    }
    let (one, two) = (address(&bed.name("one")), address(&bed.name("two")));
    let name = format!("{service}.global");
    until_addresses(&home, &name, &[&one, &two]);
    let all = format!("all.{name}");
    let fail = |container: &str| docker(&["exec", &bed.name(container), "busybox", "rm", "/w/health"]);
    let state = || {
        let services = home.json("/v1/services");
        let list = services["services"].as_array().expect("a list");
        let own = list.iter().find(|found| found["service"] == *service).expect("it is listed").clone();
        (own["ready"].as_u64(), own["answers"].as_str().map(str::to_owned))
    };
    // Both are given from the start, and are ready once their servers listen.
    let ready = (Some(2), Some("ready".to_owned()));
    eventually("both are ready", || (state() == ready).then_some(()));

    fail("one");
    let took = until_addresses(&home, &name, &[&two]);
    // An interval of 1 s and two failures, with as much again for a busy machine.
    assert!(took < Duration::from_secs(4), "{took:?}");
    until_addresses(&home, &all, &[&one, &two]);
    assert_eq!(state(), (Some(1), Some("ready".to_owned())));

    fail("two");
    until_addresses(&home, &name, &[&one, &two]);
    assert_eq!(state(), (Some(0), Some("unhealthy".to_owned())));
    assert!(home.metric("portolan_catalog_services_without_ready{answers=\"unhealthy\"}") >= 1.0);
    assert!(home.metric("portolan_check_results_total{result=\"fail\"}") >= 4.0);
    let table = String::from_utf8(home.client(&["services"]).stdout).expect("text");
    let row = table.lines().find(|line| line.starts_with(&service)).expect("it is listed");
    assert!(row.contains("unhealthy"), "{table}");

    docker(&["exec", &bed.name("one"), "busybox", "touch", "/w/health"]);
    until_addresses(&home, &name, &[&one]);
    // It is not asked, and not missed.
    docker(&["pause", &bed.name("one")]);
    until_addresses(&home, &name, &[&two]);
    until_addresses(&home, &all, &[&one, &two]);
    docker(&["unpause", &bed.name("one")]);
    until_addresses(&home, &name, &[&one]);
}

#[test]
fn a_restart_of_the_agent_takes_no_checked_container_away_and_a_program_needs_the_operators_word() {
    let bed = engine_bed("program");
    let programs = tempfile::tempdir().expect("a temporary directory");
    let home = Home::new(&["--check-commands", programs.path().to_str().expect("text")]);
    let refusing = Home::new(&[]);
    std::os::unix::fs::symlink("/bin/true", programs.path().join("fine")).expect("a link");
    // An hour until the second question: what is answered then is what was presumed, or found at once.
    let labels = ["--label", "portolan.check.cmd=fine now", "--label", "portolan.check.interval=1h"];
    let name = format!("{}.default", bed.name("web"));
    let agent = home.start();
    home.until_ready();
    bed.sleeper("web", &labels);
    let ip = address(&bed.name("web"));
    home.until_address(&name, &ip);
    assert!(agent.end(nix::sys::signal::Signal::SIGTERM).success());
    let _agent = home.start();
    home.until_ready();
    assert_eq!(home.ask(&name).expect("a reply").data, [ip.as_str()]);

    let _other = refusing.start();
    refusing.until_address(&name, &ip);
    let own = format!("({})", bed.name("web"));
    let problem = eventually("a problem", || refusing.problems().into_iter().find(|problem| problem.contains(&own)));
    assert!(problem.contains("--check-commands"), "{problem}");
    assert!(!home.problems().iter().any(|problem| problem.contains(&own)), "{:?}", home.problems());
}
