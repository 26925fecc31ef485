//! Replies: sections to octets, within what the client takes and what is fair.

use hickory_proto::{
    op::{Header, HeaderCounts, Metadata},
    rr::Record,
    serialize::binary::{BinEncodable, BinEncoder},
};

use super::{Guard, HEADER, MAX_UDP_PLAIN, Transport, extended::Why, request::Request};

/// A reply in the making.
pub(super) struct Reply<'r> {
    pub(super) request: &'r Request,
    pub(super) metadata: Metadata,
    pub(super) answers: Vec<Record>,
    pub(super) authority: Option<Record>,
    pub(super) additionals: Vec<Record>,
    /// Why there is no answer, for clients that speak EDNS.
    pub(super) why: Option<Why>,
}

impl Reply<'_> {
    /// Its octets. What is longer than fair goes to an address that may be forged only if the guard allows that.
    pub(super) fn encode(&self, transport: Transport, guard: Option<&Guard<'_>>) -> Vec<u8> {
        let opt = self.request.opt(self.why);
        let whole = self.write(self.request.limit(transport), opt.as_deref(), false);
        let Some(fair) = self.request.fair.filter(|fair| *fair < whole.len()) else { return whole };
        if guard.is_some_and(|guard| (guard.allows)(whole.len() - fair)) {
            return whole;
        }
        // Header, question and OPT always fit: a query has them, too, and a cookie's first half.
        let least = HEADER + self.request.question_length() + opt.as_ref().map_or(0, Vec::len);
        self.write(fair.max(least), opt.as_deref(), true)
    }

    fn write(&self, limit: usize, opt: Option<&[u8]>, is_careful: bool) -> Vec<u8> {
        let mut metadata = self.metadata;
        let mut packet = Vec::with_capacity(usize::from(MAX_UDP_PLAIN));
        let mut encoder = BinEncoder::new(&mut packet);
        let mut counts = HeaderCounts::default();
        let room = limit - opt.map_or(0, <[u8]>::len);
        encoder.set_max_size(u16::try_from(room).unwrap_or(u16::MAX));

        let place = encoder.place::<Header>().expect("there is room for a header");
        if let Some(query) = &self.request.query {
            query.emit(&mut encoder).expect("there is room for a header and a question");
            counts.queries = 1;
        }
        counts.answers = emit_until_full(&mut encoder, &self.answers);
        metadata.truncation |= usize::from(counts.answers) < self.answers.len();
        if !metadata.truncation {
            counts.authorities = emit_until_full(&mut encoder, self.authority.as_slice());
            for set in self.additionals.chunk_by(|a, b| a.name == b.name) {
                let start = encoder.offset();
                let emitted = emit_until_full(&mut encoder, set);
                if usize::from(emitted) < set.len() {
                    encoder.set_offset(start);
                    encoder.trim();
                    // Who must be careful with us shall still learn them, over TCP.
                    metadata.truncation = is_careful;
                    break;
                }
                counts.additionals += emitted;
            }
        }
        counts.additionals += u16::from(opt.is_some());
        place.replace(&mut encoder, Header { metadata, counts }).expect("the header's place was taken before");
        drop(encoder);
        if let Some(opt) = opt {
            let at = packet.len();
            packet.extend_from_slice(opt);
            // The code's upper bits stand where other records have their TTL (RFC 6891 section 6.1.3).
            packet[at + 5] = metadata.response_code.high();
        }
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
