//! What happens to a container happens to its answer, on all hosts.

use std::time::Instant;

use hickory_proto::rr::RecordType;

use super::{
    bed::{
        A, B, C, Container, Host, SOON, addresses, eventually, everywhere, expect, gone_everywhere, targets, unique,
        unique_port,
    },
    dns::Answer,
    prober::Prober,
};

/// A service with one replica on each of these hosts, published on one port.
fn service(name: &str, on: &[Host]) -> Vec<Container> {
    let (label, publish) = (format!("portolan.service={name}"), format!("{}:80", unique_port()));
    on.iter().map(|host| host.run(&unique("r"), &["--label", &label, "-p", &publish])).collect()
}

#[test]
fn a_start_a_stop_and_a_start_again_are_seen_by_all_hosts() {
    starts_and_stops(A, B);
}

/// The replica on the first of these hosts is what comes and goes.
pub(crate) fn starts_and_stops(host: Host, other: Host) {
    let stem = unique("start");
    let name = format!("{stem}.svc.internal");
    gone_everywhere(&name);
    let replicas = service(&stem, &[host, other]);
    everywhere(&name, RecordType::A, &addresses([host, other]));
    replicas[0].docker(&["stop", "-t", "1"]);
    everywhere(&name, RecordType::A, &addresses([other]));
    replicas[0].docker(&["start"]);
    everywhere(&name, RecordType::A, &addresses([host, other]));
    replicas[0].docker(&["rm", "-f"]);
    everywhere(&name, RecordType::A, &addresses([other]));
    replicas[1].docker(&["rm", "-f"]);
    gone_everywhere(&name);
}

#[test]
fn ten_replicas_are_ten_targets_and_stopping_them_takes_all_away() {
    let stem = unique("scale");
    let name = format!("{stem}.svc.internal");
    let network = A.network(&unique("net"));
    let client = A.run(&unique("client"), &["--network", &network.name]);
    let label = format!("portolan.service={stem}");
    let options = ["--label", &label, "-p", "80", "--network", &network.name];
    let mut replicas: Vec<Container> = (0..10).map(|_| A.run(&unique("r"), &options)).collect();

    let ports = |replicas: &[Container]| targets(replicas.iter().map(|replica| (A.address, replica.port())));
    let inside = |replicas: &[Container]| Answer::found(replicas.iter().map(|replica| replica.address(&network.name)));
    everywhere(&name, RecordType::SRV, &ports(&replicas));
    expect("a neighbour is given ten addresses", &inside(&replicas), || client.ask(&name, "A"));

    replicas.truncate(3);
    everywhere(&name, RecordType::SRV, &ports(&replicas));
    expect("a neighbour is given three addresses", &inside(&replicas), || client.ask(&name, "A"));
    replicas.clear();
    gone_everywhere(&name);
}

#[test]
fn a_crash_loop_is_given_in_its_first_run_and_again_when_it_lives_on() {
    let stem = unique("crash");
    let name = format!("{stem}.svc.internal");
    let (label, port) = (format!("portolan.service={stem}"), format!("{}:80", unique_port()));
    let options = ["--label", &label, "-p", &port];
    let steady = B.run(&unique("r"), &options);
    everywhere(&name, RecordType::A, &addresses([B]));
    // Lives for four seconds, then for three, two and one, and then on. The engine starts it again 0.1 s after its end, then
    // 0.2 s, 0.4 s and 0.8 s.
    let lives = "n=$(cat /n 2>/dev/null || echo 4); echo $((n - 1)) >/n; httpd -p 80; [ $n -gt 0 ] || sleep 1d; \
                 sleep $n; exit 1";
    let crashing = [&options[..], &["--restart", "always"]].concat();
    let crashing = A.run_command(&unique("r"), &crashing, &["sh", "-c", lives]);
    let restarts = || crashing.docker(&["inspect", "-f", "{{.RestartCount}}"]).trim().to_owned();
    everywhere(&name, RecordType::A, &addresses([A, B]));
    everywhere(&name, RecordType::A, &addresses([B]));
    let began = Instant::now();
    let prober = Prober::start(&name);
    eventually("it lives on", 2 * SOON, || if restarts() == "4" { Ok(()) } else { Err(restarts()) });
    prober.finish(began).judge(&addresses([B]), &[]);
    everywhere(&name, RecordType::A, &addresses([A, B]));
    // By a person's hand it is there at once, though its last run was a short one.
    crashing.docker(&["restart", "-t", "0"]);
    everywhere(&name, RecordType::A, &addresses([A, B]));
    drop(steady);
}

#[test]
fn a_paused_replica_is_left_out_until_it_is_unpaused() {
    pauses(A, C);
}

/// The replica on the first of these hosts is paused.
pub(crate) fn pauses(host: Host, other: Host) {
    let stem = unique("pause");
    let name = format!("{stem}.svc.internal");
    let replicas = service(&stem, &[host, other]);
    everywhere(&name, RecordType::A, &addresses([host, other]));
    replicas[0].docker(&["pause"]);
    everywhere(&name, RecordType::A, &addresses([other]));
    replicas[0].docker(&["unpause"]);
    everywhere(&name, RecordType::A, &addresses([host, other]));
}

#[test]
fn a_rename_moves_a_name_that_came_from_the_container() {
    let (old, new) = (unique("old"), unique("new"));
    let publish = format!("{}:80", unique_port());
    let mut container = B.run(&old, &["-p", &publish]);
    everywhere(&format!("{old}.default.svc.internal"), RecordType::A, &addresses([B]));
    B.docker(&["rename", &old, &new]);
    container.name.clone_from(&new);
    everywhere(&format!("{new}.default.svc.internal"), RecordType::A, &addresses([B]));
    gone_everywhere(&format!("{old}.default.svc.internal"));
}

#[test]
fn connecting_and_disconnecting_a_network_changes_the_address_for_those_on_it() {
    joins_and_leaves_a_network(A);
}

/// All of it on this host.
pub(crate) fn joins_and_leaves_a_network(host: Host) {
    let (stem, port) = (unique("net"), unique_port());
    let name = format!("{stem}.svc.internal");
    let (near, far) = (host.network(&unique("near")), host.network(&unique("far")));
    let client = host.run(&unique("client"), &["--network", &near.name]);
    let (label, publish) = (format!("portolan.service={stem}"), format!("{port}:80"));
    let server = host.run(&unique("r"), &["--label", &label, "-p", &publish, "--network", &far.name]);
    expect("on another network: the published port", &targets([(host.address, port)]), || client.ask(&name, "SRV"));

    host.docker(&["network", "connect", &near.name, &server.name]);
    let inside = server.address(&near.name);
    expect("connected: the container's address", &Answer::found([&inside]), || client.ask(&name, "A"));
    everywhere(&name, RecordType::A, &addresses([host]));

    host.docker(&["network", "disconnect", &near.name, &server.name]);
    expect("disconnected: the published port", &targets([(host.address, port)]), || client.ask(&name, "SRV"));
    everywhere(&name, RecordType::A, &addresses([host]));
}

#[test]
fn a_signal_that_does_not_stop_it_leaves_the_answer_alone() {
    let stem = unique("hup");
    let name = format!("{stem}.svc.internal");
    let replicas = service(&stem, &[A]);
    everywhere(&name, RecordType::A, &addresses([A]));
    let began = Instant::now();
    let prober = Prober::start(&name);
    for _ in 0..5 {
        replicas[0].docker(&["kill", "-s", "HUP"]);
    }
    // Something later that all hosts see proves that they saw the signals and let them be.
    let marker = unique("marker");
    let _later = service(&marker, &[A]);
    everywhere(&format!("{marker}.svc.internal"), RecordType::A, &addresses([A]));
    prober.finish(began).judge(&addresses([A]), &[]);
    eventually("the container still runs", SOON, || {
        let state = replicas[0].docker(&["inspect", "-f", "{{.State.Status}}"]);
        if state.trim() == "running" { Ok(()) } else { Err(state) }
    });
}
