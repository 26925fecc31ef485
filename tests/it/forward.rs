//! The forwarder against upstreams that are silent, confused, hostile or gone.

#![expect(clippy::unwrap_used, reason = "clippy knows tests, but not their helpers")]

use std::{
    collections::HashSet,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, Record, RecordType, rdata::A},
};
use portolan::dns::{
    forward::{Chosen, ForwardCounts, Forwarder, Options, PrivateAnswers, Upstreams},
    name::Apex,
    wire::Transport,
};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinSet,
};

use crate::dns_server::support::{addresses, decode, eventually, framed, fresh_address, query, rcode, with_edns};

/// What our upstreams say.
pub(crate) const THERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

mod cache;
mod down;
mod loops;
mod sources;
mod special;
mod spoofed;

type Seen = Vec<(Vec<u8>, SocketAddr)>;

/// An upstream that does as its script says. It ends when dropped.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// What was asked over UDP, and from where.
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

impl Upstream {
    /// The script gets each query and gives the packets to send back, in order.
    pub(crate) async fn start(script: impl Fn(&[u8], Transport) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let address = fresh_address();
        let (udp, tcp) = (UdpSocket::bind(address).await.unwrap(), TcpListener::bind(address).await.unwrap());
        let (script, seen, mut tasks) = (Arc::new(script), Arc::new(Mutex::new(Vec::new())), JoinSet::new());
        let (over_udp, asked) = (Arc::clone(&script), Arc::clone(&seen));
        tasks.spawn(async move {
            let mut buffer = vec![0; 65536];
            loop {
                let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
                let replies = over_udp(&buffer[..length], Transport::Udp);
                asked.lock().unwrap().push((buffer[..length].to_vec(), peer));
                for reply in replies {
                    udp.send_to(&reply, peer).await.unwrap();
                }
            }
        });
        tasks.spawn(async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let script = Arc::clone(&script);
                tokio::spawn(async move {
                    let mut packet = vec![0; stream.read_u16().await?.into()];
                    stream.read_exact(&mut packet).await?;
                    for reply in script(&packet, Transport::Tcp) {
                        stream.write_all(&framed(&reply)).await?;
                    }
                    io::Result::Ok(())
                });
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    /// One that knows every name.
    pub(crate) async fn helpful() -> Self {
        Self::start(|packet, _| vec![answer(packet, 1)]).await
    }

    /// One that says nothing.
    pub(crate) async fn silent() -> Self {
        Self::start(|_, _| vec![]).await
    }

    /// How often it was asked, not counting whether it lives.
    pub(crate) fn asked(&self) -> usize {
        let is_check = |packet: &[u8]| decode(packet).queries[0].name.is_root();
        self.seen.lock().unwrap().iter().filter(|(packet, _)| !is_check(packet)).count()
    }
}

/// A reply with so many addresses, [`THERE`] first.
pub(crate) fn answer(packet: &[u8], records: u8) -> Vec<u8> {
    let mut reply = decode(packet).into_response();
    let name = reply.queries[0].name.clone();
    let [a, b, c, d] = THERE.octets();
    let record = |i| Record::from_rdata(name.clone(), 60, RData::A(A::new(a, b, c, d.wrapping_add(i))));
    reply.answers = (0..records).map(record).collect();
    reply.to_vec().unwrap()
}

fn failing(packet: &[u8], code: ResponseCode) -> Vec<u8> {
    let mut reply = decode(packet).into_response();
    reply.metadata.response_code = code;
    reply.to_vec().unwrap()
}

/// The same message, changed.
fn changed(packet: &[u8], change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = decode(packet);
    change(&mut message);
    message.to_vec().unwrap()
}

/// Without a cache, so that every question goes to an upstream.
fn options(upstreams: Upstreams) -> Options {
    Options {
        chosen: upstreams.into(),
        cache: 0,
        attempt: Duration::from_secs(1),
        total: Duration::from_secs(4),
        reread: Duration::from_millis(10),
        ..Options::default()
    }
}

fn forwarder(options: Options) -> Forwarder {
    let (_, wanted) = watch::channel(Arc::default());
    let (_, local) = watch::channel(Arc::default());
    Forwarder::new(options, &Apex::default(), wanted, local)
}

fn asking(upstreams: &[SocketAddr]) -> Forwarder {
    forwarder(options(Upstreams::Fixed(upstreams.to_vec())))
}

fn example() -> Vec<u8> {
    query(7, "www.Example.ORG.", RecordType::A)
}

async fn forward(forwarder: &Forwarder, packet: &[u8]) -> Vec<u8> {
    forwarder.forward(packet, Transport::Udp).await.expect("a reply")
}

#[tokio::test]
async fn an_answer_comes_back_with_the_clients_id_and_letter_case() {
    let upstream = Upstream::start(|packet, _| {
        vec![answer(&query(decode(packet).metadata.id, "WWW.example.org.", RecordType::A), 1)]
    })
    .await;
    let forwarder = asking(&[upstream.address]);
    let reply = forward(&forwarder, &example()).await;
    assert_eq!(addresses(&reply), [THERE]);
    let end = example().len();
    assert_eq!((&reply[..2], &reply[12..end]), (&example()[..2], &example()[12..end]));
    let expected = ForwardCounts { asked: 1, answered: 1, attempts: 1, ..ForwardCounts::default() };
    assert_eq!(forwarder.counts(), expected);
}

#[tokio::test]
async fn replies_to_anything_but_this_question_are_skipped() {
    let upstream = Upstream::start(|packet, _| {
        let lie = changed(&answer(packet, 1), |reply| reply.answers[0].data = RData::A(A::new(6, 6, 6, 6)));
        vec![
            changed(&lie, |reply| reply.metadata.id ^= 1),
            changed(&lie, |reply| {
                reply.queries[0].set_name("www.example.com.".parse().unwrap());
            }),
            changed(&lie, |reply| {
                reply.queries[0].set_query_type(RecordType::AAAA);
            }),
            changed(&lie, |reply| reply.queries.clear()),
            packet.to_vec(),
            lie[..11].to_vec(),
            vec![],
            answer(packet, 1),
        ]
    })
    .await;
    let forwarder = asking(&[upstream.address]);
    assert_eq!(addresses(&forward(&forwarder, &example()).await), [THERE]);
    assert_eq!(forwarder.counts().mismatched, 7);
}

#[tokio::test]
async fn a_reply_from_another_address_is_not_heard() {
    let upstream = Arc::new(UdpSocket::bind(fresh_address()).await.unwrap());
    let forwarder = asking(&[upstream.local_addr().unwrap()]);
    let spoofing = async {
        let mut buffer = [0; 512];
        let (length, peer) = upstream.recv_from(&mut buffer).await.unwrap();
        let lie = changed(&answer(&buffer[..length], 1), |reply| reply.answers[0].data = RData::A(A::new(6, 6, 6, 6)));
        let other = UdpSocket::bind(fresh_address()).await.unwrap();
        other.send_to(&lie, peer).await.unwrap();
        upstream.send_to(&answer(&buffer[..length], 1), peer).await.unwrap();
    };
    let packet = example();
    let (reply, ()) = tokio::join!(forward(&forwarder, &packet), spoofing);
    assert_eq!(addresses(&reply), [THERE]);
}

#[tokio::test]
async fn an_upstream_that_fails_gives_way_to_the_next() {
    let silent = Upstream::silent().await;
    let servfail = Upstream::start(|packet, _| vec![failing(packet, ResponseCode::ServFail)]).await;
    let refused = Upstream::start(|packet, _| vec![failing(packet, ResponseCode::Refused)]).await;
    let gone = fresh_address();
    let helpful = Upstream::helpful().await;
    for first in [silent.address, servfail.address, refused.address, gone] {
        let forwarder = asking(&[first, helpful.address]);
        assert_eq!(addresses(&forward(&forwarder, &example()).await), [THERE], "after {first}");
        assert_eq!(forwarder.counts().attempts, 2, "after {first}");
    }
}

#[tokio::test]
async fn no_such_name_is_an_answer_and_final() {
    let first = Upstream::start(|packet, _| vec![failing(packet, ResponseCode::NXDomain)]).await;
    let second = Upstream::helpful().await;
    let forwarder = asking(&[first.address, second.address]);
    assert_eq!(rcode(&forward(&forwarder, &example()).await), ResponseCode::NXDomain);
    assert_eq!(second.asked(), 0);
}

#[tokio::test]
async fn a_lost_packet_is_sent_again_while_time_remains() {
    let asked = Mutex::new(0);
    let upstream = Upstream::start(move |packet, _| {
        let mut asked = asked.lock().unwrap();
        *asked += 1;
        if *asked == 1 { vec![] } else { vec![answer(packet, 1)] }
    })
    .await;
    assert_eq!(addresses(&forward(&asking(&[upstream.address]), &example()).await), [THERE]);
    assert_eq!(upstream.asked(), 2);
}

#[tokio::test]
async fn when_all_fail_the_client_is_told_so_in_time() {
    let silent = Upstream::silent().await;
    let servfail = Upstream::start(|packet, _| vec![failing(packet, ResponseCode::ServFail)]).await;
    let short = Options {
        attempt: Duration::from_millis(50),
        total: Duration::from_millis(200),
        ..options(Upstreams::Fixed(vec![silent.address, servfail.address, fresh_address()]))
    };
    let forwarder = forwarder(short);
    let reply = forward(&forwarder, &example()).await;
    assert_eq!(rcode(&reply), ResponseCode::ServFail);
    assert_eq!(reply[..2], example()[..2]);
    assert_eq!((forwarder.counts().failed, servfail.asked()), (1, 1), "only the silent one is asked again");

    let started = Instant::now();
    let all_say_no = asking(&[servfail.address, fresh_address()]);
    assert_eq!(rcode(&forward(&all_say_no, &example()).await), ResponseCode::ServFail);
    assert!(started.elapsed() < Duration::from_secs(4), "nobody is waited for who has said no");
}

#[tokio::test]
async fn a_truncated_reply_is_fetched_over_tcp() {
    let upstream = Upstream::start(|packet, transport| match transport {
        Transport::Udp => vec![changed(&answer(packet, 0), |reply| reply.metadata.truncation = true)],
        Transport::Tcp => vec![answer(packet, 60)],
    })
    .await;
    let forwarder = asking(&[upstream.address]);
    let over_tcp = forwarder.forward(&example(), Transport::Tcp).await.unwrap();
    assert_eq!(addresses(&over_tcp).len(), 60);
    let with_room = forward(&forwarder, &with_edns(&example(), 1232)).await;
    assert_eq!(addresses(&with_room).len(), 60);
    let plain = decode(&forward(&forwarder, &example()).await);
    // 33 octets before the records, 16 for each.
    assert_eq!(
        (plain.metadata.truncation, plain.answers.len()),
        (true, 29),
        "what a client without EDNS takes: {plain}"
    );
    assert_eq!(forwarder.counts().over_tcp, 3);
}

#[tokio::test]
async fn ids_and_ports_cannot_be_foretold() {
    const QUERIES: usize = 256;
    let upstream = Upstream::helpful().await;
    let forwarder = asking(&[upstream.address]);
    for _ in 0..QUERIES {
        forward(&forwarder, &example()).await;
    }
    let seen = upstream.seen.lock().unwrap();
    let ids: HashSet<u16> = seen.iter().map(|(packet, _)| decode(packet).metadata.id).collect();
    let ports: HashSet<u16> = seen.iter().map(|(_, peer)| peer.port()).collect();
    // Of 256 out of 65,536 (or 28,000 ports) one or two are expected twice.
    assert!(ids.len() > QUERIES - 16, "{} ids", ids.len());
    assert!(ports.len() > QUERIES - 32, "{} ports", ports.len());
    let steps: HashSet<u16> = seen.windows(2).map(|two| two[1].1.port().wrapping_sub(two[0].1.port())).collect();
    assert!(steps.len() > QUERIES / 2, "ports do not follow each other: {} steps", steps.len());
}

#[tokio::test]
async fn what_is_ours_never_leaves() {
    let upstream = Upstream::helpful().await;
    let forwarder = asking(&[upstream.address]);
    for name in ["web.shop.svc.internal.", "web.SVC.Internal.", "svc.internal.", "web.", "localhost."] {
        assert_eq!(rcode(&forward(&forwarder, &query(7, name, RecordType::A)).await), ResponseCode::Refused, "{name}");
    }
    assert_eq!((upstream.asked(), forwarder.counts().withheld), (0, 5));
    for name in ["svc.internal.org.", "internal.org.", "xsvc.internal."] {
        assert_eq!(addresses(&forward(&forwarder, &query(7, name, RecordType::A)).await), [THERE], "{name}");
    }
}

#[tokio::test]
async fn without_an_upstream_the_answer_is_refused() {
    let forwarder = forwarder(options(Upstreams::None));
    assert_eq!(rcode(&forward(&forwarder, &example()).await), ResponseCode::Refused);
    assert_eq!((forwarder.counts().refused, forwarder.problems().len()), (1, 0), "as the operator wished");
}

#[tokio::test]
async fn what_is_no_query_is_not_answered() {
    let forwarder = asking(&[fresh_address()]);
    for packet in [&[][..], &[0; 11], &answer(&example(), 1)[..40]] {
        let reply = forwarder.forward(packet, Transport::Udp).await;
        assert!(reply.is_none(), "{packet:?} got {reply:?}");
    }
}

/// Octets to change, and how long the reply shall be.
type Damage = (Vec<(usize, u8)>, Option<usize>);

/// What a script sent last: the query as it came, the damaged reply, the true one.
#[derive(Default)]
struct Exchange {
    query: Vec<u8>,
    damaged: Vec<u8>,
    truth: Vec<u8>,
}

impl Exchange {
    /// Our own judgement, by RFC 5452 section 9.1: a response, to a QUERY, with this id and this one question.
    fn is_a_match(&self) -> bool {
        // What goes up has an OPT of our own behind the question.
        let (asked, end) = (&self.query, example().len());
        let Some(reply) = self.damaged.get(..end) else { return false };
        reply[..2] == asked[..2]
            && reply[2] >> 3 == 0b10000
            && reply[4..6] == [0, 1]
            && reply[12..].eq_ignore_ascii_case(&asked[12..end])
            && reply[end - 4..end] == asked[end - 4..end]
    }
}

#[test]
fn a_damaged_reply_passes_only_if_it_is_still_one_to_this_question() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let damage: Arc<Mutex<Damage>> = Arc::default();
    let exchange: Arc<Mutex<Exchange>> = Arc::default();
    let (todo, done) = (Arc::clone(&damage), Arc::clone(&exchange));
    let upstream = runtime.block_on(Upstream::start(move |packet, transport| {
        let truth = answer(packet, 1);
        if transport == Transport::Tcp {
            return vec![truth];
        }
        let (edits, length) = todo.lock().unwrap().clone();
        let mut damaged = truth.clone();
        for (at, value) in edits {
            let at = at % damaged.len();
            damaged[at] = value;
        }
        damaged.resize(length.unwrap_or(damaged.len()), 0xff);
        let replies = vec![damaged.clone(), truth.clone()];
        *done.lock().unwrap() = Exchange { query: packet.to_vec(), damaged, truth };
        replies
    }));
    let forwarder = asking(&[upstream.address]);
    let edit = prop_oneof![(2usize..12, any::<u8>()), (0usize..64, any::<u8>())];
    let strategy = (proptest::collection::vec(edit, 0..4), proptest::option::weighted(0.2, 0usize..100));
    let mut runner = TestRunner::new(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() });
    let run = runner.run(&strategy, |edits_and_length| {
        *damage.lock().unwrap() = edits_and_length;
        let packet = example();
        let reply = runtime.block_on(forward(&forwarder, &packet));
        let exchange = exchange.lock().unwrap();
        let chosen = if exchange.is_a_match() { &exchange.damaged } else { &exchange.truth };
        let chosen = if chosen[2] & 0b10 != 0 { &exchange.truth } else { chosen };
        let reads_as = |packet: &[u8]| {
            // Pointers may lead into the header, so both need the same; the counts of what is compared are the same.
            let packet = [&reply[..3], &packet[3..10], &reply[10..12], &packet[12..]].concat();
            // One into the header reads as something, but for every client as something else.
            let end = example().len();
            if let Some(&[high, low]) = packet.get(end..end + 2)
                && (0xc000..0xc000 + 12).contains(&u16::from_be_bytes([high, low]))
            {
                return None;
            }
            let mut message = Message::from_vec(&packet).ok()?;
            for record in message.answers.iter_mut().chain(&mut message.authorities) {
                record.ttl = if record.ttl >> 31 == 1 { 0 } else { record.ttl.min(24 * 3600) };
            }
            Some((message.metadata.response_code.low(), message.answers, message.authorities))
        };
        prop_assert_eq!(&reply[..2], &packet[..2]);
        prop_assert_eq!(&reply[12..packet.len()], &packet[12..]);
        prop_assert_eq!(reply[2] & 0b1111_1010, 0x80, "a reply of ours, whatever flags came");
        let said = reads_as(&reply);
        // What is whole, but of a class that nobody knows, is handed on as it came.
        prop_assert!(said.is_some() || reads_as(chosen).is_none(), "{reply:02x?}");
        const SERVFAIL: u8 = 2;
        if reply[3] & 0x0f != SERVFAIL {
            prop_assert_eq!(said, reads_as(chosen));
        } else {
            // Said so, asked in vain without EDNS, or broken.
            let is_broken = reads_as(chosen).is_none() || Message::from_vec(chosen).is_err();
            prop_assert!(matches!(chosen[3] & 0x0f, 1 | 2 | 4 | 5) || is_broken);
        }
        Ok(())
    });
    run.unwrap();
}
