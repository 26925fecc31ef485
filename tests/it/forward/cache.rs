//! The cache over real sockets: asked once, counted down, echoed for each client, and there when the upstream is not.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use hickory_proto::rr::rdata::SOA;
use portolan::{
    dns::server::{Counter, Limits},
    model::{Asker, Driver, Label, Local, Network, NetworkId, Scope, ShortId},
};

use super::*;
use crate::dns_server::support::{CLIENT, Connection, OTHER, Server, ask};

/// As [`asking`], with a cache.
fn remembering(upstreams: &[SocketAddr]) -> Forwarder {
    forwarder(Options { cache: 1 << 20, ..options(Upstreams::Fixed(upstreams.to_vec())) })
}

/// An upstream that can be told to fall silent.
async fn switchable(says: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static) -> (Upstream, Arc<AtomicBool>) {
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    let script = move |packet: &[u8], _| if silent.load(Relaxed) { vec![] } else { vec![says(packet)] };
    (Upstream::start(script).await, is_silent)
}

fn with_ttl(packet: &[u8], ttl: u32) -> Vec<u8> {
    changed(&answer(packet, 1), |reply| reply.answers[0].ttl = ttl)
}

/// What is said without asking anybody.
fn cached(forwarder: &Forwarder, packet: &[u8], after: Duration) -> Option<Vec<u8>> {
    let mut out = b"before".to_vec();
    let found = forwarder.at_once(packet, Transport::Udp, Instant::now() + after, &mut out);
    assert!(found || out == b"before", "touched only when there is an answer");
    found.then_some(out)
}

#[tokio::test]
async fn a_question_is_asked_once_and_its_ttl_runs_down() {
    let upstream = Upstream::start(|packet, _| vec![with_ttl(packet, 60)]).await;
    let forwarder = remembering(&[upstream.address]);
    assert_eq!(cached(&forwarder, &example(), Duration::ZERO), None);
    assert_eq!(decode(&forward(&forwarder, &example()).await).answers[0].ttl, 60);
    let other_case = query(8, "WWW.eXample.org.", RecordType::A);
    let reply = decode(&cached(&forwarder, &with_edns(&other_case, 1232), Duration::from_secs(10)).expect("a hit"));
    assert_eq!((reply.answers[0].ttl, reply.metadata.id), (50, 8));
    assert_eq!(reply.queries[0].name.to_string(), "WWW.eXample.org.");
    assert_eq!(reply.edns.expect("as the client has it").options().as_ref().len(), 0);
    assert_eq!(addresses(&forward(&forwarder, &other_case).await), [THERE]);
    assert_eq!(cached(&forwarder, &example(), Duration::from_secs(60)), None, "over");
    assert_eq!(upstream.asked(), 1);
    let aaaa = query(7, "www.example.org.", RecordType::AAAA);
    forward(&forwarder, &aaaa).await;
    let mut unchecked = example();
    unchecked[3] |= 0x10;
    forward(&forwarder, &unchecked).await;
    assert_eq!(upstream.asked(), 3, "another type, and CD, are other questions");
    assert_eq!((forwarder.cache().hits, forwarder.cache().entries), (2, 2), "there is no AAAA, and no SOA to say so");
}

#[tokio::test]
async fn the_upstream_is_not_told_the_clients_options_and_the_client_not_the_upstreams() {
    let upstream = Upstream::start(|packet, _| {
        let marked = changed(&answer(packet, 1), |reply| {
            let option = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(65001, vec![1]);
            reply.edns.as_mut().expect("we speak EDNS to all").options_mut().insert(option);
            reply.metadata.authoritative = true;
        });
        vec![marked]
    })
    .await;
    let forwarder = remembering(&[upstream.address]);
    let secret = changed(&with_edns(&example(), 4000), |query| {
        let option = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(65002, vec![2]);
        query.edns.as_mut().unwrap().options_mut().insert(option);
    });
    let reply = decode(&forward(&forwarder, &secret).await);
    assert!(!reply.metadata.authoritative && reply.metadata.recursion_available);
    assert_eq!(reply.edns.unwrap().options().as_ref().len(), 0);
    let (asked, _) = upstream.seen.lock().unwrap()[0].clone();
    let edns = decode(&asked).edns.unwrap();
    assert_eq!((edns.max_payload(), edns.options().as_ref().len()), (1232, 0));
}

#[tokio::test]
async fn an_upstream_without_edns_is_asked_without() {
    let upstream = Upstream::start(|packet, _| match decode(packet).edns {
        Some(_) => vec![changed(&failing(packet, ResponseCode::FormErr), |reply| reply.edns = None)],
        None => vec![answer(packet, 1)],
    })
    .await;
    assert_eq!(addresses(&forward(&asking(&[upstream.address]), &with_edns(&example(), 1232)).await), [THERE]);
}

#[tokio::test]
async fn absence_is_kept_for_as_long_as_its_soa_says() {
    let upstream = Upstream::start(|packet, _| {
        let soa = SOA::new("ns.example.org.".parse().unwrap(), "me.example.org.".parse().unwrap(), 1, 2, 3, 4, 30);
        vec![changed(&failing(packet, ResponseCode::NXDomain), |reply| {
            reply.authorities = vec![Record::from_rdata("example.org.".parse().unwrap(), 900, RData::SOA(soa))];
        })]
    })
    .await;
    let forwarder = remembering(&[upstream.address]);
    assert_eq!(rcode(&forward(&forwarder, &example()).await), ResponseCode::NXDomain);
    let reply = decode(&cached(&forwarder, &example(), Duration::from_secs(10)).expect("a hit"));
    assert_eq!((reply.metadata.response_code, reply.authorities[0].ttl), (ResponseCode::NXDomain, 20));
    assert_eq!(cached(&forwarder, &example(), Duration::from_secs(30)), None);
}

#[tokio::test]
async fn what_has_no_ttl_and_what_is_cut_is_never_kept() {
    let upstream = Upstream::start(|packet, transport| match transport {
        Transport::Udp if decode(packet).queries[0].query_type == RecordType::TXT => {
            vec![changed(&answer(packet, 1), |reply| reply.metadata.truncation = true)]
        }
        _ => vec![with_ttl(packet, 0)],
    })
    .await;
    let forwarder = remembering(&[upstream.address]);
    for kind in [RecordType::A, RecordType::TXT] {
        for _ in 0..2 {
            forward(&forwarder, &query(7, "www.example.org.", kind)).await;
        }
    }
    assert_eq!((upstream.asked(), forwarder.cache().entries), (4, 0));
}

#[tokio::test]
async fn an_older_answer_is_given_when_the_upstream_fails_and_the_failure_is_not_repeated() {
    let (upstream, _) = {
        let turns = AtomicU32::new(0);
        switchable(move |packet| match turns.fetch_add(1, Relaxed) {
            0 => with_ttl(packet, 1),
            _ => failing(packet, ResponseCode::ServFail),
        })
        .await
    };
    let forwarder = remembering(&[upstream.address]);
    forward(&forwarder, &example()).await;
    eventually("the answer is over", || cached(&forwarder, &example(), Duration::ZERO).is_none()).await;
    for _ in 0..10 {
        let reply = forward(&forwarder, &example()).await;
        assert_eq!((addresses(&reply), decode(&reply).answers[0].ttl), (vec![THERE.into()], 30));
    }
    assert_eq!((upstream.asked(), forwarder.counts().stale), (2, 10), "once, and not again for half a minute");
    let at_once = decode(&cached(&forwarder, &example(), Duration::ZERO).expect("nobody need be asked"));
    assert_eq!((at_once.answers[0].ttl, forwarder.counts().stale), (30, 11));
}

#[tokio::test]
async fn an_older_answer_is_given_in_time_and_the_newer_one_comes_in_behind() {
    let (upstream, is_silent) = switchable(|packet| with_ttl(packet, 1)).await;
    let patience = Duration::from_millis(50);
    let options = Options { cache: 1 << 20, patience, ..options(Upstreams::Fixed(vec![upstream.address])) };
    let forwarder = forwarder(options);
    forward(&forwarder, &example()).await;
    eventually("the answer is over", || cached(&forwarder, &example(), Duration::ZERO).is_none()).await;
    is_silent.store(true, Relaxed);
    assert_eq!(decode(&forward(&forwarder, &example()).await).answers[0].ttl, 30);
    assert_eq!((forwarder.counts().stale, forwarder.under_way()), (1, 1), "the question is still under way");
    is_silent.store(false, Relaxed);
    eventually("it is answered", || cached(&forwarder, &example(), Duration::ZERO).is_some()).await;
}

#[tokio::test]
async fn a_failure_is_remembered_for_a_moment() {
    let servfail = Upstream::start(|packet, _| vec![failing(packet, ResponseCode::ServFail)]).await;
    let forwarder = remembering(&[servfail.address]);
    let before = Instant::now();
    for _ in 0..20 {
        assert_eq!(rcode(&forward(&forwarder, &example()).await), ResponseCode::ServFail);
    }
    assert!(servfail.asked() <= 2, "{} for 20 clients", servfail.asked());
    let mut at_once = Vec::new();
    assert!(forwarder.at_once(&example(), Transport::Udp, before, &mut at_once), "it is known that nobody knows");
    assert_eq!(rcode(&at_once), ResponseCode::ServFail);
    assert_eq!(cached(&forwarder, &example(), Duration::from_secs(2)), None, "then somebody is asked again");
}

#[tokio::test]
async fn those_who_ask_the_same_at_a_time_ask_once() {
    let (upstream, is_silent) = switchable(|packet| answer(packet, 1)).await;
    is_silent.store(true, Relaxed);
    let forwarder = Arc::new(remembering(&[upstream.address]));
    let mut clients = JoinSet::new();
    for id in 0..100 {
        let forwarder = Arc::clone(&forwarder);
        let packet = query(id, if id % 2 == 0 { "www.example.org." } else { "WWW.EXAMPLE.ORG." }, RecordType::A);
        clients.spawn(async move { (id, packet.clone(), forwarder.forward(&packet, Transport::Udp).await.unwrap()) });
    }
    eventually("all wait", || forwarder.counts().coalesced == 99).await;
    assert_eq!((upstream.asked(), forwarder.under_way()), (1, 1));
    // The question is asked again, as after a lost packet.
    is_silent.store(false, Relaxed);
    while let Some(done) = clients.join_next().await {
        let (id, packet, reply) = done.unwrap();
        assert_eq!((addresses(&reply), decode(&reply).metadata.id), (vec![THERE.into()], id));
        assert_eq!(reply[12..packet.len()], packet[12..], "each has its own letter case");
    }
}

#[tokio::test]
async fn a_client_that_gives_up_takes_the_answer_from_nobody() {
    let (upstream, is_silent) = switchable(|packet| with_ttl(packet, 60)).await;
    is_silent.store(true, Relaxed);
    let forwarder = remembering(&[upstream.address]);
    let hasty = tokio::time::timeout(Duration::from_millis(20), forward(&forwarder, &example())).await;
    assert!(hasty.is_err());
    is_silent.store(false, Relaxed);
    eventually("it came all the same", || cached(&forwarder, &example(), Duration::ZERO).is_some()).await;
}

#[tokio::test]
async fn a_flush_forgets_a_name_and_what_is_below_it_or_all() {
    let upstream = Upstream::helpful().await;
    let forwarder = remembering(&[upstream.address]);
    forward(&forwarder, &example()).await;
    assert_eq!(forwarder.flush(Some("example.com")), Ok(0));
    assert_eq!(forwarder.flush(Some("Example.ORG")), Ok(1));
    assert_eq!(cached(&forwarder, &example(), Duration::ZERO), None);
    forward(&forwarder, &example()).await;
    assert_eq!((forwarder.flush(None), upstream.asked()), (Ok(1), 2));
    assert!(forwarder.flush(Some("a..b")).is_err());
}

/// A host on which [`OTHER`] is a container that has only a network made with `--internal`.
fn with_internal_asker() -> Arc<Local> {
    let id = NetworkId("inside".into());
    let network = Network {
        id: id.clone(),
        name: "inside".into(),
        driver: Driver::Bridge,
        scope: Scope::Local,
        internal: true,
        icc: true,
        subnets: vec![OTHER.into()],
        gateways: vec![],
    };
    let asker = Asker {
        container: ShortId::parse("0123456789ab").unwrap(),
        name: "inner".into(),
        namespace: Label::default_namespace(),
        networks: vec![id.clone()],
    };
    Arc::new(Local {
        listed: true,
        askers: [(OTHER, Arc::new(asker))].into_iter().collect(),
        networks: [(id, Arc::new(network))].into_iter().collect(),
        ..Local::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_tells_a_container_on_internal_networks_nothing() {
    let upstream = Upstream::helpful().await;
    let server = Server::forwarding(Limits::default(), Upstreams::Fixed(vec![upstream.address])).await;
    server.shared.set_local(with_internal_asker());
    assert_eq!(addresses(&ask(CLIENT, server.address, &example()).unwrap()), [THERE]);
    let over_udp = ask(OTHER, server.address, &example()).unwrap();
    let over_tcp = Connection::open(OTHER, server.address).unwrap().ask(&example()).unwrap();
    assert_eq!((rcode(&over_udp), rcode(&over_tcp)), (ResponseCode::Refused, ResponseCode::Refused));
    assert_eq!((upstream.asked(), server.forwarder.cache().hits), (1, 0), "it did not even get that far");
    assert_eq!(addresses(&ask(CLIENT, server.address, &example()).unwrap()), [THERE]);
    assert_eq!(addresses(&Connection::open(CLIENT, server.address).unwrap().ask(&example()).unwrap()), [THERE]);
    assert_eq!((upstream.asked(), server.forwarder.cache().hits, server.count(Counter::Forwarded)), (1, 2, 1));
}
