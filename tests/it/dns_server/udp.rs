//! UDP: answers, caps on what takes time, and what comes of bad packets.

use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use portolan::{
    dns::{
        access::AccessList,
        forward::Upstreams,
        server::{Counter, Limits},
    },
    model::{Asker, Driver, Label, Local, Network, NetworkId, Scope, ShortId},
};
use proptest::{prelude::*, test_runner::TestRunner};

use super::support::*;
use crate::forward::{THERE, Upstream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_gets_the_address_over_udp_and_tcp() {
    let server = Server::start(Limits::default()).await;
    for transport in ["+notcp", "+tcp"] {
        let output = dig(server.address, &["web.default.svc.internal", "A", "+short", transport]);
        assert_eq!(output.trim(), "172.30.0.2", "{transport}");
    }
    assert_eq!((server.count(Counter::UdpQueries), server.count(Counter::TcpQueries)), (1, 1));
    assert_eq!(server.shared.counts().rcodes()[0], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_for_udp_is_truncated_and_whole_over_tcp() {
    let server = Server::start(Limits::default()).await;
    for (packet, most) in [(many(), 512), (with_edns(&many(), 65535), 1232)] {
        let reply = ask(CLIENT, server.address, &packet).unwrap();
        assert!(decode(&reply).metadata.truncation && reply.len() <= most, "{} octets", reply.len());
    }
    assert_eq!(server.count(Counter::Truncated), 2);
    let whole = Connection::open(CLIENT, server.address).unwrap().ask(&many()).unwrap();
    assert_eq!((decode(&whole).answers.len(), decode(&whole).metadata.truncation), (MANY, false));
    let by_itself = dig(server.address, &["many.default.svc.internal", "SRV", "+short"]);
    assert_eq!(by_itself.lines().count(), MANY, "dig turns to TCP by itself");
}

/// Clients that never ask over TCP take what one datagram holds for all there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_more_addresses_than_fit_a_part_is_given_that_stays_and_this_is_counted() {
    let server = Server::start(Limits::default()).await;
    let question = query(9, "many.default.svc.internal.", RecordType::A);
    // With an option, which the complete path looks at.
    let unusual = [&with_edns(&question, 512)[..question.len() + 9], &[0, 4, 0, 99, 0, 0]].concat();
    let given = |packet: &[u8]| -> BTreeSet<IpAddr> {
        let reply = ask(CLIENT, server.address, packet).unwrap();
        assert!(!decode(&reply).metadata.truncation);
        addresses(&reply).into_iter().collect()
    };
    let part = given(&question);
    // 43 octets before the records, 16 for each; the last needs room for its owner, 27 octets, for a moment.
    assert_eq!(part.len(), 28);
    assert_eq!(given(&question), part);
    for packet in [&with_edns(&question, 512), &unusual] {
        let fewer = given(packet);
        assert!(fewer.len() == 27 && fewer.is_subset(&part), "11 octets more before them: {fewer:?} of {part:?}");
    }
    assert_eq!(server.count(Counter::PartAnswers), 4);
    assert_eq!(given(&with_edns(&question, 1232)).len(), MANY);
    let whole = Connection::open(CLIENT, server.address).unwrap().ask(&question).unwrap();
    assert_eq!(addresses(&whole).len(), MANY);
    assert_eq!((server.count(Counter::PartAnswers), server.count(Counter::Truncated)), (4, 0));
}

/// The runtime has one thread, and that one sits in a blocking read.
#[tokio::test(flavor = "current_thread")]
async fn a_blocked_runtime_delays_no_name_of_ours() {
    let server = Server::start(Limits::default()).await;
    for _ in 0..100 {
        server.assert_answers(CLIENT);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_worker_answers() {
    let server = Server::start(Limits { udp_workers: 4, ..Limits::default() }).await;
    // The kernel spreads clients by their ports: 64 of them miss one of 4 workers once in 25 million runs.
    for _ in 0..64 {
        server.assert_answers(CLIENT);
    }
    assert_eq!(server.count(Counter::UdpQueries), 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_not_on_the_list_is_refused_and_counted() {
    let server = Server::start(Limits::default()).await;
    server.shared.set_access(Arc::new(AccessList::only(["127.0.0.1/32".parse().unwrap()])));
    let refused = ask(OTHER, server.address, &web()).unwrap();
    assert_eq!((rcode(&refused), &refused[..2]), (ResponseCode::Refused, &web()[..2]));
    assert!(refused.len() <= web().len(), "a refusal is no amplifier");
    let mut connection = Connection::open(OTHER, server.address).unwrap();
    assert_eq!(rcode(&connection.ask(&web()).unwrap()), ResponseCode::Refused);
    assert!(connection.is_closed(), "and has no business here");
    assert_eq!(server.count(Counter::NotPermitted), 2);
    server.assert_answers(CLIENT);
    server.shared.set_access(Arc::new(AccessList::only(["127.0.0.9/32".parse().unwrap()])));
    server.assert_answers(OTHER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_docker_is_listed_nobody_is_refused_and_nobody_unknown_is_told_anything() {
    let upstream = Upstream::helpful().await;
    let server = Server::forwarding(Limits::default(), Upstreams::Fixed(vec![upstream.address])).await;
    server.shared.set_access(Arc::new(AccessList::only(["127.0.0.1/32".parse().unwrap()])));
    server.shared.set_local(Arc::default());
    let questions = [web(), query(3, "web.", RecordType::A), query(4, "www.example.org.", RecordType::A)];
    let check = |code| {
        for packet in &questions {
            let over_udp = ask(OTHER, server.address, packet).unwrap();
            let mut connection = Connection::open(OTHER, server.address).unwrap();
            let over_tcp = connection.ask(packet).unwrap();
            assert_eq!((rcode(&over_udp), rcode(&over_tcp)), (code, code));
            assert!(over_udp.len() <= packet.len() && decode(&over_tcp).answers.is_empty() && connection.is_closed());
        }
    };
    check(ResponseCode::ServFail);
    assert_eq!((server.count(Counter::StayedUnknown), server.count(Counter::NotPermitted)), (6, 0));
    server.assert_answers(CLIENT);
    server.shared.set_local(Arc::new(Local { listed: true, ..Local::default() }));
    check(ResponseCode::Refused);
    assert_eq!((server.count(Counter::StayedUnknown), server.count(Counter::NotPermitted)), (6, 6));
    assert_eq!(server.forwarder.counts().asked, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_others_are_forwarded() {
    let upstream = Upstream::helpful().await;
    let server = Server::forwarding(Limits::default(), Upstreams::Fixed(vec![upstream.address])).await;
    let packet = query(9, "www.example.org.", RecordType::A);
    assert_eq!(addresses(&ask(CLIENT, server.address, &packet).unwrap()), [THERE]);
    assert_eq!(addresses(&Connection::open(CLIENT, server.address).unwrap().ask(&packet).unwrap()), [THERE]);
    assert_eq!(server.count(Counter::Forwarded), 1, "the second time it is known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_client_cannot_use_up_the_forwarder() {
    let upstream = Upstream::silent().await;
    let limits = Limits { forwarding: 8, forwarding_per_source: 3, ..Limits::default() };
    let server = Server::forwarding(limits, Upstreams::Fixed(vec![upstream.address])).await;
    let greedy = udp_client(OTHER, server.address);
    for id in 0..3 {
        greedy.send(&query(id, "www.example.org.", RecordType::A)).unwrap();
    }
    eventually("three are being forwarded", || server.count(Counter::Forwarded) == 3).await;
    greedy.send(&query(99, "www.example.org.", RecordType::A)).unwrap();
    let reply = receive(&greedy).unwrap();
    assert_eq!((decode(&reply).metadata.id, rcode(&reply)), (99, ResponseCode::ServFail), "told at once");
    assert_eq!(server.count(Counter::OverCap), 1);
    udp_client(CLIENT, server.address).send(&query(1, "www.example.org.", RecordType::A)).unwrap();
    eventually("another client's is forwarded", || server.count(Counter::Forwarded) == 4).await;
    server.assert_answers(OTHER);
}

/// An address of this host that is not loopback, from which a container might ask.
fn outward() -> IpAddr {
    let interfaces = nix::ifaddrs::getifaddrs().unwrap();
    let mut addresses = interfaces.filter_map(|interface| Some(IpAddr::V4(interface.address?.as_sockaddr_in()?.ip())));
    addresses.find(|ip| !ip.is_loopback()).expect("an interface with an IPv4 address, such as docker0")
}

/// What this host knows when `ip` lies in a bridge's subnet, and whom it belongs to.
fn local_with(ip: IpAddr, asker: Option<Arc<Asker>>) -> Arc<Local> {
    let id = NetworkId("n".into());
    let network = Network {
        id: id.clone(),
        name: "n".into(),
        driver: Driver::Bridge,
        scope: Scope::Local,
        internal: false,
        icc: true,
        subnets: vec![ip.into()],
        gateways: vec![],
    };
    Arc::new(Local {
        listed: true,
        askers: asker.into_iter().map(|asker| (ip, asker)).collect(),
        networks: [(id, Arc::new(network))].into_iter().collect(),
        ..Local::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_asker_waits_until_docker_tells_of_it() {
    let server = Server::start(Limits { unknown_asker: DEADLINE, ..Limits::default() }).await;
    let ip = outward();
    server.shared.set_access(Arc::new(AccessList::only([ip.into()])));
    server.shared.set_local(local_with(ip, None));
    let client = udp_client(ip, server.address);
    client.send(&query(3, "web.svc.internal.", RecordType::A)).unwrap();
    eventually("the query waits", || server.count(Counter::Waited) == 1).await;
    server.shared.set_local(local_with(ip, None));
    let asker = Asker {
        container: ShortId::parse("0123456789ab").unwrap(),
        name: "asker".into(),
        namespace: Label::default_namespace(),
        networks: vec![NetworkId("n".into())],
    };
    server.shared.set_local(local_with(ip, Some(Arc::new(asker))));
    assert_eq!(addresses(&receive(&client).unwrap()), WEB);
    assert_eq!(server.count(Counter::StayedUnknown), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stays_unknown_is_neither_answered_nor_forwarded() {
    let upstream = Upstream::helpful().await;
    let limits = Limits { unknown_asker: Duration::from_millis(20), waiting_per_source: 4, ..Limits::default() };
    let server = Server::forwarding(limits, Upstreams::Fixed(vec![upstream.address])).await;
    let ip = outward();
    server.shared.set_access(Arc::new(AccessList::only([ip.into()])));
    server.shared.set_local(local_with(ip, None));
    for name in ["web.svc.internal.", "www.example.org."] {
        let packet = query(3, name, RecordType::A);
        let over_udp = ask(ip, server.address, &packet).unwrap();
        let over_tcp = Connection::open(ip, server.address).unwrap().ask(&packet).unwrap();
        assert_eq!((rcode(&over_udp), rcode(&over_tcp)), (ResponseCode::ServFail, ResponseCode::ServFail), "{name}");
    }
    assert_eq!((server.count(Counter::StayedUnknown), server.forwarder.counts().asked), (4, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_unknown_questions_of_one_source_do_not_pile_up() {
    let server = Server::start(Limits { unknown_asker: DEADLINE, waiting_per_source: 4, ..Limits::default() }).await;
    let ip = outward();
    server.shared.set_access(Arc::new(AccessList::only([ip.into(), "127.0.0.0/8".parse().unwrap()])));
    server.shared.set_local(local_with(ip, None));
    let client = udp_client(ip, server.address);
    for id in 0..20 {
        client.send(&query(id, "web.svc.internal.", RecordType::A)).unwrap();
    }
    for _ in 4..20 {
        assert_eq!(rcode(&receive(&client).unwrap()), ResponseCode::ServFail);
    }
    assert_eq!(server.count(Counter::OverCap), 16);
    eventually("the others wait", || server.count(Counter::Waited) == 4).await;
    server.assert_answers(CLIENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn responses_and_scraps_get_no_reply() {
    let server = Server::start(Limits::default()).await;
    let client = udp_client(CLIENT, server.address);
    let mut response = web();
    response[2] |= 0x80;
    for packet in [&response[..], &web()[..11], &[], &[0; 5000]] {
        client.send(packet).unwrap();
    }
    // One socket's packets come in order and go to one worker: the first reply is to the last query.
    client.send(&query(77, "web.default.svc.internal.", RecordType::A)).unwrap();
    assert_eq!(decode(&receive(&client).unwrap()).metadata.id, 77);
    assert_eq!(server.count(Counter::Dropped), 4);
}

#[test]
fn no_packet_keeps_the_next_from_its_answer() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(Limits::default()));
    let client = udp_client(CLIENT, server.address);
    let noise = proptest::collection::vec(any::<u8>(), 0..600);
    let damaged = (0usize..3, proptest::collection::vec((0usize..80, any::<u8>()), 1..8), 0usize..80);
    let damaged = damaged.prop_map(|(which, edits, length)| {
        let mut packet = [web(), many(), with_edns(&web(), 4096)][which].clone();
        for (at, value) in edits {
            let at = at % packet.len();
            packet[at] = value;
        }
        packet.truncate(length.max(12));
        packet
    });
    let mut runner = TestRunner::new(ProptestConfig { cases: 2_000, failure_persistence: None, ..Default::default() });
    let run = runner.run(&prop_oneof![noise, damaged], |mut packet| {
        // Its id is never that of the good query behind it.
        if let Some(id) = packet.first_mut() {
            *id |= 0x80;
        }
        client.send(&packet).unwrap();
        client.send(&web()).unwrap();
        loop {
            let reply = receive(&client).unwrap();
            if reply[..2] == web()[..2] {
                prop_assert_eq!(addresses(&reply), WEB);
                return Ok(());
            }
        }
    });
    run.unwrap();
    assert_eq!(server.count(Counter::Panics), 0);
}

/// A burst that the workers have to catch up with: nothing is lost for as long as it fits into the buffer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_20_000_queries_loses_none() {
    const QUERIES: usize = 20_000;
    const AT_ONCE: usize = 128;
    let server = Server::start(Limits::default()).await;
    let client = udp_client(CLIENT, server.address);
    let (mut sent, mut received) = (0, 0);
    while received < QUERIES {
        while sent < QUERIES && sent - received < AT_ONCE {
            client.send(&query(u16::try_from(sent).unwrap(), "web.default.svc.internal.", RecordType::A)).unwrap();
            sent += 1;
        }
        let reply = receive(&client).expect("no reply is lost");
        assert_eq!(usize::from(decode(&reply).metadata.id), received, "one socket's queries are answered in order");
        received += 1;
    }
    assert_eq!(server.count(Counter::UdpQueries), QUERIES as u64);
    assert_eq!(server.shared.counts().rcodes()[0], QUERIES as u64);
}

/// A reply to a socket that is gone comes back as an ICMP error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_vanish_harm_nobody() {
    let server = Server::start(Limits::default()).await;
    for _ in 0..200 {
        let gone = UdpSocket::bind((OTHER, 0)).unwrap();
        gone.send_to(&web(), server.address).unwrap();
        drop(gone);
    }
    server.assert_answers(CLIENT);
}
