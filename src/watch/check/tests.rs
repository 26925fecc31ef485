use super::*;
use crate::{
    model::Problem,
    watch::{
        labels::{self, Subject},
        metadata::Metadata,
    },
};

/// A container called `box` with these ports.
fn read_box(metadata: &Metadata, ports: &BTreeSet<(u16, Proto)>) -> (labels::Claim, Vec<Problem>) {
    let subject = Subject { name: "box", image: "image", ports, published: ports, metadata, member: true };
    labels::read(&labels::Options::default(), "here", subject)
}

/// Reads labels (and `$KEY=value` as environment) of a container with ports 80/tcp, 53/udp and 443/tcp.
fn read(words: &[&str]) -> (Arc<[Check]>, Vec<Problem>) {
    let (environment, labels): (Vec<&str>, Vec<&str>) = words.iter().partition(|word| word.starts_with('$'));
    let labels = labels.iter().map(|label| label.split_once('=').expect("key=value"));
    let metadata = Metadata::gather(labels, environment.iter().map(|variable| &variable[1..]));
    let ports = [(80, Proto::Tcp), (53, Proto::Udp), (443, Proto::Tcp)].into();
    let (claim, problems) = read_box(&metadata, &ports);
    (claim.checks, problems)
}

/// A check as text: `http GET /path :80 10s/5s 1/3`, and the keys of the problems.
fn show(checks: &[Check], problems: &[Problem]) -> String {
    let check = |check: &Check| {
        let what = match &check.ask {
            Ask::Tcp => "tcp".to_owned(),
            Ask::Http { method, path, .. } => format!("{} {method} {}", check.ask.kind(), path.0),
            Ask::Command { program, arguments } => {
                let words: Vec<&str> = std::iter::once(program).chain(arguments).map(|word| &*word.0).collect();
                format!("cmd {}", words.join("|"))
            }
        };
        let port = check.port.map_or_else(|| "-".to_owned(), |port| port.to_string());
        let initial = if check.initial == Initial::Healthy { " healthy" } else { "" };
        let Check { interval, timeout, rise, fall, .. } = check;
        format!("{what} :{port} {interval:?}/{timeout:?} {rise}/{fall}{initial}")
    };
    let key = |problem: &Problem| format!("!{}", problem.place.rsplit(' ').next().unwrap_or_default());
    checks.iter().map(check).chain(problems.iter().map(key)).collect::<Vec<_>>().join("; ")
}

#[track_caller]
fn check(words: &[&str], expected: &str) {
    let (checks, problems) = read(words);
    assert_eq!(show(&checks, &problems), expected, "{words:?}");
}

#[test]
fn a_check_is_asked_at_the_main_port_unless_it_names_another() {
    check(&[], "");
    check(&["portolan.check.http=/health?deep=1"], "http GET /health?deep=1 :80 10s/5s 1/3");
    check(&["portolan.check.http=/", "portolan.port=443"], "http GET / :443 10s/5s 1/3");
    check(&["portolan.check.https=/", "portolan.check.port=8443"], "https GET / :8443 10s/5s 1/3");
    check(&["portolan.check.tcp=true"], "tcp :80 10s/5s 1/3");
    check(&["portolan.check.tcp=false"], "");
    check(&["portolan.check.http="], "");
    check(&["portolan.check.cmd=check-db  --fast x"], "cmd check-db|--fast|x :80 10s/5s 1/3");
    let all = ["http=/", "interval=2s", "timeout=500ms", "rise=2", "fall=5", "method=head", "initial=healthy"];
    let all: Vec<String> = all.iter().map(|field| format!("portolan.check.{field}")).collect();
    check(&all.iter().map(String::as_str).collect::<Vec<_>>(), "http HEAD / :80 2s/500ms 2/5 healthy");
    check(&["portolan.check.http=/", "portolan.check.interval=1m30s"], "http GET / :80 90s/5s 1/3");
    check(&["portolan.check.http=/", "portolan.check.interval=2s"], "http GET / :80 2s/2s 1/3");
}

#[test]
fn a_port_has_a_check_of_its_own_and_the_general_fields() {
    let both = ["portolan.check.http=/", "portolan.port.443.check.https=/s", "portolan.check.interval=3s"];
    check(&both, "https GET /s :443 3s/3s 1/3; http GET / :80 3s/3s 1/3");
    let same = ["portolan.check.http=/", "portolan.port.80.check.tcp=true", "portolan.port.80.check.fall=1"];
    check(&same, "tcp :80 10s/5s 1/1");
    check(&["SERVICE_443_CHECK_HTTP=/", "SERVICE_CHECK_INTERVAL=15s"], "http GET / :443 15s/5s 1/3");
    check(&["portolan.port.80.check.port=81"], "!portolan.port.80.check.port");
    let many: Vec<String> = (1..=9).map(|port| format!("portolan.port.{port}.check.tcp=true")).collect();
    let (checks, problems) = read(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!((checks.len(), problems.len()), (MAX_CHECKS, 1));
}

#[test]
fn of_several_kinds_the_first_counts_and_our_own_before_registrators() {
    let all = [
        ("HTTP=/a", "http GET /a :80 10s/5s 1/3"),
        ("HTTPS=/b", "https GET /b :80 10s/5s 1/3"),
        ("SCRIPT=probe $x", "cmd probe|$x :80 10s/5s 1/3"),
        ("TCP=true", "tcp :80 10s/5s 1/3"),
    ];
    for first in 0..all.len() {
        let words: Vec<String> = all[first..].iter().map(|(word, _)| format!("SERVICE_CHECK_{word}")).collect();
        check(&words.iter().map(String::as_str).collect::<Vec<_>>(), all[first].1);
    }
    check(&["SERVICE_CHECK_HTTP=/a", "portolan.check.tcp=true"], "tcp :80 10s/5s 1/3");
    check(&["SERVICE_CHECK_HTTP=/a", "portolan.check.http=/b"], "http GET /b :80 10s/5s 1/3");
    check(&["SERVICE_CHECK_HTTP=/a", "$SERVICE_CHECK_HTTP=/b"], "http GET /a :80 10s/5s 1/3");
    check(&["$SERVICE_check_http=/b", "$SERVICE_CHECK_HTTP_METHOD=post"], "http POST /b :80 10s/5s 1/3");
    check(&["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_INITIAL_STATUS=passing"], "tcp :80 10s/5s 1/3 healthy");
    check(&["SERVICE_CHECK_TCP=true", "SERVICE_CHECK_INITIAL_STATUS=critical"], "tcp :80 10s/5s 1/3");
}

#[test]
fn what_cannot_be_done_is_a_problem_that_names_the_way_out() {
    let rows = [
        ("SERVICE_CHECK_GRPC=true", "tcp :80 10s/5s 1/3; !SERVICE_CHECK_GRPC", "portolan.check.tcp"),
        ("SERVICE_CHECK_TTL=30s", "!SERVICE_CHECK_TTL", "portolan.check.http"),
        ("SERVICE_CHECK_CMD=ls", "!SERVICE_CHECK_CMD", "HEALTHCHECK"),
        ("SERVICE_CHECK_DEREGISTER_AFTER=1m", "!SERVICE_CHECK_DEREGISTER_AFTER", "leaves the answers"),
        ("portolan.check.interval=10s", "!portolan.check.interval", "portolan.check.http"),
        ("portolan.check.http=health", "!portolan.check.http", "a path"),
        ("portolan.check.http=/ü", "!portolan.check.http", "a path"),
        ("portolan.check.tcp=80", "!portolan.check.tcp", "'true' or 'false'"),
        ("portolan.check.cmd=/bin/sh", "!portolan.check.cmd", "file name"),
        ("portolan.check.cmd=..", "!portolan.check.cmd", "file name"),
        ("portolan.check.intervall=10s", "!portolan.check.intervall", "portolan.check.interval?"),
        ("portolan.port.80.check.htp=/", "!portolan.port.80.check.htp", "portolan.port.<n>.check.http?"),
    ];
    for (word, expected, way_out) in rows {
        check(&[word], expected);
        let (_, problems) = read(&[word]);
        assert!(problems[0].expected.contains(way_out), "{problems:?}");
    }
    let no_port = Metadata::gather([("portolan.check.tcp", "true")], []);
    let (claim, problems) = read_box(&no_port, &[(53, Proto::Udp)].into());
    assert_eq!((claim.checks.len(), problems.len()), (0, 1));
}

#[test]
fn bad_values_are_problems_and_their_defaults_stand() {
    let rows = [
        ("interval=10", "10s/5s 1/3"),
        ("interval=999ms", "10s/5s 1/3"),
        ("interval=25h", "10s/5s 1/3"),
        ("interval=99999999999999999999s", "10s/5s 1/3"),
        ("interval=18446744073709551615h", "10s/5s 1/3"),
        ("timeout=11s", "10s/5s 1/3"),
        ("timeout=s", "10s/5s 1/3"),
        ("rise=0", "10s/5s 1/3"),
        ("fall=-1", "10s/5s 1/3"),
        ("fall=21", "10s/5s 1/3"),
        ("initial=passing", "10s/5s 1/3"),
        ("method=TRACE", "10s/5s 1/3"),
        ("port=0", "10s/5s 1/3"),
    ];
    for (field, expected) in rows {
        let key = field.split('=').next().unwrap();
        let word = format!("portolan.check.{field}");
        check(&["portolan.check.http=/", &word], &format!("http GET / :80 {expected}; !portolan.check.{key}"));
    }
}

#[test]
fn no_value_of_an_environment_is_shown() {
    let words = [
        "$SERVICE_CHECK_HTTP=s3cr3t",
        "$SERVICE_8080_CHECK_SCRIPT=/s3cr3t",
        "$SERVICE_CHECK_TTL=s3cr3t",
        "$SERVICE_443_CHECK_HTTP=/s3cr3t",
        "$SERVICE_CHECK_INTERVAL=s3cr3t",
    ];
    let (checks, problems) = read(&words);
    assert_eq!((checks.len(), problems.len()), (1, 4), "{problems:?}");
    let all = format!("{checks:?} {problems:?}");
    assert!(!all.contains("s3cr3t"), "{all}");
}
