//! Every shape of container seen by every kind of asker: one row for each pair, both families, and the rule or the
//! reason. Askers of whom the same is true stand in one line of `table.txt`.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::dns::{explain::words, fixture::World};

/// This host, with an engine that has every kind of network, and three others.
const WORLD: &str = "
    network bridge bridge 172.17.0.0/16
    network front bridge 172.18.0.0/16,fd00:18::/64
    network back bridge 172.19.0.0/16
    network six bridge fd00:19::/64
    network cut bridge 172.20.0.0/16 internal
    network mute bridge 172.21.0.0/16 no-icc
    network else bridge 172.23.0.0/16 apart
    network docker_gwbridge bridge 172.22.0.0/16
    network mesh overlay 10.1.0.0/24
    network vault overlay 10.2.0.0/24 internal
    network lan macvlan 192.168.1.0/24
    network vlan ipvlan 192.168.2.0/24
    foreign theirs bridge
    foreign closed bridge internal
    foreign link ipvlan
    asker default shop bridge=172.17.0.9
    asker front shop front=172.18.0.9,fd00:18::9
    asker back shop back=172.19.0.9
    asker six shop six=fd00:19::9
    asker both shop front=172.18.0.10 cut=172.20.0.10
    asker internal shop cut=172.20.0.9
    asker mute shop mute=172.21.0.9
    asker overlay shop mesh=10.1.0.9 docker_gwbridge=172.22.0.9
    asker vault shop vault=10.2.0.9
    asker macvlan shop lan=192.168.1.9
    asker ipvlan shop vlan=192.168.2.9
    address 192.0.2.1
    address 2001:db8::1
    proxied 8080/tcp
    host own 192.0.2.1 2001:db8::1
      a1 @bridge=172.17.0.2 on-default.shop 80/tcp
      a2 @front=172.18.0.2,fd00:18::2 dual-stack.shop 80/tcp
      a3 @back=172.19.0.2 on-back.shop 80/tcp
      a4 @front=172.18.0.3 @back=172.19.0.3 on-two.shop 80/tcp
      a5 @cut=172.20.0.2 on-internal.shop 80/tcp
      a6 @mute=172.21.0.2 on-mute.shop 80/tcp
      a7 @mesh=10.1.0.2 on-overlay.shop 80/tcp
      a8 @vault=10.2.0.2 on-vault.shop 80/tcp
      a9 @lan=192.168.1.2 on-macvlan.shop 80/tcp
      aa @vlan=192.168.2.2 on-ipvlan.shop 80/tcp
      ab @host on-host.shop 80/tcp
      ac no-network.shop 80/tcp
      ad @back=172.19.0.4 @docker_gwbridge=172.22.0.4 on-gwbridge.shop 80/tcp
      b1 @back=172.19.0.5 pub-any.shop 80/tcp>0.0.0.0:8080>[::]:8080
      b2 @back=172.19.0.6 pub-v4.shop 80/tcp>0.0.0.0:8080
      b3 @back=172.19.0.7 pub-v6.shop 80/tcp>[::]:8080
      b4 @back=172.19.0.8 pub-unproxied.shop 80/tcp>0.0.0.0:8081
      b5 @back=172.19.0.10 pub-one.shop 80/tcp>198.51.100.7:8080
      b6 @back=172.19.0.11 pub-loopback.shop 80/tcp>127.0.0.1:8080>[::1]:8080
      b7 @back=172.19.0.12 pub-gateway.shop 80/tcp>172.18.0.1:8080
      b8 @back=172.19.0.13 pub-docker-chose.shop 80/tcp~0.0.0.0:8080
      b9 @back=172.19.0.14 routed-here.shop 80/tcp
      ba @else=172.23.0.2 on-apart.shop 80/tcp
      bb @else=172.23.0.3 apart-any.shop 80/tcp>0.0.0.0:8080
    host b 192.0.2.2 2001:db8::2
      c1 @theirs=172.17.0.2 far-bridge.shop 80/tcp
      c2 @front=172.18.0.2 far-same-id.shop 80/tcp
      c3 @mesh=10.1.0.3 far-overlay.shop 80/tcp
      c4 @link=192.168.1.3 far-ipvlan.shop 80/tcp
      c5 @host far-host.shop 80/tcp
      c6 @theirs=172.30.0.2 far-any.shop 80/tcp>0.0.0.0:8080>[::]:8080
      c7 @theirs=172.30.0.3 far-one.shop 80/tcp>198.51.100.8:8080
      c8 @theirs=172.30.0.4 far-loopback.shop 80/tcp>127.0.0.1:8080
      c9 @theirs=172.30.0.5 far-gateway.shop 80/tcp>172.18.0.1:8080
      ca @theirs=172.31.0.2 far-routed.shop 80/tcp
      cb @closed=172.31.0.3 far-routed-internal.shop 80/tcp
      cd @theirs=172.19.0.14 far-routed-taken.shop 80/tcp
      ce @theirs=172.19.0.14 far-taken-any.shop 80/tcp>0.0.0.0:8080
      cf @link=172.19.0.15 far-ipvlan-taken.shop 80/tcp
      cc @theirs=172.30.0.6 far-two-addresses.shop 80/tcp>198.51.100.8:8080>198.51.100.9:8080
    host c 192.0.2.3
      d1 @theirs=172.30.0.2 v4-host-any.shop 80/tcp>0.0.0.0:8080>[::]:8080
      d2 @host v4-host-host.shop 80/tcp
    host silent
      e1 @theirs=172.30.0.2 silent-any.shop 80/tcp>0.0.0.0:8080
      e2 @host silent-host.shop 80/tcp";

const ASKERS: [&str; 14] = [
    "default", "front", "back", "six", "both", "internal", "mute", "overlay", "vault", "macvlan", "ipvlan", "host",
    "stranger", "unknown",
];

/// Shapes in [`WORLD`] times [`ASKERS`].
const ROWS: usize = 43 * 14;

fn world() -> World {
    let mut world = World::parse(WORLD);
    world.settings.routed = vec!["172.31.0.0/16".parse().unwrap(), "172.19.0.14/32".parse().unwrap()];
    world
}

/// `172.18.0.2 shared-network`, or `- no-proxy`.
fn seen(world: &World, service: &str, who: &str, family: Family) -> String {
    let source = world.source(who);
    let view = Viewpoint::new(&world.local, &world.settings.routed, &source);
    let [candidate] = world.zone.service("shop", service).unwrap() else { panic!("one instance of {service}") };
    match view.way(candidate, family) {
        Ok(way) => format!("{} {}", way.address, words::rule(way, candidate).code),
        Err(obstacle) => format!("- {}", words::obstacle(obstacle).code),
    }
}

#[test]
fn every_asker_is_told_what_it_reaches_of_every_shape() {
    let world = world();
    let shapes: BTreeSet<&str> =
        world.zone.services().map(|service| service.all()[0].offer().service.as_str()).collect();
    let mut expected: BTreeMap<(&str, &str), (&str, &str)> = BTreeMap::new();
    for line in include_str!("table.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [shape, askers, v4, v6] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("four cells: {line}")
        };
        let shape = *shapes.get(shape).unwrap_or_else(|| panic!("no shape {shape}"));
        for who in askers.split_whitespace() {
            let who = *ASKERS.iter().find(|known| **known == who).unwrap_or_else(|| panic!("no asker {who}"));
            assert!(expected.insert((shape, who), (v4, v6)).is_none(), "{shape} for {who} twice");
        }
    }
    assert_eq!(expected.len(), ROWS, "rows");
    assert_eq!(expected.len(), shapes.len() * ASKERS.len(), "each pair once");
    let mut wrong = Vec::new();
    for ((shape, who), (v4, v6)) in expected {
        let given = Family::BOTH.map(|family| seen(&world, shape, who, family));
        if given != [v4, v6] {
            wrong.push(format!("{shape} | {who} | {} | {}      <- {v4} | {v6}", given[0], given[1]));
        }
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_rule_and_every_reason_has_a_row() {
    let told: Vec<&str> =
        include_str!("table.txt").lines().flat_map(|line| line.split('|').skip(2)).map(str::trim).collect();
    for code in [
        "shared-network",
        "hosts-bridge",
        "host-network",
        "routed",
        "link-layer",
        "published",
        "confined",
        "not-published",
        "no-host-address",
        "no-proxy",
        "no-bridge",
        "its-host-only",
        "asker-lacks-family",
        "shadowed",
        "bridge-apart",
    ] {
        assert!(told.iter().any(|cell| cell.ends_with(&format!(" {code}"))), "{code}");
    }
}
