//! An ordinary question for a name of ours is answered over UDP without an allocation: by the real server, over real sockets.
//! The allocator counts for all threads, so this is the only test of its binary.

#![expect(clippy::unwrap_used, reason = "clippy knows tests, but not their helpers")]

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name, RecordType},
};
use portolan::dns::{forward::Upstreams, zone::Zone};

#[path = "support/counting.rs"]
mod counting;
#[path = "support/serving.rs"]
mod serving;
#[allow(dead_code, reason = "made for the benchmarks, which use all of it")]
#[path = "../benches/dns/world.rs"]
mod world;

use counting::{Counting, allocations};

#[global_allocator]
static COUNTING: Counting = Counting;

/// Some with an instance on this host, whose answers depend on the asker, and some without.
const SERVICES: usize = 400;

/// How often each question is asked while it counts.
const TIMES: usize = 5;

fn packets() -> Vec<Vec<u8>> {
    let kinds = [RecordType::A, RecordType::AAAA, RecordType::SRV];
    let names = (0..SERVICES).map(world::name).chain(["nobody.bench.svc.internal".to_owned()]);
    let question = |name: &str, kind: RecordType, edns: bool| {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
        if edns {
            message.set_edns(Edns::new());
        }
        message.to_vec().unwrap()
    };
    names
        .flat_map(|name| kinds.map(|kind| (name.clone(), kind)))
        .flat_map(|(name, kind)| [false, true].map(|edns| question(&name, kind, edns)))
        .collect()
}

/// A server on an address of its own, for as long as the runtime is there.
fn start(runtime: &tokio::runtime::Runtime) -> SocketAddr {
    // One that no other test of this machine uses.
    let [.., high, low] = std::process::id().to_be_bytes();
    let address = SocketAddr::from((Ipv4Addr::new(127, 64 | high & 0x3f, low, 200), 5398));
    let catalog = world::catalog(SERVICES);
    let zone = Arc::new(Zone::of(&catalog));
    serving::start(runtime, address, &catalog, zone, world::local(), Upstreams::None).unwrap();
    address
}

#[test]
fn an_ordinary_question_is_answered_without_an_allocation() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(start(&runtime)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let packets = packets();
    let mut reply = [0; 4096];
    let mut ask = |packet: &[u8]| {
        client.send(packet).unwrap();
        let length = client.recv(&mut reply).unwrap();
        assert!(length >= packet.len() && reply[2] & 0x80 != 0);
        reply[3] & 0x0f
    };
    // What is encoded is kept from then on.
    let codes: Vec<u8> = packets.iter().map(|packet| ask(packet)).collect();
    assert!(codes.contains(&0) && codes.contains(&3), "names that are there, and one that is not");
    let before = allocations();
    for _time in 0..TIMES {
        for (packet, code) in packets.iter().zip(&codes) {
            assert_eq!(ask(packet), *code);
        }
    }
    assert_eq!(allocations() - before, 0, "for {} answers", TIMES * packets.len());
}
