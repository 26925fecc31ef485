//! Load balancers before the agent: they find every replica, and follow as replicas come and go, without a reload.

use std::{collections::BTreeSet, net::SocketAddr};

use super::{super::bed::eventually, PORT, Replica, Stage, fetch, replica};
use crate::engine::docker;

/// Every replica serves through this address, also after one went and another came.
fn follows(stage: &Stage, fronts: &[SocketAddr]) {
    // Twelve requests are three rounds over four replicas at least.
    let serves = |expected: &[&str]| {
        for front in fronts {
            let expected: BTreeSet<String> = expected.iter().map(|&short| short.to_owned()).collect();
            let mut last = Vec::new();
            eventually(format_args!("{expected:?} serve at {front}"), || {
                last = (0..12).map(|_| fetch(*front, "/").unwrap_or_else(|error| error.to_string())).collect();
                (last.iter().cloned().collect::<BTreeSet<_>>() == expected).then_some(())
            });
        }
    };
    serves(&["one", "two"]);
    replica(&stage.bed, "three", PORT, &["--network", &stage.network]);
    serves(&["one", "two", "three"]);
    docker(&["stop", &stage.bed.name("one")]);
    serves(&["two", "three"]);
}

#[test]
fn nginx_follows_a_name_in_a_variable() {
    let stage = Stage::new("nginx");
    let _agent = stage.home.start();
    stage.home.until_ready();
    stage.write("site.conf", &stage.snippet("nginx.conf"));
    stage.write("nginx.conf", "daemon off;\nerror_log stderr;\nevents {}\nhttp { include /front/site.conf; }\n");
    let peer = stage.peer("exec nginx -c /front/nginx.conf");
    follows(&stage, &[peer.at(80)]);
}

#[test]
fn caddy_follows_addresses_and_srv_records() {
    let stage = Stage::new("caddy");
    let _agent = stage.home.start();
    stage.home.until_ready();
    // One block of options may stand before the sites.
    let base = "{\n    admin off\n    auto_https off\n}\n";
    let (addresses, services) = (stage.snippet("Caddyfile-addresses"), stage.snippet("Caddyfile-services"));
    stage.write("Caddyfile", &[base, &addresses, &services].concat());
    let peer = stage.peer("HOME=/tmp exec caddy run --adapter caddyfile --config /front/Caddyfile");
    follows(&stage, &[peer.at(80), peer.at(81)]);
}

#[test]
fn prometheus_finds_targets_by_addresses_and_by_srv_records() {
    let stage = Stage::new("prometheus");
    let _agent = stage.home.start();
    stage.home.until_ready();
    let base = "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n";
    stage.write("prometheus.yml", &(base.to_owned() + &stage.snippet("prometheus.yml")));
    let peer = stage.peer("exec prometheus --config.file=/front/prometheus.yml --storage.tsdb.path=/tmp/prometheus");
    // (job, URL) of each, with what its last scrape ended with.
    let targets = || -> Option<BTreeSet<String>> {
        let said: serde_json::Value = serde_json::from_str(&fetch(peer.at(9090), "/api/v1/targets").ok()?).ok()?;
        let text = |target: &serde_json::Value| {
            let [url, health] = ["scrapeUrl", "health"].map(|key| target[key].as_str().unwrap_or("?").to_owned());
            format!("{} {url} {health}", target["labels"]["job"].as_str().unwrap_or("?"))
        };
        Some(said["data"]["activeTargets"].as_array()?.iter().map(text).collect())
    };
    let expect = |replicas: &[&Replica]| {
        let of = |replica: &&Replica| {
            [
                format!("web-by-address http://{}:{PORT}/metrics up", replica.address),
                format!("web-by-service http://{}.{}:{PORT}/metrics up", &replica.id[..12], stage.web()),
            ]
        };
        let expected: BTreeSet<String> = replicas.iter().flat_map(of).collect();
        eventually(format_args!("its targets are {expected:?}"), || targets().filter(|found| *found == expected));
    };
    let [one, two] = &stage.replicas;
    expect(&[one, two]);
    docker(&["rm", "-f", &stage.bed.name("one")]);
    expect(&[two]);
}

/// What HAProxy's page of statistics says of the servers of `web` that are up: address and weight, sorted.
pub(super) fn servers_up(statistics: SocketAddr) -> Vec<(String, u32)> {
    let Ok(page) = fetch(statistics, "/;csv") else { return Vec::new() };
    let mut lines = page.lines();
    let columns: Vec<&str> = lines.next().unwrap_or("").trim_start_matches("# ").split(',').collect();
    let column = |name: &str| columns.iter().position(|column| *column == name).expect("a column of HAProxy's");
    let [proxy, server, status, address, weight] = ["pxname", "svname", "status", "addr", "weight"].map(column);
    let rows = lines.map(|line| line.split(',').collect::<Vec<_>>());
    let up = rows.filter(|row| row[proxy] == "web" && row[server] != "BACKEND" && row[status].starts_with("UP"));
    let mut up: Vec<_> = up.map(|row| (row[address].to_owned(), row[weight].parse().expect("a number"))).collect();
    up.sort();
    up
}

/// The sections around a snippet of HAProxy's.
pub(super) fn haproxy(snippet: &str, front: u16, statistics: u16) -> String {
    format!(
        "defaults\n    mode http\n    timeout connect 1s\n    timeout client 10s\n    timeout server 10s\n\
         frontend front\n    bind :{front}\n    default_backend web\n\
         frontend statistics\n    bind :{statistics}\n    stats enable\n    stats uri /\n    stats show-legends\n\
         {snippet}"
    )
}

#[test]
fn haproxy_follows_addresses_over_udp_and_srv_records_over_tcp_with_their_weights() {
    let stage = Stage::new("haproxy");
    let _agent = stage.home.start();
    stage.home.until_ready();
    stage.write("addresses.cfg", &haproxy(&stage.snippet("haproxy-addresses.cfg"), 80, 90));
    stage.write("services.cfg", &haproxy(&stage.snippet("haproxy-services.cfg"), 81, 91));
    let peer = stage.peer("haproxy -D -f /front/addresses.cfg; exec haproxy -db -f /front/services.cfg");
    let [one, two] = &stage.replicas;
    let with = |weights: [u32; 2]| {
        let mut servers: Vec<_> = [one, two].iter().map(|r| format!("{}:{PORT}", r.address)).zip(weights).collect();
        servers.sort();
        servers
    };
    for (statistics, expected) in [(90, with([1, 1])), (91, with([1, 3]))] {
        eventually(format_args!("{expected:?} are up"), || {
            Some(servers_up(peer.at(statistics))).filter(|up| *up == expected)
        });
    }
    follows(&stage, &[peer.at(80), peer.at(81)]);
}
