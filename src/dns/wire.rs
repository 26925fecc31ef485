//! Packets to questions, and answers to packets: everything of DNS that is not about names.
//!
//! A packet is read as far as it goes. What cannot be read harms only itself: without a header there is nobody to
//! answer, with one the reply says FORMERR. A response is never answered, so that two servers cannot be made to talk
//! to each other for ever (RUSTSEC-2023-0041).
//!
//! The reply's question section is the query's, octet for octet: resolvers hide bits in the letter case (0x20).
//! A reply over UDP holds at most what the client said it takes, never over [`MAX_UDP`], and 512 octets for a client
//! without EDNS. Where the answer is longer, the records that fit stay and TC is set (RFC 2181 section 9): those who
//! can will ask over TCP, and those who cannot (musl before 1.2.4) still hold addresses that work. In ADDITIONAL the
//! addresses of a name come all together or not at all, and their absence sets no TC, unless it is the guard's doing.
//!
//! Whose address anybody may have written into the query ([`Guard`]) gets no more than three times the octets that it sent,
//! and not more often than is fair, unless it shows a cookie of ours.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::opt::EdnsOption},
    serialize::binary::{BinDecodable, BinDecoder, BinEncodable, BinEncoder, DecodeError},
};
use rand::Rng;

pub use hickory_proto::op::ResponseCode;

mod empty;

pub use empty::from_empty_zone;

use super::{
    answer::{Answer, Snapshot, Source, answer, may_forward},
    cookie::{CLIENT, Cookies, SERVER, Shown},
};

/// The longest reply over UDP: 1280 octets, which every IPv6 path carries, less 40 and 8 for its headers. No path
/// cuts it into fragments (RFC 8085 section 3.2, DNS flag day 2020).
pub const MAX_UDP: u16 = 1232;

/// The longest reply over UDP for a client without EDNS (RFC 1035 section 4.2.1).
pub const MAX_UDP_PLAIN: u16 = 512;

/// Octets of the header (RFC 1035 section 4.1.1).
pub(super) const HEADER: usize = 12;

/// Octets of [`own_opt`].
pub(super) const OPT_LENGTH: u16 = 1 + 2 + 2 + 4 + 2;

/// The OPT record of our own messages: root, type, size, version and flags, no options; DO as the other end has it (RFC 3225
/// section 3).
pub(super) fn own_opt(dnssec_ok: bool) -> [u8; OPT_LENGTH as usize] {
    let [high, low] = MAX_UDP.to_be_bytes();
    [0, 0, 41, high, low, 0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]
}

/// The cookie option (RFC 7873 section 4): its code, and what it takes in a reply.
const COOKIE: u16 = 10;
const COOKIE_LENGTH: u16 = 2 + 2 + 8 + 16;
const _: () = assert!(COOKIE_LENGTH as usize == 4 + CLIENT + SERVER);

/// An extended error (RFC 8914): its option's code, its own code and what people read.
const EXTENDED: u16 = 15;
type Extended = (u16, &'static str);

/// Not Authoritative (RFC 8914 section 4.21). Of up to 48 octets, so that even the shortest query with EDNS gets no reply of
/// more than three times its octets: 33 + name + text against 3 x (27 + name).
const ASK_YOUR_HOST: Extended = (20, "not in default or global: ask your own host");
const _: () = assert!(ASK_YOUR_HOST.1.len() <= 48);

/// How many octets leave over UDP for one that came, at most, for a client that has not proven its address.
pub const MAX_AMPLIFICATION: usize = 3;

/// What the query came over, and the reply goes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream; packets are given and taken without the two octets of length.
    Tcp,
}

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Send this.
    Reply(Vec<u8>),
    /// Say nothing.
    Drop,
    /// Ask an upstream for that on behalf of the asker, with the packet's own flags and options.
    Forward(Query),
    /// Ask an upstream for where the name leads, then reply with [`followed`].
    Follow(Box<Follow>),
    /// Well formed, but the asker is not known yet: try again within 100 ms, then give up with [`failure`].
    Wait,
}

/// A name of ours that has another name, somebody else's.
#[derive(Clone, Debug, PartialEq)]
pub struct Follow {
    /// The CNAME record.
    record: Record,
    /// What to ask for.
    question: Query,
}

impl Follow {
    /// Owner, other name and what is asked for, for tests and people.
    pub fn shown(&self) -> String {
        format!("{} {}", self.question.query_type, self.question.name)
    }

    /// The CNAME record.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The query to send to an upstream, which is given an id when it is sent. It carries EDNS, so that most answers fit
    /// into one datagram.
    pub fn query(&self) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(self.question.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP);
        message.set_edns(edns);
        message.to_vec().unwrap_or_default()
    }
}

/// Records of an upstream that are handed on behind a CNAME of ours: some names on the way, and their addresses.
const MAX_FOLLOWED: usize = 32;

/// The reply to a query whose name led elsewhere, given what the upstream said of that. The response code is that of the
/// last name (RFC 6604 section 3). Only what belongs to the chain is handed on.
pub fn followed(packet: &[u8], transport: Transport, follow: &Follow, reply: &[u8]) -> Option<Vec<u8>> {
    let request = Request::read(packet)?;
    let failed = || Some(request.reply(ResponseCode::ServFail).encode(transport));
    let Ok(told) = Message::from_vec(reply) else { return failed() };
    let code = told.metadata.response_code;
    if !matches!(code, ResponseCode::NoError | ResponseCode::NXDomain) {
        return failed();
    }
    let mut answers = vec![follow.record.clone()];
    let mut name = follow.question.name.clone();
    let kind = follow.question.query_type;
    for record in told.answers.iter().take(MAX_FOLLOWED) {
        if record.dns_class != DNSClass::IN || record.name != name {
            continue;
        }
        match &record.data {
            RData::CNAME(next) => name = next.0.clone(),
            _ if record.record_type() == kind => {}
            _ => continue,
        }
        answers.push(record.clone());
    }
    let mut made = request.reply(code);
    made.answers = answers;
    made.metadata.authoritative = true;
    made.metadata.recursion_available = true;
    Some(made.encode(transport))
}

/// How often a client was answered lately.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// Not too often: answer.
    #[default]
    Answer,
    /// Too often: say that the answer is longer than fits, so that a real client asks over TCP.
    Truncate,
    /// Too often: say nothing.
    Drop,
}

/// What protects others from those who write foreign addresses into queries.
#[derive(Clone, Copy, Debug)]
pub struct Guard<'a> {
    /// What makes cookies.
    pub cookies: &'a Cookies,
    /// Where the packet says that it comes from.
    pub address: IpAddr,
    /// Seconds since 1970.
    pub now: u32,
    /// How often that one was answered.
    pub pace: Pace,
}

/// Decides on one packet of `source`, whose address is beyond doubt: it came over a stream, or from ourselves.
pub fn respond(
    snapshot: &Snapshot<'_>,
    source: &Source,
    packet: &[u8],
    transport: Transport,
    rng: &mut impl Rng,
) -> Outcome {
    decide(snapshot, source, packet, transport, None, rng)
}

/// Decides on one packet that seems to come from `source`.
pub fn respond_guarded(
    snapshot: &Snapshot<'_>,
    source: &Source,
    packet: &[u8],
    transport: Transport,
    guard: &Guard<'_>,
    rng: &mut impl Rng,
) -> Outcome {
    decide(snapshot, source, packet, transport, Some(guard), rng)
}

fn decide(
    snapshot: &Snapshot<'_>,
    source: &Source,
    packet: &[u8],
    transport: Transport,
    guard: Option<&Guard<'_>>,
    rng: &mut impl Rng,
) -> Outcome {
    let Some(mut request) = Request::read(packet) else { return Outcome::Drop };
    if let Some(guard) = guard {
        // Between containers of one host and the host nobody else's packets pass, and nothing is to be proven. A client that
        // was once given a cookie drops every reply without one (RFC 7873 section 5.3); but what an upstream has said
        // carries none, and only for these it is asked. So to them we are a server that knows no cookies.
        let is_near = matches!(source, Source::Container(_) | Source::Host);
        if !is_near && *source != Source::Unknown {
            request.look_at_cookie(guard);
        }
        let is_proven = transport == Transport::Tcp || request.shown.is_some_and(|shown| shown.is_ours);
        if !is_proven && !is_near {
            request.most = Some(packet.len().saturating_mul(MAX_AMPLIFICATION));
            match guard.pace {
                Pace::Answer => {}
                Pace::Truncate => {
                    let mut reply = request.reply(ResponseCode::NoError);
                    reply.metadata.truncation = true;
                    return Outcome::Reply(reply.encode(transport));
                }
                Pace::Drop => return Outcome::Drop,
            }
        }
    }
    let refuse = |code| Outcome::Reply(request.reply(code).encode(transport));
    if request.asks_for_cookie() {
        return refuse(ResponseCode::NoError);
    }
    let query = match request.check() {
        Ok(query) => query,
        Err(code) => return refuse(code),
    };
    if *source == Source::Unknown {
        return Outcome::Wait;
    }
    let mut reply = request.reply(ResponseCode::NoError);
    match answer(snapshot, source, &query.name, query.query_type, rng) {
        Answer::Records { answers, additionals } => {
            reply.answers = answers;
            reply.additionals = additionals;
        }
        Answer::NoData(soa) => reply.authority = Some(*soa),
        Answer::NoName(soa) => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.authority = Some(*soa);
        }
        Answer::Alias { record, target, follow: true } => {
            let question = Query::query(target, query.query_type);
            return Outcome::Follow(Box::new(Follow { record: *record, question }));
        }
        Answer::Alias { record, .. } => reply.answers = vec![*record],
        Answer::NotYet => return refuse(ResponseCode::ServFail),
        Answer::Refused => return refuse(ResponseCode::Refused),
        Answer::AskYourHost => {
            reply.metadata.response_code = ResponseCode::Refused;
            reply.extended = Some(ASK_YOUR_HOST);
            return Outcome::Reply(reply.encode(transport));
        }
        Answer::Forward => return Outcome::Forward(query.clone()),
    }
    reply.metadata.authoritative = true;
    reply.metadata.recursion_available = may_forward(snapshot, source);
    Outcome::Reply(reply.encode(transport))
}

/// A reply that carries nothing but `code`: for queries that were not answered, whatever the reason. It fits into
/// any datagram. `None` for what is no query, which must not be answered.
pub fn failure(packet: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    Some(Request::read(packet)?.reply(code).encode(Transport::Udp))
}

/// As much of a query as could be read.
struct Request {
    header: Header,
    /// The question, if there is exactly one and it is well formed.
    query: Option<Query>,
    /// What it says of itself by EDNS; an error where the rest of the packet could not be read.
    edns: Result<Option<Edns>, Malformed>,
    /// The data of its cookie option.
    cookie: Option<Vec<u8>>,
    /// What that says, and the cookie to hand back.
    shown: Option<Shown>,
    given: Option<[u8; CLIENT + SERVER]>,
    /// The longest reply over UDP, if there is reason to be careful.
    most: Option<usize>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl Request {
    /// `None` for what is shorter than a header, and for responses.
    fn read(packet: &[u8]) -> Option<Self> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).ok().filter(|header| header.message_type == MessageType::Query)?;
        let query = (header.counts.queries == 1).then(|| read_question(&mut decoder)).and_then(Result::ok);
        let mut cookie = None;
        let readable = query.is_some() || header.counts.queries == 0;
        let edns = if readable { read_edns(&mut decoder, &header, &mut cookie) } else { Err(Malformed) };
        Some(Self { header, query, edns, cookie, shown: None, given: None, most: None })
    }

    /// Takes up what the cookie option says. One that is malformed makes the whole query so (RFC 7873 section 5.2.2).
    fn look_at_cookie(&mut self, guard: &Guard<'_>) {
        let Some(option) = &self.cookie else { return };
        match guard.cookies.read(option, guard.address, guard.now) {
            Ok(shown) => {
                self.shown = Some(shown);
                self.given = Some(guard.cookies.answer(&shown.client, guard.address, guard.now));
            }
            Err(_) => self.edns = Err(Malformed),
        }
    }

    /// Whether it has no question and wants nothing but a cookie (RFC 7873 section 5.4).
    fn asks_for_cookie(&self) -> bool {
        self.header.op_code == OpCode::Query
            && self.header.counts.queries == 0
            && self.given.is_some()
            && self.edns.as_ref().is_ok_and(|edns| edns.as_ref().is_some_and(|edns| edns.version() == 0))
    }

    /// The question, if it is one that we answer or forward. The first thing wrong decides.
    fn check(&self) -> Result<&Query, ResponseCode> {
        // Other opcodes use the sections for other things, so nothing is asked of them.
        if self.header.op_code != OpCode::Query {
            return Err(ResponseCode::NotImp);
        }
        let (Some(query), Ok(edns)) = (&self.query, &self.edns) else { return Err(ResponseCode::FormErr) };
        if edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return Err(ResponseCode::BADVERS);
        }
        let is_transfer = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
        if query.query_class != DNSClass::IN || is_transfer {
            return Err(ResponseCode::Refused);
        }
        Ok(query)
    }

    fn reply(&self, code: ResponseCode) -> Reply<'_> {
        let mut metadata = Metadata::response_from_request(&self.header.metadata);
        // Nothing of ours is signed, so there is nothing whose check could be disabled (RFC 4035 section 3.1.6).
        metadata.checking_disabled = false;
        metadata.response_code = code;
        Reply { request: self, metadata, answers: Vec::new(), authority: None, additionals: Vec::new(), extended: None }
    }
}

fn read_question(decoder: &mut BinDecoder<'_>) -> Result<Query, Malformed> {
    let start = decoder.index();
    let query = Query::read(decoder)?;
    // A name as it stands is its labels, each with its length, the root, type and class. Shorter: it was compressed,
    // into the header, as nothing else stands before it.
    let whole = query.name.iter().map(|label| label.len() + 1).sum::<usize>() + 1 + 4;
    if decoder.index() - start == whole { Ok(query) } else { Err(Malformed) }
}

/// Walks the records after the question. Only OPT matters; the others must merely be whole, and nothing may follow.
fn read_edns(
    decoder: &mut BinDecoder<'_>,
    header: &Header,
    cookie: &mut Option<Vec<u8>>,
) -> Result<Option<Edns>, Malformed> {
    let outside = u32::from(header.counts.answers) + u32::from(header.counts.authorities);
    let mut edns = None;
    for place in 0..outside + u32::from(header.counts.additionals) {
        let owner = Name::read(decoder)?;
        let kind = RecordType::read(decoder)?;
        let class = decoder.read_u16()?.unverified(/* any value is a class, or the size that a client takes */);
        let ttl = decoder.read_u32()?.unverified(/* any value is a TTL, or version and flags */);
        let length = decoder.read_u16()?.unverified(/* read_slice checks it */);
        let data = decoder.read_slice(length.into())?.unverified(/* options are walked below, the rest is skipped */);
        if kind != RecordType::OPT {
            continue;
        }
        // One OPT, in ADDITIONAL, owned by the root, with whole options (RFC 6891 sections 6.1.1 and 6.1.2).
        if edns.is_some() || place < outside || !owner.is_root() {
            return Err(Malformed);
        }
        *cookie = walk_options(data)?.map(<[u8]>::to_vec);
        let [_, version, flags, _] = ttl.to_be_bytes();
        let mut read = Edns::new();
        read.set_version(version).set_max_payload(class).set_dnssec_ok(flags & 0x80 != 0);
        edns = Some(read);
    }
    if decoder.is_empty() { Ok(edns) } else { Err(Malformed) }
}

/// Options must be whole; of all there are only the first cookie means anything to us (RFC 6891 section 6.1.2, RFC 7873
/// section 5.2).
pub(super) fn walk_options(data: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut decoder = BinDecoder::new(data);
    let mut cookie = None;
    while !decoder.is_empty() {
        let code = decoder.read_u16()?.unverified(/* any value is a code */);
        let length = decoder.read_u16()?.unverified(/* read_slice checks it */);
        let value = decoder.read_slice(length.into())?.unverified(/* cookie.rs looks at it */);
        if code == COOKIE {
            cookie = cookie.or(Some(value));
        }
    }
    Ok(cookie)
}

/// A reply in the making.
struct Reply<'r> {
    request: &'r Request,
    metadata: Metadata,
    answers: Vec<Record>,
    authority: Option<Record>,
    additionals: Vec<Record>,
    /// Why it is refused, for clients that speak EDNS.
    extended: Option<Extended>,
}

impl Reply<'_> {
    fn encode(mut self, transport: Transport) -> Vec<u8> {
        let asked = self.request.edns.as_ref().ok().and_then(Option::as_ref);
        let given = self.request.given.filter(|_| asked.is_some());
        let opt = match asked {
            Some(_) => {
                // Code and length, then the two octets of the error's own code.
                let extended =
                    self.extended.map_or(0, |(_, text)| 4 + 2 + u16::try_from(text.len()).unwrap_or(u16::MAX));
                OPT_LENGTH + given.map_or(0, |_| COOKIE_LENGTH) + extended
            }
            None => 0,
        };
        let limit = match (transport, asked) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => MAX_UDP_PLAIN,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(MAX_UDP_PLAIN, MAX_UDP),
        };
        // Header, question and OPT always fit: a query has them, too, and a cookie's first half.
        let least = HEADER + self.request.query.as_ref().map_or(0, |query| query.name.len() + 1 + 4) + usize::from(opt);
        let (limit, is_careful) = match (transport, self.request.most.map(|most| u16::try_from(most.max(least)))) {
            (Transport::Udp, Some(Ok(most))) if most < limit => (most, true),
            _ => (limit, false),
        };
        let mut packet = Vec::with_capacity(usize::from(MAX_UDP_PLAIN));
        let mut encoder = BinEncoder::new(&mut packet);
        let mut counts = HeaderCounts::default();
        encoder.set_max_size(limit - opt);

        let place = encoder.place::<Header>().expect("a header fits into 501 octets");
        if let Some(query) = &self.request.query {
            query.emit(&mut encoder).expect("a header and a question of at most 259 octets fit into 501 octets");
            counts.queries = 1;
        }
        counts.answers = emit_until_full(&mut encoder, &self.answers);
        self.metadata.truncation |= usize::from(counts.answers) < self.answers.len();
        if !self.metadata.truncation {
            counts.authorities = emit_until_full(&mut encoder, self.authority.as_slice());
            for set in self.additionals.chunk_by(|a, b| a.name == b.name) {
                let start = encoder.offset();
                let emitted = emit_until_full(&mut encoder, set);
                if usize::from(emitted) < set.len() {
                    encoder.set_offset(start);
                    encoder.trim();
                    // Who must be careful with us shall still learn them, over TCP.
                    self.metadata.truncation = is_careful;
                    break;
                }
                counts.additionals += emitted;
            }
        }
        if let Some(asked) = asked {
            encoder.set_max_size(limit);
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP).set_rcode_high(self.metadata.response_code.high());
            // DO is copied (RFC 3225 section 3), the rest of the flags is ours and zero.
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            if let Some(given) = given {
                edns.options_mut().insert(EdnsOption::Unknown(COOKIE, given.to_vec()));
            }
            if let Some((code, text)) = self.extended {
                let data = [&code.to_be_bytes(), text.as_bytes()].concat();
                edns.options_mut().insert(EdnsOption::Unknown(EXTENDED, data));
            }
            edns.emit(&mut encoder).expect("room was left for it");
            counts.additionals += 1;
        }
        let header = Header { metadata: self.metadata, counts };
        place.replace(&mut encoder, header).expect("the header's place was taken before");
        packet
    }
}

/// Writes records for as long as they fit; whatever is wrong with one leaves it and the rest out.
fn emit_until_full(encoder: &mut BinEncoder<'_>, records: &[Record]) -> u16 {
    let mut count = 0;
    for record in records {
        let start = encoder.offset();
        if record.emit(encoder).is_err() {
            encoder.set_offset(start);
            encoder.trim();
            break;
        }
        count += 1;
    }
    count
}

#[cfg(test)]
mod tests;
