//! HAProxy elsewhere: neither a container that the agent knows nor its host, but an address that `--allow` lets in. The
//! service before which it stands is scaled under load.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{
    super::{
        bed::{Home, SetOnDrop, engine_bed, eventually},
        cable::Cable,
    },
    AGENT, NAMESPACE, PORT, Peer,
    balancers::{haproxy, servers_up},
    fetch, namespace, replica,
};
use crate::{
    engine::{Bed, docker},
    readme::snippet,
};

/// How many replicas there are, one after the other.
const SCALE: [usize; 4] = [3, 10, 2, 60];
/// At the end, and so the most.
const MOST: usize = SCALE[SCALE.len() - 1];
/// Clients that send a request, wait for its reply and pause.
const CLIENTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(10);
/// Containers are started by so many at once.
const STARTERS: usize = 4;
const FRONT: u16 = 80;
const STATISTICS: u16 = 90;

/// What became of the requests.
#[derive(Debug, Default)]
struct Tally {
    served: usize,
    failed: Vec<String>,
}

fn ask_until(ends: &AtomicBool, front: SocketAddr) -> Tally {
    let mut tally = Tally::default();
    while !ends.load(Ordering::Relaxed) {
        // Slow enough that some are under way when a replica ends.
        match fetch(front, "/cgi-bin/slow") {
            Ok(_) => tally.served += 1,
            Err(error) => tally.failed.push(error.to_string()),
        }
        thread::sleep(PAUSE);
    }
    tally
}

/// Replicas `from..to`, each published at a host address of its own, as if each ran on a host of its own.
fn start(bed: &Bed, cable: &Cable, port: u16, from: usize, to: usize) {
    thread::scope(|scope| {
        for starter in 0..STARTERS {
            scope.spawn(move || {
                for number in (from..to).skip(starter).step_by(STARTERS) {
                    // The first of the host's addresses is the agent's.
                    let publish = format!("{}:{port}:{port}", cable.ours[number + 1]);
                    replica(bed, &format!("r{number}"), port, &["-p", &publish]);
                }
            });
        }
    });
}

/// As `docker compose up --scale` does it: the replicas are asked to stop, and end at once.
fn stop(bed: &Bed, from: usize, to: usize) {
    let names: Vec<String> = (from..to).map(|number| bed.name(&format!("r{number}"))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    docker(&[&["stop"], &names[..]].concat());
    docker(&[&["rm"], &names[..]].concat());
}

/// Scales the service while clients use it through HAProxy with a snippet of the page.
fn loses_no_request(test: &str, snippet: &str) {
    let bed = engine_bed(test);
    let cable = Cable::lay(&bed, 19, 25, 1 + u32::try_from(MOST).expect("a small number"));
    let (ours, theirs) = (cable.ours[0], cable.theirs);
    let home = Home::new(&[
        "--advertise",
        &ours.to_string(),
        "--dns",
        &format!("{ours}:53"),
        "--allow",
        &format!("{theirs}/32"),
    ]);
    let _agent = home.start();
    home.until_ready();

    // A port of the host's addresses below those that Docker chooses from: the page's may be taken on this machine.
    let port = 20_000 + u16::try_from(std::process::id() % 10_000).expect("below 10,000");
    let folder = tempfile::tempdir().expect("a directory");
    let configuration = snippet
        .replace(AGENT, &ours.to_string())
        .replace(NAMESPACE, &namespace(&bed))
        .replace(&PORT.to_string(), &port.to_string());
    std::fs::write(folder.path().join("haproxy.cfg"), haproxy(&configuration, FRONT, STATISTICS)).expect("a file");
    start(&bed, &cable, port, 0, SCALE[0]);
    let elsewhere = ["--network", &format!("container:{}", cable.container)];
    let peer = Peer::run(&bed, "peer", &elsewhere, folder.path(), "exec haproxy -db -f /front/haproxy.cfg");
    let (front, statistics) = (SocketAddr::from((theirs, FRONT)), SocketAddr::from((theirs, STATISTICS)));
    let until_up = |count: usize| {
        let mut expected: Vec<String> =
            cable.ours[1..=count].iter().map(|address| format!("{address}:{port}")).collect();
        expected.sort();
        let mut up = Vec::new();
        eventually(format_args!("{count} servers are up"), || {
            up = servers_up(statistics).into_iter().map(|(address, _)| address).collect();
            (up == expected).then_some(())
        });
    };
    until_up(SCALE[0]);
    assert!(!peer.log().contains("could not resolve"), "the system's resolver knows nothing of ours");

    let ends = AtomicBool::new(false);
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| ask_until(&ends, front))).collect();
        {
            let _end = SetOnDrop(&ends);
            for step in SCALE.windows(2) {
                let [before, after] = [step[0], step[1]];
                if after > before {
                    start(&bed, &cable, port, before, after);
                } else {
                    stop(&bed, after, before);
                }
                until_up(after);
            }
        }
        clients.into_iter().map(|client| client.join().expect("a client ends")).collect()
    });
    let failed: Vec<&String> = tallies.iter().flat_map(|tally| &tally.failed).collect();
    let served: usize = tallies.iter().map(|tally| tally.served).sum();
    eprintln!("{served} requests served, {} failed", failed.len());
    assert!(failed.is_empty(), "{} failed, {served} were served: {:?}", failed.len(), &failed[..failed.len().min(5)]);
    assert!(served > 100, "{served} requests prove little");
    // In two rounds each has its turn.
    let by: BTreeSet<String> = (0..2 * MOST).map(|_| fetch(front, "/").expect("it is served")).collect();
    assert_eq!(by.len(), MOST, "those that serve: {by:?}");
}

#[test]
fn haproxy_elsewhere_loses_no_request_while_a_service_is_scaled_with_addresses_over_udp() {
    loses_no_request("scaledudp", &snippet("haproxy-addresses.cfg"));
}

#[test]
fn haproxy_elsewhere_loses_no_request_while_a_service_is_scaled_with_srv_records_over_tcp() {
    loses_no_request("scaledtcp", &snippet("haproxy-services.cfg"));
}
