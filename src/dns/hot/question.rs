//! Questions read in place: header, one name, one type, perhaps EDNS without options.

use super::Kind;

/// Octets of the header (RFC 1035 section 4.1.1).
pub(super) const HEADER: usize = 12;

/// The longest name (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 255;

/// Opcode and QR in the third octet: both 0 in a query.
const QR_AND_OPCODE: u8 = 0b1111_1000;

/// How the name of a service stands in a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `web.`
    Bare,
    /// `web.svc.internal.`
    Near,
    /// `web.shop.svc.internal.`
    Full,
}

/// A question that the hot path knows.
#[derive(Debug)]
pub(super) struct Question<'p> {
    /// The packet's octets from the question's name to its class.
    pub(super) octets: &'p [u8],
    pub(super) kind: Kind,
    pub(super) shape: Shape,
    /// The octets that its sender takes, and its DO bit, if it says so by EDNS.
    pub(super) edns: Option<(u16, bool)>,
    /// Its labels, the root not counted.
    pub(super) labels: usize,
    /// Where the apex begins in the name; its root label for a bare name.
    pub(super) apex_at: usize,
    /// The name in lower case; length octets are below 64, so no letters.
    name: [u8; MAX_NAME],
}

/// Where the labels of the name at the beginning of `octets` begin, the root's last; `None` for what is no plain name.
#[inline]
fn labels(octets: &[u8]) -> Option<(usize, usize, [usize; 2])> {
    // Where the second and the third label begin, the root being one.
    let (mut at, mut starts, mut count) = (0usize, [0usize; 2], 0usize);
    loop {
        let length = usize::from(*octets.get(at)?);
        if length == 0 {
            break;
        }
        if length > 63 {
            return None;
        }
        at += 1 + length;
        if count < starts.len() {
            starts[count] = at;
        }
        count += 1;
    }
    (at < MAX_NAME).then_some((at + 1, count, starts))
}

/// Whether the packet asks in the usual way for a name that is certainly somebody else's: of two labels at least, neither
/// below the apex nor a reverse name.
pub(super) fn is_foreign(packet: &[u8], apex: &[u8]) -> bool {
    let look = || {
        let (header, rest) = packet.split_first_chunk::<HEADER>()?;
        let [_, _, flags, _, 0, 1, 0, 0, 0, 0, 0, additional @ (0 | 1)] = *header else { return None };
        let (length, count, _) = labels(rest)?;
        let (name, tail) = rest.split_at_checked(length)?;
        let ends_with = |end: &[u8]| length >= end.len() && name[length - end.len()..].eq_ignore_ascii_case(end);
        let (kind, tail) = tail.split_first_chunk::<4>()?;
        // Transfers are refused, whatever the name.
        let is_usual = matches!(kind, [0, 1..=249, 0, 1]) && flags & QR_AND_OPCODE == 0 && count >= 2;
        let is_whole = match (additional, tail) {
            (0, []) => true,
            (1, [0, 0, 41, _, _, _, 0, _, _, high, low, options @ ..]) => {
                options.len() == usize::from(u16::from_be_bytes([*high, *low])) && are_whole(options)
            }
            _ => false,
        };
        Some(is_usual && is_whole && !ends_with(apex) && !ends_with(b"\x04arpa\0"))
    };
    look().unwrap_or(false)
}

/// Whether each option ends where the next one begins, and the last with them all (RFC 6891 section 6.1.2).
fn are_whole(mut options: &[u8]) -> bool {
    while let [_, _, high, low, rest @ ..] = options {
        let Some(next) = rest.get(usize::from(u16::from_be_bytes([*high, *low]))..) else { return false };
        options = next;
    }
    options.is_empty()
}

impl<'p> Question<'p> {
    /// `None` for whatever is unusual: the complete path decides on that.
    #[inline]
    pub(super) fn parse(packet: &'p [u8], apex: &[u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<HEADER>()?;
        let [_, _, flags, _, 0, 1, 0, 0, 0, 0, 0, additional @ (0 | 1)] = *header else { return None };
        if flags & QR_AND_OPCODE != 0 {
            return None;
        }
        let (length, labels, starts) = labels(rest).filter(|(_, labels, _)| *labels > 0)?;
        let mut name = [0; MAX_NAME];
        name[..length].copy_from_slice(&rest[..length]);
        name[..length].make_ascii_lowercase();
        let below = |start: usize| name.get(start..length) == Some(apex);
        let (shape, apex_at) = match labels {
            1 if !below(0) => (Shape::Bare, starts[0]),
            2.. if below(starts[0]) => (Shape::Near, starts[0]),
            3.. if below(starts[1]) => (Shape::Full, starts[1]),
            _ => return None,
        };
        // `_tcp` and its like have a meaning of their own.
        if name[1] == b'_' {
            return None;
        }
        let (kind, tail) = rest[length..].split_first_chunk::<4>()?;
        let kind = match *kind {
            [0, 1, 0, 1] => Kind::A,
            [0, 28, 0, 1] => Kind::Aaaa,
            [0, 33, 0, 1] => Kind::Srv,
            _ => return None,
        };
        let edns = match (additional, tail) {
            (0, []) => None,
            // Root, type 41, size, extended code, version 0, flags, no options.
            (1, &[0, 0, 41, high, low, _, 0, flags, _, 0, 0]) => {
                Some((u16::from_be_bytes([high, low]), flags & 0x80 != 0))
            }
            _ => return None,
        };
        Some(Self { octets: &rest[..length + 4], kind, shape, edns, labels, apex_at, name })
    }

    /// The first label in lower case, without its length.
    pub(super) fn first(&self) -> &[u8] {
        &self.name[1..1 + usize::from(self.name[0])]
    }

    /// The whole name in lower case, the root label included.
    pub(super) fn name(&self) -> &[u8] {
        &self.name[..self.octets.len() - 4]
    }

    /// What stands in front of the apex: for a full name the key of a service.
    pub(super) fn key(&self) -> &[u8] {
        &self.name[..self.apex_at]
    }

    /// Whether the apex stands in the question in lower case, as we write it.
    pub(super) fn has_plain_apex(&self, apex: &[u8]) -> bool {
        self.octets[self.apex_at..].starts_with(apex)
    }

    /// The labels in front of the apex.
    pub(super) fn own_labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.key();
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at_checked(usize::from(*length))?;
            rest = tail;
            Some(label)
        })
    }
}
