//! Replies from empty zones: what is said of a site's name where no upstream may be asked for it.

use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{NS, SOA},
};

use super::{ResponseCode, Transport, request::Request};

/// Seconds for which the "no" may be kept. RFC 6303 section 3 takes three hours, for zones that are empty for good; ours
/// are as long as no upstream of the site is known, and a DHCP lease changes that.
const NEGATIVE_TTL: u32 = 1;

/// What the empty zone with so many labels of the query's name says: SOA and NS of its own name, and that nothing else
/// exists. Both are as RFC 6303 section 3 has them. `None` for what is no query.
pub fn from_empty_zone(packet: &[u8], labels: usize, transport: Transport) -> Option<Vec<u8>> {
    let request = Request::read(packet)?;
    let Some(query) = &request.query else {
        return Some(request.reply(ResponseCode::FormErr).encode(transport, None));
    };
    let zone = query.name.trim_to(labels);
    let contact = Name::from_labels([b"nobody".as_slice(), b"invalid"]).expect("two short labels are a name");
    let data = SOA::new(zone.to_lowercase(), contact, 1, 3600, 1200, 604_800, NEGATIVE_TTL);
    let soa = Record::from_rdata(zone.clone(), NEGATIVE_TTL, RData::SOA(data));
    let mut reply = request.reply(ResponseCode::NoError);
    let is_apex = query.name.iter().count() == labels;
    match query.query_type {
        RecordType::SOA if is_apex => reply.answers = vec![soa],
        RecordType::NS if is_apex => {
            let data = RData::NS(NS(zone.to_lowercase()));
            reply.answers = vec![Record::from_rdata(zone.clone(), NEGATIVE_TTL, data)];
        }
        _ => {
            if !is_apex {
                reply.metadata.response_code = ResponseCode::NXDomain;
            }
            reply.authority = Some(soa);
        }
    }
    reply.metadata.authoritative = true;
    reply.metadata.recursion_available = true;
    Some(reply.encode(transport, None))
}
