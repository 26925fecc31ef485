//! Both families between hosts: who is given which addresses, and that each opens over its own family.

use std::net::{IpAddr, SocketAddr};

use hickory_proto::rr::RecordType;

use super::{
    bed::{
        A, B, C, Container, HOSTS, Host, Network, SOON, addresses, eventually, everywhere, expect, unique, unique_port,
    },
    dns::{self, Answer},
};

/// A network of host A with both families. The other hosts know the way back to it, as routers would: engine 20.10 hides
/// no IPv6 addresses behind its host's.
struct Dual {
    network: Network,
    subnet: String,
}

impl Dual {
    fn new() -> Self {
        // As unique as the port.
        let (name, subnet) = (unique("dual"), format!("fd31:a:{:x}::/64", unique_port()));
        A.docker(&["network", "create", "--ipv6", "--subnet", &subnet, &name]);
        let dual = Self { network: Network { host: A, name }, subnet };
        for host in [B, C] {
            host.shell(&format!("ip -6 route replace {} via {}", dual.subnet, A.address6));
        }
        dual
    }
}

impl Drop for Dual {
    fn drop(&mut self) {
        for host in [B, C] {
            host.shell(&format!("ip -6 route del {} || true", self.subnet));
        }
    }
}

fn addresses6(of: impl IntoIterator<Item = Host>) -> Answer {
    Answer::found(of.into_iter().map(|host| host.address6))
}

/// One port of hosts over both families, as an SRV answer shows it.
fn targets(of: &[Host], port: u16) -> Answer {
    let both = |host: &Host| [IpAddr::from(host.address), IpAddr::from(host.address6)];
    Answer::found(of.iter().flat_map(both).map(|address| SocketAddr::new(address, port)))
}

fn opens(from: &Container, address: impl Into<IpAddr>, port: u16) {
    let target = SocketAddr::new(address.into(), port).to_string();
    eventually(&format!("{target} opens from {}", from.name), SOON, || from.connect(&target));
}

#[test]
fn a_service_of_other_hosts_is_given_over_both_families_and_every_address_opens() {
    let (service, port) = (unique("both"), unique_port());
    let name = format!("{service}.svc.internal");
    let (label, publish) = (format!("portolan.service={service}"), format!("{port}:80"));
    let dual = Dual::new();
    let client = A.run(&unique("client"), &["--network", &dual.network.name]);
    // B's agent was told both addresses; C's found them out.
    let far = [B, C].map(|host| host.run(&unique("r"), &["--label", &label, "-p", &publish]));

    expect("A", &addresses([B, C]), || client.ask(&name, "A"));
    expect("AAAA", &addresses6([B, C]), || client.ask(&name, "AAAA"));
    expect("SRV has both beside it", &targets(&[B, C], port), || client.ask_for_both(&name, "SRV"));
    expect("the host itself: A", &addresses([B, C]), || A.ask_itself(&name, "A"));
    expect("the host itself: AAAA", &addresses6([B, C]), || A.ask_itself(&name, "AAAA"));
    expect("the host itself: SRV", &targets(&[B, C], port), || A.ask_itself(&name, "SRV"));
    everywhere(&name, RecordType::AAAA, &addresses6([B, C]));
    for host in HOSTS {
        let server = SocketAddr::from((host.address6, 53));
        expect("asked over IPv6", &addresses6([B, C]), || dns::ask(server, &name, RecordType::AAAA));
    }
    for host in [B, C] {
        for address in [IpAddr::from(host.address), IpAddr::from(host.address6)] {
            opens(&client, address, port);
            let target = SocketAddr::new(address, port).to_string();
            eventually(&format!("{target} opens from host A"), SOON, || A.connect(&target));
        }
    }

    let [on_b, on_c] = far;
    on_b.docker(&["stop", "-t", "0"]);
    everywhere(&name, RecordType::A, &addresses([C]));
    everywhere(&name, RecordType::AAAA, &addresses6([C]));
    expect("nothing of B is left", &targets(&[C], port), || client.ask_for_both(&name, "SRV"));
    drop(on_c);
    for kind in [RecordType::A, RecordType::AAAA] {
        everywhere(&name, kind, &Answer::NoName);
        expect("gone for the client, too", &Answer::NoName, || client.ask(&name, &kind.to_string()));
    }
}

#[test]
fn who_has_one_family_and_what_is_published_in_one_family_meet_only_in_that_one() {
    let dual = Dual::new();
    let (plain, apart) = (A.network(&unique("plain")), A.network(&unique("apart")));
    let both = A.run(&unique("client"), &["--network", &dual.network.name]);
    let four = A.run(&unique("client"), &["--network", &plain.name]);
    let service = |host: Host, stem: &str, at: &str| {
        let (service, port) = (unique(stem), unique_port());
        let (label, publish) = (format!("portolan.service={service}"), format!("{at}{port}:80"));
        let network = if host == A { &*apart.name } else { "bridge" };
        let replica = host.run(&unique("r"), &["--label", &label, "-p", &publish, "--network", network]);
        (replica, format!("{service}.svc.internal"), port)
    };
    // Of the own host another bridge's published port, which docker-proxy holds in both families.
    for (host, at) in [(B, ""), (A, ""), (B, "0.0.0.0:"), (B, "[::]:")] {
        let (replica, name, port) = service(host, "one", at);
        let what = format!("published at {at:?} on {}", host.container);
        let in_v4 = at != "[::]:";
        let in_v6 = at != "0.0.0.0:";
        for (client, has_v6) in [(&both, true), (&four, false)] {
            let v4 = in_v4.then_some(IpAddr::from(host.address));
            let v6 = (in_v6 && has_v6).then_some(IpAddr::from(host.address6));
            let or_none = |found: Vec<String>| if found.is_empty() { Answer::NoData } else { Answer::found(found) };
            let shown = |address: Option<IpAddr>| or_none(address.iter().map(IpAddr::to_string).collect());
            let given = v4.into_iter().chain(v6);
            let targets = given.clone().map(|address| SocketAddr::new(address, port).to_string()).collect();
            let who = format!("{what}, for a client {} IPv6", if has_v6 { "with" } else { "without" });
            expect(&format!("{who}: A"), &shown(v4), || client.ask(&name, "A"));
            expect(&format!("{who}: AAAA"), &shown(v6), || client.ask(&name, "AAAA"));
            expect(&format!("{who}: SRV"), &or_none(targets), || client.ask_for_both(&name, "SRV"));
            for address in given {
                opens(client, address, port);
            }
        }
        let over_v6 = SocketAddr::from((host.address6, port)).to_string();
        assert!(four.connect(&over_v6).is_err(), "{what}: without IPv6 it opens, so it could have been given");
        drop(replica);
    }
}
