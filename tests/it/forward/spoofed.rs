//! A million forged replies, and none is believed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;

/// Forged replies to each question: more than an attempt takes before it turns to TCP.
const PER_QUESTION: usize = 400;
const QUESTIONS: usize = 2_500;
/// Questions at a time.
const CLIENTS: usize = 16;

/// Where the question ends: a header, `0000000.example.org`, type and class.
const END: usize = 12 + 21 + 4;

/// What the forger wants to be believed.
const LIE: A = A(Ipv4Addr::new(6, 6, 6, 6));

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_forged_replies_and_none_is_believed() {
    let forged = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&forged);
    // The forger knows the upstream's address and port, ours, and the question; what it does not know is the id. It even
    // is quicker than the upstream.
    let upstream = Upstream::start(move |packet, transport| {
        let truth = answer(packet, 1);
        if transport == Transport::Tcp {
            return vec![truth];
        }
        let lie = changed(&truth, |reply| reply.answers[0].data = RData::A(LIE));
        let id = u16::from_be_bytes([packet[0], packet[1]]);
        let mut replies = Vec::with_capacity(PER_QUESTION + 1);
        for step in 1..=PER_QUESTION {
            let mut lie = lie.clone();
            match step % 8 {
                // The id, but another name, another type, another opcode, no response.
                0 => lie[13] ^= 1,
                1 => lie[END - 3] ^= 1,
                2 => lie[2] ^= 0x28,
                3 => lie[2] ^= 0x80,
                _ => {
                    let step = u16::try_from(step).unwrap();
                    lie[..2].copy_from_slice(&id.wrapping_add(step).to_be_bytes());
                }
            }
            replies.push(lie);
        }
        counter.fetch_add(PER_QUESTION as u64, Relaxed);
        replies.push(truth);
        replies
    })
    .await;
    let options = Options { cache: 1 << 20, ..options(Upstreams::Fixed(vec![upstream.address])) };
    let forwarder = Arc::new(forwarder(options));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let forwarder = Arc::clone(&forwarder);
        clients.spawn(async move {
            for number in (client..QUESTIONS).step_by(CLIENTS) {
                // All of one length, so that the type stands where the forger expects it.
                let packet = query(7, &format!("{number:07}.Example.ORG."), RecordType::A);
                assert_eq!(packet.len(), END);
                assert_eq!(addresses(&forward(&forwarder, &packet).await), [THERE]);
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let counts = forwarder.counts();
    assert!(forged.load(Relaxed) >= 1_000_000);
    assert_eq!((counts.answered, counts.failed), (QUESTIONS as u64, 0));
    eprintln!(
        "forged {}, of which seen and skipped {}; {} questions went on over TCP",
        forged.load(Relaxed),
        counts.mismatched,
        counts.besieged
    );
    assert!(counts.mismatched >= 100_000, "they did arrive: {counts:?}");
}
