//! What Docker's own DNS calls a container, asked for by all who may ask; and when `global` is looked into.

use crate::{
    dns::{
        fixture::World,
        zone::{MAX_LOST, Zone},
    },
    model::{Aliases, Catalog, HostId, Origin},
};

/// One container with all the names that Docker gives, on this host and, `b1`, on another one. `f1` shares its network, `f2`
/// sits on another bridge, `f3` belongs to another project.
const SHOP: &str = "
    network n1 bridge 172.18.0.0/16
    network n2 bridge 172.19.0.0/16
    foreign n9 bridge
    asker f1 shop n1=172.18.0.9
    asker f2 shop n2=172.19.0.9
    asker f3 blog n2=172.19.0.10
    asker f4 default n2=172.19.0.11
    address 192.0.2.1
    proxied 8080/tcp
    proxied 8081/tcp
    host own 192.0.2.1
      a1 @n1=172.18.0.2 name=shop-db-1 db.shop pg:5432/tcp>0.0.0.0:8080 also=store,store1,db.example.com,tasks.db,shop_db
      a2 @n1=172.18.0.3 name=mail mail.default 25/tcp also=mail.example.com,post
      a3 @n1=172.18.0.4 name=store store.global 80/tcp>0.0.0.0:8081
    host b 192.0.2.2
      b1 @n9=10.0.0.2 name=shop-db-2 db.shop pg:5432/tcp>0.0.0.0:8080 also=store,db2.example.com
";

#[test]
fn six_names_of_docker_are_found_by_who_docker_would_tell_and_on_every_host() {
    // Same network, other bridge, other project, host process, elsewhere; the container is on this host, then on another.
    World::parse(SHOP).check(
        "f1 | A db. | 172.18.0.2
         f1 | A shop-db-1. | 172.18.0.2
         f1 | A SHOP-DB-1.svc.internal | 172.18.0.2
         f1 | A a10000000000. | 172.18.0.2
         f1 | A a10000000000.svc.internal | 172.18.0.2
         f1 | A store1. | 172.18.0.2
         f1 | A shop_db. | 172.18.0.2
         f1 | A db.example.com | 172.18.0.2
         f1 | A DB.Example.com | 172.18.0.2
         f1 | A tasks.db | 172.18.0.2

         f2 | A shop-db-1. | 192.0.2.1
         f2 | A a10000000000. | 192.0.2.1
         f2 | A store1. | 192.0.2.1
         f2 | A db.example.com | 192.0.2.1
         f2 | A tasks.db | 192.0.2.1
         f2 | SRV store1. | a1:8080=192.0.2.1

         f1 | A shop-db-2. | 192.0.2.2
         f1 | A b10000000000. | 192.0.2.2
         f1 | A db2.example.com | 192.0.2.2
         f2 | A store. | 192.0.2.1 192.0.2.2
         f2 | SRV store. | a1:8080=192.0.2.1 b1:8080=192.0.2.2

         f3 | A shop-db-1. | NXDOMAIN
         f3 | A a10000000000. | NXDOMAIN
         f3 | A store1. | NXDOMAIN
         f3 | A shop_db. | NXDOMAIN
         f3 | A db.example.com | FORWARD
         f3 | A tasks.db | FORWARD
         host | A shop-db-1. | NXDOMAIN
         host | A a10000000000. | NXDOMAIN
         host | A store1. | NXDOMAIN
         host | A db.example.com | FORWARD
         host | A tasks.db | FORWARD
         stranger | A shop-db-1. | NXDOMAIN
         stranger | A a10000000000.svc.internal | NXDOMAIN
         stranger | A store1. | NXDOMAIN
         stranger | A db.example.com | REFUSED",
    );
}

#[test]
fn a_service_comes_before_an_alias_and_an_alias_before_global() {
    World::parse(SHOP).check(
        // `store` is a service of `global`, and an alias of two containers of `shop`.
        "f1 | SRV store. | a1:5432=172.18.0.2 b1:8080=192.0.2.2
         f3 | A store. | 192.0.2.1
         f1 | A store.global.svc.internal | 172.18.0.4
         f1 | A store.shop.svc.internal | NXDOMAIN
         f1 | A shop-db-1.shop.svc.internal | NXDOMAIN",
    );
    // A container whose explicit name is its own name, too, is found by the service: with all who share that.
    let text = format!(
        "{SHOP}
      b2 @n9=10.0.0.3 name=cache cache.global 6379/tcp>0.0.0.0:6379 in=shop also=cache
      b3 @n9=10.0.0.4 name=cache-2 cache.global 6379/tcp>0.0.0.0:6379 in=blog
    host external
      e2 =192.0.2.78 moved.global 25/tcp
    host c 192.0.2.3
      c1 @n9=10.0.0.5 name=moved moved.global 25/tcp>0.0.0.0:25 in=shop"
    );
    World::parse(&text).check(
        "f1 | SRV cache. | b2:6379=192.0.2.2 b3:6379=192.0.2.2
         f1 | A moved. | 192.0.2.78
         f1 | A cache-2. | NXDOMAIN",
    );
    // Its own service is gone, and an alias of that name stays.
    let text = SHOP.replace(" b1 @n9=10.0.0.2 name=shop-db-2 db.shop", " b1 @n9=10.0.0.2 name=shop-db-2 other.shop");
    World::parse(&text.replace("also=store,db2", "also=db,db2")).check("f1 | SRV db. | a1:5432=172.18.0.2");
}

#[test]
fn a_name_with_dots_has_addresses_alone_and_only_for_containers_outside_of_default() {
    World::parse(SHOP).check(
        "f1 | AAAA db.example.com | NODATA
         f1 | MX db.example.com | FORWARD
         f1 | SRV db.example.com | FORWARD
         f1 | TXT db.example.com | FORWARD
         f1 | A www.db.example.com | FORWARD
         f1 | A example.com | FORWARD
         f4 | A mail.example.com | FORWARD
         host | A mail.example.com | FORWARD
         f4 | A post. | NODATA
         host | A post. | 172.18.0.3",
    );
    // Where no instance is reachable, upstreams are asked, and so they are where one is gone.
    let unreached = SHOP.replace("5432/tcp>0.0.0.0:8080", "5432/tcp");
    World::parse(&unreached).check(
        "f1 | A db.example.com | 172.18.0.2
         f2 | A db.example.com | FORWARD
         f2 | AAAA db.example.com | FORWARD
         f2 | A shop-db-1. | NODATA",
    );
}

#[test]
fn what_belongs_to_everybody_is_no_alias_whoever_wrote_the_record() {
    let names = "localhost,all,wpad,_tcp,x.localhost,x.internal,metadata.google.internal,x.test,x.onion,x.invalid,\
                 x.local,2.0.18.172.in-addr.arpa,wpad.example.com,web.svc.internal";
    let text = SHOP.replace("also=store,store1,db.example.com,tasks.db,shop_db", &format!("also={names}"));
    let world = World::parse(&text);
    for name in names.split(',') {
        assert!(world.zone.alias(Aliases::All, "shop", name).is_empty(), "{name}");
    }
    // In `global` nothing is an alias, and `default` has none with dots.
    let world = World::parse(&SHOP.replace("db.shop", "db.shop in=global"));
    for name in ["shop-db-1", "a10000000000", "store"] {
        assert!(world.zone.alias(Aliases::All, "global", name).is_empty(), "{name}");
        assert!(world.zone.alias(Aliases::All, "shop", name).is_empty(), "{name}");
    }
    assert!(world.zone.alias(Aliases::All, "default", "mail.example.com").is_empty());
}

#[test]
fn the_operator_turns_them_off() {
    let mut world = World::parse(SHOP);
    world.settings.aliases = Aliases::Plain;
    world.check("f1 | A shop-db-1. | 172.18.0.2\n f1 | A db.example.com | FORWARD");
    world.settings.aliases = Aliases::Off;
    world.check("f1 | A shop-db-1. | NXDOMAIN\n f1 | A db.example.com | FORWARD\n f1 | A store. | 172.18.0.4");
}

#[test]
fn health_and_weight_of_each_instance_count_under_an_alias() {
    let text = SHOP.replace(" b1 @n9", " b1 unhealthy @n9");
    World::parse(&text)
        .check("f1 | SRV store. | a1:5432=172.18.0.2\n f1 | SRV all.store. | a1:5432=172.18.0.2 b1:8080=192.0.2.2");
}

#[test]
fn further_names_are_read_near_the_asker() {
    World::parse(SHOP).check(
        "f1 | A _pg._tcp.db. | NODATA
         f1 | SRV _pg._tcp.db. | a1:5432=172.18.0.2 b1:8080=192.0.2.2
         f1 | SRV _no._tcp.db. | NXDOMAIN
         f1 | SRV _tcp.db. | NODATA
         f1 | SRV all.db. | a1:5432=172.18.0.2 b1:8080=192.0.2.2
         f1 | A all.db.svc.internal | 172.18.0.2
         f1 | A a10000000000.db.svc.internal | 172.18.0.2
         f1 | A b10000000000.db.svc.internal | 192.0.2.2
         f1 | A c10000000000.db.svc.internal | NXDOMAIN
         f1 | SRV _pg._tcp.store1. | a1:5432=172.18.0.2
         f3 | SRV _pg._tcp.db. | FORWARD
         f3 | A all.db. | FORWARD
         f3 | A all.db.svc.internal | NXDOMAIN
         f3 | A a10000000000.db.svc.internal | NXDOMAIN
         f3 | A all.store. | 192.0.2.1
         f1 | A all.app. | FORWARD
         f1 | SRV _ldap._tcp.corp. | FORWARD",
    );
}

#[test]
fn hosts_have_names_for_who_may_leave_and_services_are_found_on_one_of_them() {
    let mut world = World::parse(
        &SHOP.replace("asker f4", "network in bridge 172.22.0.0/16 internal\nasker f5 shop in=172.22.0.9\nasker f4"),
    );
    world.settings.host = "Node.1".into();
    world.check(
        "f1 | A b.host.svc.internal | 192.0.2.2
         f1 | AAAA b.host.svc.internal | NODATA
         f1 | A node-1.host.svc.internal | 192.0.2.1
         host | A B.host.svc.internal | 192.0.2.2
         stranger | A b.host.svc.internal | 192.0.2.2
         f5 | A b.host.svc.internal | NODATA
         f1 | A c.host.svc.internal | NXDOMAIN
         f1 | A host.svc.internal | NODATA
         f1 | SRV db.on.b.host.svc.internal | b1:8080=192.0.2.2
         f1 | A db.on.node-1.host.svc.internal | 172.18.0.2
         f3 | A db.on.b.host.svc.internal | NXDOMAIN
         f1 | A db.on.c.host.svc.internal | NXDOMAIN
         f1 | A on.b.host.svc.internal | NODATA
         f1 | A on.c.host.svc.internal | NXDOMAIN",
    );
    // A service of a namespace called `host` comes first.
    World::parse(&SHOP.replace("store.global 80/tcp", "b.host 80/tcp"))
        .check("f1 | A b.host.svc.internal | 172.18.0.4");
}

#[test]
fn a_host_name_answers_unless_two_hosts_have_it() {
    let mut world = World::parse(SHOP);
    let mut named = |host: &str, name: &str| {
        let origin = if host.is_empty() { Origin::Own } else { Origin::Registry(HostId::parse(host).unwrap()) };
        let mut known = (**world.catalog.hosts.get(&origin).unwrap()).clone();
        known.session.hostname = name.into();
        world.catalog.hosts.insert(origin, known.into());
        world.zone = Zone::of(&world.catalog);
    };
    named("b", "db-machine.example.com");
    world.check("f1 | A db-machine-example-com.host.svc.internal | 192.0.2.2");
    let mut world2 = World::parse(SHOP);
    for origin in [Origin::Own, Origin::Registry(HostId::parse("b").unwrap())] {
        let mut known = (**world2.catalog.hosts.get(&origin).unwrap()).clone();
        known.session.hostname = "twin".into();
        world2.catalog.hosts.insert(origin, known.into());
    }
    world2.zone = Zone::of(&world2.catalog);
    world2.check("f1 | A twin.host.svc.internal | NXDOMAIN");
}

/// `db` of `shop` and of `global`; `f1` asks from `shop`.
const TWO: &str = "
    network n1 bridge 172.18.0.0/16
    asker f1 shop n1=172.18.0.9
    asker f2 blog n1=172.18.0.8
    foreign n9 bridge
    host own 192.0.2.1
      a2 @n1=172.18.0.3 name=team-db db.global 5432/tcp
    host b 192.0.2.2
      b1 @n9=10.0.0.2 name=shop-db-1 db.shop 5432/tcp>0.0.0.0:5432 also=store
";

/// The world without what host `b` says, as of `now`, with names held for an hour.
fn without_b(world: &World, now: u64) -> (Catalog, Zone) {
    let mut catalog = world.catalog.clone();
    catalog.hosts.remove(&Origin::Registry(HostId::parse("b").unwrap()));
    let zone = world.zone.later(now, 3600).update(&world.catalog, &catalog);
    (catalog, zone)
}

#[test]
fn a_name_that_was_lost_is_not_looked_for_in_global_for_a_while() {
    let mut world = World::parse(&TWO.replace("team-db db.global", "team-db db.global store.global"));
    world.check("f1 | A db. | 192.0.2.2\n f1 | A store. | 192.0.2.2\n f2 | A db. | 172.18.0.3");
    let (catalog, zone) = without_b(&world, 1000);
    assert_eq!(zone.next_return(), Some(4600));
    (world.catalog, world.zone) = (catalog, zone);
    world.check(
        "f1 | A db. | NODATA
         f1 | A db.svc.internal | NODATA
         f1 | A store. | NODATA
         f1 | SRV db. | NODATA
         f1 | A all.db. | NODATA
         f1 | A db.global.svc.internal | 172.18.0.3
         f1 | A db.shop.svc.internal | NXDOMAIN
         f2 | A db. | 172.18.0.3",
    );
    // What was lost may be somewhere that is not known yet.
    let mut unsynced = World::parse(TWO);
    (unsynced.catalog, unsynced.zone) = (world.catalog.clone(), world.zone.clone());
    let mut catalog = unsynced.catalog.clone();
    catalog.registry_listed = false;
    unsynced.zone = unsynced.zone.update(&unsynced.catalog, &catalog);
    unsynced.check("f1 | A db. | SERVFAIL\n f2 | A db. | SERVFAIL\n f2 | A db.global.svc.internal | 172.18.0.3");
    // Until its time is over, or an operator says so.
    let over = world.zone.later(4599, 3600);
    assert!(over.lost_until("shop", "db").is_some());
    assert_eq!(world.zone.without_lost("db").lost().map(|(name, ..)| name).collect::<Vec<_>>(), ["store", "shop-db-1"]);
    world.zone = world.zone.later(4600, 3600);
    world.check("f1 | A db. | 172.18.0.3");
}

#[test]
fn a_name_that_comes_back_is_no_longer_lost() {
    let world = World::parse(TWO);
    let (catalog, zone) = without_b(&world, 1000);
    assert_eq!(zone.lost().count(), 3, "service, container name and alias; ids are nobody else's");
    let back = zone.later(1001, 3600).update(&catalog, &world.catalog);
    assert_eq!(back.lost().count(), 0);
    assert_eq!(back, world.zone.later(1001, 3600));
    // A container renamed loses one name and keeps the others.
    let renamed = World::parse(&TWO.replace("name=shop-db-1", "name=shop-db-9"));
    let zone = world.zone.later(1000, 3600).update(&world.catalog, &renamed.catalog);
    assert_eq!(
        zone.lost().map(|(name, namespace, _)| format!("{name}.{namespace}")).collect::<Vec<_>>(),
        ["shop-db-1.shop"]
    );
    // With a hold of nothing nothing is lost, and a name of `global` or `default` is not either.
    let (_, zone) = without_b(&World::parse(TWO), 0);
    assert_eq!(zone.later(0, 0).next_return(), None);
    let world = World::parse(&TWO.replace("db.shop", "db.global in=global"));
    assert_eq!(without_b(&world, 1).1.lost().count(), 0);
}

#[test]
fn names_are_kept_over_a_restart_and_the_oldest_goes_when_there_are_too_many() {
    let world = World::parse(TWO);
    let kept = [("db", "shop", 2000), ("gone", "shop", 500), ("x", "global", 3000)];
    let kept = kept.map(|(name, namespace, until)| (name.to_owned(), namespace.to_owned(), until));
    let (catalog, _) = without_b(&world, 0);
    let first = Zone::default().later(1000, 3600).with_lost(kept.into_iter());
    let mut restarted = World::parse(TWO);
    restarted.zone = first.update(&Catalog::default(), &catalog);
    restarted.check("f1 | A db. | NODATA");
    assert_eq!(restarted.zone.lost_until("shop", "gone"), None, "over already");
    let many = (0..=MAX_LOST as u64).map(|number| (format!("n{number}"), "shop".to_owned(), 2000 + number));
    let full = Zone::default().later(1000, 3600).with_lost(many);
    assert_eq!((full.lost().count(), full.lost_until("shop", "n0")), (MAX_LOST, None));
}
