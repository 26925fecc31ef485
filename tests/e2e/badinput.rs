//! Broken labels on real containers and broken records in the real etcd: each is shown as a problem, and nothing else
//! is harmed. The parsers themselves meet far worse in their own tests.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    time::Instant,
};

use hickory_proto::rr::RecordType;

use super::{
    bed::{
        A, B, Container, HOSTS, Host, SAMPLE, SOON, addresses, etcd_put, etcdctl, eventually, everywhere, unique,
        unique_port,
    },
    hostile::HOSTILE,
    prober::Prober,
};

/// One request to a host's engine, past the command line and its own limits.
fn engine(host: Host, request: &str, body: &str) -> String {
    let mut child = Command::new("docker")
        .args(["exec", "-i", host.container, "docker", "system", "dial-stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("docker can be run");
    let head = format!(
        "{request} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut input = child.stdin.take().expect("piped");
    input.write_all(head.as_bytes()).and_then(|()| input.write_all(body.as_bytes())).expect("the engine reads");
    let mut reply = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut reply).expect("the engine's reply");
    drop(input);
    child.wait().expect("dial-stdio ends");
    reply
}

/// Waits until a host's list of problems speaks of this.
fn shown(host: Host, place: &str) {
    eventually(&format!("{} shows a problem with {place}", host.container), SOON, || {
        let problems = host.http("/v1/problems");
        if problems.contains(place) { Ok(()) } else { Err(problems.chars().take(4000).collect()) }
    });
}

#[test]
fn hostile_labels_are_shown_as_problems_and_harm_only_themselves() {
    let (stem, port) = (unique("neighbour"), unique_port());
    let name = format!("{stem}.svc.internal");
    let (label, publish) = (format!("portolan.service={stem}"), format!("{port}:80"));
    let _neighbour = A.run(&unique("r"), &["--label", &label, "-p", &publish]);
    everywhere(&name, RecordType::A, &addresses([A]));
    let began = Instant::now();
    let prober = Prober::start(&name);

    // Through the engine's API: the command line cannot carry every label that the engine takes.
    let mut hostile = Vec::new();
    for (words, expected) in HOSTILE.iter().filter(|(_, expected)| expected.contains('!')) {
        let container = Container { host: A, name: unique("hostile") };
        let labels: serde_json::Map<_, _> = words
            .iter()
            .filter_map(|word| word.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        let body = serde_json::json!({"Image": SAMPLE, "Labels": labels}).to_string();
        let reply = engine(A, &format!("POST /containers/create?name={}", container.name), &body);
        assert!(reply.starts_with("HTTP/1.1 201"), "{words:?}: {}", reply.chars().take(400).collect::<String>());
        let keys: Vec<&str> = expected
            .split(['!', ';'])
            .map(str::trim)
            .filter(|key| words.iter().any(|word| word.split_once('=').is_some_and(|(label, _)| label == *key)))
            .collect();
        assert!(!keys.is_empty(), "{words:?}: {expected}");
        hostile.push((container, keys));
    }
    assert!(hostile.len() >= 30);
    let names: Vec<&str> = hostile.iter().map(|(container, _)| container.name.as_str()).collect();
    A.docker(&[&["start"], names.as_slice()].concat());
    for (container, keys) in &hostile {
        for key in keys {
            shown(A, &format!("({}), label {key}", container.name));
        }
    }

    // A label of a megabyte: the command line cannot carry it, the engine can.
    let giant = Container { host: A, name: unique("giant") };
    let body = serde_json::json!({"Image": SAMPLE, "Labels": {"portolan.service": "a".repeat(1 << 20)}}).to_string();
    let reply = engine(A, &format!("POST /containers/create?name={}", giant.name), &body);
    assert!(reply.starts_with("HTTP/1.1 201"), "{}", reply.chars().take(400).collect::<String>());
    giant.docker(&["start"]);
    shown(A, &giant.name);

    // Those after them are published as ever.
    let later = unique("later");
    let label = format!("portolan.service={later}");
    let publish = format!("{}:80", unique_port());
    let _later = A.run(&unique("r"), &["--label", &label, "-p", &publish]);
    everywhere(&format!("{later}.svc.internal"), RecordType::A, &addresses([A]));
    prober.finish(began).judge(&addresses([A]), &[]);
}

/// Deletes what a test wrote into etcd below a prefix.
struct Sweep(&'static str);

impl Drop for Sweep {
    fn drop(&mut self) {
        drop(etcdctl(&["del", "--prefix", self.0]));
    }
}

#[test]
fn garbage_in_etcd_is_shown_as_a_problem_and_harms_only_itself() {
    let (stem, port) = (unique("neighbour"), unique_port());
    let name = format!("{stem}.svc.internal");
    let (label, publish) = (format!("portolan.service={stem}"), format!("{port}:80"));
    let options = ["--label", &label, "-p", &publish];
    let _neighbours = HOSTS.map(|host| host.run(&unique("r"), &options));
    everywhere(&name, RecordType::A, &addresses(HOSTS));
    let began = Instant::now();
    let prober = Prober::start(&name);

    let sweep = Sweep("/portolan/v1/hosts/e2e-garbage/");
    let deep = "[".repeat(100_000);
    let large = "x".repeat(1 << 20);
    let values: [(&str, &[u8]); 8] = [
        ("session", b"not json"),
        ("instances/000000000001", b"{"),
        ("instances/000000000002", b"\x00\xff\xfe garbage \x80"),
        ("instances/000000000003", b"[1,2,3]"),
        ("instances/000000000004", br#"{"name":17,"services":"none"}"#),
        ("instances/000000000005", deep.as_bytes()),
        ("instances/000000000006", large.as_bytes()),
        ("instances/../../escape", br#"{"name":"x"}"#),
    ];
    for (key, value) in values {
        etcd_put(&format!("{}{key}", sweep.0), value);
    }
    for host in [A, B] {
        for (key, _) in values {
            shown(host, &format!("e2e-garbage/{key}"));
        }
    }
    let later = unique("later");
    let label = format!("portolan.service={later}");
    let publish = format!("{}:80", unique_port());
    let _later = B.run(&unique("r"), &["--label", &label, "-p", &publish]);
    everywhere(&format!("{later}.svc.internal"), RecordType::A, &addresses([B]));
    prober.finish(began).judge(&addresses(HOSTS), &[]);

    let prefix = sweep.0;
    drop(sweep);
    eventually("the problems are gone with their causes", SOON, || {
        let problems = A.http("/v1/problems");
        if problems.contains(prefix) { Err(problems.chars().take(4000).collect()) } else { Ok(()) }
    });
}
