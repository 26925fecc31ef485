//! What must hold for whatever octets arrive from outside: one function for each target of `make fuzz`. Pure.
//!
//! A target is `fn(&[u8])`, and panics where a property does not hold: it never just looks for panics of others. The fuzzer
//! (`fuzz/`, a workspace of its own) calls it with inputs of its making, the tests below with every input that is kept in
//! `fuzz/corpus/` and `fuzz/crashes/`. So it is compiled for tests and with the feature `fuzz`, and is in no release.
//!
//! | target | input | what holds |
//! |---|---|---|
//! | `hot` | a packet | whatever the hot path replies is what the complete path replies, octet for octet |
//! | `complete` | a packet | a reply parses, answers this very question and fits; a response is never answered; own names stay here |
//! | `forward` | who asks how, then an upstream's message | only what answers our question is taken; the client's reply is whole and fits |
//! | `record` | a value of etcd | what is read is written, and read again as the same |

use std::sync::{Arc, LazyLock};

use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};
use rand::{SeedableRng, rngs::SmallRng};

use crate::{
    dns::{
        cookie::Cookies,
        fixture::{ADDRESS, World},
        forward,
        hot::{self, Ground, Scratch, View},
        source::Source,
        wire::{self, Guard, MAX_AMPLIFICATION, MAX_UDP, MAX_UDP_PLAIN, Outcome, Pace, ResponseCode, Transport, Why},
        zone::Zone,
    },
    model::ShortId,
    registry::{
        external,
        record::{self, Interner, Key, Keys, MAX_VALUE},
    },
};

/// A target's property, checked for one input.
pub type Target = fn(&[u8]);

/// All targets by their names, which are those of their corpora's folders, too.
pub const TARGETS: [(&str, Target); 4] =
    [("hot", hot), ("complete", complete), ("forward", forward::fuzz::reply), ("record", record)];

/// The target of that name.
///
/// # Panics
/// If there is none.
pub fn target(name: &str) -> Target {
    let found = TARGETS.into_iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("no target {name:?}")).1
}

/// Something of everything that answers are made of: shared and separate networks, both families, several ports,
/// weights, phases, names of others, and a service with more instances than fit.
const WORLD: &str = "
    network n1 bridge 172.18.0.0/16,fd00:18::/64
    network n2 bridge 172.19.0.0/16
    network cut bridge 172.20.0.0/16 internal
    network mute bridge 172.21.0.0/16 no-icc
    asker f1 shop n1=172.18.0.9,fd00:18::9
    asker f2 other n2=172.19.0.9
    asker in shop cut=172.20.0.9
    asker a5 shop mute=172.21.0.5
    address 192.0.2.1
    host own 192.0.2.1 at=eu/a
      a1 @n1=172.18.0.2,fd00:18::2 name=shop-web-1 web.shop http:80/tcp weight=3 tag=x
      a2 @n1=172.18.0.3,fd00:18::3 name=shop-web-2 web.shop http:80/tcp
      a3 @n1=172.18.0.4 draining web.shop http:80/tcp
      a4 @n2=172.19.0.4 web.other main=80 http:80/tcp dns:53/udp>0.0.0.0:5353
      a5 @mute=172.21.0.5 lone.shop 80/tcp
      a6 @cut=172.20.0.6 paused db.shop 5432/tcp
      a7 @host web.global 8080/tcp
    host b 192.0.2.2 at=eu/b
      b1 far.shop 80/tcp>0.0.0.0:80
      b2 unhealthy far.shop 80/tcp>0.0.0.0:80 weight=3
      b3 main.shop main=80 80/tcp>0.0.0.0:8080 90/tcp~0.0.0.0:32768
    host external
      e1 =10.0.0.9 redis.global 6379/tcp
      e2 =redis.example.com cache.shop 6379/tcp
";

/// Everybody who may ask. The first is a container beside most others.
const ASKERS: [&str; 6] = ["f1", "f2", "in", "a5", "host", "stranger"];

/// What all inputs are asked of.
struct Stage {
    world: World,
    ground: Ground,
    /// The same while the registry has not been listed: nothing may be denied.
    incomplete: Zone,
    views: Vec<View>,
    cookies: Cookies,
}

static STAGE: LazyLock<Stage> = LazyLock::new(|| {
    let mut text = WORLD.to_owned();
    // 20 targets and their addresses: beyond 512 octets and beyond 16 addresses.
    text.push_str("host many 192.0.2.3\n");
    for number in 0..20 {
        text.push_str(&format!("c{number:02} many.shop 80/tcp>192.0.2.{}:80\n", 100 + number));
    }
    let world = World::parse(&text);
    let ground = Ground::new(Arc::new(world.local.clone()), Arc::new(world.settings.clone()));
    let mut catalog = world.catalog.clone();
    catalog.registry_listed = false;
    let view = |who: &&str| View::of(&ground, &world.source(who), ADDRESS).expect("all but the unknown have a view");
    let views = ASKERS.iter().map(view).collect();
    Stage { incomplete: Zone::of(&catalog), views, ground, world, cookies: Cookies::new([3; 16]) }
});

/// The hot path against the complete one, for every asker, with and without a registry that has been listed.
pub fn hot(packet: &[u8]) {
    let stage = &*STAGE;
    for (who, view) in ASKERS.iter().zip(&stage.views) {
        let source = stage.world.source(who);
        for zone in [&stage.world.zone, &stage.incomplete] {
            let snapshot = stage.ground.snapshot(zone);
            let complete = || wire::respond(&snapshot, &source, ADDRESS, packet, Transport::Udp, &mut chance());
            let (mut scratch, mut reply) = (Scratch::default(), [0xaa; MAX_UDP as usize]);
            let length = hot::respond(&stage.ground, zone, view, packet, &mut chance(), &mut scratch, &mut reply);
            if let Some(length) = length {
                assert_eq!(Outcome::Reply(reply[..length].to_vec()), complete(), "for {who}");
            }
            // What the cache is asked for at once must be what would have been forwarded.
            if hot::is_for_others(&stage.ground, zone, view, packet) {
                assert!(matches!(complete(), Outcome::Forward(_)), "{:?} for {who}", complete());
            }
        }
    }
}

/// The complete path, for every asker over both transports, and as strangers' packets are looked at.
pub fn complete(packet: &[u8]) {
    let stage = &*STAGE;
    let snapshot = stage.ground.snapshot(&stage.world.zone);
    for who in ASKERS.iter().chain(&["unknown"]) {
        let source = stage.world.source(who);
        for transport in [Transport::Udp, Transport::Tcp] {
            let outcome = wire::respond(&snapshot, &source, ADDRESS, packet, transport, &mut chance());
            let may_forward = matches!(*who, "f1" | "f2" | "a5" | "host");
            check_outcome(&outcome, packet, transport, may_forward);
            assert_eq!(outcome == Outcome::Drop, !is_query(packet), "queries, and nothing else, are answered");
        }
    }
    let address = [198, 51, 100, 7].into();
    let strangers = [Source::Stranger, Source::Peer];
    for (pace, source) in [Pace::Answer, Pace::Truncate, Pace::Drop]
        .iter()
        .flat_map(|pace| strangers.iter().map(move |source| (*pace, source)))
    {
        let is_part = std::cell::Cell::default();
        let guard =
            Guard { cookies: &stage.cookies, address, now: 1_700_000_000, pace, allows: &|_| false, is_part: &is_part };
        let transport = Transport::Udp;
        let outcome = wire::respond_guarded(&snapshot, source, packet, transport, &guard, &mut chance());
        check_outcome(&outcome, packet, transport, false);
        if let Outcome::Reply(reply) = &outcome {
            // Nobody guesses a cookie of ours: 64 bits of a keyed hash.
            let most = MAX_AMPLIFICATION * packet.len();
            assert!(reply.len() <= most, "{} octets for {} of a stranger", reply.len(), packet.len());
        }
    }
    let failed = wire::failure(packet, ResponseCode::ServFail, Some(Why::Fault), false);
    assert_eq!(failed.is_some(), is_query(packet));
    if let Some(reply) = failed {
        check_reply(&reply, packet, Transport::Udp);
    }
}

fn check_outcome(outcome: &Outcome, packet: &[u8], transport: Transport, may_forward: bool) {
    match outcome {
        Outcome::Reply(reply) => check_reply(reply, packet, transport),
        Outcome::Forward(query) => {
            assert!(may_forward, "nobody but containers that may leave their networks, and the host");
            // A resolver that validates asks what top-level domains have (special.rs).
            let is_of_a_top_level = query.name.iter().count() == 1
                && matches!(query.query_type, RecordType::DS | RecordType::DNSKEY | RecordType::NS | RecordType::SOA);
            assert!(is_foreign(&query.name) || is_of_a_top_level, "{} is ours", query.name);
        }
        Outcome::Follow(follow) => {
            let asked = Message::from_vec(&follow.query()).expect("what is asked of an upstream is a message");
            assert!(is_foreign(&asked.queries[0].name), "{} is ours", asked.queries[0].name);
            // Whatever the upstream says; the packet itself is as good as anything.
            for told in [&follow.query(), packet] {
                let reply =
                    wire::followed(packet, transport, follow, told, None, &mut chance()).expect("it was a query");
                check_reply(&reply, packet, transport);
            }
        }
        Outcome::Drop | Outcome::Wait => {}
    }
}

/// A reply is for this packet, is a message to the last octet, and is no longer than its client takes.
fn check_reply(reply: &[u8], packet: &[u8], transport: Transport) {
    assert!(is_query(packet), "a response is never answered");
    assert_eq!(reply[..2], packet[..2], "the id");
    assert_eq!((reply[2] & 0x80, reply[2] & 0x78), (0x80, packet[2] & 0x78), "QR and opcode");
    let mut read = Reader::new(reply);
    let counts = read.counts();
    assert!(counts[0] <= 1, "more than one question");
    for _ in 0..counts[0] {
        read.name();
        read.skip(4);
        assert_eq!(reply.get(12..read.at), packet.get(12..read.at), "the question");
    }
    let Seen { has_opt, .. } = read.records(&counts);
    assert_eq!(read.at, reply.len(), "octets behind the message");
    let asked = Message::from_vec(packet).ok().and_then(|query| query.edns);
    let limit = match (transport, asked) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(asked)) if has_opt => asked.max_payload().clamp(MAX_UDP_PLAIN, MAX_UDP),
        // Others may find fault with a query that we take.
        (Transport::Udp, _) if has_opt => MAX_UDP,
        (Transport::Udp, _) => MAX_UDP_PLAIN,
    };
    assert!(reply.len() <= limit.into(), "{} octets of {limit}", reply.len());
    Message::from_vec(reply).expect("others can read it");
}

/// Values of etcd, read as everything that they may be.
pub fn record(value: &[u8]) {
    let container = ShortId::parse("0123456789ab").expect("a container's id");
    let read = |value: &[u8]| record::decode(container, value, &mut Interner::default());
    if let Ok(publication) = read(value) {
        assert!(value.len() <= MAX_VALUE, "beyond the limit");
        let (_, problems) = record::fit(&publication);
        assert!(problems.is_empty(), "what is read is within a writer's limits: {problems:?}");
        stable(&publication, record::encode, read);
    }
    let read = |value: &[u8]| record::decode_session(value, &mut Interner::default());
    if let Ok(session) = read(value) {
        stable(&session, record::encode_session, read);
    }
    if let Ok(revision) = record::decode_ack(value) {
        stable(&revision, |revision| record::encode_ack(*revision), record::decode_ack);
    }
    if let Ok(external) = external::decode(value) {
        stable(&external, external::encode, external::decode);
    }
    let keys = Keys::new("/p");
    let made = keys.parse(value).map(|key| match key {
        Key::Session(host) => keys.session(&host),
        Key::Instance(host, container) => keys.instance(&host, container),
        Key::Echo(host) => keys.echo(&host),
        Key::External(name) => keys.external(&name),
    });
    assert!(made.is_none_or(|made| made == value), "one key for one thing");
}

/// What was read is written as something that is read as the same, and written the same again. What was left out is
/// written with its default, which may be too long for a reader; nothing else is.
fn stable<T: PartialEq + std::fmt::Debug, E: std::fmt::Debug>(
    first: &T,
    encode: impl Fn(&T) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Result<T, E>,
) {
    let written = encode(first);
    if written.len() <= MAX_VALUE {
        let again = decode(&written).expect("what was written can be read");
        assert_eq!(*first, again);
        assert_eq!(encode(&again), written);
    }
}

/// The same chance for everybody.
fn chance() -> SmallRng {
    SmallRng::seed_from_u64(7)
}

/// A whole header whose QR bit is not set (RFC 1035 section 4.1.1).
fn is_query(packet: &[u8]) -> bool {
    packet.len() >= 12 && packet[2] & 0x80 == 0
}

/// Neither a single label nor below our zone: what may be asked of others. The root is everybody's.
fn is_foreign(name: &Name) -> bool {
    let labels: Vec<&[u8]> = name.iter().collect();
    let is_ours = match labels[..] {
        [.., zone, top] => zone.eq_ignore_ascii_case(b"svc") && top.eq_ignore_ascii_case(b"internal"),
        [_] => true,
        [] => false,
    };
    !is_ours
}

/// What a message's records say in all.
pub(crate) struct Seen {
    pub(crate) has_opt: bool,
    /// In seconds; 0 without records.
    pub(crate) longest_ttl: u32,
}

/// Reads a message of ours: that we wrote it whole must not be shown by the code that wrote it. Panics where it is not.
pub(crate) struct Reader<'m> {
    message: &'m [u8],
    /// How far it has been read.
    pub(crate) at: usize,
}

impl<'m> Reader<'m> {
    /// Begins behind the header.
    pub(crate) fn new(message: &'m [u8]) -> Self {
        assert!(message.len() >= 12, "no header");
        Self { message, at: 12 }
    }

    /// Questions, answers, authorities, additionals.
    pub(crate) fn counts(&self) -> [u16; 4] {
        [4, 6, 8, 10].map(|at| u16::from_be_bytes([self.message[at], self.message[at + 1]]))
    }

    /// A name; a pointer ends it (RFC 1035 section 4.1.4).
    pub(crate) fn name(&mut self) {
        loop {
            let length = usize::from(self.message[self.at]);
            self.skip(1);
            match length {
                0 => return,
                1..=63 => self.skip(length),
                192.. => return self.skip(1),
                _ => panic!("octet {} is no length", self.at - 1),
            }
        }
    }

    /// Octets whose meaning plays no part.
    pub(crate) fn skip(&mut self, octets: usize) {
        self.at += octets;
        assert!(self.at <= self.message.len(), "the message ends within a part of it");
    }

    /// All records. Only the last one may be OPT (RFC 6891 section 6.1.1).
    pub(crate) fn records(&mut self, counts: &[u16; 4]) -> Seen {
        let outside = u32::from(counts[1]) + u32::from(counts[2]);
        let all = outside + u32::from(counts[3]);
        let mut seen = Seen { has_opt: false, longest_ttl: 0 };
        for place in 0..all {
            let owner = self.message[self.at];
            self.name();
            let fixed = self.at;
            self.skip(10);
            let field = |at: usize| u16::from_be_bytes([self.message[fixed + at], self.message[fixed + at + 1]]);
            if field(0) == 41 {
                assert!(place >= outside && place + 1 == all && owner == 0, "OPT where none may be");
                seen.has_opt = true;
            } else {
                seen.longest_ttl = seen.longest_ttl.max(u32::from(field(4)) << 16 | u32::from(field(6)));
            }
            self.skip(field(8).into());
        }
        seen
    }
}

#[cfg(test)]
mod tests;
