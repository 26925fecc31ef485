//! One service, replicas on three hosts: what a container on host A is told, and that every address it is told opens.

use super::bed::{
    A, B, C, Container, HOSTS, Host, Network, addresses, eventually, everywhere, expect, targets, unique, unique_port,
};
use super::dns::Answer;
use hickory_proto::rr::RecordType;

/// Every address that was given opens: one refusal and the promise (P6) is broken.
fn all_open<'a>(client: &Container, given: impl IntoIterator<Item = &'a String>) {
    for target in given {
        // httpd may still be starting when the name is already known: Docker says running, not listening.
        eventually(&format!("{target} opens from {}", client.name), super::bed::SOON, || client.connect(target));
    }
}

#[test]
fn published_on_equal_ports_a_service_answers_with_every_host_and_each_opens() {
    let (service, port) = (unique("equal"), unique_port());
    let own = A.network(&unique("own"));
    let client = A.run(&unique("client"), &[]);
    let (label, publish) = (format!("portolan.service={service}"), format!("{port}:80"));
    let options = ["--label", &label, "-p", &publish];
    let on_a = [&options[..], &["--network", &own.name]].concat();
    let run = |host: Host| host.run(&unique("r"), if host == A { &on_a } else { &options });
    let replicas = HOSTS.map(run);

    let name = format!("{service}.svc.internal");
    expect("the client is given every host", &addresses(HOSTS), || client.ask(&name, "A"));
    everywhere(&name, RecordType::A, &addresses(HOSTS));
    all_open(&client, &HOSTS.map(|host| format!("{}:{port}", host.address)));
    drop(replicas);
}

#[test]
fn published_on_dynamic_ports_a_service_answers_srv_and_each_target_opens() {
    let service = unique("dynamic");
    let own = A.network(&unique("own"));
    let client = A.run(&unique("client"), &[]);
    let label = format!("portolan.service={service}");
    // Others take ports first, so that the three hosts do not choose the same number.
    let others = [
        B.run(&unique("other"), &["-p", "80"]),
        C.run(&unique("other"), &["-p", "80"]),
        C.run(&unique("other"), &["-p", "80"]),
    ];
    let options = ["--label", &label, "-p", "80"];
    let on_a = [&options[..], &["--network", &own.name]].concat();
    let replicas = [A.run(&unique("r"), &on_a), B.run(&unique("r"), &options), C.run(&unique("r"), &options)];

    let name = format!("{service}.svc.internal");
    let expected = targets(replicas.iter().map(|replica| (replica.host.address, replica.port())));
    expect("the client is given every host and port", &expected, || client.ask(&name, "SRV"));
    everywhere(&name, RecordType::SRV, &expected);
    if let Answer::Found(given) = &expected {
        all_open(&client, given);
    }
    // The three ports differ, and an A record cannot carry one: nothing is given rather than something that refuses.
    expect("A gives no address", &Answer::NoData, || client.ask(&name, "A"));
    drop((replicas, others));
}

#[test]
fn on_the_same_network_a_service_answers_with_the_containers_own_address_and_it_opens() {
    let (service, port) = (unique("near"), unique_port());
    let shared = A.network(&unique("shared"));
    let client = A.run(&unique("client"), &["--network", &shared.name]);
    let (label, publish) = (format!("portolan.service={service}"), format!("{port}:80"));
    let options = ["--label", &label, "-p", &publish, "--expose", "80"];
    let on_a = [&options[..], &["--network", &shared.name]].concat();
    let near = A.run(&unique("r"), &on_a);
    let far = [B.run(&unique("r"), &options), C.run(&unique("r"), &options)];

    let name = format!("{service}.svc.internal");
    let own = near.address(&shared.name);
    // Port 80 works at the container and nowhere else: an A record holds only addresses where one port works.
    expect("the client is given the container's address", &Answer::found([&own]), || client.ask(&name, "A"));
    all_open(&client, &[format!("{own}:80")]);
    // SRV carries the port, so it holds all three.
    let every = targets([(own, 80), (B.address.to_string(), port), (C.address.to_string(), port)]);
    expect("SRV gives all three", &every, || client.ask(&name, "SRV"));
    if let Answer::Found(given) = &every {
        all_open(&client, given);
    }
    drop((near, far));
}

#[test]
fn equal_subnets_on_different_hosts_are_not_one_network() {
    let (service, port) = (unique("subnet"), unique_port());
    // Outside of the pools that Docker takes from, so that it is free on both.
    let [on_a, on_b] = [A, B].map(|host| {
        let name = unique("net");
        host.docker(&["network", "create", "--subnet", "172.29.29.0/24", &name]);
        Network { host, name }
    });
    let client = A.run(&unique("client"), &["--network", &on_a.name]);
    let (label, publish) = (format!("portolan.service={service}"), format!("{port}:80"));
    let far = B.run(&unique("r"), &["--label", &label, "-p", &publish, "--network", &on_b.name]);
    assert_eq!(client.address(&on_a.name), far.address(&on_b.name), "two containers with one address");

    let name = format!("{service}.svc.internal");
    expect("the client is given the other host", &addresses([B]), || client.ask(&name, "A"));
    all_open(&client, &[format!("{}:{port}", B.address)]);
    drop(far);
}
