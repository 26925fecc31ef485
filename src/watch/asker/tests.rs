//! Who asks: overlay containers, gateways, proxied ports.

use super::*;
use crate::{
    model::{GWBRIDGE, NetworkId, Published, Scope},
    watch::container::{
        Binding, Event, Wish,
        tests::{Bed, WEB, endpoint, id, network, running},
    },
};

fn show(bed: &mut Bed, facts: NetworkFacts, endpoints: &[(&str, &str)]) {
    let endpoints = endpoints.iter().map(|(own, ip)| (id(own), Box::from([ip.parse().unwrap()]))).collect();
    let began = bed.containers.now();
    bed.apply(Event::NetworkPresent { began, facts: Box::new(facts), endpoints });
}

fn askers(bed: &Bed) -> Vec<IpAddr> {
    let mut all: Vec<_> = bed.local.askers.keys().copied().collect();
    all.sort();
    all
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn an_overlay_container_asks_from_its_gateway_address_too() {
    let mut bed = Bed::new();
    show(&mut bed, network(GWBRIDGE), &[]);
    show(&mut bed, NetworkFacts { driver: Driver::Overlay, scope: Scope::Swarm, ..network("mesh") }, &[]);
    let mut web = running(WEB, "10.0.0.2");
    web.endpoints = vec![endpoint("mesh", &["10.5.0.2"])];
    bed.wishes.clear();
    bed.containers.apply(Event::NetworkFailed(NetworkId(GWBRIDGE.into())));
    bed.start(&web);
    let looked = bed.wishes.iter().any(|wish| matches!(wish, Wish::InspectNetwork { id, .. } if &*id.0 == GWBRIDGE));
    assert!(looked, "docker_gwbridge has no events: its list is asked for");
    show(&mut bed, network(GWBRIDGE), &[(WEB, "10.6.0.3")]);
    assert_eq!(askers(&bed), ips(&["10.5.0.2", "10.6.0.3"]));
    // A later inspect does not know the gateway address, and must not take it away.
    web.name = "renamed".into();
    bed.started(WEB).answer(&web);
    assert_eq!(askers(&bed), ips(&["10.5.0.2", "10.6.0.3"]));
    // It is gone when the list no longer has it.
    show(&mut bed, network(GWBRIDGE), &[]);
    assert_eq!(askers(&bed), ips(&["10.5.0.2"]));
    show(&mut bed, network(GWBRIDGE), &[(WEB, "10.6.0.3")]);
    bed.apply(Event::Died(id(WEB)));
    assert_eq!(askers(&bed), ips(&[]));
}

#[test]
fn a_bridges_gateways_are_named_by_docker_or_found_on_the_host() {
    let host = ["10.0.0.7", "192.168.1.1"].map(|ip| ip.parse().unwrap()).into();
    let gateways = |facts: NetworkFacts| super::network(&facts, &host).gateways;
    assert_eq!(gateways(network("named")), ips(&["10.0.0.1", "10.0.0.7"]));
    assert_eq!(gateways(NetworkFacts { gateways: Vec::new(), ..network("bridge") }), ips(&["10.0.0.7"]));
    assert_eq!(gateways(NetworkFacts { driver: Driver::Macvlan, ..network("lan") }), ips(&[]));
}

#[test]
fn bridges_whose_gateways_are_not_ours_are_apart_while_their_containers_run() {
    let mut bed = Bed::new();
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<BTreeSet<IpAddr>>();
    let strange = |bed: &Bed, held: &[&str]| -> Vec<String> {
        let found = bed.containers.bridges().into_iter().filter(|bridge| !bridge.is_here(&addresses(held)));
        found.map(|bridge| bridge.id.0.to_string()).collect()
    };
    assert_eq!(strange(&bed, &[]), [""; 0], "no container runs");
    bed.start(&running(WEB, "10.0.0.2"));
    for (held, expected) in [
        (&["10.0.0.1"][..], &[][..]),
        (&["127.0.0.1", "192.0.2.1"], &["net1"]),
        // An address in the subnet is not the gateway.
        (&["10.0.0.7"], &["net1"]),
    ] {
        assert_eq!(strange(&bed, held), expected, "{held:?}");
    }
    let began = bed.containers.now();
    let nameless = Box::new(NetworkFacts { gateways: Vec::new(), ..network("net1") });
    bed.apply(Event::NetworkPresent { began, facts: nameless, endpoints: Vec::new() });
    assert_eq!((strange(&bed, &["10.0.0.7"]).len(), strange(&bed, &["192.0.2.1"]).len()), (0, 1));
    assert!(bed.local.apart.is_empty() && bed.desired.apart.is_empty());

    let apart = Arc::new(BTreeSet::from([NetworkId("net1".into()), NetworkId("gone".into())]));
    bed.containers.take_apart(&apart);
    bed.apply(Event::Changed(id(WEB)));
    assert_eq!((bed.local.apart.len(), bed.desired.apart.len()), (1, 1), "of those that there are");
    bed.containers.take_apart(&Arc::default());
    bed.containers.take_rootless(true);
    bed.apply(Event::Changed(id(WEB)));
    assert_eq!((bed.local.apart.len(), bed.desired.apart.len()), (2, 2), "all that there are");
    bed.containers.take_rootless(false);
    bed.apply(Event::Changed(id(WEB)));
    assert!(bed.local.apart.is_empty() && bed.desired.apart.is_empty());
}

#[test]
fn proxied_are_published_ports_that_docker_proxy_holds() {
    let mut bed = Bed::new();
    let mut web = running(WEB, "10.0.0.2");
    let binding = |ip: &str, port| Binding {
        port: 80,
        proto: Proto::Tcp,
        at: Published { ip: ip.parse().unwrap(), port, chosen: true },
    };
    web.bindings = vec![binding("0.0.0.0", 8080), binding("0.0.0.0", 8081), binding("127.0.0.1", 8082)];
    bed.start(&web);
    let held = BTreeSet::from([(Proto::Tcp, 8080), (Proto::Udp, 8081), (Proto::Tcp, 22), (Proto::Tcp, 8082)]);
    let both = [(Proto::Tcp, 8080), (Proto::Tcp, 8081)];
    let rows = [
        (Proxies::Seen(held.into()), &both[..1], &both[..0]),
        (Proxies::Unseen, &[], &both),
        (Proxies::Seen(Arc::default()), &[], &[]),
        (Proxies::Unread, &[], &[]),
    ];
    let mut before = Local::clone(&bed.local);
    for (proxies, proxied, unproven) in rows {
        let host = HostFacts { proxies, ..HostFacts::default() };
        before = local(&before, &bed.containers, &host).unwrap_or(before);
        let ports = |set: &BTreeSet<(Proto, u16)>| set.iter().copied().collect::<Vec<_>>();
        assert_eq!(ports(&before.proxied), proxied, "{:?}", host.proxies);
        assert_eq!(ports(&before.unproven), unproven, "{:?}", host.proxies);
        assert!(local(&before, &bed.containers, &host).is_none(), "no change, no news");
    }
}
