//! What keeps the server from being used against others: rates, cookies, and a burst that is none of that.

use std::{sync::Arc, time::Duration};

use hickory_proto::op::ResponseCode;
use portolan::dns::{
    access::AccessList,
    server::{Counter, Limits},
};

use super::support::*;

/// Who may not ask is told so as often as its rate allows; of the rest every other query gets nothing. One socket's queries
/// go to one worker, so the numbers are exact but for what time brings back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_who_may_not_ask_is_answered_less_and_less_and_nobody_elses_queries_suffer() {
    let server = Server::start(Limits { per_source: 1, ..Limits::default() }).await;
    server.shared.set_access(Arc::new(AccessList::only(["127.0.0.1/32".parse().unwrap()])));
    let client = udp_client(OTHER, server.address);
    const SENT: u64 = 200;
    for _ in 0..SENT {
        client.send(&web()).unwrap();
    }
    eventually("all are counted", || server.count(Counter::UdpQueries) == SENT).await;
    eventually("all are decided on", || server.count(Counter::NotPermitted) == SENT).await;
    let mut refused = 0;
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    while let Ok(reply) = receive(&client) {
        assert_eq!(rcode(&reply), ResponseCode::Refused);
        refused += 1;
    }
    let too_often = server.count(Counter::TooOften);
    assert!(too_often >= SENT - 30, "{too_often}");
    assert_eq!(refused, SENT - server.count(Counter::Dropped));
    assert!(server.count(Counter::Dropped).abs_diff(too_often / 2) <= 1, "{refused} of {too_often} too many");
    for _ in 0..500 {
        server.assert_answers(CLIENT);
    }
}

/// `dig` sends a cookie with every query, and says when it learns one. (That one from elsewhere does: the test bed.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_on_the_own_host_is_answered_and_given_no_cookie() {
    let server = Server::start(Limits::default()).await;
    for transport in ["+notcp", "+tcp"] {
        for cookie in ["+cookie", "+cookie=0102030405060708", "+nocookie"] {
            let said = dig(server.address, &["web.default.svc.internal", transport, cookie]);
            assert!(said.contains("172.30.0.2") && said.contains("status: NOERROR"), "{said}");
            assert!(!said.contains("(good)") && !said.contains("(bad)"), "{said}");
        }
    }
}
