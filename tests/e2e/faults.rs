//! Things break, one at a time, while the prober asks. Its log is judged against design P2–P4.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;

use super::{
    bed::{
        A, B, C, Container, D, ETCD, HOSTS, Host, SOON, addresses, etcd_put, etcdctl, eventually, everywhere, expect,
        gone_everywhere, outer, run, unique, unique_port,
    },
    prober::{Allowance, Prober},
};

/// The agents' lease, as it is without any flag.
const LEASE: Duration = Duration::from_secs(30);
/// Design P4: a crashed host is gone from the others' answers this long after its lease.
const AFTER_LEASE: Duration = Duration::from_secs(3);
/// A killed agent answers again. Its engine starts it again within a second; the machine may be busy.
const RESTARTED: Duration = Duration::from_secs(10);

/// Mends what a test broke, also when the test fails.
struct Mend(Box<dyn Fn()>);

impl Drop for Mend {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// A service with a replica on each of these hosts, and its name in DNS, known to all.
fn service(on: &[Host]) -> (Vec<Container>, String) {
    let (stem, port) = (unique("fault"), unique_port());
    let (label, publish) = (format!("portolan.service={stem}"), format!("{port}:80"));
    let replicas = on.iter().map(|host| host.run(&unique("r"), &["--label", &label, "-p", &publish])).collect();
    let name = format!("{stem}.svc.internal");
    everywhere(&name, RecordType::A, &addresses(on.iter().copied()));
    (replicas, name)
}

/// A new service on one host comes to all hosts and goes again: the whole chain works.
fn changes_flow(from: Host) {
    let (replicas, name) = service(&[from]);
    drop(replicas);
    gone_everywhere(&name);
}

/// Kills members of etcd; they start again when this is dropped.
fn kill_etcd(members: &[&'static str]) -> Mend {
    outer(&[&["kill"], members].concat());
    let members = members.to_vec();
    Mend(Box::new(move || {
        outer(&[&["start"], &members[..]].concat());
        eventually("etcd is well", Duration::from_secs(30), || etcdctl(&["endpoint", "health", "--cluster"]));
    }))
}

/// Cuts a host off with a rule of its own firewall; healed when this is dropped.
fn cut(host: Host, rule: &str) -> Mend {
    host.shell(&format!(
        "nft add table inet cut
         nft add chain inet cut in '{{ type filter hook input priority -300; }}'
         nft add chain inet cut out '{{ type filter hook output priority -300; }}'
         {rule}"
    ));
    Mend(Box::new(move || {
        host.shell("nft list table inet cut >/dev/null 2>&1 && nft delete table inet cut || true");
    }))
}

fn leader() -> &'static str {
    let leads = |member: &&&str| {
        let status = ["exec", member, "etcdctl", "--endpoints", "http://127.0.0.1:2379", "endpoint", "status"];
        outer(&status).split(", ").nth(4) == Some("true")
    };
    ETCD.iter().find(leads).expect("etcd has a leader")
}

/// Lets a fault last. Not a wait for a condition: the time itself is what the test is about.
fn until(end: Instant) {
    while Instant::now() < end {
        std::thread::park_timeout(end - Instant::now());
    }
}

#[test]
fn etcds_leader_is_killed_and_nobody_notices() {
    let (_replicas, name) = service(&HOSTS);
    let began = Instant::now();
    let prober = Prober::start(&name);
    let mend = kill_etcd(&[leader()]);
    changes_flow(A);
    changes_flow(C);
    drop(mend);
    changes_flow(B);
    prober.finish(began).judge(&addresses(HOSTS), &[]);
}

#[test]
fn all_of_etcd_is_down_for_a_minute_and_every_name_stays() {
    let (_replicas, name) = service(&HOSTS);
    let (ending, ending_name) = service(&[B]);
    let began = Instant::now();
    let prober = Prober::start(&name);
    let mend = kill_etcd(&ETCD);
    let minute = Instant::now() + Duration::from_secs(60);

    // P3: each host follows its own engine; what the others know of it stays as it was.
    let (stem, port) = (unique("fault"), unique_port());
    let (label, publish) = (format!("portolan.service={stem}"), format!("{port}:80"));
    let starting = A.run(&unique("r"), &["--label", &label, "-p", &publish]);
    let starting_name = format!("{stem}.svc.internal");
    expect("host A answers its new service", &addresses([A]), || A.ask(&starting_name, RecordType::A));
    drop(ending);
    eventually("host B withdraws its own", SOON, || {
        let answer = B.ask(&ending_name, RecordType::A);
        if answer.is_gone() { Ok(()) } else { Err(answer) }.map_err(|answer| answer.to_string())
    });
    until(minute);
    assert_eq!(A.ask(&ending_name, RecordType::A), addresses([B]), "host A cannot know, and keeps what it knew");
    for host in HOSTS {
        let stale = host.metric("portolan_registry_stale_seconds");
        assert!(stale > 40.0, "{} says that it is stale for {stale} s, after a minute without etcd", host.container);
    }
    drop(mend);

    everywhere(&starting_name, RecordType::A, &addresses([A]));
    gone_everywhere(&ending_name);
    changes_flow(C);
    prober.finish(began).judge(&addresses(HOSTS), &[]);
    drop(starting);
}

#[test]
fn the_watch_is_compacted_while_an_agent_is_cut_off_and_it_still_catches_up() {
    let (_replicas, name) = service(&HOSTS);
    let (ending, ending_name) = service(&[A]);
    let relists = B.metric("portolan_registry_relists_total");
    let began = Instant::now();
    let prober = Prober::start(&name);
    // Refused, not dropped: the watch ends at once, and cannot come back before its revision is compacted.
    let etcd = "172.31.77.2-172.31.77.4";
    let mend = cut(B, &format!("nft add rule inet cut out ip daddr {etcd} tcp dport 2379 reject with tcp reset"));
    let (stem, port) = (unique("fault"), unique_port());
    let (label, publish) = (format!("portolan.service={stem}"), format!("{port}:80"));
    let _starting = A.run(&unique("r"), &["--label", &label, "-p", &publish]);
    let starting_name = format!("{stem}.svc.internal");
    drop(ending);
    for host in [A, C] {
        let what = "those with etcd see the change";
        expect(what, &addresses([A]), || host.ask(&starting_name, RecordType::A));
        eventually(what, SOON, || match host.ask(&ending_name, RecordType::A) {
            answer if answer.is_gone() => Ok(()),
            answer => Err(answer.to_string()),
        });
    }
    assert_eq!(B.ask(&ending_name, RecordType::A), addresses([A]), "host B is cut off and keeps what it knew");
    // A write of our own gives the current revision.
    let written = etcdctl(&["put", "/e2e/compaction", "x", "-w", "json"]).expect("etcd takes writes");
    let revision: String =
        written.split("\"revision\":").nth(1).unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
    etcdctl(&["compact", &revision]).expect("etcd compacts");
    drop(mend);

    everywhere(&starting_name, RecordType::A, &addresses([A]));
    gone_everywhere(&ending_name);
    assert!(B.metric("portolan_registry_relists_total") > relists, "host B could not go on without a new list");
    prober.finish(began).judge(&addresses(HOSTS), &[]);
    drop(etcdctl(&["del", "/e2e/compaction"]));
}

/// `etcdctl watch` of everything of ours, from the moment this is made.
struct EtcdWatch {
    child: Child,
    log: std::path::PathBuf,
    _directory: tempfile::TempDir,
}

impl EtcdWatch {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = directory.path().join("watch");
        let file = std::fs::File::create(&log).expect("a file in it");
        let child = Command::new("docker")
            .args(["exec", ETCD[0], "etcdctl", "watch", "--prefix", "/portolan/v1/"])
            .stdin(Stdio::null())
            .stdout(file)
            .spawn()
            .expect("docker can be run");
        let watch = Self { child, log, _directory: directory };
        watch.seen();
        watch
    }

    /// What came until now: a marker is written, and has come as well.
    fn seen(&self) -> String {
        let marker = unique("marker");
        eventually("etcdctl watch shows the marker", SOON, || {
            etcd_put("/portolan/v1/e2e-marker", marker.as_bytes());
            let mut text = String::new();
            let read = std::fs::File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
            match read {
                Ok(_) if text.contains(&marker) => Ok(text),
                Ok(_) => Err(format!("{} bytes", text.len())),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

impl Drop for EtcdWatch {
    fn drop(&mut self) {
        // The client in the container ends with its own kill: that of `docker exec` does not reach it.
        drop(run(Command::new("docker").args(["exec", ETCD[0], "pkill", "-f", "etcdctl watch"])));
        drop(self.child.kill());
        drop(self.child.wait());
        drop(etcdctl(&["del", "/portolan/v1/e2e-marker"]));
    }
}

#[test]
fn an_agent_is_killed_and_started_again_and_etcd_sees_no_delete() {
    let (replicas, name) = service(&HOSTS);
    let watch = EtcdWatch::start();
    let began = Instant::now();
    let prober = Prober::start(&name);
    let before = A.shell("pidof portolan");
    let killed = Instant::now();
    A.shell("pkill -9 -x portolan");
    eventually("the engine starts the agent again", RESTARTED, || match A.shell("pidof portolan || true") {
        now if now.trim().is_empty() || now == before => Err(format!("pid {now}")),
        now => Ok(now),
    });
    let back = eventually("host A answers again", RESTARTED, || match A.ask(&name, RecordType::A) {
        answer if answer == addresses(HOSTS) => Ok(Instant::now()),
        answer => Err(answer.to_string()),
    });
    changes_flow(A);
    // The agent on A may be silent while it is dead, and know its own replica from Docker some milliseconds before it knows
    // the others from etcd: what is known is answered. It may not say anything else, and nobody else may notice.
    let dead = Allowance { hosts: vec![A], from: killed, until: back, answer: None };
    let own = Allowance { hosts: vec![A], from: killed, until: back, answer: Some(addresses([A])) };
    prober.finish(began).judge(&addresses(HOSTS), &[dead, own]);
    // The service of `changes_flow` was withdrawn for cause; nothing that was there before may have been deleted.
    let seen = watch.seen();
    assert!(seen.contains("DELETE\n"), "the watch shows deletes, or it proves nothing: {seen}");
    let records: Vec<String> =
        replicas.iter().map(|replica| replica.docker(&["inspect", "-f", "{{.Id}}"])[..12].to_owned()).collect();
    let deleted: Vec<&str> = seen
        .split("DELETE\n")
        .skip(1)
        .filter_map(|rest| rest.lines().next())
        .filter(|key| key.ends_with("/session") || records.iter().any(|id| key.ends_with(id.as_str())))
        .collect();
    assert_eq!(deleted, Vec::<&str>::new(), "keys deleted in etcd during the agent's restart");
}

#[test]
fn a_host_cut_from_the_network_leaves_after_its_lease_and_returns() {
    let (_replicas, name) = service(&HOSTS);
    let (others, all) = ([A, B, D], addresses(HOSTS));
    let remaining = addresses(others);
    let (_own, own_name) = service(&[C]);
    let apart = C.network(&unique("apart"));
    let client = C.run(&unique("client"), &["--network", &apart.name]);
    expect("a container of host C resolves", &addresses([C]), || client.ask(&own_name, "A"));

    let began = Instant::now();
    let prober = Prober::start(&name);
    let at = Instant::now();
    let mend = cut(C, "nft add rule inet cut in iifname eth0 drop; nft add rule inet cut out oifname eth0 drop");
    // P3: on the host itself, its own containers resolve throughout, new ones as well.
    assert_eq!(client.ask(&own_name, "A"), addresses([C]));
    let (stem, port) = (unique("fault"), unique_port());
    let (label, publish) = (format!("portolan.service={stem}"), format!("{port}:80"));
    let _starting = C.run(&unique("r"), &["--label", &label, "-p", &publish]);
    let starting_name = format!("{stem}.svc.internal");
    expect("host C answers its new service", &addresses([C]), || client.ask(&starting_name, "A"));

    let left = at + LEASE + AFTER_LEASE;
    until(left);
    for host in others {
        assert_eq!(host.ask(&name, RecordType::A), remaining, "{} after the lease and 3 s", host.container);
    }
    assert_eq!(client.ask(&own_name, "A"), addresses([C]));
    assert_eq!(client.ask(&name, "A"), all, "host C cannot know of the others, and keeps what it knew");
    let healed = Instant::now();
    drop(mend);
    everywhere(&name, RecordType::A, &all);
    everywhere(&starting_name, RecordType::A, &addresses([C]));
    let back = Instant::now();

    let log = prober.finish(began);
    let gone = Allowance { hosts: others.to_vec(), from: at, until: back, answer: Some(remaining) };
    let silent = Allowance { hosts: vec![C], from: at - Duration::from_secs(1), until: back, answer: None };
    log.judge(&all, &[gone, silent]);
    for host in others {
        assert_eq!(log.count(host, left, healed, &all), 0, "{} still gave host C's address", host.container);
    }
}

#[test]
fn an_engine_is_killed_and_started_again_and_every_name_stays() {
    let (_replicas, name) = service(&HOSTS);
    let began = Instant::now();
    let prober = Prober::start(&name);
    let before = A.shell("pidof dockerd");
    A.shell("pkill -9 -x dockerd");
    eventually("the engine answers again", Duration::from_secs(30), || {
        let now = A.shell("pidof dockerd || true");
        if now == before { Err(now) } else { A.try_docker(&["info"]) }
    });
    changes_flow(A);
    prober.finish(began).judge(&addresses(HOSTS), &[]);
}
