use std::sync::Arc;

use proptest::{prelude::*, sample::select};
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::dns::{
    fixture::{ADDRESS, World, query},
    prefer::{Prefer, Preference},
    reach::oracle::{self, ASKERS},
    special::{SingleLabels, Singles},
    wire::{self, Outcome, Transport},
};
use crate::model::{Catalog, ShortId};

const NAMES: [&str; 40] = [
    "000000000011.svc.internal",
    "000000000011.web.svc.internal",
    "c-000000000011",
    "c-000000000011.svc.internal",
    "store",
    "store.svc.internal",
    "all.web.svc.internal",
    "all.web",
    "_http._tcp.web",
    "host.svc.internal",
    "b.host.svc.internal",
    "web.on.b.host.svc.internal",
    "localhost",
    "LOCALHOST",
    "a.localhost",
    "onion",
    "x.onion",
    "test",
    "web.shop.svc.internal",
    "WeB.Shop.svc.internal",
    "web.shop.SVC.internal",
    "web.svc.internal",
    "web",
    "WEB",
    "nothing.shop.svc.internal",
    "nothing.svc.internal",
    "nothing",
    "shop.svc.internal",
    "shop",
    "internal",
    "svc",
    "hostmaster",
    "hostmaster.svc.internal",
    "a.hostmaster.svc.internal",
    "_tcp.web.svc.internal",
    "all.web.shop.svc.internal",
    "svc.internal",
    "web.shop.example",
    "global.svc.internal",
    "web.shop.svc.internal.svc.internal",
];

fn ground(world: &World) -> Ground {
    Ground::new(Arc::new(world.local.clone()), Arc::new(world.settings.clone()))
}

/// What the hot path replies, if it does.
fn hot(ground: &Ground, world: &World, view: &View, packet: &[u8], seed: u64) -> Option<Vec<u8>> {
    let (mut scratch, mut reply) = (Scratch::default(), [0xaa; 1232]);
    let mut rng = SmallRng::seed_from_u64(seed);
    let length = respond(ground, &world.zone, view, packet, &mut rng, &mut scratch, &mut reply)?;
    Some(reply[..length].to_vec())
}

fn complete(world: &World, view: &View, packet: &[u8], seed: u64) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(seed);
    wire::respond(&world.snapshot(), &view.source, view.address, packet, Transport::Udp, &mut rng)
}

/// The zone shortly after a namespace has lost a name.
fn with_lost(zone: &Zone, lost: Option<(&str, &str)>) -> Zone {
    let lost = lost.map(|(name, namespace)| (name.to_owned(), namespace.to_owned(), 20));
    zone.later(10, 60).with_lost(lost.into_iter())
}

/// A query with flags, and with EDNS if `size` says so.
fn packet(name: &str, kind: &str, flags: u16, edns: Option<(u16, bool)>) -> Vec<u8> {
    let mut packet = query(name, kind).to_vec().unwrap();
    packet[2..4].copy_from_slice(&flags.to_be_bytes());
    if let Some((size, secure)) = edns {
        packet[11] = 1;
        packet.extend([0, 0, 41]);
        packet.extend(size.to_be_bytes());
        packet.extend([0, 0, if secure { 0x80 } else { 0 }, 0, 0, 0]);
    }
    packet
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// All askers ask the same zone one after the other, so what was kept for one is given to the next.
    #[test]
    fn both_paths_reply_octet_for_octet_the_same(
        text in oracle::world(),
        complete_zone in any::<bool>(),
        flags in select(&[0x0000u16, 0x0100, 0x0120, 0x0110, 0x01ff & 0x87ff]),
        edns in select(&[None, Some((0, false)), Some((1232, true)), Some((600, false)), Some((65_535, false))]),
        by in select(&[Prefer::None, Prefer::Host, Prefer::Locality]),
        lost in select(&[None, Some(("web", "shop")), Some(("nothing", "shop")), Some(("store", "default"))]),
        singles in select(&[(SingleLabels::Answer, ""), (SingleLabels::Answer, "nothing"), (SingleLabels::Forward, "")]),
        seed in any::<u64>(),
    ) {
        let mut world = World::parse(&text);
        world.settings.singles = Singles { others: singles.0, named: vec![singles.1.into()] };
        world.settings.prefer = Preference { by, floor: 1, locality: "eu/a".into() };
        if !complete_zone {
            world.catalog.registry_listed = false;
            world.zone = Zone::of(&world.catalog);
        }
        world.zone = with_lost(&world.zone, lost);
        let ground = ground(&world);
        let mut answered = 0;
        for who in ASKERS.iter().chain(&["peer"]).chain(&ASKERS) {
            let view = View::of(&ground, &world.source(who), ADDRESS).unwrap();
            for name in NAMES {
                for kind in ["A", "AAAA", "SRV", "TXT"] {
                    let packet = packet(name, kind, flags, edns);
                    let Some(reply) = hot(&ground, &world, &view, &packet, seed) else { continue };
                    answered += 1;
                    prop_assert_eq!(
                        Outcome::Reply(reply), complete(&world, &view, &packet, seed),
                        "{} {} for {} in {}", kind, name, who, text
                    );
                }
            }
        }
        // Names that exist in no world are answered by whoever knows everything.
        prop_assert!(answered >= if complete_zone { 2 * ASKERS.len() * 3 * 2 } else { 0 }, "{}", answered);
    }

    #[test]
    fn no_packet_makes_it_panic_and_none_is_answered_otherwise(
        name in select(&NAMES),
        at in 0usize..64,
        value in any::<u8>(),
        cut in 0usize..64,
        tail in prop::collection::vec(any::<u8>(), 0..24),
    ) {
        let world = World::parse(SHOP);
        let ground = ground(&world);
        let view = View::of(&ground, &world.source("f1"), ADDRESS).unwrap();
        let mut damaged = packet(name, "A", 0x0100, Some((1232, false)));
        let length = damaged.len();
        damaged[at % length] = value;
        damaged.truncate(length.saturating_sub(cut % 8));
        damaged.extend(tail.iter().take(cut / 8));
        if let Some(reply) = hot(&ground, &world, &view, &damaged, 1) {
            prop_assert_eq!(Outcome::Reply(reply), complete(&world, &view, &damaged, 1));
        }
        hot(&ground, &world, &view, &tail, 1);
    }
}

const SHOP: &str = "
    network n1 bridge 172.18.0.0/16
    network n2 bridge 172.19.0.0/16
    network mute bridge 172.21.0.0/16 no-icc
    asker f1 shop n1=172.18.0.9
    asker f2 shop n2=172.19.0.9
    asker f3 shop n1=172.18.0.8
    asker a3 shop mute=172.21.0.3
    asker a4 shop mute=172.21.0.4
    host own 192.0.2.1
      a1 @n1=172.18.0.2 web.shop http:80/tcp
      a2 @n1=172.18.0.3 web.shop http:80/tcp
      a3 @mute=172.21.0.3 lone.shop 80/tcp
    host b 192.0.2.2
      b1 far.shop 80/tcp>0.0.0.0:80
      b2 far.shop 80/tcp>0.0.0.0:80 weight=3
";

/// Which of the usual questions the hot path answers; `-` are left to the complete path.
#[test]
fn ordinary_questions_are_answered_here() {
    let mut world = World::parse(SHOP);
    world.settings.singles.named.push("nas".into());
    world.zone = with_lost(&world.zone, Some(("gone", "shop")));
    let ground = ground(&world);
    for (who, question, expected) in [
        ("f1", "web.shop.svc.internal A", true),
        ("f1", "web.shop.svc.internal AAAA", true),
        ("f1", "web.shop.svc.internal SRV", true),
        ("f1", "web A", true),
        ("f2", "web A", true),
        ("f1", "far.svc.internal A", true),
        ("f1", "far.svc.internal SRV", true),
        ("host", "web.shop.svc.internal A", true),
        ("stranger", "far.shop.svc.internal A", true),
        ("f1", "nothing.svc.internal A", true),
        ("f1", "nothing A", true),
        ("f1", "shop.svc.internal AAAA", true),
        ("f1", "web.shop.svc.internal TXT", false),
        ("f1", "a1.web.shop.svc.internal A", false),
        ("f1", "_http._tcp.web.shop.svc.internal SRV", false),
        ("f1", "example.com A", false),
        ("f1", "svc.internal A", false),
        ("f1", "localhost A", false),
        ("f1", "onion A", false),
        ("f1", "nas A", false),
        ("f1", "gone A", true),
        ("f1", "gone.svc.internal AAAA", true),
        ("peer", "nothing A", false),
        ("peer", "nothing.svc.internal A", false),
        ("peer", "nothing.shop.svc.internal A", true),
    ] {
        let view = View::of(&ground, &world.source(who), ADDRESS).unwrap();
        let (name, kind) = question.split_once(' ').unwrap();
        let packet = packet(name, kind, 0x0100, None);
        for _cold_then_warm in 0..2 {
            let reply = hot(&ground, &world, &view, &packet, 3);
            assert_eq!(reply.is_some(), expected, "{question} for {who}");
            if let Some(reply) = reply {
                assert_eq!(Outcome::Reply(reply), complete(&world, &view, &packet, 3), "{question} for {who}");
            }
        }
    }
    assert!(View::of(&ground, &world.source("unknown"), ADDRESS).is_none());
}

#[test]
fn what_the_parser_does_not_know_for_certain_is_left_alone() {
    let world = World::parse(SHOP);
    let ground = ground(&world);
    let view = View::of(&ground, &world.source("f1"), ADDRESS).unwrap();
    let usual = packet("web.shop.svc.internal", "A", 0x0100, Some((1232, false)));
    assert!(hot(&ground, &world, &view, &usual, 1).is_some());
    let changed = |at: usize, octet: u8| {
        let mut packet = usual.clone();
        packet[at] = octet;
        packet
    };
    let end = usual.len();
    let cases: [(&str, Vec<u8>); 14] = [
        ("a response", changed(2, 0x81)),
        ("another opcode", changed(2, 0x21)),
        ("two questions", changed(5, 2)),
        ("an answer", changed(7, 1)),
        ("an authority", changed(9, 1)),
        ("two additionals", changed(11, 2)),
        ("no additional, but octets of one", changed(11, 0)),
        ("a compressed name", changed(12, 0xc0)),
        ("class CH", changed(end - 12, 3)),
        ("no OPT", changed(end - 9, 40)),
        ("EDNS version 1", changed(end - 5, 1)),
        ("options", [changed(end - 1, 4), vec![0, 10, 0, 0]].concat()),
        ("cut short", usual[..end - 1].to_vec()),
        ("too long", [usual.clone(), vec![0]].concat()),
    ];
    for (what, packet) in cases {
        assert_eq!(hot(&ground, &world, &view, &packet, 1), None, "{what}");
    }
}

#[test]
fn only_names_that_are_certainly_somebody_elses_are_looked_for_in_the_cache() {
    let world = World::parse(SHOP);
    let ground = ground(&world);
    let may = |who: &str, packet: &[u8]| {
        is_for_others(&ground, &world.zone, &View::of(&ground, &world.source(who), ADDRESS).unwrap(), packet)
    };
    let usual = |name: &str| packet(name, "A", 0x0100, Some((1232, false)));
    for (name, expected) in [
        ("www.example.org", true),
        ("example.org", true),
        ("xsvc.internal", true),
        ("internal", false),
        ("example", false),
        ("svc.internal", false),
        ("WEB.shop.SVC.internal", false),
        ("9.0.18.172.in-addr.ARPA", false),
        ("a.localhost", false),
        ("x.Onion", false),
        ("www.INVALID", false),
        ("www.test", true),
        ("metadata.google.internal", true),
        ("nas.home.arpa", false),
    ] {
        assert_eq!(may("f1", &usual(name)), expected, "{name}");
        assert!(!may("stranger", &usual(name)), "{name}");
    }
    let good = usual("www.example.org");
    let end = good.len();
    let with = |at: usize, octet: u8| {
        let mut packet = good.clone();
        packet[at] = octet;
        packet
    };
    let cases: [(&str, Vec<u8>, bool); 13] = [
        ("plain", packet("www.example.org", "MX", 0x0100, None), true),
        ("an option", [with(end - 1, 4), vec![0, 3, 0, 0]].concat(), true),
        ("a cookie", [with(end - 1, 12), vec![0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]].concat(), true),
        ("half a cookie", [with(end - 1, 4), vec![0, 10, 0, 0]].concat(), true),
        ("two options", [with(end - 1, 9), vec![0, 3, 0, 0, 0, 8, 0, 1, 7]].concat(), true),
        ("an option beyond its end", [with(end - 1, 5), vec![0, 3, 0, 2, 0]].concat(), false),
        ("half an option", [with(end - 1, 4), vec![0, 10]].concat(), false),
        ("a response", with(2, 0x81), false),
        ("class CH", with(end - 12, 3), false),
        ("a transfer", with(end - 14, 252), false),
        ("EDNS version 1", with(end - 5, 1), false),
        ("cut short", good[..end - 1].to_vec(), false),
        ("nothing", vec![], false),
    ];
    for (what, packet, expected) in cases {
        assert_eq!(may("f1", &packet), expected, "{what}");
    }
}

#[test]
fn those_who_are_given_the_same_share_it_and_nobody_else() {
    let world = World::parse(SHOP);
    let ground = ground(&world);
    let view = |who: &str| View::of(&ground, &world.source(who), ADDRESS).unwrap();
    let slot =
        |service: &str, who: &str| Slot::of(world.zone.service("shop", service).unwrap(), &ground, &view(who), Kind::A);
    // Of another host's service, who is on which bridge plays no part; of the own host's it is everything.
    assert_eq!(slot("far", "f1"), slot("far", "f2"));
    assert_ne!(slot("far", "f1"), slot("far", "host"));
    assert_ne!(slot("web", "f1"), slot("web", "f2"));
    assert_eq!(slot("web", "f1"), slot("web", "f3"));
    // Where containers are kept apart, each still reaches itself.
    assert_ne!(slot("lone", "a3"), slot("lone", "a4"));
}

/// How many answers a service has kept for the ground.
fn kept(world: &World, service: &str, ground: &Ground) -> usize {
    let key = KeyText::of(service, "shop").unwrap();
    world.zone.lookup(&key).unwrap().memo.kept(ground)
}

#[test]
fn what_is_kept_goes_when_the_ground_changes_and_not_with_every_asker() {
    let world = World::parse(SHOP);
    let before = ground(&world);
    let ask = |ground: &Ground| {
        let view = View::of(ground, &world.source("f1"), ADDRESS).unwrap();
        hot(ground, &world, &view, &packet("web.shop.svc.internal", "A", 0x0100, None), 1).unwrap();
    };
    ask(&before);
    ask(&before);
    assert_eq!(kept(&world, "web", &before), 1);
    let mut local = world.local.clone();
    local.askers.clear();
    let same = before.with_local(Arc::new(local.clone()));
    assert_eq!(kept(&world, "web", &same), 1);
    Arc::make_mut(&mut local.proxied).insert((crate::model::Proto::Tcp, 80));
    let other = same.with_local(Arc::new(local));
    assert_eq!(kept(&world, "web", &other), 0);
    ask(&other);
    assert_eq!((kept(&world, "web", &other), kept(&world, "web", &before)), (1, 0));
}

#[test]
fn a_change_of_a_service_takes_its_answers_along_and_leaves_the_others() {
    let mut world = World::parse(SHOP);
    let ground = ground(&world);
    let view = View::of(&ground, &world.source("host"), ADDRESS).unwrap();
    for name in ["web.shop.svc.internal", "far.shop.svc.internal"] {
        hot(&ground, &world, &view, &packet(name, "A", 0x0100, None), 1).unwrap();
    }
    let old: Catalog = world.catalog.clone();
    let own = Arc::make_mut(world.catalog.hosts.get_mut(&crate::model::Origin::Own).unwrap());
    own.publications.remove(&ShortId::parse("a20000000000").unwrap());
    world.zone = world.zone.update(&old, &world.catalog);
    assert_eq!((kept(&world, "web", &ground), kept(&world, "far", &ground)), (0, 1));
    let packet = packet("web.shop.svc.internal", "A", 0x0100, None);
    let reply = hot(&ground, &world, &view, &packet, 1).unwrap();
    assert_eq!(Outcome::Reply(reply), complete(&world, &view, &packet, 1));
}
