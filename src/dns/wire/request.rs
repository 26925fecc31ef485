//! Queries: what a packet says, and what its reply depends on besides the answer.

use std::sync::Arc;

use hickory_proto::{
    op::{Edns, Header, MessageType, Metadata, OpCode, Query},
    rr::{DNSClass, Name, RecordType},
    serialize::binary::{BinDecodable, BinDecoder, DecodeError},
};

use super::{
    COOKIE, Guard, HEADER, MAX_AMPLIFICATION, MAX_UDP, MAX_UDP_PLAIN, NSID, OPT_LENGTH, PADDING, ResponseCode,
    Transport,
    extended::{EXTENDED, Why},
    own_opt,
    reply::Reply,
};
use crate::dns::{
    answer::{Snapshot, Source, may_forward},
    cookie::{CLIENT, SERVER},
};

/// As much of a query as could be read, and what is known of who sent it.
pub(super) struct Request {
    pub(super) header: Header,
    /// The question, if there is exactly one and it is well formed.
    pub(super) query: Option<Query>,
    /// What it says of itself by EDNS; an error where the rest of the packet could not be read.
    pub(super) edns: Result<Option<Edns>, Malformed>,
    /// Octets of the packet.
    length: usize,
    /// The data of its cookie option.
    cookie: Option<Vec<u8>>,
    /// It wants to know who answers.
    asks_for_id: bool,
    /// The cookie to hand back.
    pub(super) given: Option<[u8; CLIENT + SERVER]>,
    /// Who answers, where it is told so.
    pub(super) id: Option<Arc<str>>,
    /// Names of others are asked for this asker: RA.
    pub(super) forwards: bool,
    /// The longest reply over UDP that nothing stands against, where the sender's address may be forged.
    pub(super) fair: Option<usize>,
}

/// Who sent a query, as far as replies depend on it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sender {
    /// It is this host or one of its containers: no packets of others pass between them and us.
    pub(super) is_near: bool,
    /// It belongs to a Docker network of ours, but is not known yet.
    pub(super) is_unknown: bool,
    /// Names of others are asked on its behalf.
    pub(super) forwards: bool,
    /// The name of this server, which who is near may know.
    pub(super) id: Arc<str>,
}

impl Sender {
    pub(super) fn of(snapshot: &Snapshot<'_>, source: &Source) -> Self {
        let is_unknown = *source == Source::Unknown;
        Self {
            is_near: matches!(source, Source::Container(_) | Source::Host),
            is_unknown,
            forwards: !is_unknown && may_forward(snapshot, source),
            id: Arc::clone(&snapshot.settings.host),
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub(in crate::dns) struct Malformed;

impl From<DecodeError> for Malformed {
    fn from(_: DecodeError) -> Self {
        Self
    }
}

impl Request {
    /// `None` for what is shorter than a header, and for responses.
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let mut decoder = BinDecoder::new(packet);
        let header = Header::read(&mut decoder).ok().filter(|header| header.message_type == MessageType::Query)?;
        let query = (header.counts.queries == 1).then(|| read_question(&mut decoder)).and_then(Result::ok);
        let mut wants = Wants::default();
        let readable = query.is_some() || header.counts.queries == 0;
        let edns = if readable { read_edns(&mut decoder, &header, &mut wants) } else { Err(Malformed) };
        Some(Self {
            header,
            query,
            edns,
            length: packet.len(),
            cookie: wants.cookie,
            asks_for_id: wants.id,
            given: None,
            id: None,
            forwards: false,
            fair: None,
        })
    }

    /// Takes up who has sent it. `guard`: its address may be forged.
    pub(super) fn of(&mut self, sender: &Sender, transport: Transport, guard: Option<&Guard<'_>>) {
        self.forwards = sender.forwards;
        if sender.is_near && self.asks_for_id {
            self.id = Some(Arc::clone(&sender.id));
        }
        let Some(guard) = guard else { return };
        // Between containers of one host and the host no packets of others pass, and nothing is to be proven. A client that
        // was once given a cookie drops every reply without one (RFC 7873 section 5.3); but what an upstream has said
        // carries none, and only for these it is asked. So to them we are a server that knows no cookies.
        let shows_ours = !sender.is_near && !sender.is_unknown && self.shows_a_cookie_of_ours(guard);
        if transport == Transport::Udp && !sender.is_near && !shows_ours {
            self.fair = Some(self.length.saturating_mul(MAX_AMPLIFICATION));
        }
    }

    /// Takes up what the cookie option says. One that is malformed makes the whole query so (RFC 7873 section 5.2.2).
    fn shows_a_cookie_of_ours(&mut self, guard: &Guard<'_>) -> bool {
        let Some(option) = &self.cookie else { return false };
        let Ok(shown) = guard.cookies.read(option, guard.address, guard.now) else {
            self.edns = Err(Malformed);
            return false;
        };
        self.given = Some(guard.cookies.answer(&shown.client, guard.address, guard.now));
        shown.is_ours
    }

    /// Octets for records in a reply over this transport: behind the question, and without OPT.
    pub(super) fn room(&self, transport: Transport) -> usize {
        self.limit(transport) - self.opt(None).map_or(0, |opt| opt.len()) - HEADER - self.question_length()
    }

    /// Octets of the question: name, type and class.
    pub(super) fn question_length(&self) -> usize {
        self.query.as_ref().map_or(0, |query| query.name.len() + 1 + 4)
    }

    /// The longest reply that the client takes.
    pub(super) fn limit(&self, transport: Transport) -> usize {
        let limit = match (transport, self.asked()) {
            (Transport::Tcp, _) => u16::MAX,
            (Transport::Udp, None) => MAX_UDP_PLAIN,
            (Transport::Udp, Some(edns)) => edns.max_payload().clamp(MAX_UDP_PLAIN, MAX_UDP),
        };
        limit.into()
    }

    fn asked(&self) -> Option<&Edns> {
        self.edns.as_ref().ok().and_then(Option::as_ref)
    }

    /// The OPT record of a reply, without the upper bits of its code; `None` for a client without EDNS.
    pub(super) fn opt(&self, why: Option<Why>) -> Option<Vec<u8>> {
        // DO is copied (RFC 3225 section 3), the rest of the flags is ours and zero.
        let mut opt = own_opt(self.asked()?.flags().dnssec_ok).to_vec();
        let mut put = |code: u16, data: &[u8]| {
            opt.extend(code.to_be_bytes());
            opt.extend(u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
            opt.extend(data);
        };
        if let Some(given) = &self.given {
            put(COOKIE, given);
        }
        if let Some(id) = &self.id {
            put(NSID, id.as_bytes());
        }
        if let Some(why) = why {
            put(EXTENDED, &why.data());
        }
        let length = u16::try_from(opt.len()).unwrap_or(u16::MAX) - OPT_LENGTH;
        opt[usize::from(OPT_LENGTH) - 2..usize::from(OPT_LENGTH)].copy_from_slice(&length.to_be_bytes());
        Some(opt)
    }

    /// Whether it has no question and wants nothing but a cookie (RFC 7873 section 5.4).
    pub(super) fn asks_for_cookie(&self) -> bool {
        self.header.op_code == OpCode::Query
            && self.header.counts.queries == 0
            && self.given.is_some()
            && self.edns.as_ref().is_ok_and(|edns| edns.as_ref().is_some_and(|edns| edns.version() == 0))
    }

    /// The question, if it is one that we answer or forward. The first thing wrong decides.
    pub(super) fn check(&self) -> Result<&Query, (ResponseCode, Option<Why>)> {
        // Other opcodes use the sections for other things, so nothing is asked of them.
        if self.header.op_code != OpCode::Query {
            return Err((ResponseCode::NotImp, Some(Why::Unsupported)));
        }
        let (Some(query), Ok(edns)) = (&self.query, &self.edns) else { return Err((ResponseCode::FormErr, None)) };
        if edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return Err((ResponseCode::BADVERS, None));
        }
        let is_transfer = matches!(query.query_type, RecordType::AXFR | RecordType::IXFR);
        if query.query_class != DNSClass::IN || is_transfer {
            return Err((ResponseCode::Refused, Some(Why::Unsupported)));
        }
        Ok(query)
    }

    pub(super) fn reply(&self, code: ResponseCode) -> Reply<'_> {
        let mut metadata = Metadata::response_from_request(&self.header.metadata);
        // Nothing of ours is signed, so there is nothing whose check could be disabled (RFC 4035 section 3.1.6).
        metadata.checking_disabled = false;
        // What the other flags mean for other opcodes is theirs to say (RFC 8906 section 8.1.2).
        metadata.recursion_available = self.forwards && self.header.op_code == OpCode::Query;
        metadata.response_code = code;
        Reply { request: self, metadata, answers: Vec::new(), authority: None, additionals: Vec::new(), why: None }
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
fn read_edns(decoder: &mut BinDecoder<'_>, header: &Header, wants: &mut Wants) -> Result<Option<Edns>, Malformed> {
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
        let options = walk_options(data)?;
        *wants = Wants { cookie: options.cookie.map(<[u8]>::to_vec), id: options.id };
        let [_, version, flags, _] = ttl.to_be_bytes();
        let mut read = Edns::new();
        read.set_version(version).set_max_payload(class).set_dnssec_ok(flags & 0x80 != 0);
        edns = Some(read);
    }
    if decoder.is_empty() { Ok(edns) } else { Err(Malformed) }
}

/// What a query's options ask for.
#[derive(Default)]
struct Wants {
    cookie: Option<Vec<u8>>,
    id: bool,
}

/// The options that mean anything to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::dns) struct Options<'p> {
    /// The first cookie (RFC 7873 section 5.2).
    pub(super) cookie: Option<&'p [u8]>,
    /// Who answers is asked (RFC 5001 section 2.1).
    pub(super) id: bool,
    /// The reply is to be padded (RFC 7830 section 4).
    pub(super) padding: bool,
}

/// Options must be whole; unknown ones are ignored (RFC 6891 section 6.1.2).
pub(in crate::dns) fn walk_options(data: &[u8]) -> Result<Options<'_>, Malformed> {
    let mut decoder = BinDecoder::new(data);
    let mut options = Options::default();
    while !decoder.is_empty() {
        let code = decoder.read_u16()?.unverified(/* any value is a code */);
        let length = decoder.read_u16()?.unverified(/* read_slice checks it */);
        let value = decoder.read_slice(length.into())?.unverified(/* cookie.rs looks at it */);
        match code {
            COOKIE => options.cookie = options.cookie.or(Some(value)),
            NSID => options.id = true,
            PADDING => options.padding = true,
            _ => {}
        }
    }
    Ok(options)
}
