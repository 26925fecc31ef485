use std::time::Instant;

use proptest::{prelude::*, sample::subsequence};

use super::*;
use crate::{
    dns::fixture::{World, short},
    model::{Attachment, Common, Health, HostId, Label, NetworkId, Phase, Segment, Session},
};

#[test]
fn a_namespace_is_not_the_beginning_of_another() {
    let zone = World::parse("host own\n a1 web.shop-2 80/tcp\n a2 web.shopper 80/tcp").zone;
    assert!(zone.has_namespace("shop-2") && zone.has_namespace("shopper"));
    for other in ["shop", "shop-", "shoppe", "shopper2", "web", ""] {
        assert!(!zone.has_namespace(other), "{other:?}");
    }
}

#[test]
fn an_empty_catalog_makes_the_zone_that_knows_nothing() {
    assert_eq!(Zone::of(&Catalog::default()), Zone::default());
    assert!(!Zone::default().is_complete());
}

#[test]
fn what_did_not_change_is_shared_and_not_copied() {
    let mut world = World::parse("host own\n a1 web.shop 80/tcp\n a2 api.shop 80/tcp\nhost b\n b1 api.blog 80/tcp");
    let before = world.zone.clone();
    let old = world.catalog.clone();
    let host = Arc::make_mut(world.catalog.hosts.get_mut(&Origin::Own).unwrap());
    host.publications.remove(&short("a1"));
    let after = before.update(&old, &world.catalog);
    assert!(after.service("shop", "web").is_none());
    for (namespace, service) in [("shop", "api"), ("blog", "api")] {
        let [was, is] = [&before, &after].map(|zone| zone.service(namespace, service).unwrap().as_ptr());
        assert_eq!(was, is, "{service}.{namespace}");
    }
}

#[test]
fn a_new_advertise_address_touches_that_hosts_names_only() {
    let mut world = World::parse("host a 192.0.2.1\n a1 web.shop 80/tcp\nhost b 192.0.2.2\n b1 api.shop 80/tcp");
    let old = world.catalog.clone();
    let origin = Origin::Registry(HostId::parse("a").unwrap());
    let host = Arc::make_mut(world.catalog.hosts.get_mut(&origin).unwrap());
    host.session.advertise = vec!["192.0.2.9".parse().unwrap()];
    let after = world.zone.update(&old, &world.catalog);
    assert_eq!(after, Zone::of(&world.catalog));
    assert_eq!(*after.service("shop", "web").unwrap()[0].home.advertise, ["192.0.2.9".parse::<IpAddr>().unwrap()]);
    let [was, is] = [&world.zone, &after].map(|zone| zone.service("shop", "api").unwrap().as_ptr());
    assert_eq!(was, is);
}

#[test]
fn a_new_locality_reaches_the_names_of_its_host() {
    let mut world = World::parse("host a 192.0.2.1 at=eu\n a1 web.shop 80/tcp");
    let old = world.catalog.clone();
    let origin = Origin::Registry(HostId::parse("a").unwrap());
    Arc::make_mut(world.catalog.hosts.get_mut(&origin).unwrap()).session.locality = "us".into();
    let after = world.zone.update(&old, &world.catalog);
    assert_eq!(&*after.service("shop", "web").unwrap()[0].home.locality, "us");
}

/// One step of a catalog's life.
#[derive(Clone, Debug)]
enum Step {
    Publish(usize, Box<Publication>),
    Withdraw(usize, usize),
    Advertise(usize, u8),
    Vanish(usize),
    Listed(bool, bool),
    Revision(i64),
}

const HOSTS: usize = 3;
const CONTAINERS: usize = 4;

fn origin(host: usize) -> Origin {
    match host {
        0 => Origin::Own,
        other => Origin::Registry(HostId::parse(&format!("host-{other}")).unwrap()),
    }
}

fn publication() -> impl Strategy<Value = Box<Publication>> {
    let names = subsequence(vec!["web.shop", "api.shop", "web.global", "web.shop"], 1..=3);
    let places = subsequence(vec![("n1", Scope::Local), ("n2", Scope::Local), ("mesh", Scope::Swarm)], 0..=3);
    (0..CONTAINERS, names, places, any::<bool>(), 0u8..4).prop_map(|(container, names, places, ready, last)| {
        let offers = names.iter().map(|name| name.split_once('.').unwrap()).map(|(service, namespace)| Offer {
            service: Label::parse(service).unwrap(),
            namespace: Label::parse(namespace).unwrap(),
            tags: Box::default(),
            weight: 1,
            port: None,
            ports: Box::default(),
            when_none_ready: None,
        });
        let networks = places.iter().map(|(name, scope)| Attachment {
            segment: Arc::new(Segment {
                id: NetworkId((*name).into()),
                name: (*name).into(),
                driver: if *scope == Scope::Local { Driver::Bridge } else { Driver::Overlay },
                scope: *scope,
                internal: false,
            }),
            ips: [IpAddr::from([10, 0, 0, last])].into(),
        });
        Box::new(Publication {
            container: short(&format!("a{container}")),
            name: "c".into(),
            common: Arc::new(Common {
                image: "i".into(),
                services: offers.collect(),
                directory: None,
                namespace: Label::global(),
                aliases: Box::default(),
            }),
            phase: if ready { Phase::Serving } else { Phase::Draining },
            health: Health::None,
            networks: networks.collect(),
            elsewhere: None,
        })
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..HOSTS, publication()).prop_map(|(host, publication)| Step::Publish(host, publication)),
        3 => (0..HOSTS, 0..CONTAINERS).prop_map(|(host, container)| Step::Withdraw(host, container)),
        1 => (0..HOSTS, 0u8..3).prop_map(|(host, last)| Step::Advertise(host, last)),
        1 => (0..HOSTS).prop_map(Step::Vanish),
        1 => any::<(bool, bool)>().prop_map(|(docker, registry)| Step::Listed(docker, registry)),
        1 => (0i64..5).prop_map(Step::Revision),
    ]
}

fn take(catalog: &mut Catalog, step: Step) {
    let mut host = |index| Arc::make_mut(catalog.hosts.entry(origin(index)).or_default()).clone();
    let (index, changed) = match step {
        Step::Publish(index, publication) => {
            let mut host = host(index);
            host.publications.insert(publication.container, Arc::from(publication));
            (index, host)
        }
        Step::Withdraw(index, container) => {
            let mut host = host(index);
            host.publications.remove(&short(&format!("a{container}")));
            (index, host)
        }
        Step::Advertise(index, last) => {
            let mut host = host(index);
            host.session = Session { advertise: vec![IpAddr::from([192, 0, 2, last])], ..Session::default() };
            (index, host)
        }
        Step::Vanish(index) => {
            catalog.hosts.remove(&origin(index));
            return;
        }
        Step::Listed(docker, registry) => {
            (catalog.docker_listed, catalog.registry_listed) = (docker, registry);
            return;
        }
        Step::Revision(revision) => {
            catalog.revision = revision;
            return;
        }
    };
    catalog.hosts.insert(origin(index), Arc::new(changed));
}

proptest! {
    /// Several steps between two updates, as one revision may hold several changes.
    #[test]
    fn a_zone_that_followed_every_change_is_the_one_made_from_nothing(
        batches in prop::collection::vec(prop::collection::vec(step(), 1..4), 1..20),
    ) {
        let mut catalog = Catalog::default();
        let mut zone = Zone::default();
        for batch in batches {
            let old = catalog.clone();
            for step in batch {
                take(&mut catalog, step);
            }
            zone = zone.update(&old, &catalog);
            prop_assert_eq!(&zone, &Zone::of(&catalog));
            for service in zone.services() {
                prop_assert!(service.all().is_sorted_by_key(Candidate::order));
            }
        }
    }
}

/// 1,000 hosts with 100 instances each of 10,000 services.
fn large() -> Catalog {
    let mut catalog = Catalog { docker_listed: true, registry_listed: true, ..Catalog::default() };
    for host in 0..1000usize {
        let mut publications = OrdMap::new();
        for i in 0..100usize {
            let number = host * 100 + i;
            let container = short(&format!("{number:06x}"));
            let (namespace, service) = (number % 10_000 / 10, number % 10_000);
            let text = format!("host own\n {container} s{service}.n{namespace} 80/tcp>0.0.0.0:8080");
            let world = World::parse(&text);
            let (_, publication) = world.catalog.hosts[&Origin::Own].publications.get_min().unwrap().clone();
            publications.insert(container, publication);
        }
        let [.., high, low] = host.to_be_bytes();
        let advertise = vec![IpAddr::from([10, 9, high, low])];
        let session = Session { advertise, ..Session::default() };
        let origin = Origin::Registry(HostId::parse(&format!("host-{host}")).unwrap());
        catalog.hosts.insert(origin, Arc::new(Host { session, publications }));
    }
    catalog
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
}

/// Figures, not assertions: `cargo test --release -- --ignored --nocapture figures`.
#[test]
#[ignore = "prints figures, asserts nothing about time"]
#[expect(clippy::print_stdout, reason = "its product is what it prints")]
fn figures_of_a_large_zone() {
    let mut catalog = large();
    let before = resident();
    let start = Instant::now();
    let mut zone = Zone::of(&catalog);
    println!("build of 100,000 instances: {:?}, {} KiB", start.elapsed(), (resident() - before) / 1024);

    let origin = origin(7);
    let mut changes = Vec::new();
    for round in 0..2000 {
        let old = catalog.clone();
        let host = Arc::make_mut(catalog.hosts.get_mut(&origin).unwrap());
        let (container, publication) = host.publications.get_min().unwrap().clone();
        let mut changed = (*publication).clone();
        changed.phase = if round % 2 == 0 { Phase::Draining } else { Phase::Serving };
        host.publications.insert(container, Arc::new(changed));
        let start = Instant::now();
        zone = zone.update(&old, &catalog);
        changes.push(start.elapsed());
    }
    changes.sort();
    println!("update of one instance: p50 {:?}, p99 {:?}", changes[1000], changes[1980]);
}
