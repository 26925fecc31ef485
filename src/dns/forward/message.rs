//! What a forwarder must know of a DNS message, read in place: questions, flags, EDNS, and where records begin and end.
//! Pure. Foreign bytes are only ever indexed through `get`.

use super::super::wire::{HEADER, MAX_UDP, MAX_UDP_PLAIN, Transport};

/// RD in the header's first octet of flags (RFC 1035 section 4.1.1).
pub(super) const RD: u8 = 0x01;
/// AD and CD in its second (RFC 4035 section 3).
pub(super) const AD: u8 = 0x20;
pub(super) const CD: u8 = 0x10;
/// DO in the third octet of OPT's flags (RFC 3225 section 3).
pub(super) const DO: u8 = 0x80;

/// The type of EDNS's pseudo record (RFC 6891 section 6.1.1).
pub(super) const OPT: u16 = 41;

/// The one question of a message, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question<'a> {
    /// Its name in wire form, with its letter case, the root label included.
    pub(super) name: &'a [u8],
    /// Its type and class, as they stand there.
    pub(super) kind: [u8; 4],
}

impl<'a> Question<'a> {
    /// Reads a message that holds exactly one question, uncompressed as it always is.
    pub(super) fn of(message: &'a [u8]) -> Option<Self> {
        if read_u16(message, 4)? != 1 {
            return None;
        }
        let end = name_end(message, HEADER, Compression::Refused)?;
        Some(Self { name: message.get(HEADER..end)?, kind: message.get(end..end + 4)?.try_into().ok()? })
    }

    /// The first octet behind it.
    pub(super) fn end(&self) -> usize {
        HEADER + self.name.len() + self.kind.len()
    }

    /// Its labels, first to last, without the root.
    pub(super) fn labels(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.name;
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at_checked(usize::from(*length))?;
            rest = tail;
            (!label.is_empty()).then_some(label)
        })
    }

    /// The same name whatever the letter case, the same type and class. Length octets are at most 63, so no letters.
    pub(super) fn matches(&self, other: &Question) -> bool {
        self.kind == other.kind && self.name.eq_ignore_ascii_case(other.name)
    }
}

/// Whether `reply` answers `query` as it was sent: a response with its id, its opcode and its question (RFC 5452
/// section 9.1). The source address is the connected socket's affair.
pub(super) fn answers(query: &[u8], reply: &[u8]) -> bool {
    let (Some(asked), Some(answered)) = (Question::of(query), Question::of(reply)) else { return false };
    let opcode = |message: &[u8]| message[2] & 0b0111_1000;
    query[..2] == reply[..2] && reply[2] & 0x80 != 0 && opcode(query) == opcode(reply) && asked.matches(&answered)
}

/// Whether the TC bit is set.
pub(super) fn is_truncated(message: &[u8]) -> bool {
    message.get(2).is_some_and(|flags| flags & 0b10 != 0)
}

/// The header's response code.
pub(super) fn rcode(message: &[u8]) -> u8 {
    message.get(3).map_or(0, |flags| flags & 0x0f)
}

/// A query as far as its answer depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The packet.
    pub(super) packet: &'a [u8],
    /// Its question.
    pub(super) question: Question<'a>,
    /// What it says by EDNS, if it does.
    pub(super) opt: Option<Opt>,
}

impl<'a> Asked<'a> {
    /// Reads a query; `wire.rs` has found it well formed before, so the first OPT is the only one.
    pub(super) fn of(packet: &'a [u8]) -> Option<Self> {
        let question = Question::of(packet)?;
        Some(Self { packet, question, opt: Opt::of(packet, &question) })
    }

    /// One of the flags in the header's second octet.
    pub(super) fn has(&self, flag: u8) -> bool {
        self.packet[3] & flag != 0
    }

    /// Whether the client asks for recursion.
    pub(super) fn recursion_desired(&self) -> bool {
        self.packet[2] & RD != 0
    }

    /// Whether it takes DNSSEC's records.
    pub(super) fn dnssec_ok(&self) -> bool {
        self.opt.is_some_and(|opt| opt.flags & DO != 0)
    }

    /// How many octets it takes over that transport.
    pub(super) fn limit(&self, transport: Transport) -> usize {
        match transport {
            Transport::Tcp => usize::from(u16::MAX),
            Transport::Udp => self.opt.map_or(MAX_UDP_PLAIN, |opt| opt.size.clamp(MAX_UDP_PLAIN, MAX_UDP)).into(),
        }
    }
}

/// What a query's OPT record says (RFC 6891 section 6.1.3).
#[derive(Clone, Copy, Debug)]
pub(super) struct Opt {
    /// The most octets its sender takes over UDP.
    pub(super) size: u16,
    /// The octet with the DO bit.
    pub(super) flags: u8,
}

impl Opt {
    fn of(query: &[u8], question: &Question<'_>) -> Option<Self> {
        let records: usize = [6, 8, 10].iter().map(|at| read_u16(query, *at).map_or(0, usize::from)).sum();
        let mut at = question.end();
        for _ in 0..records {
            let fixed = name_end(query, at, Compression::Allowed)?;
            if read_u16(query, fixed)? == OPT {
                return Some(Self { size: read_u16(query, fixed + 2)?, flags: *query.get(fixed + 6)? });
            }
            at = fixed + 10 + usize::from(read_u16(query, fixed + 8)?);
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Allowed,
    Refused,
}

/// The first octet behind the name at `at`; a pointer ends it (RFC 1035 section 4.1.4). At most 255 octets in all. Pointers lead
/// backwards, each farther than the one before, and never into the header, which is another one for every client.
pub(super) fn name_end(message: &[u8], mut at: usize, compression: Compression) -> Option<usize> {
    // Where the name ends, once a pointer has been met; where the part being read begins; octets so far.
    let (mut end, mut start, mut octets) = (None, at, 0);
    loop {
        match *message.get(at)? {
            0 => return (octets < 255).then_some(end.unwrap_or(at + 1)),
            length @ 1..=63 => {
                octets += 1 + usize::from(length);
                at += 1 + usize::from(length);
            }
            192..=255 if compression == Compression::Allowed => {
                let target = usize::from(read_u16(message, at)? & 0x3fff);
                if !(HEADER..start).contains(&target) {
                    return None;
                }
                end = end.or(Some(at + 2));
                (at, start) = (target, target);
            }
            _ => return None,
        }
        if octets > 255 {
            return None;
        }
    }
}

pub(super) fn read_u16(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

pub(super) fn read_u32(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `id` and flags, one question for `name` with type A, then whatever is given.
    fn message(id: u16, flags: u16, name: &str, additional: &[u8]) -> Vec<u8> {
        let mut message = [id, flags, 1, 0, 0, u16::from(!additional.is_empty())].map(u16::to_be_bytes).concat();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.as_bytes());
        }
        message.extend([0, 0, 1, 0, 1]);
        message.extend(additional);
        message
    }

    fn opt(size: u16) -> Vec<u8> {
        let [high, low] = size.to_be_bytes();
        vec![0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]
    }

    const QUERY: u16 = 0x0100;
    const REPLY: u16 = 0x8180;

    /// The octets after a header of 12, where the name begins among them, where it ends.
    #[test]
    fn pointers_lead_backwards_and_to_a_name() {
        let cases: [(&str, &[u8], usize, Option<usize>); 11] = [
            ("the root", &[0], 0, Some(1)),
            ("labels", &[1, b'a', 2, b'b', b'c', 0], 0, Some(6)),
            ("a pointer", &[1, b'a', 0, 0xc0, 12], 3, Some(5)),
            ("labels and a pointer", &[1, b'a', 0, 1, b'b', 0xc0, 12], 3, Some(7)),
            ("two pointers", &[1, b'a', 0, 1, b'b', 0xc0, 12, 0xc0, 15], 7, Some(9)),
            ("forwards", &[0xc0, 14, 1, b'a', 0], 0, None),
            ("to itself", &[0xc0, 12], 0, None),
            ("round and round", &[1, b'a', 0xc0, 12], 0, None),
            ("into the header", &[1, b'a', 0, 0xc0, 2], 3, None),
            ("beyond the end", &[0, 0xc1, 12], 1, None),
            ("into a label", &[1, 0x80, 0, 0xc0, 13], 3, None),
        ];
        for (what, octets, at, expected) in cases {
            let message = [&[0; HEADER][..], octets].concat();
            let end = name_end(&message, HEADER + at, Compression::Allowed);
            assert_eq!(end, expected.map(|end| HEADER + end), "{what}");
        }
        // Each part is short enough, the whole is not.
        let long = [[63; 64].repeat(3), vec![0]].concat();
        let message = [&[0; HEADER][..], &long, &[63; 64], &[0xc0, 12]].concat();
        assert_eq!(name_end(&message, HEADER, Compression::Allowed), Some(HEADER + long.len()));
        assert_eq!(name_end(&message, HEADER + long.len(), Compression::Allowed), None);
    }

    #[test]
    fn only_the_reply_to_this_very_question_answers_it() {
        let query = message(7, QUERY, "example.org", &[]);
        let mut other_type = message(7, REPLY, "example.org", &[]);
        let last_of_type = other_type.len() - 3;
        other_type[last_of_type] = 28;
        let mut no_question = message(7, REPLY, "example.org", &[]);
        no_question[5] = 0;
        let cases = [
            ("same", message(7, REPLY, "example.org", &[]), true),
            ("other case", message(7, REPLY, "eXample.ORG", &[]), true),
            ("other id", message(8, REPLY, "example.org", &[]), false),
            ("a query", message(7, QUERY, "example.org", &[]), false),
            ("other opcode", message(7, REPLY | 0x2000, "example.org", &[]), false),
            ("other name", message(7, REPLY, "example.com", &[]), false),
            ("longer name", message(7, REPLY, "www.example.org", &[]), false),
            ("other type", other_type, false),
            ("no question", no_question, false),
            ("cut short", message(7, REPLY, "example.org", &[])[..20].to_vec(), false),
            ("nothing", vec![], false),
        ];
        for (what, reply, expected) in cases {
            assert_eq!(answers(&query, &reply), expected, "{what}");
        }
    }

    #[test]
    fn a_tiny_edns_size_counts_as_512() {
        let limit = |additional: &[u8], transport| {
            Asked::of(&message(7, QUERY, "example.org", additional)).unwrap().limit(transport)
        };
        assert_eq!(limit(&[], Transport::Udp), 512);
        assert_eq!(limit(&opt(0), Transport::Udp), 512);
        assert_eq!(limit(&opt(1000), Transport::Udp), 1000);
        assert_eq!(limit(&opt(65535), Transport::Udp), 1232);
        assert_eq!(limit(&opt(512), Transport::Tcp), 65535);
    }

    #[test]
    fn the_labels_of_a_question_come_in_order() {
        let query = message(7, QUERY, "www.example.org", &[]);
        let labels: Vec<&[u8]> = Question::of(&query).unwrap().labels().collect();
        assert_eq!(labels, [&b"www"[..], b"example", b"org"]);
        assert_eq!(Question::of(&message(7, QUERY, "", &[])).unwrap().labels().count(), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(a in proptest::collection::vec(any::<u8>(), 0..80), b in proptest::collection::vec(any::<u8>(), 0..80)) {
            answers(&a, &b);
            Asked::of(&a);
            rcode(&a);
            is_truncated(&a);
            Question::of(&b).map(|question| question.labels().count());
        }

        #[test]
        fn a_damaged_query_with_records_does_not_panic(at in 0usize..40, value in any::<u8>(), cut in 0usize..48) {
            let mut query = message(7, QUERY, "example.org", &opt(1232));
            let length = query.len();
            query[at % length] = value;
            query.truncate(cut);
            Asked::of(&query);
            answers(&query, &query);
        }
    }
}
