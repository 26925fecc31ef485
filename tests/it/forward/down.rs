//! Upstreams that are a black hole: found out once, then they cost nothing, and nothing piles up.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use crate::dns_server::support::DEADLINE;

/// Short times, for a test waits for several of them.
fn hasty(upstreams: &[SocketAddr]) -> Arc<Forwarder> {
    let options = Options {
        attempt: Duration::from_millis(200),
        total: Duration::from_millis(600),
        ..options(Upstreams::Fixed(upstreams.to_vec()))
    };
    Arc::new(forwarder(options))
}

fn numbered(number: usize) -> Vec<u8> {
    query(7, &format!("n{number}.example.org."), RecordType::A)
}

fn is_down(forwarder: &Forwarder, upstream: &Upstream) -> bool {
    forwarder.states().iter().any(|state| state.address == upstream.address && state.standing.is_down)
}

#[tokio::test]
async fn a_black_hole_is_asked_no_more_until_it_replies_to_a_check() {
    let is_hole = Arc::new(AtomicBool::new(true));
    let hole = Arc::clone(&is_hole);
    let upstream =
        Upstream::start(move |packet, _| if hole.load(Relaxed) { vec![] } else { vec![answer(packet, 1)] }).await;
    let forwarder = hasty(&[upstream.address]);
    assert_eq!(rcode(&forward(&forwarder, &numbered(0)).await), ResponseCode::ServFail);
    eventually("it is found out", || is_down(&forwarder, &upstream)).await;
    let (attempts, started) = (forwarder.counts().attempts, Instant::now());
    for number in 1..500 {
        assert_eq!(rcode(&forward(&forwarder, &numbered(number)).await), ResponseCode::ServFail);
    }
    assert_eq!(forwarder.counts().attempts, attempts, "nobody asks it");
    assert!(started.elapsed() < DEADLINE, "and nobody waits for it: 500 deadlines are five minutes");
    assert_eq!(at_once(&forwarder, &numbered(1000)), Some(ResponseCode::ServFail));
    is_hole.store(false, Relaxed);
    eventually("it is found out that it replies", || !is_down(&forwarder, &upstream)).await;
    assert_eq!(at_once(&forwarder, &numbered(1000)), None, "it may know");
    assert_eq!(addresses(&forward(&forwarder, &numbered(501)).await), [THERE]);
}

/// What is said without asking anybody.
fn at_once(forwarder: &Forwarder, packet: &[u8]) -> Option<ResponseCode> {
    let mut out = Vec::new();
    forwarder.at_once(packet, Transport::Udp, Instant::now(), &mut out).then(|| rcode(&out))
}

#[tokio::test]
async fn nothing_is_said_at_once_where_anybody_may_know() {
    let (hole, helpful) = (Upstream::silent().await, Upstream::helpful().await);
    let special = vec![("corp.example".parse().unwrap(), vec![hole.address])];
    let general = Upstreams::Fixed(vec![hole.address, helpful.address]);
    let both = Chosen { suffixes: special, ..general.into() };
    let forwarder = forwarder(Options { chosen: both, ..options(Upstreams::None) });
    let [general, special] = ["www.example.org.", "www.corp.example."].map(|name| query(7, name, RecordType::A));
    assert_eq!((at_once(&forwarder, &general), at_once(&forwarder, &special)), (None, None));
    assert_eq!(addresses(&forward(&forwarder, &general).await), [THERE]);
    eventually("it is found out", || is_down(&forwarder, &hole)).await;
    assert_eq!(at_once(&forwarder, &general), None);
    assert_eq!(at_once(&forwarder, &special), Some(ResponseCode::ServFail));
    let counts = forwarder.counts();
    assert_eq!((counts.asked, counts.answered, counts.failed), (2, 1, 1));
    // What must stay is refused, and our own questions that come back are looked at, whoever is down.
    let lost = hasty(&[hole.address]);
    assert_eq!(rcode(&forward(&lost, &general).await), ResponseCode::ServFail);
    eventually("it is found out", || is_down(&lost, &hole)).await;
    assert_eq!(at_once(&lost, &general), Some(ResponseCode::ServFail));
    for other in ["corp.", "www.svc.internal.", "00112233445566778899aabbccddeeff.portolan-probe.example."] {
        assert_eq!(at_once(&lost, &query(7, other, RecordType::A)), None, "{other}");
    }
}

#[tokio::test]
async fn names_whose_servers_are_gone_do_not_take_the_upstream_from_others() {
    let upstream = Upstream::start(|packet, _| {
        let name = decode(packet).queries[0].name.to_string();
        if name.starts_with("dead") { vec![] } else { vec![answer(packet, 1)] }
    })
    .await;
    let forwarder = hasty(&[upstream.address]);
    let mut dead = JoinSet::new();
    for number in 0..20 {
        let forwarder = Arc::clone(&forwarder);
        let packet = query(7, &format!("dead{number}.example.org."), RecordType::A);
        dead.spawn(async move { rcode(&forward(&forwarder, &packet).await) });
    }
    while let Some(ended) = dead.join_next().await {
        assert_eq!(ended.unwrap(), ResponseCode::ServFail);
        assert!(!is_down(&forwarder, &upstream));
    }
    assert_eq!(addresses(&forward(&forwarder, &numbered(0)).await), [THERE]);
}

#[tokio::test]
async fn beside_one_that_works_a_black_hole_is_soon_not_tried_first() {
    let (hole, helpful) = (Upstream::silent().await, Upstream::helpful().await);
    let forwarder = hasty(&[hole.address, helpful.address]);
    assert_eq!(addresses(&forward(&forwarder, &numbered(0)).await), [THERE]);
    let asked = hole.asked();
    for number in 1..100 {
        assert_eq!(addresses(&forward(&forwarder, &numbered(number)).await), [THERE]);
    }
    // A busy machine may make the other one late now and then.
    assert!(hole.asked() < asked + 50, "{} questions", hole.asked());
}

#[tokio::test]
async fn what_is_under_way_to_a_black_hole_is_bounded() {
    let upstream = Upstream::silent().await;
    let forwarder = hasty(&[upstream.address]);
    let mut clients = JoinSet::new();
    for number in 0..3000 {
        let forwarder = Arc::clone(&forwarder);
        clients.spawn(async move { rcode(&forward(&forwarder, &numbered(number)).await) });
    }
    let mut most = 0;
    while let Some(ended) = clients.join_next().await {
        assert_eq!(ended.unwrap(), ResponseCode::ServFail);
        most = most.max(forwarder.under_way());
    }
    let counts = forwarder.counts();
    assert!(most <= 512 && counts.over_cap >= 3000 - 512, "{most} at a time, {counts:?}");
    eventually("all is over", || forwarder.under_way() == 0).await;
}
