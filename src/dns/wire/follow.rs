//! Services with another name: its addresses, given as the service's own.
//!
//! The other name itself is never shown as a CNAME: beside it a name may have nothing else (RFC 2181 section 10.1), and a
//! resolver that has seen it gives no SRV there any more. Clients without a resolver of their own do not follow it either.

use std::net::IpAddr;

use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{DNSClass, Name, RData, Record, RecordType},
};
use rand::Rng;

use super::{
    Guard, MAX_UDP, ResponseCode, Transport,
    extended::Why,
    request::{Request, Sender},
};
use crate::dns::answer::{Room, Weighted, address_data, distinct, sample};

/// A question whose answer is that to another one, for a name of others.
#[derive(Clone, Debug, PartialEq)]
pub struct Follow {
    /// What to ask for.
    pub(super) question: Query,
    /// Our zone's SOA, for where the other name has no address.
    pub(super) soa: Record,
    /// Who asks,
    pub(super) sender: Sender,
    /// and from where.
    pub(super) asker: IpAddr,
}

impl Follow {
    /// What is asked for, for tests and people.
    pub fn shown(&self) -> String {
        format!("{} {}", self.question.query_type, self.question.name)
    }

    /// The other name.
    pub fn target(&self) -> &Name {
        &self.question.name
    }

    /// Whether names of others are asked for the asker.
    pub fn forwards(&self) -> bool {
        self.sender.forwards
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

/// The reply to a query whose name leads elsewhere, given what the upstream said of that: the addresses at the end of the
/// chain, for as long as the whole chain holds. The service is there in any case, so where the other name is not, it has no
/// address: NODATA. `None` for what is no query.
pub fn followed(
    packet: &[u8],
    transport: Transport,
    follow: &Follow,
    reply: &[u8],
    guard: Option<&Guard<'_>>,
    rng: &mut impl Rng,
) -> Option<Vec<u8>> {
    let mut request = Request::read(packet)?;
    request.of(&follow.sender, transport, guard);
    let Some(query) = &request.query else {
        return Some(request.reply(ResponseCode::FormErr).encode(transport, guard));
    };
    let Some(Told { addresses, ttl, is_missing }) = told(follow, reply) else {
        let mut failed = request.reply(ResponseCode::ServFail);
        failed.why = Some(Why::Unanswered);
        return Some(failed.encode(transport, guard));
    };
    let mut made = request.reply(ResponseCode::NoError);
    made.metadata.authoritative = true;
    if addresses.is_empty() {
        made.authority = Some(follow.soa.clone());
        made.why = is_missing.then_some(Why::NoOtherName);
    } else {
        let room = Room { octets: request.room(transport), asker: follow.asker };
        let addresses = distinct(addresses);
        let data = if follow.question.query_type == RecordType::A { 4 } else { 16 };
        let most = room.records(query.name.len() + 1, data);
        let record = |(address, _): &Weighted| Record::from_rdata(query.name.clone(), ttl, address_data(*address));
        if let Some(guard) = guard {
            guard.is_part.set(addresses.len() > most);
        }
        made.answers = sample(&addresses, most, room.asker, rng).iter().map(record).collect();
    }
    Some(made.encode(transport, guard))
}

/// What an upstream has said.
struct Told {
    /// Those at the end of the chain.
    addresses: Vec<Weighted>,
    /// How long the chain holds.
    ttl: u32,
    /// There is no such name.
    is_missing: bool,
}

/// Reads an upstream's message; `None`: it is no answer.
fn told(follow: &Follow, reply: &[u8]) -> Option<Told> {
    let told = Message::from_vec(reply).ok()?;
    let is_missing = match told.metadata.response_code {
        ResponseCode::NoError => false,
        ResponseCode::NXDomain => true,
        _ => return None,
    };
    let (mut name, mut ttl, mut addresses) = (follow.question.name.clone(), u32::MAX, Vec::new());
    for record in &told.answers {
        if record.dns_class != DNSClass::IN || record.name != name {
            continue;
        }
        let address = match &record.data {
            RData::CNAME(next) => {
                name = next.0.clone();
                None
            }
            RData::A(address) if follow.question.query_type == RecordType::A => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) if follow.question.query_type == RecordType::AAAA => Some(IpAddr::V6(address.0)),
            _ => continue,
        };
        ttl = ttl.min(record.ttl);
        addresses.extend(address.map(|address| (address, 1)));
    }
    Some(Told { addresses, ttl, is_missing })
}
