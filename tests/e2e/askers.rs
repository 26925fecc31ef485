//! Every kind of asker asks for every kind of instance, through its own resolver, and opens whatever it is given: with the
//! port of an SRV record, and with the one number that the addresses of an A answer share.

use std::collections::BTreeSet;

use super::{
    bed::{A, B, C, Container, Network, SOON, eventually, unique, unique_port},
    dns::Answer,
    swarm::{OVERLAY_SOON, Swarm},
};

/// A service, and the numbers that its addresses may stand for: the container's port, or the published one.
struct Service {
    name: String,
    numbers: Vec<u16>,
}

/// The containers and networks of the test, gone in the order of their fields.
struct Stage {
    services: Vec<Service>,
    askers: Vec<(&'static str, Container)>,
    _replicas: Vec<Container>,
    _networks: Vec<Network>,
    _swarm: Swarm,
}

/// What `httpd` of a container on its host's network listens on.
const OWN_PORT: u16 = 8099;

impl Stage {
    fn new() -> Self {
        let swarm = Swarm::form(&[B, C]);
        let mesh = swarm.overlay(&unique("mesh"));
        let internal = Network { host: A, name: unique("cut") };
        A.docker(&["network", "create", "--internal", &internal.name]);
        let macvlan = Network { host: B, name: unique("macvlan") };
        let options =
            "-d macvlan -o parent=eth0 --subnet 172.31.77.0/24 --gateway 172.31.77.1 --ip-range 172.31.77.144/28";
        let create = ["network", "create"].into_iter().chain(options.split(' ')).chain([macvlan.name.as_str()]);
        B.docker(&create.collect::<Vec<_>>());
        let (front, back, far) = (A.network(&unique("front")), A.network(&unique("back")), C.network(&unique("far")));
        let beside = B.network(&unique("beside"));

        let (services, askers) = (vec![], vec![]);
        let mut stage = Self { services, askers, _replicas: vec![], _networks: vec![], _swarm: swarm };
        let (equal, both, one) = (unique_port(), unique_port(), unique_port());
        let publish = |port: u16| format!("{port}:80");
        let (equal_port, both_port) = (publish(equal), publish(both));
        let (at_loopback, at_one) = (format!("127.0.0.1:{}:80", unique_port()), format!("{}:{one}:80", B.address));

        let on = stage.service("equal", &[equal]);
        stage.replica(A.run(&unique("r"), &["--label", &on, "-p", &equal_port]));
        stage.replica(B.run(&unique("r"), &["--label", &on, "-p", &equal_port]));
        stage.replica(C.run(&unique("r"), &["--label", &on, "-p", &equal_port, "--network", &far.name]));
        let on = stage.service("inner", &[]);
        stage.replica(A.run(&unique("r"), &["--label", &on, "--expose", "80", "--network", &front.name]));
        let on = stage.service("dynamic", &[]);
        stage.replica(A.run(&unique("r"), &["--label", &on, "-p", "80", "--network", &back.name]));
        stage.replica(B.run(&unique("r"), &["--label", &on, "-p", "80"]));
        let on = stage.service("loopback", &[]);
        stage.replica(A.run(&unique("r"), &["--label", &on, "-p", &at_loopback]));
        let on = stage.service("oneaddress", &[one]);
        stage.replica(B.run(&unique("r"), &["--label", &on, "-p", &at_one]));
        let on = stage.service("cut", &[]);
        stage.replica(A.run(&unique("r"), &["--label", &on, "--expose", "80", "--network", &internal.name]));
        let on = stage.service("lan", &[]);
        stage.replica(B.run(&unique("r"), &["--label", &on, "--expose", "80", "--network", &macvlan.name]));
        let on = stage.service("mesh", &[]);
        stage.replica(B.run(&unique("r"), &["--label", &on, "--expose", "80", "--network", &mesh.name]));
        let on = stage.service("mixed", &[both]);
        let mixed = A.run(&unique("r"), &["--label", &on, "-p", &both_port, "--network", &front.name]);
        A.docker(&["network", "connect", &internal.name, &mixed.name]);
        stage.replica(mixed);
        let on = stage.service("own", &[OWN_PORT]);
        let (port, serve) = (format!("portolan.port={OWN_PORT}"), OWN_PORT.to_string());
        let options = ["--label", &on, "--label", &port, "--network", "host"];
        stage.replica(C.run_command(&unique("r"), &options, &["httpd", "-f", "-p", &serve]));

        // On an internal network nothing but the bridge's own address can be asked.
        let gateway = A.docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &internal.name]);
        stage.asker("default bridge", A.run(&unique("asker"), &[]));
        stage.asker("user network", A.run(&unique("asker"), &["--network", &front.name]));
        stage.asker("another user network", A.run(&unique("asker"), &["--network", &back.name]));
        stage.asker(
            "internal network",
            A.run(&unique("asker"), &["--network", &internal.name, "--dns", gateway.trim()]),
        );
        stage.asker("host network", C.run_command(&unique("asker"), &["--network", "host"], &["sleep", "1d"]));
        stage.asker("another host", B.run(&unique("asker"), &[]));
        stage.asker("another host's user network", C.run(&unique("asker"), &["--network", &far.name]));
        // It asks from docker_gwbridge.
        stage.asker("overlay", C.run(&unique("asker"), &["--network", &mesh.name]));
        // On a macvlan alone it could not ask its own host.
        let lan = B.run(&unique("asker"), &["--network", &beside.name]);
        B.docker(&["network", "connect", &macvlan.name, &lan.name]);
        stage.asker("macvlan and bridge", lan);
        stage._networks.extend([internal, macvlan, front, back, far, beside, mesh]);
        stage
    }

    /// Gives its label.
    fn service(&mut self, stem: &str, published: &[u16]) -> String {
        let name = unique(stem);
        let label = format!("portolan.service={name}");
        self.services.push(Service { name: format!("{name}.svc.internal"), numbers: [&[80], published].concat() });
        label
    }

    fn replica(&mut self, container: Container) {
        self._replicas.push(container);
    }

    fn asker(&mut self, kind: &'static str, container: Container) {
        self.askers.push((kind, container));
    }
}

/// What an asker is told of a service, once its host knows that service.
fn known(asker: &Container, name: &str, kind: &str) -> Answer {
    eventually(&format!("{} knows {name}", asker.name), SOON, || match asker.ask(name, kind) {
        answer @ (Answer::Found(_) | Answer::NoData) => Ok(answer),
        other => Err(other.to_string()),
    })
}

/// The number under which every one of these addresses opens.
fn opens_under(asker: &Container, addresses: &BTreeSet<String>, numbers: &[u16]) -> Result<u16, String> {
    let mut last = String::new();
    for number in numbers {
        let refused = addresses.iter().find_map(|address| asker.connect(&format!("{address}:{number}")).err());
        match refused {
            None => return Ok(*number),
            Some(error) => last = error,
        }
    }
    Err(last)
}

#[test]
fn every_asker_opens_every_address_that_it_is_given() {
    let stage = Stage::new();
    let mut given = BTreeSet::new();
    for (kind, asker) in &stage.askers {
        for service in &stage.services {
            let stem = service.name.split('-').next().unwrap_or_default();
            if let Answer::Found(addresses) = known(asker, &service.name, "A") {
                eventually(&format!("{kind}: A {stem} {addresses:?} opens"), OVERLAY_SOON, || {
                    opens_under(asker, &addresses, &service.numbers)
                });
                given.insert(format!("{kind}: {stem}"));
            }
            if let Answer::Found(targets) = known(asker, &service.name, "SRV") {
                for target in &targets {
                    eventually(&format!("{kind}: SRV {stem} {target} opens"), OVERLAY_SOON, || asker.connect(target));
                }
                given.insert(format!("{kind}: {stem} by SRV"));
            }
        }
    }
    // Not given is not refused, but it must not be all there is.
    for (kind, stems) in [
        ("default bridge", &["equal", "own", "oneaddress", "lan", "mixed"][..]),
        ("user network", &["equal", "inner", "own", "lan", "mixed"]),
        ("another user network", &["equal", "dynamic", "own", "lan", "mixed"]),
        ("internal network", &["cut", "mixed"]),
        ("host network", &["equal", "own", "oneaddress", "lan", "mixed"]),
        ("another host", &["equal", "own", "oneaddress", "mixed"]),
        ("another host's user network", &["equal", "own", "oneaddress", "lan", "mixed"]),
        ("overlay", &["equal", "own", "oneaddress", "lan", "mesh", "mixed"]),
        ("macvlan and bridge", &["equal", "own", "lan", "mixed"]),
    ] {
        for stem in stems {
            assert!(given.contains(&format!("{kind}: {stem}")), "{kind} is not given {stem}: {given:#?}");
        }
        let others = ["equal", "dynamic"].map(|stem| format!("{kind}: {stem} by SRV"));
        assert!(kind == "internal network" || others.iter().all(|held| given.contains(held)), "{kind}: {given:#?}");
    }
    let hidden = [
        "default bridge: inner",
        "another host: inner",
        "user network: cut",
        "internal network: equal",
        "another host: mesh",
        "macvlan and bridge: mesh",
        // Of its own host: what goes there leaves by the macvlan.
        "macvlan and bridge: oneaddress",
    ];
    assert!(hidden.iter().all(|held| !given.contains(*held)), "{given:#?}");
    // Its own network needs no published port.
    assert!(given.iter().all(|held| !held.contains("loopback") || held.starts_with("default bridge")), "{given:#?}");
}
