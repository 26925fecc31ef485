//! Networks that span hosts, or end outside of them: who is told of an address there, and that it opens.

use std::{net::SocketAddr, process::Command};

use hickory_proto::rr::RecordType;

use super::{
    bed::{A, B, C, Container, HOSTS, Host, Network, SOON, addresses, eventually, expect, run, unique, unique_port},
    dns::{self, Answer},
    swarm::{OVERLAY_SOON, Swarm},
};

#[test]
fn on_an_overlay_a_container_of_another_host_is_given_by_its_own_address_and_nobody_else_is_told() {
    let swarm = Swarm::form(&[B, C]);
    let overlay = swarm.overlay(&unique("overlay"));
    let service = unique("far");
    let label = format!("portolan.service={service}");
    let server = B.run(&unique("r"), &["--network", &overlay.name, "--label", &label, "--expose", "80"]);
    // It asks from docker_gwbridge, a network that its own inspect does not name.
    let client = C.run(&unique("client"), &["--network", &overlay.name]);
    let beside = C.run(&unique("beside"), &[]);

    let name = format!("{service}.svc.internal");
    let address = server.address(&overlay.name);
    expect("the client is given the overlay's address", &Answer::found([&address]), || client.ask(&name, "A"));
    eventually("it opens", OVERLAY_SOON, || client.connect(&format!("{address}:80")));
    expect("who is not on the overlay is given nothing", &Answer::NoData, || beside.ask(&name, "A"));
    expect("nor are those outside", &Answer::NoData, || A.ask(&name, RecordType::A));
    server.docker(&["stop", "-t", "0"]);
    expect("its end is seen on the other host", &Answer::NoName, || client.ask(&name, "A"));
    drop((client, beside, server));
}

#[test]
fn a_macvlan_address_is_given_to_other_hosts_and_to_its_own_network_but_not_to_its_own_host() {
    let network = Network { host: B, name: unique("macvlan") };
    let options = "-d macvlan -o parent=eth0 --subnet 172.31.77.0/24 --gateway 172.31.77.1 --ip-range 172.31.77.128/28";
    let create = ["network", "create"].into_iter().chain(options.split(' ')).chain([network.name.as_str()]);
    B.docker(&create.collect::<Vec<_>>());
    let service = unique("outside");
    let label = format!("portolan.service={service}");
    let server = B.run(&unique("r"), &["--network", &network.name, "--label", &label, "--expose", "80"]);
    let clients = [A, C].map(|host| host.run(&unique("client"), &[]));
    let neighbour = B.run(&unique("neighbour"), &["--network", &network.name]);
    let beside = B.run(&unique("beside"), &[]);

    let name = format!("{service}.svc.internal");
    let address = server.address(&network.name);
    for client in &clients {
        expect("another host is given the address", &Answer::found([&address]), || client.ask(&name, "A"));
        eventually("it opens", SOON, || client.connect(&format!("{address}:80")));
    }
    // A macvlan cannot reach the host it is on, nor be reached from it: rule 3 leaves that one out.
    expect("its own host is not", &Answer::NoData, || beside.ask(&name, "A"));
    assert!(beside.connect(&format!("{address}:80")).is_err(), "else it could have been given");
    // So the neighbour cannot ask its own host's agent either. Whoever it can ask takes it for an address outside.
    eventually("its neighbour reaches it", SOON, || neighbour.connect(&format!("{address}:80")));
    drop((clients, neighbour, beside, server));
    expect("it is gone", &Answer::NoName, || HOSTS[0].ask(&name, RecordType::A));
}

#[test]
fn a_network_of_both_families_is_answered_and_opened_in_both() {
    answers_in_both_families(A);
}

/// All of it on this host.
pub(crate) fn answers_in_both_families(host: Host) {
    let network = Network { host, name: unique("dual") };
    let subnet = format!("fd00:{:x}::/64", unique_port());
    host.docker(&["network", "create", "--ipv6", "--subnet", &subnet, &network.name]);
    let service = unique("both");
    let label = format!("portolan.service={service}");
    let server = host.run(&unique("r"), &["--network", &network.name, "--label", &label, "--expose", "80"]);
    let client = host.run(&unique("client"), &["--network", &network.name]);
    let beside = host.run(&unique("beside"), &[]);

    let name = format!("{service}.svc.internal");
    let format = format!("{{{{(index .NetworkSettings.Networks {:?}).GlobalIPv6Address}}}}", network.name);
    let (v4, v6) = (server.address(&network.name), server.docker(&["inspect", "-f", &format]).trim().to_owned());
    for (kind, address) in [("A", v4), ("AAAA", v6)] {
        expect("the network's own address", &Answer::found([&address]), || client.ask(&name, kind));
        eventually("it opens", SOON, || client.connect(&format!("{address}:80")));
        expect("not beside it", &Answer::NoData, || beside.ask(&name, kind));
    }
    server.docker(&["stop", "-t", "0"]);
    for kind in ["A", "AAAA"] {
        expect("its end is seen in both", &Answer::NoName, || client.ask(&name, kind));
    }
    drop((client, beside, server));
}

/// An engine that starts no docker-proxy, but listens on published ports itself.
struct WithoutProxy(Host);

impl WithoutProxy {
    fn on(host: Host) -> Self {
        let without = Self(host);
        host.shell("sed -i 's/\"log-driver\"/\"userland-proxy\": false, &/' /etc/docker/daemon.json");
        restart_engine(host);
        without
    }
}

impl Drop for WithoutProxy {
    fn drop(&mut self) {
        self.0.shell("sed -i 's/\"userland-proxy\": false, //' /etc/docker/daemon.json");
        restart_engine(self.0);
    }
}

/// Ends dockerd, which the bed starts again; containers live on.
pub(crate) fn restart_engine(host: Host) {
    let before = host.shell("pidof dockerd");
    host.shell("kill $(pidof dockerd)");
    eventually(&format!("{}'s engine is back", host.container), 3 * SOON, || {
        let now = host.shell("pidof dockerd || true");
        if now.trim().is_empty() || now == before {
            return Err(format!("dockerd is {now}, was {before}"));
        }
        host.try_docker(&["info"]).map(drop)
    });
}

#[test]
fn without_docker_proxy_a_published_port_is_given_to_other_hosts_and_not_to_other_bridges() {
    let _without = WithoutProxy::on(C);
    let (service, port) = (unique("published"), unique_port());
    let (label, publish) = (format!("portolan.service={service}"), format!("{port}:80"));
    let own = C.network(&unique("own"));
    let server = C.run(&unique("r"), &["--network", &own.name, "--label", &label, "-p", &publish]);
    let beside = C.run(&unique("beside"), &[]);
    let client = A.run(&unique("client"), &[]);

    let name = format!("{service}.svc.internal");
    expect("another host is given it", &addresses([C]), || client.ask(&name, "A"));
    let target = format!("{}:{port}", C.address);
    eventually("it opens", SOON, || client.connect(&target));
    expect("another bridge is not", &Answer::NoData, || beside.ask(&name, "A"));
    assert!(beside.connect(&target).is_err(), "else it could have been given");
    drop((server, beside, client));
}

#[test]
fn with_docker_proxy_a_published_port_is_given_to_other_bridges_too() {
    let (service, port) = (unique("published"), unique_port());
    let (label, publish) = (format!("portolan.service={service}"), format!("{port}:80"));
    let own = C.network(&unique("own"));
    let server = C.run(&unique("r"), &["--network", &own.name, "--label", &label, "-p", &publish]);
    let beside = C.run(&unique("beside"), &[]);
    let name = format!("{service}.svc.internal");
    expect("another bridge is given it", &addresses([C]), || beside.ask(&name, "A"));
    eventually("it opens", SOON, || beside.connect(&format!("{}:{port}", C.address)));
    drop((server, beside));
}

/// Another agent of a host, beside the bed's: a host alone, on ports of its own.
struct Beside {
    dns: SocketAddr,
    http: u16,
    container: Container,
}

impl Beside {
    /// As README says, but for `--pid host`.
    fn without_sight_of_the_host(host: Host) -> Self {
        let (dns, http) = (SocketAddr::from((host.address, unique_port())), unique_port());
        let container = Container { host, name: unique("blind") };
        let run = "run -d --network host --cap-drop ALL --cap-add NET_BIND_SERVICE --read-only --tmpfs /run \
                   -v /var/run:/host/run:ro --name";
        let agent = format!(
            "portolan:dev agent --docker-host unix:///host/run/docker.sock --allow 172.31.77.0/24 --upstream none \
             --dns {dns} --http 127.0.0.1:{http}"
        );
        let words = run.split_whitespace().chain([container.name.as_str()]).chain(agent.split_whitespace());
        host.docker(&words.collect::<Vec<_>>());
        Self { dns, http, container }
    }

    /// Its problems, as JSON.
    fn problems(&self) -> String {
        self.container.host.http_at(self.http, "/v1/problems")
    }
}

#[test]
fn an_agent_that_does_not_see_the_hosts_processes_gives_no_published_port_to_other_bridges_and_says_what_to_do() {
    let (service, port) = (unique("published"), unique_port());
    let (label, publish) = (format!("portolan.service={service}"), format!("{port}:80"));
    let own = C.network(&unique("own"));
    let server = C.run(&unique("r"), &["--network", &own.name, "--label", &label, "-p", &publish]);
    let (beside, within) = (C.run(&unique("beside"), &[]), C.run(&unique("within"), &["--network", &own.name]));
    let name = format!("{service}.svc.internal");
    expect("who sees docker-proxy offers the port", &addresses([C]), || beside.ask(&name, "A"));

    let blind = Beside::without_sight_of_the_host(C);
    let address = server.address(&own.name);
    expect("on one network nothing is amiss", &Answer::found([&address]), || within.ask_at(blind.dns, &name, "A"));
    expect("outside the port is given", &addresses([C]), || dns::ask(blind.dns, &name, RecordType::A));
    // The way is open, but whoever is blind cannot know: with `userland-proxy=false` all of this would look the same.
    expect("on another bridge it is not", &Answer::NoData, || beside.ask_at(blind.dns, &name, "A"));
    let told = eventually("the port is among the problems", SOON, || {
        let problems = blind.problems();
        if problems.contains(&format!("{port}/tcp")) { Ok(problems) } else { Err(problems) }
    });
    assert!(told.contains("published ports") && told.contains("`pid: host`"), "{told}");
    assert!(!C.http("/v1/problems").contains(&format!("{port}/tcp")), "the bed's agent sees");

    server.docker(&["stop", "-t", "0"]);
    eventually("nothing is left to tell", SOON, || {
        let problems = blind.problems();
        if problems.contains(&format!("{port}/tcp")) { Err(problems) } else { Ok(()) }
    });
    drop((blind.container, server, beside, within));
}

/// What an agent in a container of its own is to its engine, a rootless or nested engine is to an agent on the host.
#[test]
fn bridges_in_another_network_namespace_are_no_way_for_the_host_and_a_problem() {
    let (open, closed, port) = (unique("open"), unique("closed"), unique_port());
    let own = C.network(&unique("own"));
    let labels = [&open, &closed].map(|service| format!("portolan.service={service}"));
    let publish = format!("{port}:80");
    let servers = [
        C.run(&unique("r"), &["--network", &own.name, "--label", &labels[0], "-p", &publish]),
        C.run(&unique("r"), &["--network", &own.name, "--label", &labels[1], "--expose", "80"]),
    ];
    let apart = Container { host: C, name: unique("apart") };
    let run = "run -d --pid host --cap-drop ALL --cap-add NET_BIND_SERVICE --read-only --tmpfs /run \
               -v /var/run:/host/run:ro --network";
    let agent =
        "portolan:dev agent --docker-host unix:///host/run/docker.sock --upstream none --dns 127.0.0.1:53 --advertise";
    let address = C.address.to_string();
    let words = run.split_whitespace().chain([own.name.as_str(), "--name", &apart.name]);
    C.docker(&words.chain(agent.split_whitespace()).chain([address.as_str()]).collect::<Vec<_>>());
    let explain = |service: &str| -> Result<serde_json::Value, String> {
        // A name without an answer is an exit code of its own.
        let asked = format!("docker exec {} portolan explain {service} -o json || [ $? = 3 ]", apart.name);
        let told: serde_json::Value = serde_json::from_str(&C.try_shell(&asked)?).map_err(|error| error.to_string())?;
        Ok(told["name"]["views"][0]["candidates"][0]["ipv4"].clone())
    };
    eventually("the published port is given in place of the bridge's address", SOON, || {
        let seen = explain(&open)?;
        let is_it = seen["address"] == address.as_str() && seen["reasons"][0]["code"] == "published";
        if is_it { Ok(()) } else { Err(seen.to_string()) }
    });
    eventually("without one there is a reason", SOON, || {
        let seen = explain(&closed)?;
        if seen["reasons"][0]["code"] == "bridge-apart" { Ok(()) } else { Err(seen.to_string()) }
    });
    let said = C.shell(&format!("docker logs {} 2>&1", apart.name));
    assert!(
        said.contains("in another network namespace") && said.contains(&own.name),
        "the log names the problem: {said}"
    );
    assert!(!C.http("/v1/problems").contains("another network namespace"), "the bed's agent is where its engine is");
    drop((apart, servers));
}

/// `dig` sends a cookie with every query, and says whether the answer's is in order (RFC 7873). Own containers and the host
/// are given none.
#[test]
fn dig_from_outside_of_the_hosts_learns_a_cookie_and_shows_it() {
    for transport in ["+notcp", "+tcp"] {
        let dig = |cookie: &str| {
            let server = format!("@{}", A.dns().ip());
            let options = ["svc.internal", "SOA", "+tries=5", "+time=1", transport, cookie];
            run(Command::new("dig").arg(server).args(options)).expect("dig is answered")
        };
        let said = dig("+cookie");
        let line = said.lines().find(|line| line.starts_with("; COOKIE:")).unwrap_or_else(|| panic!("{said}"));
        let cookie = line.split_whitespace().nth(2).expect("a cookie");
        assert!(line.ends_with("(good)") && cookie.len() == 48, "{line}");
        let again = dig(&format!("+cookie={cookie}"));
        assert!(again.contains("(good)") && again.contains("status: NOERROR"), "{again}");
    }
}
