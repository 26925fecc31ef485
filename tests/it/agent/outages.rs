//! What a person reads of a registry that cannot be reached, and of an engine that lets nothing be inspected: one line
//! when it begins, a problem while it lasts, one line when it is over.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    bed::{Agent, Home, eventually, free_port},
    registry::Registry,
};
use crate::{
    engines::fake::{Fake, Fault},
    etcd::{Cluster, Options, Security},
};

/// How long an end waits for a registry that answers no more; one that was never reached is not waited for.
const LEAVE_DEADLINE: Duration = Duration::from_secs(5);

/// Waits for the warning, and for the problem that stands while the outage lasts; both give the reason.
#[track_caller]
fn until_warned(home: &Home, reason: &str) {
    let line = eventually(format_args!("a warning that says {reason}"), || {
        home.log_line("the registry cannot be").filter(|line| line.contains(reason))
    });
    assert!(line.contains("WARN") && line.contains("yet: other hosts are not known yet"), "{line}");
    let problem = eventually("a problem", || {
        home.problems().into_iter().find(|problem| problem.starts_with("--etcd-endpoints "))
    });
    assert!(problem.contains(reason), "{problem}");
}

#[test]
fn a_registry_that_cannot_be_read_is_named_with_the_reason() {
    let plain = Cluster::single();
    let secured = Cluster::start(&Options { security: Security::ServerCertificate, ..Options::default() });
    let guarded = Cluster::single();
    guarded.enable_auth("open sesame");
    let wrong = guarded.directory().join("wrong");
    std::fs::write(&wrong, "close simsim").expect("a file");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (wrong, empty) = (text(&wrong), free_port().to_string());
    let as_https = plain.endpoint(0).replace("http://", "https://");
    let as_http = secured.endpoint(0).replace("https://", "http://");
    let password = ["--etcd-user", "root", "--etcd-password-file", &wrong];
    let cases: [(&str, &[&str], &str); 6] = [
        (&empty, &[], "Connection refused"),
        (&as_https, &[], "If not, the URL begins with http://"),
        (&as_http, &[], "If it speaks TLS, the URL begins with https://"),
        (&secured.endpoint(0), &[], "invalid peer certificate"),
        (&guarded.endpoint(0), &[], "user name is empty"),
        (&guarded.endpoint(0), &password, "invalid user ID or password"),
    ];
    for (endpoint, more, reason) in cases {
        let arguments = ["--etcd-endpoints", endpoint, "--docker-host", "unix:///nonexistent/docker.sock"];
        let home = Home::new(&[&arguments, more].concat());
        let _agent = home.start();
        until_warned(&home, reason);
        assert_eq!(home.logged("close simsim"), 0, "no password is logged");
    }
}

#[test]
fn an_outage_is_one_warning_and_one_problem_and_its_end_is_told() {
    let registry = Registry::single();
    let home = registry.home(&[]);
    let _agent = home.start();
    home.until_synced();
    let reached = home.log_line("the registry is reached").expect("a line");
    for field in [&*registry.url(), "cluster", "revision", "hosts", "instances"] {
        assert!(reached.contains(field), "{field}: {reached}");
    }
    registry.cluster.freeze(0);
    let warned = eventually("a warning", || home.log_line("names of other hosts stay as last seen"));
    assert!(warned.contains("WARN"), "{warned}");
    let is_problem = || home.problems().iter().any(|problem| problem.starts_with("--etcd-endpoints "));
    eventually("a problem", || is_problem().then_some(()));
    registry.cluster.thaw(0);
    eventually("its end", || home.log_line("the registry is back").filter(|line| line.contains("away")));
    eventually("the problem ends, too", || (!is_problem()).then_some(()));
    home.until_synced();
    assert_eq!(
        (home.logged("the registry cannot be"), home.logged("takes no writes")),
        (1, 0),
        "one warning of one outage"
    );
}

#[test]
fn writes_that_etcd_refuses_are_told_though_it_can_be_read() {
    let cluster = Cluster::single();
    cluster.enable_auth("open sesame");
    let root = ["--user", "root:open sesame"];
    for command in [
        &["user", "add", "reader:open sesame"][..],
        &["role", "add", "reader"],
        &["role", "grant-permission", "reader", "read", "--prefix=true", "/portolan/v1/"],
        &["user", "grant-role", "reader", "reader"],
    ] {
        cluster.ctl(&[&root[..], command].concat());
    }
    let password = cluster.directory().join("password");
    std::fs::write(&password, "open sesame").expect("a file");
    let (endpoint, password) = (cluster.endpoint(0), password.to_str().expect("text"));
    let home = Home::new(&["--etcd-endpoints", &endpoint, "--etcd-user", "reader", "--etcd-password-file", password]);
    let _agent = home.start();
    let line = eventually("a warning", || home.log_line("the registry takes no writes of this host"));
    assert!(line.contains("WARN") && line.contains("permission denied"), "{line}");
    assert_eq!(home.logged("the registry is reached"), 1);
    let problems = home.problems();
    assert!(problems.iter().any(|problem| problem.contains("its role, its space")), "{problems:?}");
}

#[test]
fn an_end_does_not_wait_for_a_registry_that_was_never_reached() {
    let ends = |home: &Home, agent: Agent<'_>| {
        eventually("a warning", || home.log_line("the registry cannot be reached yet"));
        let asked = Instant::now();
        assert!(agent.end(Signal::SIGINT).success());
        assert!(asked.elapsed() < LEAVE_DEADLINE, "{:?}", asked.elapsed());
        let line = home.log_line("not withdrawn").expect("a line");
        assert!(line.contains("was not reached since this agent started"), "{line}");
    };
    // One that refuses, and one that is silent.
    let refusing = Home::new(&["--etcd-endpoints", &format!("http://{}", free_port())]);
    ends(&refusing, refusing.start());
    let cluster = Cluster::single();
    cluster.freeze(0);
    let silent = Home::new(&["--etcd-endpoints", &cluster.endpoint(0)]);
    ends(&silent, silent.start());
}

#[test]
fn refused_inspects_are_one_warning_and_one_problem_and_their_end_is_told() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _inside = runtime.enter();
    let fake = Fake::start("26.1");
    let inspects: Vec<String> = ["web", "db"]
        .map(|name| {
            let container = fake.seen(name);
            let inspect = format!("/containers/{}/json", container.1["Id"].as_str().expect("an id"));
            fake.add(container);
            inspect
        })
        .into();
    fake.set_faults(&inspects.iter().cloned().map(Fault::Refuse).collect::<Vec<_>>());
    let home = Home::new(&["--docker-host", &format!("unix://{}", fake.path.display())]);
    let _agent = home.start();
    let refused = "docker lets no container be inspected";
    let line = eventually("a warning", || home.log_line(refused));
    assert!(line.contains("WARN") && line.contains("not allowed here"), "{line}");
    for inspect in &inspects {
        runtime.block_on(fake.until_asked(inspect, 2));
    }
    let problems = || -> Vec<String> {
        home.problems().into_iter().filter(|problem| problem.starts_with("--docker-host ")).collect()
    };
    assert_eq!(problems().len(), 1, "{:?}", problems());
    assert!(problems()[0].contains(", GET /containers/<id>/json: "), "{:?}", problems());
    fake.set_faults(&[]);
    eventually("its end", || home.log_line("docker refuses no inspect any more").filter(|line| line.contains("INFO")));
    eventually("the problem ends, too", || problems().is_empty().then_some(()));
    assert_eq!(home.logged(refused), 1, "one warning of two containers and several tries");
}
