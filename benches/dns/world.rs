//! The names and addresses that every server is given: services of thirty other hosts, some with an instance of the own
//! host, and fifty bridge networks with a container on each that asks.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::{IpNet, Ipv4Net};
use portolan::model::{
    Asker, Attachment, Catalog, Common, Driver, Health, Host, HostId, Label, Local, Network, NetworkId, Offer, Origin,
    Phase, Port, Proto, Publication, Published, Scope, Segment, Session, ShortId,
};

/// Instances of each service.
pub(crate) const REPLICAS: usize = 3;
/// Other hosts.
const HOSTS: usize = 30;
/// Bridge networks of this host, with one asker on each.
pub(crate) const NETWORKS: usize = 50;
/// Services of which one instance is on this host, on one of its networks: their answers differ by asker.
const AT_HOME: usize = 300;
/// Where other hosts reach this one.
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 1);

/// The name of a service.
pub(crate) fn name(service: usize) -> String {
    format!("svc-{service:05}.bench.svc.internal")
}

/// Where the asker on a network asks from. Loopback addresses, so that no network has to be made for it.
pub(crate) fn asker(network: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, octet(network + 1), 1)
}

/// The number under which a service is reached everywhere.
fn port(service: usize) -> u16 {
    1024 + u16::try_from(service % 60_000).unwrap_or_default()
}

/// The host of a replica; `None`: this one.
fn home(service: usize, replica: usize) -> Option<usize> {
    (service >= AT_HOME || replica > 0).then_some((service * REPLICAS + replica) % HOSTS)
}

fn container(service: usize, replica: usize) -> String {
    format!("{:012x}", service * REPLICAS + replica)
}

/// Where a replica is reached, seen from this host itself.
fn address(service: usize, replica: usize) -> Ipv4Addr {
    match home(service, replica) {
        Some(host) => advertised(host),
        None => at_home(service),
    }
}

fn advertised(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, octet(host + 1))
}

fn at_home(service: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, octet(service % NETWORKS), octet(service / NETWORKS + 2))
}

fn octet(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

/// The addresses of a service, seen from this host itself, in order.
pub(crate) fn addresses(service: usize) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = (0..REPLICAS).map(|replica| IpAddr::V4(address(service, replica))).collect();
    addresses.sort();
    addresses
}

/// Everything that is known, with `services` services.
pub(crate) fn catalog(services: usize) -> Catalog {
    let mut hosts: Vec<Host> = (0..HOSTS).map(|host| new_host(advertised(host))).collect();
    let mut own = new_host(OWN_ADDRESS);
    for service in 0..services {
        for replica in 0..REPLICAS {
            let publication = Arc::new(publication(service, replica, Ipv4Addr::UNSPECIFIED));
            let host = home(service, replica).map_or(&mut own, |host| &mut hosts[host]);
            host.publications.insert(publication.container, publication);
        }
    }
    let others = hosts.into_iter().enumerate().map(|(host, known)| (origin(host), Arc::new(known)));
    Catalog {
        hosts: others.chain([(Origin::Own, Arc::new(own))]).collect(),
        docker_listed: true,
        registry_listed: true,
        revision: 1,
        ..Catalog::default()
    }
}

fn new_host(advertise: Ipv4Addr) -> Host {
    let session = Session { advertise: vec![advertise.into()], ..Session::default() };
    Host { session, ..Host::default() }
}

fn origin(host: usize) -> Origin {
    Origin::Registry(HostId::parse(&format!("host-{host:02}")).expect("a host id"))
}

/// The catalog after one instance of a service on another host has moved: it is published on another address of its
/// host, or on all of them again.
pub(crate) fn moved(catalog: &Catalog, service: usize, step: usize) -> Catalog {
    let replica = 1 + step % (REPLICAS - 1);
    let Some(host) = home(service, replica) else { return catalog.clone() };
    let bound = if step.is_multiple_of(2) { Ipv4Addr::new(10, 7, 0, octet(host + 1)) } else { Ipv4Addr::UNSPECIFIED };
    let publication = Arc::new(publication(service, replica, bound));
    let mut next = catalog.clone();
    if let Some(known) = next.hosts.get_mut(&origin(host)) {
        Arc::make_mut(known).publications.insert(publication.container, publication);
    }
    next.revision += 1;
    next
}

fn publication(service: usize, replica: usize, bound: Ipv4Addr) -> Publication {
    let id = container(service, replica);
    let number = port(service);
    let published = Published { ip: bound.into(), port: number, chosen: true };
    let port = Port { name: None, port: number, proto: Proto::Tcp, published: [published].into(), extra: None };
    let (network, ip) = match home(service, replica) {
        Some(_) => ("bridge".to_owned(), Ipv4Addr::new(172, 17, 0, 2)),
        None => (network_name(service % NETWORKS), at_home(service)),
    };
    Publication {
        container: ShortId::parse(&id).expect("twelve digits"),
        name: id.as_str().into(),
        common: Arc::new(Common {
            image: "image".into(),
            services: [Offer {
                service: label(&format!("svc-{service:05}")),
                namespace: label("bench"),
                tags: [].into(),
                weight: 1,
                port: None,
                ports: [port].into(),
                when_none_ready: None,
            }]
            .into(),
            directory: None,
            namespace: label("bench"),
            aliases: [].into(),
        }),
        phase: Phase::Serving,
        health: Health::None,
        networks: [Attachment {
            segment: Arc::new(Segment {
                id: NetworkId(network.as_str().into()),
                name: network.as_str().into(),
                driver: Driver::Bridge,
                scope: Scope::Local,
                internal: false,
            }),
            ips: [ip.into()].into(),
        }]
        .into(),
        elsewhere: None,
    }
}

fn label(text: &str) -> Label {
    Label::parse(text).expect("a label")
}

fn network_name(network: usize) -> String {
    format!("net-{network}")
}

/// What this host knows of itself: the networks, and who asks from where.
pub(crate) fn local() -> Local {
    let mut local = Local { listed: true, ..Local::default() };
    let mut own = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), OWN_ADDRESS.into()];
    for network in 0..NETWORKS {
        let id = NetworkId(network_name(network).as_str().into());
        let gateway = Ipv4Addr::new(10, 200, octet(network), 1);
        own.push(gateway.into());
        let asking = Asker {
            container: ShortId::parse(&format!("f{network:011x}")).expect("twelve digits"),
            name: format!("asker-{network}").as_str().into(),
            namespace: label("bench"),
            networks: vec![id.clone()],
        };
        local.askers.insert(asker(network).into(), Arc::new(asking));
        let known = Network {
            id: id.clone(),
            name: Arc::clone(&id.0),
            driver: Driver::Bridge,
            scope: Scope::Local,
            internal: false,
            icc: true,
            subnets: vec![IpNet::V4(Ipv4Net::new_assert(gateway, 24).trunc())],
            gateways: vec![gateway.into()],
        };
        local.networks.insert(id, Arc::new(known));
    }
    local.addresses = Arc::new(own.into_iter().collect());
    local.proxied = Arc::new((0..AT_HOME).map(|service| (Proto::Tcp, port(service))).collect());
    local
}

/// The same names and addresses as a zone file.
pub(crate) fn zone_file(services: usize, with_srv: bool) -> String {
    let mut text = soa("svc.internal");
    for service in 0..services {
        let name = name(service);
        for replica in 0..REPLICAS {
            let address = address(service, replica);
            let _infallible = writeln!(text, "{name}. 0 IN A {address}");
            if with_srv {
                let (id, port) = (container(service, replica), port(service));
                let _infallible = writeln!(text, "{name}. 0 IN SRV 0 1 {port} {id}.{name}.");
                let _infallible = writeln!(text, "{id}.{name}. 0 IN A {address}");
            }
        }
    }
    text
}

/// The same names and addresses as lines of a hosts file.
pub(crate) fn hosts_file(services: usize) -> String {
    let lines = (0..services).flat_map(|service| {
        (0..REPLICAS).map(move |replica| format!("{} {}\n", address(service, replica), name(service)))
    });
    lines.collect()
}

/// Names that are not ours, which forwarders fetch and keep.
pub(crate) fn foreign_name(number: usize) -> String {
    format!("name-{number:05}.bench-upstream.org")
}

/// Their zone.
pub(crate) fn foreign_zone_file(names: usize) -> String {
    let mut text = soa("bench-upstream.org");
    for number in 0..names {
        for replica in 0..REPLICAS {
            let _infallible = writeln!(text, "{}. 3600 IN A {}", foreign_name(number), address(number, replica));
        }
    }
    text
}

fn soa(zone: &str) -> String {
    format!("{zone}. 0 IN SOA {zone}. hostmaster.{zone}. 1 7200 1800 86400 1\n{zone}. 0 IN NS {zone}.\n")
}
