//! Crowds: a burst that waits in the socket's buffer, and thousands of connections that do nothing or hardly anything.

use std::{
    collections::HashSet,
    io::{IoSlice, Write},
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg, setsockopt, sockopt};
use portolan::dns::server::{BindState, Counter, Limits};

use super::support::*;

/// As fast as one socket sends, some 100 ms: what the server has not answered by then has to wait in its buffer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_queries_at_once_lose_none_where_the_buffer_was_granted() {
    const QUERIES: u16 = 20_000;
    /// The most that one call takes (UIO_MAXIOV).
    const AT_ONCE: usize = 1_000;
    let limits = Limits::default();
    let wanted = limits.receive_buffer;
    let server = Server::start(limits).await;
    let states = server.bound.borrow().clone();
    let Some(BindState::Bound { receive_buffer }) = states.get(&server.address).cloned() else { panic!("{states:?}") };
    let client = udp_client(CLIENT, server.address);
    // All answers may come before the first one is read.
    if receive_buffer < wanted || setsockopt(&client, sockopt::RcvBufForce, &(4 * wanted)).is_err() {
        eprintln!("skipped: the kernel granted {receive_buffer} of {wanted} octets (CAP_NET_ADMIN is needed)");
        return;
    }
    let packets: Vec<Vec<u8>> =
        (0..QUERIES).map(|id| query(id, "web.default.svc.internal.", hickory_proto::rr::RecordType::A)).collect();
    let reader = client.try_clone().unwrap();
    let answers = thread::spawn(move || {
        let mut ids = HashSet::new();
        while ids.len() < usize::from(QUERIES) {
            let Ok(reply) = receive(&reader) else { break };
            assert_eq!(reply[3] & 0x0f, 0, "NOERROR");
            ids.insert([reply[0], reply[1]]);
        }
        ids.len()
    });
    let began = Instant::now();
    let mut headers = MultiHeaders::<()>::preallocate(AT_ONCE, None);
    for batch in packets.chunks(AT_ONCE) {
        let slices: Vec<[IoSlice<'_>; 1]> = batch.iter().map(|packet| [IoSlice::new(packet)]).collect();
        let addresses = [None; AT_ONCE];
        let sent = sendmmsg(client.as_raw_fd(), &mut headers, &slices, addresses, [], MsgFlags::empty()).unwrap();
        assert_eq!(sent.count(), batch.len());
    }
    eprintln!("{QUERIES} queries sent in {:?}", began.elapsed());
    assert_eq!(answers.join().unwrap(), usize::from(QUERIES));
}

/// Both ends of each connection, and some more.
const DESCRIPTORS: usize = 12_000;

/// Runs the test below in a process that may open enough files.
#[test]
fn thousands_of_idle_and_slow_connections_cost_nobody_else_an_answer() {
    let script = format!(
        "ulimit -n {DESCRIPTORS} || exit 77; \
         exec \"$0\" --exact dns_server::limits::beside_thousands_of_connections --ignored --nocapture"
    );
    let output = Command::new("sh").args(["-c", &script]).arg(std::env::current_exe().unwrap()).output().unwrap();
    if output.status.code() == Some(77) {
        eprintln!("skipped: a process may not open {DESCRIPTORS} files here (ulimit -Hn)");
        return;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by the test above, with a limit on files that is high enough"]
async fn beside_thousands_of_connections() {
    const IDLE: usize = 5_000;
    const SLOW: usize = 500;
    const PER_CLIENT: usize = 25;
    let patient = 6 * DEADLINE;
    // Room enough that nobody has to make room.
    let tcp_connections = (IDLE + SLOW) * 6 / 5;
    let limits = Limits { tcp_connections, tcp_idle: patient, tcp_read: patient, ..Limits::default() };
    let server = Server::start(limits).await;
    let address = server.address;
    let open = |number: usize| {
        let client = number / PER_CLIENT;
        let [high, low] = u16::try_from(client).unwrap().to_be_bytes();
        Connection::open([127, 1 + high, low, 1].into(), address).unwrap()
    };
    let mut idle: Vec<Connection> = (0..IDLE).map(open).collect();
    let mut slow: Vec<Connection> = (IDLE..IDLE + SLOW).map(open).collect();
    eventually("all are let in", || server.count(Counter::TcpConnections) == (IDLE + SLOW) as u64).await;
    assert_eq!((server.count(Counter::TcpOverCap), server.shared.tcp_connections()), (0, (IDLE + SLOW) as u64));

    // One octet of each query after the other, for as long as the others are answered.
    let writer = thread::spawn(move || {
        for octet in framed(&web()) {
            for connection in &mut slow {
                connection.0.write_all(&[octet]).unwrap();
            }
            thread::sleep(Duration::from_millis(10));
        }
        slow
    });
    let mut kept = Connection::open(CLIENT, address).unwrap();
    let mut rounds = 0;
    while rounds < 500 || !writer.is_finished() {
        server.assert_answers(CLIENT);
        assert_eq!(addresses(&kept.ask(&web()).unwrap()), WEB);
        if rounds % 10 == 0 {
            assert_eq!(addresses(&Connection::open(OTHER, address).unwrap().ask(&web()).unwrap()), WEB);
        }
        rounds += 1;
    }
    for connection in &mut writer.join().unwrap() {
        assert_eq!(addresses(&connection.receive().unwrap()), WEB, "slow ones are answered in the end");
    }
    for connection in idle.iter_mut().step_by(100) {
        assert_eq!(addresses(&connection.ask(&web()).unwrap()), WEB, "idle ones were not forgotten");
    }
    drop(idle);
    eventually("all places are free again", || server.shared.tcp_connections() <= 1 + SLOW as u64).await;
    assert_eq!(server.count(Counter::TcpTimeouts), 0);
}

/// With the limits that agents have: whoever holds all places without using them loses them to those who ask, the longest
/// idle first, and one that is in use stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_holds_connections_makes_room_for_who_asks() {
    let limits = Limits { tcp_connections: 64, tcp_per_client: 32, ..Limits::default() };
    let server = Server::start(limits).await;
    let mut kept = Connection::open(CLIENT, server.address).unwrap();
    let mut first = Connection::open([127, 1, 0, 1].into(), server.address).unwrap();
    let mut held = Vec::new();
    for number in 0..200u8 {
        held.push(Connection::open([127, 2, 0, 1 + number / 25].into(), server.address).unwrap());
        // It is used now and then, so it is never the one that was idle for longest.
        assert_eq!(addresses(&kept.ask(&web()).unwrap()), WEB, "after {number}");
        let mut other = Connection::open([127, 3, 0, 1 + number].into(), server.address).unwrap();
        assert_eq!(addresses(&other.ask(&web()).unwrap()), WEB, "beside {number}");
    }
    assert!(first.is_closed(), "it was idle for longest");
    assert_eq!(server.count(Counter::TcpOverCap), 0);
    assert!(server.count(Counter::TcpEvicted) >= 100);
}
