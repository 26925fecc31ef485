//! Upstreams that lead back to us, over somebody else.

use portolan::dns::server::{Counter, Limits};

use super::*;
use crate::dns_server::support::{CLIENT, Server, ask};

/// An upstream that asks `server` whatever it is asked, as a resolver does that we are the upstream of.
async fn relay(server: SocketAddr) -> Upstream {
    Upstream::start(move |packet, _| {
        let packet = packet.to_vec();
        // A thread, for the script must not block who else is served.
        let asked = std::thread::spawn(move || ask(CLIENT, server, &packet));
        asked.join().unwrap().into_iter().collect()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn only_the_upstream_that_leads_back_is_disabled_and_named() {
    let ours = fresh_address();
    let (looping, helpful) = (relay(ours).await, Upstream::helpful().await);
    let upstreams = Upstreams::Fixed(vec![looping.address, helpful.address]);
    let mut server = Server::listening(Limits::default(), upstreams, [ours]);
    server.until(|states| states.len() == 1).await;
    let following = Arc::clone(&server.forwarder);
    let _task = AbortOnDrop(tokio::spawn(async move { following.follow().await }));
    eventually("it is found", || *server.forwarder.upstreams() == [helpful.address]).await;
    let problems = server.forwarder.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].place, format!("upstream {}", looping.address));
    let states = server.forwarder.states();
    assert_eq!(states.iter().map(|state| state.is_looping).collect::<Vec<_>>(), [true, false]);
    let before = server.count(Counter::UdpQueries);
    assert_eq!(addresses(&ask(CLIENT, ours, &example()).unwrap()), [THERE]);
    assert_eq!(server.count(Counter::UdpQueries), before + 1, "nothing comes round");
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test]
async fn the_probes_of_others_are_names_like_any_other() {
    let upstream = Upstream::helpful().await;
    let forwarder = asking(&[upstream.address]);
    let theirs = query(7, "00112233445566778899aabbccddeeff.portolan-probe.", RecordType::A);
    assert_eq!(addresses(&forward(&forwarder, &theirs).await), [THERE]);
    assert_eq!(forwarder.counts().loops, 0);
}
