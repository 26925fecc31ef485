//! Restarts, takeovers and reloads under load: not one query is lost, and none is answered wrongly.

use std::{
    io::{Read, Write},
    net::Ipv4Addr,
    os::unix::net::UnixStream,
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    bed::{Home, address, engine_bed, eventually},
    registry::Registry,
};
use crate::{
    queries::{Load, Rates, Tallies},
    systemd::Holder,
};

/// 2,000 queries a second, most of them over UDP.
const RATES: Rates = Rates { udp: 1_600, connections: 200, held: Duration::from_millis(5) };
/// Queries that a test asks at least.
const QUERIES: u64 = 5_000;
/// Restarts of one test.
const TIMES: u64 = 3;

/// Starts asking for a container that has just been started, and waits until that is answered.
fn load(home: &Home, name: &str, address: &str, rates: Rates) -> Load {
    home.until_ready();
    home.until_address(name, address);
    let address: Ipv4Addr = address.parse().expect("an address");
    Load::start(home.dns, &format!("{name}.svc.internal"), address, rates)
}

/// Lets the load go on until its share of all queries has been asked.
fn go_on(load: &Load, turn: u64) {
    eventually("the load goes on", || (load.asked() >= QUERIES * turn / (TIMES + 1)).then_some(()));
}

fn assert_nothing_lost(tallies: &Tallies) {
    assert_eq!(tallies.lost(), 0, "{tallies:#?}");
    assert!(tallies.asked() >= QUERIES && tallies.connections.asked > 50 && tallies.held.asked > 10, "{tallies:#?}");
}

#[test]
fn a_restart_loses_no_query_where_systemd_holds_the_sockets() {
    let bed = engine_bed("restart");
    bed.sleeper("web", &["--expose", "80"]);
    let (name, ip) = (format!("{}.default", bed.name("web")), address(&bed.name("web")));
    let home = Home::new(&[]);
    let holder = Holder::bind(home.dns, home.http).expect("free ports");
    let start = || home.start_by(holder.command(&home.command()));
    let mut agent = start();
    // A held connection is idle for longer than a server that ends waits for (RFC 7766): it may be closed then.
    let load = load(&home, &name, &ip, Rates { held: Duration::from_millis(120), ..RATES });
    for turn in 1..=TIMES {
        go_on(&load, turn);
        assert!(agent.end(Signal::SIGTERM).success());
        agent = start();
    }
    go_on(&load, TIMES + 1);
    let tallies = load.end();
    assert_nothing_lost(&tallies);
    assert!(tallies.held.closed >= TIMES, "the process was another one each time: {tallies:#?}");
    drop(agent);
}

#[test]
fn a_takeover_loses_no_query_no_connection_and_no_key() {
    let (bed, registry) = (engine_bed("takeover"), Registry::single());
    let id = bed.sleeper("web", &["--expose", "80"]);
    let (name, ip) = (format!("{}.default", bed.name("web")), address(&bed.name("web")));
    let home = registry.home(&[]);
    let mut agent = home.start();
    let load = load(&home, &name, &ip, RATES);
    home.until_synced();
    let before = registry.instance(&id).expect("it is published");
    for turn in 1..=TIMES {
        go_on(&load, turn);
        let next = home.take_over();
        assert!(std::mem::replace(&mut agent, next).ends().success());
        home.until_synced();
    }
    go_on(&load, TIMES + 1);
    let tallies = load.end();
    assert_nothing_lost(&tallies);
    assert_eq!(tallies.held.closed, 0, "the connection goes on: {tallies:#?}");
    let after = registry.instance(&id).expect("it is published");
    assert_eq!((after.lease, after.mod_revision), (before.lease, before.mod_revision), "nothing was written anew");
    let ours = format!("/{}", &id[..12]);
    let deleted = registry.deletions();
    assert!(deleted.iter().all(|(key, _)| !key.ends_with(&ours) && !key.ends_with("/session")), "{deleted:?}");
    assert_eq!(home.logged("taken over after="), usize::try_from(TIMES).expect("a few"));
    // Its control socket is the first one's, and still has its name.
    assert_eq!(home.client(&["drain", &bed.name("web")]).status.code(), Some(0));
    assert!(agent.end(Signal::SIGTERM).success());
    assert!(!home.control().exists(), "the last one takes its name away");
}

#[test]
fn sigusr2_starts_the_agent_that_takes_over() {
    let home = Home::new(&[]);
    let agent = home.start();
    home.until_ready();
    agent.signal(Signal::SIGUSR2);
    assert!(agent.ends().success());
    assert_eq!(home.json("/v1/status")["catalog"]["docker_listed"], true);
    // It is nobody's child that we know, so its predecessor's log tells who it is.
    let log = home.log_line("another agent was started").expect("it is told");
    let process = log.split("process=").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    kill(Pid::from_raw(process.expect("a process id")), Signal::SIGTERM).expect("it takes signals");
    eventually("it has ended", || home.get("/healthz").is_none().then_some(()));
}

#[test]
fn who_dies_while_taking_over_changes_nothing() {
    let (bed, registry) = (engine_bed("dies"), Registry::single());
    bed.sleeper("web", &["--expose", "80"]);
    let (name, ip) = (format!("{}.default", bed.name("web")), address(&bed.name("web")));
    let home = registry.home(&[]);
    let mut agent = home.start();
    let load = load(&home, &name, &ip, RATES);
    home.until_synced();
    // It never knows everything, for its Docker is none.
    let mut command = home.command();
    command.args(["--takeover", "--docker-host", "unix:///nonexistent/docker.sock"]);
    let log = std::fs::File::create(home.state().join("second.log")).expect("a file");
    let mut second = command.stdout(Stdio::null()).stderr(log).spawn().expect("it starts");
    eventually("it asks", || (home.logged("another agent wants to take over") == 1).then_some(()));
    eventually("commands are refused meanwhile", || {
        let output = home.client(&["drain", &bed.name("web")]);
        String::from_utf8_lossy(&output.stderr).contains("is taking over").then_some(())
    });
    second.kill().expect("our own process");
    second.wait().expect("our own process");
    eventually("the first one notices", || (home.logged("this agent goes on") == 1).then_some(()));
    assert_eq!(home.client(&["undrain", &bed.name("web")]).status.code(), Some(0), "commands are taken again");
    eventually("the load goes on", || (load.asked() >= QUERIES).then_some(()));
    assert_nothing_lost(&load.end());
    assert!(agent.runs() && home.control().exists());
    // And the next one may.
    let next = home.take_over();
    assert!(agent.ends().success());
    home.until_address(&name, &ip);
    drop(next);
}

#[test]
fn another_version_is_refused_and_without_an_agent_it_starts_as_usual() {
    let home = Home::new(&[]);
    let agent = home.take_over();
    assert_eq!(home.logged("no agent runs there to take over from"), 1);
    let mut stream = UnixStream::connect(home.control()).expect("the control socket");
    let request = "POST /v1/takeover?version=2 HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\n\
                   Upgrade: portolan-takeover\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("written");
    let mut reply = [0; 1024];
    let length = stream.read(&mut reply).expect("a reply");
    let reply = String::from_utf8_lossy(&reply[..length]);
    assert!(reply.starts_with("HTTP/1.1 400") && reply.contains("by version 1"), "{reply}");
    assert!(agent.end(Signal::SIGTERM).success());
}

/// The TTL of a name's address.
fn ttl(home: &Home, name: &str) -> u32 {
    let output = home.client(&["resolve", name, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    json["answers"][0]["ttl"].as_u64().and_then(|ttl| ttl.try_into().ok()).unwrap_or_else(|| panic!("{json}"))
}

#[test]
fn a_reload_changes_what_can_change_and_an_invalid_one_changes_nothing() {
    let bed = engine_bed("reload");
    bed.sleeper("web", &["--expose", "80"]);
    let (name, ip) = (format!("{}.default", bed.name("web")), address(&bed.name("web")));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("portolan.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("a file");
    write("ttl = 1\n");
    let home = Home::new(&["--config", file.to_str().expect("text")]);
    let agent = home.start();
    let load = load(&home, &name, &ip, RATES);
    assert_eq!(ttl(&home, &name), 1);

    write("ttl = 2\nzone = \"other.internal\"\nexternal = [\"db address=192.0.2.9:5432\"]\n");
    agent.signal(Signal::SIGHUP);
    eventually("the TTL changes", || (ttl(&home, &name) == 2).then_some(()));
    home.until_address("db.global", "192.0.2.9");
    assert_eq!(home.logged("needs a restart or a takeover (portolan agent --takeover): zone"), 1);
    home.until_address(&name, &ip);

    write("ttl = \"many\"\nprefer = \"nobody\"\n");
    agent.signal(Signal::SIGHUP);
    eventually("it is refused", || (home.logged("nothing was reloaded") == 1).then_some(()));
    assert_eq!(home.logged("the configuration is refused"), 2, "each mistake is told");
    assert_eq!(ttl(&home, &name), 2);

    eventually("the load goes on", || (load.asked() >= QUERIES).then_some(()));
    assert_nothing_lost(&load.end());
    write("ttl = 3\nlog = \"warn\"\n");
    agent.signal(Signal::SIGHUP);
    eventually("the TTL changes again", || (ttl(&home, &name) == 3).then_some(()));
    assert!(agent.end(Signal::SIGTERM).success());
    assert_eq!(home.logged("stopping; the names stay"), 0, "that is no warning");
}
