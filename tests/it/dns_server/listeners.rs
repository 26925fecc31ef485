//! Addresses that come, go, are taken, or do not exist yet.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    time::{Duration, Instant},
};

use portolan::dns::{
    forward::Upstreams,
    server::{BindState, Limits},
};
use socket2::{Domain, Socket, Type};

use super::support::*;

fn is_bound(states: &States, address: SocketAddr) -> bool {
    matches!(states.get(&address), Some(BindState::Bound { .. }))
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

/// A port that nobody holds on any address of that family.
fn free_port(wildcard: IpAddr) -> u16 {
    TcpListener::bind((wildcard, 0)).unwrap().local_addr().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_come_and_go_with_what_is_wanted() {
    let mut server = Server::start(Limits::default()).await;
    let (first, second) = (server.address, fresh_address());
    assert!(!is_free(first) && is_free(second));
    server.want([first, second]);
    server.until(|states| is_bound(states, first) && is_bound(states, second)).await;
    assert_eq!(addresses(&ask(CLIENT, second, &web()).unwrap()), WEB);
    let mut connection = Connection::open(CLIENT, first).unwrap();
    server.want([second]);
    let states = server.until(|states| !states.contains_key(&first)).await;
    assert_eq!(states.len(), 1);
    assert!(is_free(first), "closed before it is said so");
    assert!(connection.is_closed());
    assert_eq!(addresses(&ask(CLIENT, second, &web()).unwrap()), WEB);
    server.want([first]);
    server.until(|states| is_bound(states, first) && states.len() == 1).await;
    server.assert_answers(CLIENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_reported_and_taken_when_it_is_free() {
    let open = |kind, address: SocketAddr| {
        let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket
    };
    for kind in [Type::DGRAM, Type::STREAM] {
        let (taken, other) = (fresh_address(), fresh_address());
        // One that would share its port: a second agent must not take half of the queries.
        let occupant = open(kind, taken);
        if kind == Type::STREAM {
            occupant.listen(1).unwrap();
        }
        let mut server = Server::listening(Limits::default(), Upstreams::None, [taken, other]);
        let states = server.until(|states| states.len() == 2).await;
        assert!(is_bound(&states, other), "one address's trouble is not another's");
        let expected = "address in use: `ss -lntup sport = :5399` shows by whom";
        assert_eq!(states[&taken], BindState::Failed { reason: expected.into(), attempts: 1 });
        drop(occupant);
        server.until(|states| is_bound(states, taken)).await;
        assert_eq!(addresses(&ask(CLIENT, taken, &web()).unwrap()), WEB);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_do_not_share_an_address() {
    let first = Server::start(Limits::default()).await;
    let mut second = Server::listening(Limits::default(), Upstreams::None, [first.address]);
    let states = second.until(|states| !states.is_empty()).await;
    assert!(!is_bound(&states, first.address));
    let address = first.address;
    drop(first);
    second.until(|states| is_bound(states, address)).await;
    second.assert_answers(CLIENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_may_be_bound_before_it_exists() {
    let nowhere: SocketAddr = "198.51.100.77:5399".parse().unwrap();
    assert!(UdpSocket::bind(nowhere).is_err(), "it does not exist here");
    let nowhere_6: SocketAddr = "[2001:db8::77]:5399".parse().unwrap();
    let mut server = Server::listening(Limits::default(), Upstreams::None, [nowhere, nowhere_6]);
    server.until(|states| is_bound(states, nowhere) && is_bound(states, nowhere_6)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_leaves_from_the_address_that_was_asked() {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    let wildcards = [SocketAddr::new(v4, free_port(v4)), SocketAddr::new(v6, free_port(v6))];
    let mut server = Server::listening(Limits::default(), Upstreams::None, wildcards);
    server.until(|states| wildcards.iter().all(|address| is_bound(states, *address))).await;
    // The clients' sockets are connected: a reply from another address would not reach them.
    for asked in [[127, 0, 0, 2], [127, 0, 0, 3], [127, 200, 3, 4]] {
        let address = SocketAddr::from((asked, wildcards[0].port()));
        assert_eq!(addresses(&ask(CLIENT, address, &web()).unwrap()), WEB, "{address}");
        assert_eq!(addresses(&Connection::open(CLIENT, address).unwrap().ask(&web()).unwrap()), WEB, "{address}");
    }
    let loopback = SocketAddr::from((Ipv6Addr::LOCALHOST, wildcards[1].port()));
    assert_eq!(addresses(&ask(Ipv6Addr::LOCALHOST.into(), loopback, &web()).unwrap()), WEB);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_granted_receive_buffer_is_told() {
    let mut server = Server::start(Limits { receive_buffer: 64 * 1024, ..Limits::default() }).await;
    let address = server.address;
    let states = server.until(|states| is_bound(states, address)).await;
    assert_eq!(states[&address], BindState::Bound { receive_buffer: 64 * 1024 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopping_takes_less_than_a_second_and_frees_the_address() {
    let mut server = Server::start(Limits::default()).await;
    let address = server.address;
    let _idle = Connection::open(CLIENT, address).unwrap();
    let started = Instant::now();
    server.serving.abort();
    let _ = (&mut server.serving).await;
    eventually("the address is free", || is_free(address)).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serving_ends_when_nobody_can_want_anything_any_more() {
    let mut server = Server::start(Limits::default()).await;
    let (other, _) = tokio::sync::watch::channel(std::sync::Arc::default());
    drop(std::mem::replace(&mut server.wanted, other));
    let ended = tokio::time::timeout(DEADLINE, &mut server.serving).await.expect("in time");
    ended.expect("no panic").expect("no error");
}
