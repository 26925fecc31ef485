//! TCP: many queries per connection, and clients that are slow, greedy, rude or gone.

use std::{
    io::{ErrorKind, Write},
    net::Shutdown,
    process::Command,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use hickory_proto::rr::RecordType;
use portolan::dns::{
    forward::Upstreams,
    server::{Counter, Limits},
};
use socket2::SockRef;

use super::support::*;
use crate::forward::{THERE, Upstream, answer};

fn limits() -> Limits {
    Limits { tcp_connections: 16, tcp_per_client: 4, ..Limits::default() }
}

fn web_with(id: u16) -> Vec<u8> {
    query(id, "web.default.svc.internal.", RecordType::A)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_takes_many_queries_at_once() {
    let server = Server::start(limits()).await;
    let mut connection = Connection::open(CLIENT, server.address).unwrap();
    let all: Vec<u8> = (0..500).flat_map(|id| framed(&web_with(id))).collect();
    connection.0.write_all(&all).unwrap();
    for id in 0..500 {
        let reply = connection.receive().unwrap();
        assert_eq!((decode(&reply).metadata.id, addresses(&reply)), (id, WEB.to_vec()));
    }
    assert_eq!(server.count(Counter::TcpConnections), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_may_come_octet_by_octet() {
    let server = Server::start(limits()).await;
    let mut connection = Connection::open(CLIENT, server.address).unwrap();
    connection.0.set_nodelay(true).unwrap();
    for octet in [framed(&web_with(1)), framed(&web_with(2))].concat() {
        connection.0.write_all(&[octet]).unwrap();
    }
    for id in [1, 2] {
        assert_eq!(decode(&connection.receive().unwrap()).metadata.id, id);
    }
}

/// A gate that an upstream's answers wait behind.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        let opened = self.1.wait_timeout_while(self.0.lock().unwrap(), DEADLINE, |open| !*open).unwrap();
        assert!(*opened.0, "the gate was never opened");
    }
}

/// An upstream whose answers wait for the gate.
async fn gated() -> (Arc<Gate>, Upstream) {
    let gate = Arc::new(Gate::default());
    let waiting = Arc::clone(&gate);
    let upstream = Upstream::start(move |packet, _| {
        tokio::task::block_in_place(|| waiting.pass());
        vec![answer(packet, 1)]
    });
    (gate, upstream.await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_answer_does_not_hold_up_those_behind_it() {
    let (gate, upstream) = gated().await;
    let server = Server::forwarding(limits(), Upstreams::Fixed(vec![upstream.address])).await;
    let mut connection = Connection::open(CLIENT, server.address).unwrap();
    connection.send(&query(1, "www.example.org.", RecordType::A)).unwrap();
    connection.send(&web_with(2)).unwrap();
    assert_eq!(addresses(&connection.receive().unwrap()), WEB, "the second is first");
    gate.open();
    let late = connection.receive().unwrap();
    assert_eq!((decode(&late).metadata.id, addresses(&late)), (1, vec![THERE.into()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_has_said_all_still_gets_its_answers() {
    let (gate, upstream) = gated().await;
    let server = Server::forwarding(limits(), Upstreams::Fixed(vec![upstream.address])).await;
    let mut connection = Connection::open(CLIENT, server.address).unwrap();
    connection.send(&query(1, "www.example.org.", RecordType::A)).unwrap();
    connection.0.shutdown(Shutdown::Write).unwrap();
    eventually("it is being forwarded", || server.count(Counter::Forwarded) == 1).await;
    gate.open();
    assert_eq!(addresses(&connection.receive().unwrap()), [THERE]);
    assert!(connection.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_so_many_questions_of_a_connection_wait() {
    let (gate, upstream) = gated().await;
    let limits = Limits { tcp_in_flight: 3, ..limits() };
    let server = Server::forwarding(limits, Upstreams::Fixed(vec![upstream.address])).await;
    let mut connection = Connection::open(CLIENT, server.address).unwrap();
    for id in 0..3 {
        connection.send(&query(id, "www.example.org.", RecordType::A)).unwrap();
    }
    eventually("three are being forwarded", || server.count(Counter::Forwarded) == 3).await;
    connection.send(&web_with(3)).unwrap();
    connection.0.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(connection.receive().unwrap_err().kind(), ErrorKind::WouldBlock, "not even read");
    assert_eq!(server.count(Counter::TcpQueries), 3);
    gate.open();
    connection.0.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut ids: Vec<u16> = (0..4).map(|_| decode(&connection.receive().unwrap()).metadata.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3]);
}

/// What had come when the limit was reached, what had come in part, and what comes later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_at_its_limit_is_read_from_again() {
    let (gate, upstream) = gated().await;
    let limits = Limits { tcp_in_flight: 2, ..limits() };
    let server = Server::forwarding(limits, Upstreams::Fixed(vec![upstream.address])).await;
    let mut connection = Connection::open(CLIENT, server.address).unwrap();
    let slow = (0..2).map(|id| framed(&query(id, "www.example.org.", RecordType::A)));
    let quick = (2..5).map(|id| framed(&web_with(id)));
    let last = framed(&web_with(5));
    let (part, rest) = last.split_at(5);
    let all: Vec<u8> = slow.chain(quick).chain([part.to_vec()]).flatten().collect();
    connection.0.write_all(&all).unwrap();
    eventually("two are being forwarded", || server.count(Counter::Forwarded) == 2).await;
    assert_eq!(server.count(Counter::TcpQueries), 2);
    gate.open();
    let mut ids: Vec<u16> = (0..5).map(|_| decode(&connection.receive().unwrap()).metadata.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2, 3, 4]);
    connection.0.write_all(rest).unwrap();
    assert_eq!(decode(&connection.receive().unwrap()).metadata.id, 5);
    assert_eq!(addresses(&connection.ask(&web_with(6)).unwrap()), WEB);
    assert_eq!(server.count(Counter::TcpQueries), 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_clients_connections_leave_room_for_others() {
    let server = Server::start(limits()).await;
    let mut held: Vec<Connection> = (0..4).map(|_| Connection::open(OTHER, server.address).unwrap()).collect();
    for connection in &mut held {
        assert_eq!(addresses(&connection.ask(&web()).unwrap()), WEB);
    }
    assert!(Connection::open(OTHER, server.address).unwrap().is_closed(), "the fifth of one client");
    assert_eq!(server.count(Counter::TcpOverCap), 1);
    assert_eq!(addresses(&Connection::open(CLIENT, server.address).unwrap().ask(&web()).unwrap()), WEB);
    drop(held.pop());
    eventually("the place is free again", || {
        Connection::open(OTHER, server.address).unwrap().ask(&web()).is_ok_and(|reply| addresses(&reply) == WEB)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_costs_other_clients_nothing() {
    let server = Server::start(limits()).await;
    let address = server.address;
    let flood = std::thread::spawn(move || {
        let mut held: Vec<_> = (0..500).filter_map(|_| Connection::open(OTHER, address).ok()).collect();
        // What the server lets in or keeps waiting, it keeps; half a query in each.
        held.iter_mut().for_each(|connection| drop(connection.0.write_all(&[0, 40, 1])));
        held
    });
    while !flood.is_finished() {
        server.assert_answers(CLIENT);
        assert_eq!(addresses(&Connection::open(CLIENT, address).unwrap().ask(&web()).unwrap()), WEB);
    }
    let _held = flood.join().unwrap();
    server.assert_answers(CLIENT);
    assert_eq!(addresses(&Connection::open(CLIENT, address).unwrap().ask(&web()).unwrap()), WEB);
    eventually("all but four are turned away", || server.count(Counter::TcpOverCap) >= 496).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_total_holds_whoever_asks() {
    let server = Server::start(Limits { tcp_connections: 6, ..limits() }).await;
    let mut held = Vec::new();
    for client in 0..6 {
        let mut connection = Connection::open([127, 0, 1, client].into(), server.address).unwrap();
        assert_eq!(addresses(&connection.ask(&web()).unwrap()), WEB);
        held.push(connection);
    }
    assert!(Connection::open(CLIENT, server.address).unwrap().is_closed());
    server.assert_answers(CLIENT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_query_is_not_waited_for_long() {
    let server = Server::start(Limits { tcp_read: Duration::from_millis(50), ..limits() }).await;
    let mut slow = Connection::open(OTHER, server.address).unwrap();
    slow.0.write_all(&framed(&web())[..9]).unwrap();
    assert!(slow.is_closed());
    let mut slower = Connection::open(OTHER, server.address).unwrap();
    slower.0.write_all(&[0]).unwrap();
    assert!(slower.is_closed(), "half a length is no more");
    eventually("both are counted", || server.count(Counter::TcpTimeouts) == 2).await;
    assert_eq!(server.count(Counter::TcpQueries), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed() {
    let server = Server::start(Limits { tcp_idle: Duration::from_millis(300), ..limits() }).await;
    let mut idle = Connection::open(CLIENT, server.address).unwrap();
    assert_eq!(addresses(&idle.ask(&web()).unwrap()), WEB);
    assert!(idle.is_closed());
    assert!(Connection::open(CLIENT, server.address).unwrap().is_closed(), "one that never asked too");
    eventually("both are counted", || server.count(Counter::TcpTimeouts) == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_read_is_closed_and_holds_up_nobody() {
    let server = Server::start(Limits { tcp_write: Duration::from_millis(100), ..limits() }).await;
    let mut deaf = Connection::open(OTHER, server.address).unwrap();
    let questions = framed(&many()).repeat(200);
    let asking = std::thread::spawn(move || {
        // Until our own end is full as well; then it is closed.
        while deaf.0.write_all(&questions).is_ok() {}
    });
    while !asking.is_finished() {
        server.assert_answers(CLIENT);
        assert_eq!(addresses(&Connection::open(CLIENT, server.address).unwrap().ask(&web()).unwrap()), WEB);
    }
    asking.join().unwrap();
    eventually("it is counted", || server.count(Counter::TcpTimeouts) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_query_and_a_reset_leave_nothing_behind() {
    let server = Server::start(Limits { tcp_connections: 1, ..limits() }).await;
    for _ in 0..50 {
        // The one place is taken, so it must come back before the next gets in.
        eventually("there is a place", || {
            let mut rude = Connection::open(OTHER, server.address).unwrap();
            let is_in = rude.ask(&web()).is_ok();
            let _ = rude.0.write_all(&framed(&web())[..20]);
            // Closed at once, with a reset.
            SockRef::from(&rude.0).set_linger(Some(Duration::ZERO)).unwrap();
            is_in
        })
        .await;
    }
    assert_eq!(server.count(Counter::TcpTimeouts), 0, "none was held until its deadline");
    let queries = server.count(Counter::TcpQueries);
    server.assert_answers(CLIENT);
    assert_eq!((queries, server.count(Counter::TcpQueries)), (50, 50), "and none is read on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_dns_at_all_is_closed() {
    let server = Server::start(limits()).await;
    for garbage in [&[0, 0][..], &[0, 3, 1, 2, 3]] {
        let mut connection = Connection::open(CLIENT, server.address).unwrap();
        connection.0.write_all(garbage).unwrap();
        assert!(connection.is_closed(), "{garbage:?}");
    }
    assert_eq!(server.count(Counter::Dropped), 2);
}

/// Runs the test below in a process that may open only so many files.
#[test]
fn running_out_of_file_descriptors_stops_neither_transport() {
    let this = std::env::current_exe().unwrap();
    let output = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 64; exec \"$0\" --exact dns_server::tcp::with_few_file_descriptors --ignored --nocapture",
        ])
        .arg(this)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test above, with a limit on files"]
async fn with_few_file_descriptors() {
    let server = Server::start(Limits { tcp_per_client: 512, ..Limits::default() }).await;
    let udp = udp_client(CLIENT, server.address);
    let answers_udp = || {
        udp.send(&web()).unwrap();
        assert_eq!(addresses(&receive(&udp).unwrap()), WEB);
    };
    // The client's ends take descriptors of the same process. Who gets the last one is a race: where it is an accepted
    // connection nobody waits, and nothing fails. Then one more is let go, for a client that will have to wait.
    let mut spares: Vec<_> = (0..8).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    let mut held = Vec::new();
    while let Ok(connection) = Connection::open(OTHER, server.address) {
        held.push(connection);
        answers_udp();
    }
    let fails = || server.count(Counter::ReceiveErrors) > 0;
    while let Some(spare) = spares.pop() {
        let soon = tokio::time::Instant::now() + Duration::from_millis(250);
        while !fails() && tokio::time::Instant::now() < soon {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if fails() {
            break;
        }
        drop(spare);
        held.extend(Connection::open(OTHER, server.address).ok());
    }
    eventually("accepting fails", fails).await;
    answers_udp();
    let errors = server.count(Counter::ReceiveErrors);
    // At one pause of 50 ms an error, a spinning server would have counted thousands by now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(server.count(Counter::ReceiveErrors) - errors < 20, "{errors} errors before");
    answers_udp();
    drop(held);
    eventually("a connection is served again", || {
        Connection::open(CLIENT, server.address).and_then(|mut c| c.ask(&web())).is_ok_and(|r| addresses(&r) == WEB)
    })
    .await;
}
