//! Which number the addresses of a service stand for: what users really start, seen by every kind of asker, with the line that
//! `explain` prints. The rows are in `numbers.txt`.

use std::collections::BTreeMap;

use crate::dns::{
    explain::{explain, words},
    fixture::World,
};

/// A shape is a service of its own: what `docker run` would give its containers on this host and on host b.
const WORLD: &str = "
    network front bridge 172.18.0.0/16,fd00:18::/64
    network back bridge 172.19.0.0/16
    network cut bridge 172.20.0.0/16 internal
    network lan macvlan 192.168.1.0/24
    foreign theirs bridge
    asker shared shop front=172.18.0.9,fd00:18::9
    asker back shop back=172.19.0.9
    asker cut shop cut=172.20.0.9
    asker macvlan shop lan=192.168.1.9
    address 192.0.2.1
    proxied 5672/tcp
    proxied 15672/tcp
    proxied 15080/tcp
    proxied 8080/tcp
    proxied 9090/tcp
    proxied 443/tcp
    host own 192.0.2.1
      a1 @front=172.18.0.1 five.shop 4369/tcp 5671/tcp 5672/tcp>0.0.0.0:5672 15672/tcp>0.0.0.0:15672 25672/tcp
      a2 @front=172.18.0.2 other.shop 80/tcp 8080/tcp>0.0.0.0:15080
      a3 @front=172.18.0.3 several.shop 80/tcp>0.0.0.0:8080 443/tcp>0.0.0.0:443 9000/tcp
      a4 @front=172.18.0.4 none.shop 80/tcp~0.0.0.0:32768 443/tcp
      a5 @front=172.18.0.5 mixed.shop 8080/tcp>0.0.0.0:8080
      a6 @front=172.18.0.6 label.shop main=80 80/tcp>0.0.0.0:8080 443/tcp>0.0.0.0:443
      a7 @front=172.18.0.7 dispute.shop main=80 80/tcp>0.0.0.0:8080 9000/tcp
      a8 @front=172.18.0.8 bound.shop 80/tcp>198.51.100.1:8080>198.51.100.2:9090
      a9 @host kept.shop 8080/tcp
      aa @front=172.18.0.10 sick.shop unhealthy 80/tcp
    host b 192.0.2.2
      b1 @theirs=172.30.0.1 five.shop 4369/tcp 5671/tcp 5672/tcp>0.0.0.0:5672 15672/tcp>0.0.0.0:15672 25672/tcp
      b2 @theirs=172.30.0.2 other.shop 80/tcp 8080/tcp>0.0.0.0:15080
      b3 @theirs=172.30.0.3 several.shop 80/tcp>0.0.0.0:8080 443/tcp>0.0.0.0:443 9000/tcp
      b4 @theirs=172.30.0.4 none.shop 80/tcp~0.0.0.0:32768 443/tcp
      b5 @theirs=172.30.0.5 mixed.shop 8080/tcp>0.0.0.0:9090
      c5 @theirs=172.30.0.15 mixed.shop 8080/tcp
      b6 @theirs=172.30.0.6 label.shop main=80 80/tcp>0.0.0.0:8080 443/tcp>0.0.0.0:443
      b7 @theirs=172.30.0.7 dispute.shop main=9000 80/tcp>0.0.0.0:8080 9000/tcp>0.0.0.0:9000
      b8 @theirs=172.30.0.8 bound.shop 80/tcp>198.51.100.3:8080>198.51.100.4:9090
      b9 @theirs=172.30.0.9 kept.shop 80/tcp>0.0.0.0:8080
      ba @theirs=172.30.0.10 sick.shop 80/tcp>0.0.0.0:8080
    host c 192.0.2.3
      c7 @theirs=172.30.0.7 dispute.shop main=9000 9000/tcp>0.0.0.0:19000";

const SHAPES: [&str; 10] = ["five", "other", "several", "none", "mixed", "label", "dispute", "bound", "kept", "sick"];
const ASKERS: [&str; 6] = ["shared", "back", "cut", "macvlan", "host", "stranger"];

/// The addresses of A, and the line of `explain`.
fn seen(world: &World, shape: &str, who: &str) -> (String, String) {
    let source = world.source(who);
    let name = hickory_proto::rr::Name::from_ascii(format!("{shape}.shop.svc.internal.")).unwrap();
    let snapshot = world.snapshot();
    let explanation = explain(&snapshot, &source, &name);
    let given = explanation.candidates.iter().filter_map(|judged| {
        let [v4, _] = &judged.families;
        v4.out.is_none().then(|| v4.way.unwrap().address.to_string())
    });
    let mut given: Vec<String> = given.collect();
    given.sort();
    let given = if given.is_empty() { "-".to_owned() } else { given.join(" ") };
    let choice = explanation.service.unwrap().number.unwrap();
    (given, words::number(&choice))
}

#[test]
fn every_asker_is_given_one_number_of_every_shape_and_told_why() {
    let world = World::parse(WORLD);
    let mut expected: BTreeMap<(&str, &str), (&str, &str)> = BTreeMap::new();
    for line in include_str!("numbers.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [shape, askers, addresses, told] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("four cells: {line}")
        };
        for who in askers.split_whitespace() {
            assert!(expected.insert((shape, who), (addresses, told)).is_none(), "{shape} for {who} twice");
        }
    }
    let mut wrong = Vec::new();
    for shape in SHAPES {
        for who in ASKERS {
            let (given, told) = seen(&world, shape, who);
            if expected.remove(&(shape, who)) != Some((&*given, &*told)) {
                wrong.push(format!("{shape} | {who} | {given} | {told}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(expected.is_empty(), "rows of nothing: {expected:?}");
}
