//! Questions read in place: header, one name, one type, perhaps EDNS without options.

use super::Kind;
use crate::dns::{
    special,
    wire::{HEADER, walk_options},
};

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

/// What the usual query holds: one question of class IN, uncompressed, and perhaps OPT.
struct Usual<'p> {
    /// The name in wire form, with its letter case.
    name: &'p [u8],
    /// Its labels, the root not counted, and where the second and the third begin.
    labels: usize,
    starts: [usize; 2],
    /// The type.
    kind: u16,
    opt: Option<Opt<'p>>,
}

/// An OPT record of version 0 at the end of a query (RFC 6891 section 6.1.2).
struct Opt<'p> {
    size: u16,
    dnssec_ok: bool,
    options: &'p [u8],
}

impl<'p> Usual<'p> {
    /// `None` for whatever is unusual.
    #[inline]
    fn read(packet: &'p [u8]) -> Option<Self> {
        let (header, rest) = packet.split_first_chunk::<HEADER>()?;
        let [_, _, flags, _, 0, 1, 0, 0, 0, 0, 0, additional @ (0 | 1)] = *header else { return None };
        if flags & QR_AND_OPCODE != 0 {
            return None;
        }
        let (length, labels, starts) = labels(rest)?;
        let (name, rest) = rest.split_at_checked(length)?;
        let (&[high, low, 0, 1], tail) = rest.split_first_chunk::<4>()? else { return None };
        let opt = match (additional, tail) {
            (0, []) => None,
            // Root, type 41, size, extended code, version 0, flags, length of the options.
            (1, &[0, 0, 41, high, low, _, 0, flags, _, long, short, ref options @ ..]) => {
                (options.len() == usize::from(u16::from_be_bytes([long, short]))).then_some(())?;
                Some(Opt { size: u16::from_be_bytes([high, low]), dnssec_ok: flags & 0x80 != 0, options })
            }
            _ => return None,
        };
        Some(Self { name, labels, starts, kind: u16::from_be_bytes([high, low]), opt })
    }
}

/// The types of transfers and the like, which are refused whatever the name, begin behind this.
const LAST_ORDINARY: u16 = 249;

/// The name in wire form, if the packet asks in the usual way for one of others, unless it is an alias: of two
/// labels at least, neither below the apex, nor a reverse name, nor one that means the same everywhere (`localhost`, `onion`,
/// …), and without words that may stand in front of a bare name.
pub(super) fn is_foreign<'p>(packet: &'p [u8], apex: &[u8]) -> Option<&'p [u8]> {
    let is_it = |usual: &Usual<'_>| {
        let ends_with = |end: &[u8]| {
            let start = usual.name.len().checked_sub(end.len());
            start.is_some_and(|start| usual.name[start..].eq_ignore_ascii_case(end))
        };
        usual.labels >= 2
            && (1..=LAST_ORDINARY).contains(&usual.kind)
            && usual.opt.as_ref().is_none_or(|opt| walk_options(opt.options).is_ok())
            && !ends_with(apex)
            && !ends_with(b"\x04arpa\0")
            && !special::may_stay(usual.name)
            && !is_loose(usual.name, usual.labels)
    };
    Usual::read(packet).filter(is_it).map(|usual| usual.name)
}

/// Whether it reads as `all.web.`, `_tcp.web.` or `_http._tcp.web.`, which may be ours.
fn is_loose(name: &[u8], labels: usize) -> bool {
    matches!(labels, 2 | 3) && name[1] == b'_' || labels == 2 && name[..4].eq_ignore_ascii_case(b"\x03all")
}

/// A name in wire form as text in lower case, with dots between its labels. A dot within a label becomes `?`, as no name of
/// ours has it.
pub(super) fn dotted(name: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((length @ 1.., tail)) = rest.split_first() {
        let Some((label, tail)) = tail.split_at_checked(usize::from(*length)) else { break };
        if !text.is_empty() {
            text.push(b'.');
        }
        text.extend(label.iter().map(|octet| if *octet == b'.' { b'?' } else { octet.to_ascii_lowercase() }));
        rest = tail;
    }
    text
}

impl<'p> Question<'p> {
    /// `None` for whatever is unusual: the complete path decides on that.
    #[inline]
    pub(super) fn parse(packet: &'p [u8], apex: &[u8]) -> Option<Self> {
        let Usual { name: octets, labels, starts, kind, opt } = Usual::read(packet).filter(|usual| usual.labels > 0)?;
        let length = octets.len();
        let mut name = [0; MAX_NAME];
        name[..length].copy_from_slice(octets);
        name[..length].make_ascii_lowercase();
        let below = |start: usize| name.get(start..length) == Some(apex);
        let (shape, apex_at) = match labels {
            1 if !below(0) => (Shape::Bare, starts[0]),
            2.. if below(starts[0]) => (Shape::Near, starts[0]),
            3.. if below(starts[1]) => (Shape::Full, starts[1]),
            _ => return None,
        };
        // `_tcp` and its like have a meaning of their own, and so has `localhost`.
        if name[1] == b'_' || shape == Shape::Bare && special::may_stay(&name[..length]) {
            return None;
        }
        let kind = match kind {
            1 => Kind::A,
            28 => Kind::Aaaa,
            33 => Kind::Srv,
            _ => return None,
        };
        let edns = match opt {
            None => None,
            Some(opt) if opt.options.is_empty() => Some((opt.size, opt.dnssec_ok)),
            Some(_) => return None,
        };
        Some(Self { octets: &packet[HEADER..HEADER + length + 4], kind, shape, edns, labels, apex_at, name })
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
