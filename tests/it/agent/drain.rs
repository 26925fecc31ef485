//! `portolan drain`, as another host and a client see it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nix::sys::signal::Signal;

use super::{
    bed::{Answer, Home, address, engine_bed, eventually, succeeds},
    registry::Registry,
};

fn has(answer: Option<Answer>, ips: &[&str]) -> bool {
    let mut data = answer.map(|answer| answer.data).unwrap_or_default();
    data.sort();
    data == ips
}

/// Two replicas of one service on this host, seen by an agent of another one.
struct Stage {
    registry: Registry,
    service: String,
    names: [String; 2],
    ips: Vec<String>,
    home: Home,
    far: Home,
    _bed: crate::engine::Bed,
}

impl Stage {
    fn new(test: &str) -> Self {
        let (bed, registry) = (engine_bed(test), Registry::single());
        let service = bed.name("svc");
        let label = format!("portolan.service={service}");
        for replica in ["one", "two"] {
            bed.sleeper(replica, &["--expose", "80", "--label", &label]);
        }
        let names = [bed.name("one"), bed.name("two")];
        let mut ips: Vec<String> = names.iter().map(|name| address(name)).collect();
        ips.sort();
        let (home, far) = (registry.home(&[]), registry.far_home("far"));
        Self { registry, service, names, ips, home, far, _bed: bed }
    }

    /// The name that is asked for. It says its namespace: the far host has no engine, and so does not know everything.
    fn asked(&self) -> String {
        format!("{}.global", self.service)
    }

    fn until(&self, ips: &[&str]) {
        for home in [&self.home, &self.far] {
            eventually(format_args!("{ips:?}"), || has(home.ask(&self.asked()), ips).then_some(()));
        }
    }
}

#[test]
fn who_has_waited_for_a_drain_finds_that_everybody_answers_without_it() {
    let stage = Stage::new("drain");
    let (_home, _far) = (stage.home.start(), stage.far.start());
    let both: Vec<&str> = stage.ips.iter().map(String::as_str).collect();
    stage.until(&both);
    for (drained, stays) in [(0, 1), (1, 0)] {
        succeeds(&stage.home.client(&["drain", &stage.names[drained], "--wait"]));
        // At once: nobody is waited for any more.
        let rest = address(&stage.names[stays]);
        assert!(has(stage.far.ask(&stage.asked()), &[&rest]) && has(stage.home.ask(&stage.asked()), &[&rest]));
        succeeds(&stage.home.client(&["undrain", &stage.names[drained]]));
        stage.until(&both);
    }
    // Nobody is ready any more: those on their way out are better than nobody.
    succeeds(&stage.home.client(&["drain", &stage.service, "--wait"]));
    assert!(has(stage.far.ask(&stage.asked()), &both) && has(stage.home.ask(&stage.asked()), &both));
    let all = format!("all.{}.global", stage.service);
    assert!(has(stage.home.ask(&all), &both));
}

#[test]
fn a_drain_survives_restarts_of_the_agent_also_of_one_that_is_waited_for() {
    let stage = Stage::new("drainre");
    let far = stage.far.start();
    let home = stage.home.start();
    let both: Vec<&str> = stage.ips.iter().map(String::as_str).collect();
    stage.until(&both);
    // The far host holds up the drain while it stands still.
    far.signal(Signal::SIGSTOP);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let waits = scope.spawn(|| {
            let output = stage.home.client(&["drain", &stage.names[0], "--wait"]);
            done.store(true, Ordering::Relaxed);
            output
        });
        let drained = || std::fs::read_to_string(stage.home.state().join("drains.json")).ok();
        eventually("the drain is kept", || drained().filter(|text| text.contains("\"round\":1")));
        assert!(home.end(Signal::SIGTERM).success());
        let _home = stage.home.start();
        stage.home.until_ready();
        stage.home.until_synced();
        assert!(!done.load(Ordering::Relaxed), "one host does not know yet");
        far.signal(Signal::SIGCONT);
        succeeds(&waits.join().expect("it ends"));
        let rest = address(&stage.names[1]);
        assert!(has(stage.far.ask(&stage.asked()), &[&rest]) && has(stage.home.ask(&stage.asked()), &[&rest]));
    });
    let acks = stage.registry.history();
    assert!(acks.iter().any(|change| change.key().starts_with(b"/portolan/v1/acks/")), "the far host said so");
}

#[test]
fn a_host_that_has_died_is_waited_for_until_its_lease_ends_and_it_is_named() {
    let stage = Stage::new("draindead");
    let (_home, far) = (stage.home.start(), stage.far.start());
    let both: Vec<&str> = stage.ips.iter().map(String::as_str).collect();
    stage.until(&both);
    let id = stage.far.json("/v1/status")["host"].as_str().expect("text").to_owned();
    let session = format!("/{id}/session");
    eventually("the far host is known to live", || {
        stage.registry.keys().into_iter().find(|kv| kv.key.ends_with(session.as_bytes())).map(drop)
    });
    eventually("also at home", || {
        let hosts = stage.home.json("/v1/status")["catalog"]["hosts"].as_u64();
        hosts.filter(|hosts| *hosts >= 2)
    });
    far.end(Signal::SIGKILL);
    let output = stage.home.client(&["drain", &stage.names[0], "--wait", "--timeout", "1s"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains(&format!("host {id}")) && told.contains("undrain"), "{told}");
    stage.registry.revoke_lease_of(&id);
    succeeds(&stage.home.client(&["drain", &stage.names[0], "--wait"]));
}

#[test]
fn a_single_host_drains_without_any_etcd() {
    let bed = engine_bed("drainone");
    bed.sleeper("web", &["--expose", "80"]);
    let home = Home::new(&[]);
    let _agent = home.start();
    home.until_ready();
    let name = bed.name("web");
    succeeds(&home.client(&["drain", "--host", "--wait"]));
    let listing = home.json("/v1/services");
    let ours = |listing: &serde_json::Value| {
        let instances = listing["services"]
            .as_array()
            .expect("a list")
            .iter()
            .flat_map(|service| service["instances"].as_array().expect("a list").iter());
        let phase =
            instances.clone().find(|instance| instance["name"] == name.as_str()).map(|found| found["phase"].clone());
        phase.expect("our container")
    };
    assert_eq!(ours(&listing), "draining");
    let output = home.client(&["undrain", &name]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    succeeds(&home.client(&["undrain", "--host"]));
    eventually("it serves", || (ours(&home.json("/v1/services")) == "serving").then_some(()));
}
