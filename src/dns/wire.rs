//! Packets to questions, and answers to packets: everything of DNS that is not about names.
//!
//! A packet is read as far as it goes (`request.rs`). What cannot be read harms only itself: without a header there is none to
//! answer, with one the reply says FORMERR. A response is never answered, so that two servers cannot be made to talk
//! to each other for ever (RUSTSEC-2023-0041).
//!
//! The reply's question section is the query's, octet for octet: resolvers hide bits in the letter case (0x20).
//! A reply over UDP holds at most what the client said it takes, never over [`MAX_UDP`], and 512 octets for a client
//! without EDNS. Where the answer is longer, the records that fit stay and TC is set (RFC 2181 section 9): those who
//! can will ask over TCP, and those who cannot (musl before 1.2.4) still hold addresses that work. In ADDITIONAL the
//! addresses of a name come all together or not at all, and their absence sets no TC, unless it is the guard's doing.
//! (`reply.rs`)
//!
//! An address from elsewhere may have been written into the query by others. What is sent there beyond three octets for one
//! that came is limited ([`Guard`]), unless it shows a cookie of ours.

use std::{cell::Cell, net::IpAddr};

use hickory_proto::op::Query;
use rand::Rng;

pub use hickory_proto::op::ResponseCode;

mod empty;
mod extended;
mod follow;
mod padding;
mod reply;
mod request;

pub use empty::from_empty_zone;
pub use extended::Why;
pub use follow::{Follow, followed};
pub use padding::{asks_for_padding, pad};
pub(in crate::dns) use request::walk_options;

use super::{
    answer::{Answer, Room, Snapshot, Source, answer},
    cookie::Cookies,
};
use request::{Request, Sender};

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

/// Options of EDNS: who answers (RFC 5001), cookies (RFC 7873 section 4), padding (RFC 7830).
const NSID: u16 = 3;
const COOKIE: u16 = 10;
const PADDING: u16 = 12;

/// How many octets leave over UDP for one that came, without asking whether more are allowed, for a client that has not proven
/// its address.
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
    /// Ask an upstream for the addresses of the service's other name, then reply with [`followed`].
    Follow(Box<Follow>),
    /// Well formed, but the asker is not known yet: try again within 100 ms, then give up with [`failure`].
    Wait,
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
#[derive(Clone, Copy)]
pub struct Guard<'a> {
    /// What makes cookies.
    pub cookies: &'a Cookies,
    /// Where the packet says that it comes from.
    pub address: IpAddr,
    /// Seconds since 1970.
    pub now: u32,
    /// How often that one was answered.
    pub pace: Pace,
    /// Whether so many octets beyond [`MAX_AMPLIFICATION`] times the query's may go there.
    pub allows: &'a dyn Fn(usize) -> bool,
    /// Set where there are more addresses than the reply holds.
    pub is_part: &'a Cell<bool>,
}

/// Decides on one packet of `source`, whose `address` is beyond doubt: it came over a stream, or from ourselves.
pub fn respond(
    snapshot: &Snapshot<'_>,
    source: &Source,
    address: IpAddr,
    packet: &[u8],
    transport: Transport,
    rng: &mut impl Rng,
) -> Outcome {
    decide(snapshot, source, address, packet, transport, None, rng)
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
    decide(snapshot, source, guard.address, packet, transport, Some(guard), rng)
}

fn decide(
    snapshot: &Snapshot<'_>,
    source: &Source,
    address: IpAddr,
    packet: &[u8],
    transport: Transport,
    guard: Option<&Guard<'_>>,
    rng: &mut impl Rng,
) -> Outcome {
    let Some(mut request) = Request::read(packet) else { return Outcome::Drop };
    let sender = Sender::of(snapshot, source);
    request.of(&sender, transport, guard);
    if request.fair.is_some() {
        match guard.map_or(Pace::Answer, |guard| guard.pace) {
            Pace::Answer => {}
            Pace::Truncate => {
                let mut reply = request.reply(ResponseCode::NoError);
                reply.metadata.truncation = true;
                return Outcome::Reply(reply.encode(transport, guard));
            }
            Pace::Drop => return Outcome::Drop,
        }
    }
    let refuse = |code, why| {
        let mut reply = request.reply(code);
        reply.why = why;
        Outcome::Reply(reply.encode(transport, guard))
    };
    if request.asks_for_cookie() {
        return refuse(ResponseCode::NoError, None);
    }
    let query = match request.check() {
        Ok(query) => query,
        Err((code, why)) => return refuse(code, why),
    };
    if sender.is_unknown {
        return Outcome::Wait;
    }
    let mut reply = request.reply(ResponseCode::NoError);
    let room = Room { octets: request.room(transport), asker: address };
    match answer(snapshot, source, &query.name, query.query_type, room, rng) {
        Answer::Records { answers, additionals, is_part } => {
            if let Some(guard) = guard {
                guard.is_part.set(is_part);
            }
            reply.answers = answers;
            reply.additionals = additionals;
        }
        Answer::NoData(soa) => reply.authority = Some(*soa),
        Answer::NoName(soa) => {
            reply.metadata.response_code = ResponseCode::NXDomain;
            reply.authority = Some(*soa);
        }
        Answer::Elsewhere { .. } if !snapshot.settings.forwarding => {
            return refuse(ResponseCode::ServFail, Some(Why::NoUpstream));
        }
        Answer::Elsewhere { target, soa } => {
            let question = Query::query(target, query.query_type);
            return Outcome::Follow(Box::new(Follow { question, soa: *soa, sender, asker: address }));
        }
        Answer::NotYet => return refuse(ResponseCode::ServFail, Some(Why::NotListed)),
        Answer::Refused => {
            let why = match source {
                _ if !snapshot.settings.forwarding => Why::NoUpstream,
                Source::Container(_) => Why::Internal,
                _ => Why::NotOurs,
            };
            return refuse(ResponseCode::Refused, Some(why));
        }
        Answer::AskYourHost => return refuse(ResponseCode::Refused, Some(Why::AskYourHost)),
        Answer::Forward => return Outcome::Forward(query.clone()),
    }
    reply.metadata.authoritative = true;
    Outcome::Reply(reply.encode(transport, guard))
}

/// A reply that carries nothing but `code`, and why, for a query that was not answered. `forwards`: names of others are asked
/// for its sender. It fits into any datagram. `None` for what is no query, which must not be answered.
pub fn failure(packet: &[u8], code: ResponseCode, why: Option<Why>, forwards: bool) -> Option<Vec<u8>> {
    let mut request = Request::read(packet)?;
    request.forwards = forwards;
    let mut reply = request.reply(code);
    reply.why = why;
    Some(reply.encode(Transport::Udp, None))
}

#[cfg(test)]
mod tests;
