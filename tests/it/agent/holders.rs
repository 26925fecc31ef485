//! Others on our port: a process on the wildcard address, before the agent and after it; a container that wants port 53.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process,
};

use hickory_proto::rr::RecordType;
use socket2::{Domain, Socket, Type};

use super::bed::{Home, ask, eventually, free_port};

/// A name server of sorts, on the wildcard address, that shares its port with others of its user.
fn on_all_addresses(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("an option of the kernel");
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into()).expect("a free port");
    socket
}

#[test]
fn a_process_on_the_wildcard_address_is_named_in_either_order_of_start() {
    let port = free_port().port();
    let [.., high, low] = process::id().to_be_bytes();
    let ours = SocketAddr::from((Ipv4Addr::new(127, 32 | high & 0x1f, low, 54), port));
    let home = Home::new(&["--dns", &ours.to_string()]);
    let place = format!("port {port} of all addresses: ");
    let told = || home.problems().into_iter().find(|problem| problem.starts_with(&place));
    // The test itself is the process.
    let us = format!("(process {})", process::id());

    // It shares its port with all sockets of its user that share theirs; the agent's first one does not.
    let first = on_all_addresses(port);
    let _agent = home.start();
    let problem = eventually("it is named while it came first", told);
    assert!(problem.contains(&us) && problem.contains("ss -lntup"), "{problem}");
    assert_eq!(ask(ours, "web.svc.internal", RecordType::A), None, "nothing answers there");
    drop(first);
    eventually("the address is answered on once it is free", || ask(ours, "web.svc.internal", RecordType::A));
    eventually("and the problem is over", || told().is_none().then_some(()));

    let second = on_all_addresses(port);
    let problem = eventually("it is named though it came second", told);
    assert!(problem.contains(&us), "{problem}");
    assert!(ask(ours, "web.svc.internal", RecordType::A).is_some(), "the nearer address is answered by us");
    drop(second);
    eventually("the problem is over again", || told().is_none().then_some(()));
}
