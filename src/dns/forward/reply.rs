//! From what an upstream says to what can be kept, and from that to what a client gets. Pure.
//!
//! An upstream's message is read once. What stays is the header's response code and AD, the question, and the records as
//! they stand, each TTL capped, with a list of where the TTLs are; OPT goes, and with it every option, for EDNS is
//! between two neighbours only (RFC 6891 section 6.1.1). So a client's reply is a copy of it with a few octets patched:
//! id, flags, letter case, TTLs counted down, an OPT of our own. Compression pointers lead backwards and nothing is ever
//! taken from the middle, so they stay right.

use super::{
    super::wire::{HEADER, OPT_LENGTH, Transport, own_opt},
    message::{AD, Asked, CD, Compression, DO, OPT, Question, RD, name_end, read_u16, read_u32},
    private::leads_inside,
};

/// The longest that a positive answer is held to be true: a day. RFC 8767 section 4 caps at a week; what runs for longer
/// than a day is asked for again anyway.
pub(super) const MAX_TTL: u32 = 24 * 3600;

/// The longest that an absence is held to be true. RFC 2308 section 5 finds one to three hours sensible; a name that is
/// made later is found within the shortest of that.
pub(super) const MAX_NEGATIVE_TTL: u32 = 3600;

/// The TTL of an answer that is older than it should be (RFC 8767 section 4).
pub(super) const STALE_TTL: u32 = 30;

const NOERROR: u8 = 0;
const NXDOMAIN: u8 = 3;

const SOA: u16 = 6;
const ANY: u16 = 255;
/// Transaction signatures (RFC 8945, RFC 2931): between two neighbours only, and always behind everything else.
const TSIG: u16 = 250;
const SIG: u16 = 24;

/// Octets of a record behind its owner: type, class, TTL and length.
const FIXED: usize = 10;

/// An answer that can be handed to whoever asks the same.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The message without OPT, then two octets for the place of each TTL.
    octets: Box<[u8]>,
    /// Where the message ends.
    message: u16,
    /// Where ADDITIONAL begins, which may be left out.
    additional: u16,
    /// Seconds for which it is true; 0: for this moment only.
    pub(super) lifetime: u32,
    /// Where it tells of addresses inside somebody's network.
    pub(super) inside: Inside,
}

/// Where a reply tells of addresses inside somebody's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    Nowhere,
    /// Beside the answer: a mail host's, for one.
    Additional,
    Answer,
}

/// How old an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Age {
    /// So many seconds, and still true.
    Seconds(u32),
    /// Older than it should be, but all there is.
    Stale,
}

impl Reply {
    /// Reads a message that answers our query. `None`: it is broken, or its response code is one that EDNS's upper bits
    /// make, which no question of ours can have asked for.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let question = Question::of(message)?;
        let counts = [read_u16(message, 6)?, read_u16(message, 8)?, read_u16(message, 10)?];
        let mut octets = message.to_vec();
        let mut places = Vec::with_capacity(counts.iter().map(|count| usize::from(*count)).sum::<usize>().min(256));
        let mut walk = Walk { at: question.end(), lowest: u32::MAX, has_kind: false, has_soa: false };
        let mut inside = Inside::Nowhere;
        let kind = u16::from_be_bytes([question.kind[0], question.kind[1]]);
        for _ in 0..counts[0] {
            let record = Record::read(message, walk.at)?;
            walk.has_kind |= record.kind == kind || kind == ANY;
            if leads_inside(record.kind, record.data(message)) {
                inside = Inside::Answer;
            }
            walk.keep(&record, record.ttl, &mut octets, &mut places)?;
        }
        let is_negative = !walk.has_kind;
        for _ in 0..counts[1] {
            let record = Record::read(message, walk.at)?;
            let mut ttl = record.ttl;
            if is_negative && record.kind == SOA {
                // Its last number says how long the absence holds (RFC 2308 section 5).
                let minimum = read_u32(message, record.end.checked_sub(4).filter(|at| *at > record.fixed + FIXED)?)?;
                ttl = ttl.min(minimum).min(MAX_NEGATIVE_TTL);
                walk.has_soa = true;
            }
            walk.keep(&record, ttl, &mut octets, &mut places)?;
        }
        let additional = walk.at;
        let mut kept = 0;
        for place in 0..counts[2] {
            let record = Record::read(message, walk.at)?;
            if record.kind == OPT && read_u32(message, record.fixed + 4)? >> 24 != 0 {
                return None;
            }
            if matches!(record.kind, OPT | TSIG | SIG) {
                // Nothing of worth stands behind it, and what does cannot be moved.
                break;
            }
            if inside == Inside::Nowhere && leads_inside(record.kind, record.data(message)) {
                inside = Inside::Additional;
            }
            walk.keep(&record, record.ttl, &mut octets, &mut places)?;
            kept = place + 1;
        }
        octets.truncate(walk.at);
        // TTLs are counted down, so no name may lead through one.
        let mut masked = octets.clone();
        for place in &places {
            masked[usize::from(*place)..][..4].fill(0xff);
        }
        let mut at = question.end();
        for _ in &places {
            at = Record::read(&masked, at)?.end;
        }
        octets[10..HEADER].copy_from_slice(&kept.to_be_bytes());
        let code = octets[3] & 0x0f;
        let lifetime = match code {
            NOERROR if !is_negative => walk.lowest,
            NOERROR | NXDOMAIN if walk.has_soa => walk.lowest.min(MAX_NEGATIVE_TTL),
            // Without an SOA nobody says how long (RFC 2308 section 5); other codes are of this moment.
            _ => 0,
        };
        octets.extend(places.iter().flat_map(|place| place.to_be_bytes()));
        Some(Self {
            message: u16::try_from(walk.at).ok()?,
            additional: u16::try_from(additional).ok()?,
            octets: octets.into(),
            lifetime,
            inside,
        })
    }

    /// Octets that it takes.
    pub(super) fn len(&self) -> usize {
        self.octets.len()
    }

    /// Writes the reply to a query with the same key, in place of what `out` held.
    pub(super) fn write(&self, asked: &Asked<'_>, transport: Transport, age: Age, out: &mut Vec<u8>) {
        self.write_part(Part::Whole(age), asked, transport, out);
    }

    /// Writes as much of it as leads inside nobody's network: without what stands beside the answer, or, if the answer does,
    /// without records: the name exists, and that is all.
    pub(super) fn write_outer(&self, asked: &Asked<'_>, transport: Transport, age: Age, out: &mut Vec<u8>) {
        let part = match self.inside {
            Inside::Nowhere => Part::Whole(age),
            Inside::Additional => Part::Answer(age),
            Inside::Answer => Part::Empty,
        };
        self.write_part(part, asked, transport, out);
    }

    fn write_part(&self, part: Part, asked: &Asked<'_>, transport: Transport, out: &mut Vec<u8>) {
        let (message, places) = self.octets.split_at(self.message.into());
        let limit = asked.limit(transport) - if asked.opt.is_some() { usize::from(OPT_LENGTH) } else { 0 };
        let end = asked.question.end();
        // What fits: all, or all but ADDITIONAL, whose absence is no truncation (RFC 2181 section 9); else the records of the
        // answer that do, with TC. Clients that never ask over TCP (musl before 1.2.4) still hold addresses that work.
        let (lengths, age) = match part {
            Part::Whole(age) => (&[message.len(), self.additional.into()][..], age),
            Part::Answer(age) => (&[self.additional.into()][..], age),
            Part::Empty => (&[][..], Age::Stale),
        };
        let length = lengths.iter().copied().find(|length| *length <= limit);
        let is_cut = length.is_none() && part != Part::Empty;
        let (answers, fitting) = if is_cut { self.fitting(end, limit) } else { (0, end) };
        out.clear();
        out.extend_from_slice(&message[..length.unwrap_or(fitting)]);
        out[..2].copy_from_slice(&asked.packet[..2]);
        // We are no authority for it, whoever is; recursion is what we are here for.
        out[2] = 0x80 | asked.packet[2] & RD | if is_cut { 0b10 } else { 0 };
        // Nobody has signed that there is nothing.
        let wants_ad = (asked.has(AD) || asked.dnssec_ok()) && part != Part::Empty;
        out[3] = 0x80 | message[3] & (0x0f | if wants_ad { AD } else { 0 }) | asked.packet[3] & CD;
        out[HEADER..end].copy_from_slice(&asked.packet[HEADER..end]);
        match length {
            Some(length) if length < message.len() => out[10..HEADER].fill(0),
            Some(_) => {}
            None => {
                out[6..8].copy_from_slice(&answers.to_be_bytes());
                out[8..HEADER].fill(0);
            }
        }
        for place in places.chunks_exact(2) {
            let at = usize::from(u16::from_be_bytes([place[0], place[1]]));
            let Some(ttl) = out.get_mut(at..at + 4) else { break };
            let now = match age {
                Age::Seconds(age) => u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]).saturating_sub(age),
                Age::Stale => STALE_TTL,
            };
            ttl.copy_from_slice(&now.to_be_bytes());
        }
        if let Some(opt) = asked.opt {
            out.extend(own_opt(opt.flags & DO != 0));
            // At most 65,535 records were counted in a message of 65,535 octets, so there is room for one.
            let additional = u16::from_be_bytes([out[10], out[11]]).saturating_add(1);
            out[10..HEADER].copy_from_slice(&additional.to_be_bytes());
        }
    }
}

impl Reply {
    /// How many records of the answer stand below `limit`, and where the last of them ends.
    fn fitting(&self, question_end: usize, limit: usize) -> (u16, usize) {
        let (message, places) = self.octets.split_at(self.message.into());
        let answers = read_u16(message, 6).unwrap_or_default();
        let ends = places.chunks_exact(2).take(answers.into()).map_while(|place| {
            // Behind the TTL stands the length of the data.
            let length = usize::from(u16::from_be_bytes([place[0], place[1]])) + 4;
            Some(length + 2 + usize::from(read_u16(message, length)?))
        });
        (1..).zip(ends).take_while(|(_, end)| *end <= limit).last().unwrap_or((0, question_end))
    }
}

/// How much of a reply is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// All that fits, so old.
    Whole(Age),
    /// All but ADDITIONAL.
    Answer(Age),
    /// No record.
    Empty,
}

/// How far a message has been read, and what was seen.
struct Walk {
    at: usize,
    lowest: u32,
    has_kind: bool,
    has_soa: bool,
}

impl Walk {
    /// Takes a record over with that TTL. Not OPT: it stands in ADDITIONAL alone (RFC 6891 section 6.1.1), where it is left
    /// out, and elsewhere what it says of EDNS would reach a client as the upstream's word.
    fn keep(&mut self, record: &Record, ttl: u32, octets: &mut [u8], places: &mut Vec<u16>) -> Option<()> {
        if record.kind == OPT {
            return None;
        }
        let place = record.fixed + 4;
        octets.get_mut(place..place + 4)?.copy_from_slice(&ttl.to_be_bytes());
        places.push(u16::try_from(place).ok()?);
        self.lowest = self.lowest.min(ttl);
        self.at = record.end;
        Some(())
    }
}

struct Record {
    kind: u16,
    /// Where its type stands.
    fixed: usize,
    ttl: u32,
    end: usize,
}

impl Record {
    fn read(message: &[u8], at: usize) -> Option<Self> {
        let fixed = name_end(message, at, Compression::Allowed)?;
        let kind = read_u16(message, fixed)?;
        // The uppermost bit makes it 0 (RFC 2181 section 8).
        let ttl = read_u32(message, fixed + 4).map(|ttl| if ttl >> 31 == 1 { 0 } else { ttl.min(MAX_TTL) })?;
        let end = fixed + FIXED + usize::from(read_u16(message, fixed + 8)?);
        (end <= message.len()).then_some(Self { kind, fixed, ttl, end })
    }

    fn data<'m>(&self, message: &'m [u8]) -> &'m [u8] {
        message.get(self.fixed + FIXED..self.end).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
