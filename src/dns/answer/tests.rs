use std::collections::BTreeSet;

use hickory_proto::rr::DNSClass;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::{
    dns::{
        fixture::{ADDRESS, World},
        prefer::Prefer,
    },
    model::NetworkId,
};

/// One bridge, two namespaces, and names in `default` and `global`.
const SHOP: &str = "
    network n1 bridge 172.18.0.0/16,fd00:18::/64
    asker f1 shop n1=172.18.0.9
    asker f2 blog n1=172.18.0.10
    host own 192.0.2.1
      a1 @n1=172.18.0.2 name=shop-web-1 web.shop http:80/tcp tag=b tag=a
      a2 @n1=172.18.0.3 name=Shop.Web_2 web.shop http:80/tcp metrics:9100/tcp weight=5 tag=a tag=c
      a3 @n1=172.18.0.4 name=shop-web-3 draining web.shop http:80/tcp tag=late
      a4 @n1=172.18.0.5 web.global 80/tcp
      a5 @n1=172.18.0.6 mail.global 25/tcp
      a6 @n1=172.18.0.7 tools.default 80/tcp
      a7 @n1=172.18.0.8 paused stopped.shop http:80/tcp
      a8 @n1=172.18.0.11 stopped.global 80/tcp
      a9 @n1=172.18.0.12 my_app.my-space 80/tcp all.web 80/tcp dns.shop dns:53/udp dns:53/tcp
";

#[test]
fn a_short_name_is_the_askers_own_else_global() {
    World::parse(SHOP).check(
        "f1 | A web.svc.internal | 172.18.0.2 172.18.0.3
         f1 | A web. | 172.18.0.2 172.18.0.3
         f1 | A WEB. | 172.18.0.2 172.18.0.3
         f1 | A WeB.sVc.InTeRnAl | 172.18.0.2 172.18.0.3
         f2 | A web.svc.internal | 172.18.0.5
         f2 | A web. | 172.18.0.5
         host | A web.svc.internal | 172.18.0.5
         f1 | A mail. | 172.18.0.6
         f2 | A mail.svc.internal | 172.18.0.6
         f1 | A tools. | NXDOMAIN
         host | A tools. | 172.18.0.7
         stranger | A tools. | NODATA
         f1 | A stopped. | NODATA
         f2 | A stopped. | 172.18.0.11
         f1 | A all.svc.internal | NXDOMAIN",
    );
}

#[test]
fn a_long_name_says_which_namespace() {
    World::parse(SHOP).check(
        "f2 | A web.shop.svc.internal | 172.18.0.2 172.18.0.3
         f1 | A web.global.svc.internal | 172.18.0.5
         f1 | A tools.default.svc.internal | 172.18.0.7
         f1 | A my_app.my-space.svc.internal | 172.18.0.12
         f1 | A all.web.svc.internal | 172.18.0.12
         f1 | A mail.shop.svc.internal | NXDOMAIN
         f1 | A web.nowhere.svc.internal | NXDOMAIN
         f1 | A a.b.c.d.svc.internal | NXDOMAIN
         f1 | A a.b.c.d.e.f.svc.internal | NXDOMAIN",
    );
}

#[test]
fn what_stands_above_names_exists_and_what_stands_below_them_does_not() {
    World::parse(SHOP).check(
        "f1 | A shop.svc.internal | NODATA
         f1 | A my-space.svc.internal | NODATA
         f1 | A my.svc.internal | NXDOMAIN
         f1 | A sho.svc.internal | NXDOMAIN
         f1 | A shop. | NXDOMAIN
         f1 | A internal. | NODATA
         f1 | A _tcp.web.svc.internal | NODATA
         f1 | A _tcp.web.shop.svc.internal | NODATA
         f1 | A _udp.web.shop.svc.internal | NXDOMAIN
         f1 | A _tcp.web.global.svc.internal | NXDOMAIN
         f1 | A _tcp.svc.internal | NXDOMAIN
         f1 | A _tcp. | NXDOMAIN
         f1 | A x.a10000000000.web.shop.svc.internal | NXDOMAIN",
    );
}

#[test]
fn an_instance_is_found_by_its_id_and_its_containers_name() {
    let mut world = World::parse(SHOP);
    world.check(
        "f1 | A a10000000000.web.shop.svc.internal | 172.18.0.2
         f1 | A A10000000000.Web.Shop.svc.internal | 172.18.0.2
         f1 | A shop-web-1.web.shop.svc.internal | 172.18.0.2
         f1 | A shop-web_2.web.shop.svc.internal | 172.18.0.3
         f1 | A shop-web-3.web.shop.svc.internal | 172.18.0.4
         f1 | AAAA a10000000000.web.shop.svc.internal | NODATA
         f1 | SRV a20000000000.web.shop.svc.internal | a2:80=172.18.0.3 a2:9100=172.18.0.3
         f1 | TXT a10000000000.web.shop.svc.internal | a,b
         f1 | A a10000000000.mail.global.svc.internal | NXDOMAIN
         f1 | A shop-web-9.web.shop.svc.internal | NXDOMAIN
         f1 | A a1.web.shop.svc.internal | NXDOMAIN",
    );
    // The name may be held twice, on two hosts.
    world = World::parse(
        "network n1 bridge 172.18.0.0/16
         asker f1 shop n1=172.18.0.9
         host own 192.0.2.1
           a1 @n1=172.18.0.2 name=web web.shop 80/tcp
           a2 @n1=172.18.0.3 name=a10000000000 web.shop 80/tcp
         host b 192.0.2.2
           b1 name=web web.shop 80/tcp>0.0.0.0:32768",
    );
    world.check(
        "f1 | A web.web.shop.svc.internal | 172.18.0.2 192.0.2.2
         f1 | A a10000000000.web.shop.svc.internal | 172.18.0.2",
    );
}

#[test]
fn all_holds_what_is_not_ready_too() {
    World::parse(SHOP).check(
        "f1 | A all.web.shop.svc.internal | 172.18.0.2 172.18.0.3 172.18.0.4
         f1 | A all.stopped.shop.svc.internal | 172.18.0.8
         f1 | TXT all.web.shop.svc.internal | NODATA
         f1 | SRV all.stopped.shop.svc.internal | a7:80=172.18.0.8
         f1 | A all.nothing.shop.svc.internal | NXDOMAIN
         f1 | A all.shop.nothing.svc.internal | NXDOMAIN",
    );
}

#[test]
fn services_have_their_ports_tags_and_nothing_else() {
    World::parse(SHOP).check(
        "f1 | SRV web. | a1:80=172.18.0.2 a2:80=172.18.0.3 a2:9100=172.18.0.3
         f1 | SRV web.shop.svc.internal | a1:80=172.18.0.2 a2:80=172.18.0.3 a2:9100=172.18.0.3
         f1 | SRV _http._tcp.web.svc.internal | a1:80=172.18.0.2 a2:80=172.18.0.3
         f2 | SRV _Metrics._TCP.web.shop.svc.internal | a2:9100=172.18.0.3
         f1 | SRV _http._udp.web.shop.svc.internal | NXDOMAIN
         f1 | SRV _smtp._tcp.web.shop.svc.internal | NXDOMAIN
         f1 | SRV _http._tcp.web.nowhere.svc.internal | NXDOMAIN
         f1 | SRV _http._tcp.stopped.shop.svc.internal | NODATA
         f1 | A _http._tcp.web.shop.svc.internal | NODATA
         f1 | ANY _http._tcp.web.shop.svc.internal | RFC8482
         f1 | SRV dns.shop.svc.internal | a9:53=172.18.0.12
         f1 | SRV _dns._udp.dns.shop.svc.internal | a9:53=172.18.0.12
         f1 | TXT web.svc.internal | NODATA
         f1 | TXT a10000000000.web.svc.internal | a,b
         f1 | TXT mail.svc.internal | NODATA
         f1 | MX web.svc.internal | NODATA
         f1 | TYPE65 web.svc.internal | NODATA
         f1 | CNAME web.svc.internal | NODATA
         f1 | SOA web.svc.internal | NODATA
         f1 | NS web.svc.internal | NODATA
         f1 | MX none.svc.internal | NXDOMAIN
         f1 | ANY web.svc.internal | RFC8482
         f1 | ANY none.svc.internal | NXDOMAIN
         stranger | ANY web.shop.svc.internal | RFC8482",
    );
}

#[test]
fn the_apex_is_its_own_name_server() {
    let mut world = World::parse(SHOP);
    world.check(
        "f1 | SOA svc.internal | svc.internal.
         f1 | SOA SVC.INTERNAL | svc.internal.
         f1 | NS svc.internal | svc.internal.
         f1 | A svc.internal | 172.18.0.1
         f1 | AAAA svc.internal | fd00:18::1
         host | A svc.internal | NODATA
         stranger | A svc.internal | NODATA
         f1 | MX svc.internal | NODATA
         f1 | ANY svc.internal | RFC8482",
    );
    world.settings.nameserver = vec!["192.0.2.1".parse().unwrap()];
    world.check(
        "f1 | A svc.internal | 172.18.0.1
         host | A svc.internal | 192.0.2.1
         stranger | A svc.internal | 192.0.2.1",
    );
}

#[test]
fn addresses_of_containers_have_their_names() {
    let mut world = World::parse(
        "network n1 bridge 172.18.0.0/20,fd00:18::/64
         network mesh overlay 10.1.0.0/24
         network lan macvlan 192.168.1.0/24
         foreign theirs bridge
         foreign other overlay
         asker f1 shop n1=172.18.0.9
         asker in shop cut=172.30.0.9
         host own 192.0.2.1
           a1 @n1=172.18.0.2,fd00:18::2 @lan=192.168.1.2 web.shop 80/tcp
           a2 @n1=172.18.0.3 web.shop 80/tcp api.shop 81/tcp
         host b 192.0.2.2
           b1 @mesh=10.1.0.3 @theirs=172.18.0.4 web.shop 80/tcp
           b2 @other=10.1.0.4 web.shop 80/tcp",
    );
    world.check(
        "f1 | PTR 2.0.18.172.in-addr.arpa | a10000000000.web.shop.svc.internal.
         stranger | PTR 2.0.18.172.In-Addr.ARPA | a10000000000.web.shop.svc.internal.
         f1 | PTR 3.0.18.172.in-addr.arpa | a20000000000.api.shop.svc.internal. a20000000000.web.shop.svc.internal.
         f1 | PTR 3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.1.0.0.0.0.d.f.ip6.arpa | NXDOMAIN
         f1 | PTR 2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.1.0.0.0.0.d.f.ip6.arpa | a10000000000.web.shop.svc.internal.
         f1 | PTR 3.0.1.10.in-addr.arpa | b10000000000.web.shop.svc.internal.
         f1 | PTR 4.0.1.10.in-addr.arpa | NXDOMAIN
         f1 | PTR 4.0.18.172.in-addr.arpa | NXDOMAIN
         f1 | A 2.0.18.172.in-addr.arpa | NODATA
         f1 | ANY 2.0.18.172.in-addr.arpa | RFC8482
         f1 | PTR x.2.0.18.172.in-addr.arpa | NXDOMAIN
         f1 | PTR x.18.172.in-addr.arpa | FORWARD
         f1 | PTR 0.18.172.in-addr.arpa | NODATA
         f1 | SOA 0.18.172.in-addr.arpa | svc.internal.
         f1 | NS 0.18.172.in-addr.arpa | svc.internal.
         f1 | SOA 3.18.172.in-addr.arpa | svc.internal.
         f1 | PTR 9.3.18.172.in-addr.arpa | NXDOMAIN
         f1 | PTR 18.172.in-addr.arpa | FORWARD
         f1 | PTR 16.18.172.in-addr.arpa | FORWARD
         f1 | PTR 0.0.8.1.0.0.0.0.d.f.ip6.arpa | FORWARD
         f1 | PTR 0.0.0.0.0.0.0.0.8.1.0.0.0.0.d.f.ip6.arpa | NODATA
         f1 | PTR 0.0.0.0.0.0.0.0.0.8.1.0.0.0.0.d.f.ip6.arpa | NODATA
         f1 | PTR 1.0.0.0.0.0.0.0.0.8.1.0.0.0.0.d.f.ip6.arpa | NXDOMAIN
         f1 | PTR 2.1.168.192.in-addr.arpa | a10000000000.web.shop.svc.internal.
         f1 | PTR 77.1.168.192.in-addr.arpa | FORWARD
         f1 | PTR 8.8.8.8.in-addr.arpa | FORWARD
         in | PTR 8.8.8.8.in-addr.arpa | REFUSED
         stranger | PTR 8.8.8.8.in-addr.arpa | REFUSED",
    );
    world.local.listed = false;
    world.local.networks.remove(&NetworkId("n1".into()));
    world.check(
        "host | PTR 9.0.18.172.in-addr.arpa | SERVFAIL
         host | PTR 0.18.172.in-addr.arpa | SERVFAIL
         host | PTR 8.8.8.8.in-addr.arpa | FORWARD",
    );
}

#[test]
fn names_of_others_are_forwarded_for_whom_may_ask_for_them() {
    let mut world = World::parse(
        "network n1 bridge 172.18.0.0/16
         network cut bridge 172.20.0.0/16 internal
         asker f1 shop n1=172.18.0.9
         asker in shop cut=172.20.0.9
         asker up shop n1=172.18.0.10 cut=172.20.0.10
         asker lost shop gone=172.21.0.9
         host own 192.0.2.1",
    );
    let askers = world.local.askers.clone();
    world.local.askers.retain(|_, asker| &*asker.name != "lost");
    world.check(
        "f1 | A example.com | FORWARD
         up | A example.com | FORWARD
         host | MX example.com | FORWARD
         f1 | NS . | FORWARD
         in | A example.com | REFUSED
         stranger | A example.com | REFUSED
         in | A svc.internal.example.com | REFUSED
         f1 | A com. | NXDOMAIN
         host | NS com. | FORWARD
         f1 | A none.svc.internal | NXDOMAIN
         in | A none.svc.internal | NXDOMAIN
         unknown | A example.com | WAIT
         unknown | A web. | WAIT
         f1 | AXFR svc.internal | REFUSED
         f1 | TYPE251 svc.internal | REFUSED
         f1 | AXFR example.com | REFUSED",
    );
    world.local.askers = askers;
    world.settings.forwarding = false;
    world.check(
        "f1 | A example.com | REFUSED
         host | A example.com | REFUSED",
    );
}

#[test]
fn nothing_is_denied_before_everything_is_known() {
    let mut world = World::parse(&SHOP.replace("172.18.0.2 ", "172.18.0.2,fd00:18::2 "));
    world.catalog.registry_listed = false;
    world.zone = Zone::of(&world.catalog);
    world.check(
        "f1 | A web. | 172.18.0.2 172.18.0.3
         f1 | AAAA web. | fd00:18::2
         f1 | SRV web. | a1:80=172.18.0.2,fd00:18::2 a2:80=172.18.0.3 a2:9100=172.18.0.3
         f1 | ANY web. | RFC8482
         f1 | A none. | SERVFAIL
         f1 | A none.shop.svc.internal | SERVFAIL
         f1 | A shop.svc.internal | SERVFAIL
         f1 | A stopped.shop.svc.internal | SERVFAIL
         f1 | MX web. | SERVFAIL
         f1 | TXT mail. | SERVFAIL
         f1 | A mail. | SERVFAIL
         f1 | AAAA mail. | SERVFAIL
         f1 | AAAA mail.global.svc.internal | NODATA
         f1 | AAAA stopped.shop.svc.internal | SERVFAIL
         f1 | AAAA a20000000000.web.shop.svc.internal | NODATA
         f1 | PTR 99.0.18.172.in-addr.arpa | SERVFAIL
         f1 | SOA svc.internal | svc.internal.
         f1 | MX svc.internal | NODATA
         f1 | A example.com | FORWARD",
    );
    world.zone = Zone::default();
    world.check(
        "f1 | A web. | SERVFAIL
         f1 | SOA svc.internal | svc.internal.",
    );
}

fn answers(world: &World, name: &str, kind: RecordType, seed: u64) -> (Vec<Record>, Vec<Record>) {
    let name = Name::from_ascii(name).unwrap();
    let mut rng = SmallRng::seed_from_u64(seed);
    match answer(&world.snapshot(), &Source::Host, &name, kind, Room::whole(ADDRESS), &mut rng) {
        Answer::Records { answers, additionals, .. } => (answers, additionals),
        other => panic!("{other:?}"),
    }
}

fn many(count: usize, tail: &str) -> World {
    let containers =
        (0..count).map(|i| format!("{i:012x} @n1=172.18.{}.{} web.default {tail}\n", i / 250, i % 250 + 2));
    World::parse(&format!("network n1 bridge 172.18.0.0/16\nhost own\n{}", containers.collect::<String>()))
}

/// The addresses that an asker is given in so many octets.
fn given(world: &World, octets: usize, asker: &str, seed: u64) -> Vec<IpAddr> {
    let (name, room) = (Name::from_ascii("web.").unwrap(), Room { octets, asker: asker.parse().unwrap() });
    let mut rng = SmallRng::seed_from_u64(seed);
    match answer(&world.snapshot(), &Source::Host, &name, RecordType::A, room, &mut rng) {
        Answer::Records { answers, .. } => answers.iter().map(|record| record.data.ip_addr().unwrap()).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_addresses_are_given_where_they_fit_and_else_always_the_same_ones() {
    let world = many(60, "80/tcp");
    for seed in 0..50 {
        assert_eq!(given(&world, 60 * 16, "192.0.2.1", seed).iter().collect::<BTreeSet<_>>().len(), 60);
    }
    let few = |asker: &str, seed| given(&world, 20 * 16, asker, seed);
    let first: BTreeSet<IpAddr> = few("192.0.2.1", 0).into_iter().collect();
    assert_eq!(first.len(), 20);
    let mut in_front = BTreeSet::new();
    for seed in 0..200 {
        let again = few("192.0.2.1", seed);
        assert_eq!(again.iter().copied().collect::<BTreeSet<_>>(), first, "only the order is random");
        in_front.insert(again[0]);
    }
    assert_eq!(in_front.len(), 20, "each comes first now and then");
    let all: BTreeSet<IpAddr> = (0..40).flat_map(|n| few(&format!("192.0.2.{n}"), 0)).collect();
    assert_eq!(all.len(), 60, "many askers share all of them");
}

/// What an asker is given of so many instances, of which the first ones are gone.
fn of(count: usize, gone: usize, tail: &dyn Fn(usize) -> String) -> BTreeSet<IpAddr> {
    let containers = (gone..count).map(|i| format!("{i:012x} @n1=172.18.0.{} web.default 80/tcp{}\n", i + 2, tail(i)));
    let text = format!("network n1 bridge 172.18.0.0/16\nhost own\n{}", containers.collect::<String>());
    given(&World::parse(&text), 20 * 16, "192.0.2.1", 0).into_iter().collect()
}

#[test]
fn one_replica_more_or_less_moves_one_address() {
    let plain = |_: usize| String::new();
    for count in 21..60 {
        let (before, after) = (of(count, 0, &plain), of(count + 1, 0, &plain));
        assert!(before.difference(&after).count() <= 1, "{count} and one more");
        let fewer = of(count, 1, &plain);
        assert!(fewer.difference(&before).count() <= 1, "{count} and one less");
    }
}

#[test]
fn weights_decide_who_is_among_those_that_fit_and_weight_nought_comes_last() {
    let heavy = |i: usize| if i < 30 { " weight=9".to_owned() } else { String::new() };
    let given = of(60, 0, &heavy);
    let is_heavy = |address: &&IpAddr| matches!(address, IpAddr::V4(ip) if ip.octets()[3] < 32);
    assert!(given.iter().filter(is_heavy).count() >= 15, "{given:?}");
    let idle = |i: usize| if i < 45 { " weight=0".to_owned() } else { String::new() };
    let given = of(60, 0, &idle);
    let counts = given.iter().filter(|address| matches!(address, IpAddr::V4(ip) if ip.octets()[3] >= 47)).count();
    assert_eq!((counts, given.len()), (15, 20));
}

#[test]
fn few_addresses_are_all_given_in_changing_order() {
    let world = many(3, "80/tcp");
    let orders: BTreeSet<Vec<String>> = (0..100)
        .map(|seed| answers(&world, "web.", RecordType::A, seed).0.iter().map(|r| r.data.to_string()).collect())
        .collect();
    assert_eq!(orders.len(), 6, "all orders of three");
}

/// Two instances here, two in the same place, one in the same region, one far away. `f1` and the host are of here.
const SPREAD: &str = "
    network n1 bridge 172.18.0.0/16,fd00:18::/64
    asker f1 shop n1=172.18.0.9
    host own 192.0.2.1 at=eu/a
      a1 @n1=172.18.0.2 web.shop 80/tcp>0.0.0.0:80 lone.shop 80/tcp
      a2 @n1=172.18.0.3 web.shop 80/tcp>0.0.0.0:80 draining.shop 80/tcp six.shop 80/tcp
      a3 @n1=172.18.0.4 draining late.shop 80/tcp
    host b 192.0.2.2 2001:db8::2 at=eu/a
      b1 web.shop 80/tcp>0.0.0.0:80
      b2 web.shop 80/tcp>127.0.0.1:80
      b3 six.shop 80/tcp>[::]:80
    host c 192.0.2.3 at=eu/b
      c1 web.shop 80/tcp>0.0.0.0:80 lone.shop 80/tcp>0.0.0.0:80
      c2 draining late.shop 80/tcp>0.0.0.0:80
    host d 192.0.2.4
      d1 web.shop 80/tcp>0.0.0.0:80
";

#[test]
fn who_is_near_is_given_alone_as_long_as_there_are_enough() {
    let mut world = World::parse(SPREAD);
    let here = "172.18.0.2 172.18.0.3";
    let rows = |by, floor, a: &str| (by, floor, format!("f1 | A web. | {a}"));
    for (by, floor, row) in [
        rows(Prefer::None, 1, &format!("{here} 192.0.2.2 192.0.2.3 192.0.2.4")),
        rows(Prefer::Host, 1, here),
        rows(Prefer::Host, 2, here),
        rows(Prefer::Host, 3, &format!("{here} 192.0.2.2 192.0.2.3 192.0.2.4")),
        rows(Prefer::Locality, 1, &format!("{here} 192.0.2.2")),
        // `b2` is near, but nobody reaches it.
        rows(Prefer::Locality, 4, &format!("{here} 192.0.2.2 192.0.2.3")),
        rows(Prefer::Locality, 5, &format!("{here} 192.0.2.2 192.0.2.3 192.0.2.4")),
    ] {
        world.settings.prefer = Preference { by, floor, locality: "eu/a".into() };
        world.check(&row);
    }
    world.settings.prefer = Preference { by: Prefer::Host, ..world.settings.prefer };
    world.settings.prefer.floor = 1;
    world.check(
        "f1 | A lone. | 172.18.0.2
         f1 | A late. | 172.18.0.4 192.0.2.3
         f1 | A six. | 172.18.0.3
         f1 | AAAA six. | 2001:db8::2
         f1 | A all.web.shop.svc.internal | 172.18.0.2 172.18.0.3 192.0.2.2 192.0.2.3 192.0.2.4
         f1 | A c10000000000.web.shop.svc.internal | 192.0.2.3
         host | A web.shop.svc.internal | 172.18.0.2 172.18.0.3
         stranger | A web.shop.svc.internal | 192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4
         f1 | SRV lone. | a1:80=172.18.0.2 c1:80=192.0.2.3!1
         f1 | SRV late. | a3:80=172.18.0.4 c2:80=192.0.2.3
         stranger | SRV lone.shop.svc.internal | c1:80=192.0.2.3
         f1 | SRV c10000000000.web.shop.svc.internal | c1:80=192.0.2.3",
    );
    world.settings.prefer.by = Prefer::Locality;
    world
        .check("f1 | SRV web. | a1:80=172.18.0.2 a2:80=172.18.0.3 b1:80=192.0.2.2 c1:80=192.0.2.3!1 d1:80=192.0.2.4!2");
}

/// The one number holds whoever is near: else it would change with them, and clients know one number.
#[test]
fn nearness_never_chooses_the_number() {
    let mut world = World::parse(
        "network n1 bridge 172.18.0.0/16
         network n2 bridge 172.19.0.0/16
         asker f1 shop n1=172.18.0.9
         proxied 8080/tcp
         host own 192.0.2.1
           a1 @n2=172.19.0.2 web.shop 80/tcp>0.0.0.0:8080
         host b 192.0.2.2
           b1 web.shop 80/tcp>0.0.0.0:80",
    );
    world.settings.prefer.by = Prefer::Host;
    world.check(
        "f1 | A web. | 192.0.2.2
         f1 | SRV web. | a1:8080=192.0.2.1 b1:80=192.0.2.2!1",
    );
}

#[test]
fn of_too_many_targets_the_far_ones_are_left_out() {
    let here: String = (0..200).map(|i| format!("{i:012x} @n1=172.18.1.{i} web.default 80/tcp\n")).collect();
    let there: String = (200..400).map(|i| format!("{i:012x} web.default 80/tcp>0.0.0.0:{i}\n")).collect();
    let network = "network n1 bridge 172.18.0.0/16";
    let mut world = World::parse(&format!("{network}\nhost own\n{here}host b 192.0.2.2\n{there}"));
    world.settings.prefer.by = Prefer::Host;
    let (records, _) = answers(&world, "web.", RecordType::SRV, 1);
    let near = |record: &&Record| matches!(&record.data, RData::SRV(srv) if srv.priority == 0);
    assert_eq!((records.len(), records.iter().filter(near).count()), (MAX_TARGETS, 200));
}

#[test]
fn addresses_come_in_the_order_of_their_weights() {
    let world = World::parse(
        "network n1 bridge 172.18.0.0/16
         host own
           a1 @n1=172.18.0.1 web.default weight=1
           a2 @n1=172.18.0.2 web.default weight=3
           a3 @n1=172.18.0.3 web.default weight=0",
    );
    let mut firsts = [0u32; 2];
    for seed in 0..4000 {
        let given: Vec<String> =
            answers(&world, "web.", RecordType::A, seed).0.iter().map(|record| record.data.to_string()).collect();
        assert_eq!((given.len(), &*given[2]), (3, "172.18.0.3"));
        firsts[usize::from(given[0] == "172.18.0.2")] += 1;
    }
    // One to three; the standard deviation is 27.
    assert!(firsts[1].abs_diff(3000) < 160, "{firsts:?}");
}

#[test]
fn srv_records_are_bounded_and_carry_weight_and_time() {
    let mut world = many(150, "80/tcp 81/tcp weight=7");
    world.settings.ttl = 3;
    let (records, additionals) = answers(&world, "web.default.svc.internal", RecordType::SRV, 1);
    assert_eq!(records.len(), MAX_TARGETS);
    assert_eq!(additionals.len(), MAX_TARGETS / 2);
    for record in records.iter().chain(&additionals) {
        assert_eq!((record.ttl, record.dns_class), (3, DNSClass::IN));
    }
    let RData::SRV(srv) = &records[0].data else { panic!("{records:?}") };
    assert_eq!((srv.priority, srv.weight), (0, 7));
}

#[test]
fn tags_beyond_a_string_or_the_limit_are_left_out() {
    let tags: String = (0..150).map(|i| format!("tag={i:03} ")).collect();
    let world = many(1, &format!("tag={} {tags}", "!".repeat(256)));
    let (records, _) = answers(&world, "000000000000.web.default.svc.internal.", RecordType::TXT, 1);
    let [Record { data: RData::TXT(txt), .. }] = &records[..] else { panic!("{records:?}") };
    assert_eq!(txt.txt_data.len(), MAX_TAGS);
    assert_eq!(&*txt.txt_data[0], b"000");
}

#[test]
fn the_soa_says_how_long_a_no_holds_and_counts_revisions() {
    let mut world = World::parse("host own");
    world.catalog.revision = (1 << 32) + 7;
    world.zone = Zone::of(&world.catalog);
    let (records, _) = answers(&world, "svc.internal.", RecordType::SOA, 1);
    let [Record { data: RData::SOA(soa), ttl: 1, .. }] = &records[..] else { panic!("{records:?}") };
    assert_eq!((soa.serial, soa.minimum), (7, 1));
    assert_eq!(soa.rname.to_ascii(), "hostmaster.svc.internal.");
}

/// `redis` was moved out of Docker, `db` is at two addresses, `cache` has another name without a port.
const MOVED: &str = "
    network n1 bridge 172.18.0.0/16,fd00:18::/64
    network n2 bridge 172.19.0.0/16 internal
    network n3 bridge 172.20.0.0/16
    asker f1 shop n1=172.18.0.9
    asker f2 shop n2=172.19.0.9
    asker f3 shop n3=172.20.0.9
    host own 192.0.2.1
      a1 @n1=172.18.0.2 redis.global 6379/tcp
      a2 @n1=172.18.0.3 redis.shop 6379/tcp
    host external
      e1 =redis.example.com name=redis.example.com redis.global 6379/tcp tag=managed
      e2 =10.0.0.9 name=10.0.0.9 db.global 5432/tcp weight=3
      e3 =2001:db8::9 name=2001:db8::9 db.global 5432/tcp
      e4 =10.0.0.10 name=10.0.0.10 unhealthy db.global 5432/tcp
      e5 =cache.example.com name=cache.example.com cache.global
      e6 =10.0.0.11 name=10.0.0.11 plain.global
";

#[test]
fn an_external_service_stands_in_the_place_of_all_containers_of_its_name() {
    World::parse(MOVED).check(
        "f1 | A redis.global.svc.internal | FOLLOW A redis.example.com.
         host | AAAA redis.svc.internal | FOLLOW AAAA redis.example.com.
         host | MX redis.svc.internal | NODATA
         host | A all.redis.global.svc.internal | FOLLOW A redis.example.com.
         host | CNAME redis.svc.internal | NODATA
         host | ANY redis.svc.internal | RFC8482
         stranger | A redis.global.svc.internal | FOLLOW A redis.example.com.
         f1 | A redis.svc.internal | 172.18.0.3
         f1 | SRV redis.global.svc.internal | 0 1 6379 redis.example.com.
         host | SRV cache.svc.internal | NODATA
         host | TXT redis.svc.internal | NODATA
         host | TXT e10000000000.redis.global.svc.internal | managed
         host | A a10000000000.redis.global.svc.internal | NXDOMAIN
         host | A e10000000000.redis.global.svc.internal | FOLLOW A redis.example.com.
         f2 | A redis.global.svc.internal | NODATA
         f2 | SRV redis.global.svc.internal | NODATA
         f1 | A db. | 10.0.0.9
         f1 | AAAA db. | 2001:db8::9
         f3 | A db. | 10.0.0.9
         f3 | AAAA db. | NODATA
         stranger | A db.global.svc.internal | 10.0.0.9
         f1 | A all.db.global.svc.internal | 10.0.0.10 10.0.0.9
         f1 | A 10-0-0-9.db.global.svc.internal | 10.0.0.9
         f1 | A plain.svc.internal | 10.0.0.11
         f2 | A db. | NODATA",
    );
}

#[test]
fn without_upstreams_a_service_with_another_name_has_its_port_but_no_addresses() {
    let mut world = World::parse(MOVED);
    world.settings.forwarding = false;
    world.check(
        "f1 | A redis.global.svc.internal | SERVFAIL
         f1 | SRV redis.global.svc.internal | 0 1 6379 redis.example.com.",
    );
}
