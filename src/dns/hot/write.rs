//! Replies written octet by octet, as the complete path's encoder would write them.

use std::net::IpAddr;

use super::{
    Denials, Kind,
    memo::{Addresses, Targets},
    question::{Question, Shape},
};
use crate::dns::{
    answer::Room,
    wire::{HEADER, MAX_UDP, MAX_UDP_PLAIN, OPT_LENGTH, own_opt},
};

/// Room for OPT.
const OPT: usize = OPT_LENGTH as usize;

/// QR and AA; and TC, which is never set here: what does not fit is left to the complete path.
const RESPONSE: u8 = 0b1000_0100;

/// The only flag of a query's third octet that is handed back: RD.
const RD: u8 = 1;

/// RA in the fourth octet.
const RA: u8 = 0x80;

/// NXDOMAIN.
const NO_NAME: u8 = 3;

/// Names that the complete path's encoder remembers for compression, one for each of their labels.
const REMEMBERED: usize = 64;

/// The label in front of the apex in an SOA's mailbox.
const MAILBOX: &[u8] = b"hostmaster";

/// How an absence is stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Denial {
    /// The name exists.
    NoData,
    /// It does not.
    NoName,
}

/// A reply in the making. Each method gives its length, or `None` where it would not fit.
pub(super) struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
    /// The first octet that must stay free.
    limit: usize,
    /// Octets of the question's name.
    name: usize,
    edns: Option<bool>,
}

impl<'o> Writer<'o> {
    /// Writes header and question.
    #[inline]
    pub(super) fn new(packet: &[u8], question: &Question<'_>, forwards: bool, out: &'o mut [u8]) -> Option<Self> {
        let (limit, edns) = match question.edns {
            None => (usize::from(MAX_UDP_PLAIN), None),
            Some((size, secure)) => (usize::from(size.clamp(MAX_UDP_PLAIN, MAX_UDP)) - OPT, Some(secure)),
        };
        let limit = limit.min(out.len().saturating_sub(OPT));
        let at = HEADER + question.octets.len();
        if at > limit {
            return None;
        }
        out[..2].copy_from_slice(&packet[..2]);
        out[2] = RESPONSE | packet[2] & RD;
        out[3] = if forwards { RA } else { 0 };
        out[4..HEADER].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
        out[HEADER..at].copy_from_slice(question.octets);
        Some(Self { out, at, limit, name: question.octets.len() - 4, edns })
    }

    #[inline]
    fn put<const N: usize>(&mut self, octets: [u8; N]) -> Option<()> {
        let end = self.at + N;
        self.out[..self.limit].get_mut(self.at..end)?.copy_from_slice(&octets);
        self.at = end;
        Some(())
    }

    #[inline]
    fn put_slice(&mut self, octets: &[u8]) -> Option<()> {
        let end = self.at + octets.len();
        self.out[..self.limit].get_mut(self.at..end)?.copy_from_slice(octets);
        self.at = end;
        Some(())
    }

    fn put_label(&mut self, label: &[u8]) -> Option<()> {
        self.put([u8::try_from(label.len()).ok()?])?;
        self.put_slice(label)
    }

    /// A pointer to a name of `length` octets. The complete path's encoder writes the name first and then finds that it is
    /// known, so it needs that much room for a moment.
    #[inline]
    fn put_pointer(&mut self, at: usize, length: usize) -> Option<()> {
        (self.at + length <= self.limit).then_some(())?;
        self.put((0xc000 | count(at)).to_be_bytes())
    }

    /// Type, class IN, TTL and length of data.
    #[inline]
    fn put_fixed(&mut self, kind: u8, ttl: u32, length: u16) -> Option<()> {
        let ([a, b, c, d], [high, low]) = (ttl.to_be_bytes(), length.to_be_bytes());
        self.put([0, kind, 0, 1, a, b, c, d, high, low])
    }

    fn counts(&mut self, answers: u16, authorities: u16, additionals: u16) {
        for (at, count) in [(6, answers), (8, authorities), (10, additionals)] {
            self.out[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
    }

    /// Writes the counts and OPT: that is all.
    #[inline]
    fn end(mut self, answers: u16, authorities: u16, additionals: u16) -> usize {
        let Some(secure) = self.edns else {
            self.counts(answers, authorities, additionals);
            return self.at;
        };
        self.counts(answers, authorities, additionals + 1);
        self.out[self.at..self.at + OPT].copy_from_slice(&own_opt(secure));
        self.at + OPT
    }

    /// How many address records of the question's name fit.
    #[inline]
    pub(super) fn most(&self, addresses: &Addresses, asker: IpAddr) -> usize {
        Room { octets: self.limit - self.at, asker }.records(self.name, addresses.size)
    }

    /// A or AAAA records of the question's name.
    #[inline]
    pub(super) fn addresses(mut self, addresses: &Addresses, order: &[u32], ttl: u32) -> Option<usize> {
        let kind = if addresses.size == 4 { Kind::A.code() } else { Kind::Aaaa.code() };
        let name = self.name;
        for place in order {
            self.put_pointer(HEADER, name)?;
            self.put_fixed(kind, ttl, count(addresses.size))?;
            self.put_slice(addresses.get(*place as usize))?;
        }
        Some(self.end(count(order.len()), 0, 0))
    }

    /// SRV records of the question's name; behind them the addresses of their targets. A target is written in full (RFC
    /// 2782), its addresses point to it.
    pub(super) fn targets(
        mut self,
        targets: &Targets,
        order: &mut [u32],
        ttl: u32,
        key: &[u8],
        apex: &[u8],
        question: &Question<'_>,
    ) -> Option<usize> {
        let member = |place: u32| &targets.members[place as usize];
        // Stable, as the complete path's: of those equally far the order is that of chance.
        order.sort_by_key(|place| member(*place).priority);
        let labels_of_target = 3 + apex_labels(apex);
        let (mut answers, mut additionals) = (0usize, 0);
        let mut written = [0u16; u8::MAX as usize];
        for place in order.iter() {
            let target = member(*place);
            let id = target.container.as_str().as_bytes();
            let name = 1 + id.len() + key.len() + apex.len();
            for (nth, number) in targets.numbers(target).iter().enumerate() {
                // Whether the encoder would still remember this name, so that its addresses can point to it.
                if nth == 0 && question.labels + answers * labels_of_target >= REMEMBERED {
                    return None;
                }
                self.put_pointer(HEADER, self.name)?;
                self.put_fixed(Kind::Srv.code(), ttl, count(6 + name))?;
                self.put_slice(&target.priority.to_be_bytes())?;
                self.put_slice(&target.weight.to_be_bytes())?;
                self.put_slice(&number.to_be_bytes())?;
                if nth == 0 {
                    written[*place as usize] = count(self.at);
                }
                self.put_label(id)?;
                self.put_slice(key)?;
                self.put_slice(apex)?;
                answers += 1;
            }
        }
        for place in order.iter().filter(|place| !targets.numbers(member(**place)).is_empty()) {
            let target = member(*place);
            let at = usize::from(written[*place as usize]);
            let name = 1 + target.container.as_str().len() + key.len() + apex.len();
            if let Some(v4) = target.v4 {
                self.put_pointer(at, name)?;
                self.put_fixed(Kind::A.code(), ttl, 4)?;
                self.put(v4)?;
                additionals += 1;
            }
            if let Some(v6) = target.v6.as_deref() {
                self.put_pointer(at, name)?;
                self.put_fixed(Kind::Aaaa.code(), ttl, 16)?;
                self.put(*v6)?;
                additionals += 1;
            }
        }
        Some(self.end(count(answers), 0, additionals))
    }

    /// No such record, or no such name, with the SOA by which that is kept. Below the apex its name is a pointer into the
    /// question; a bare name is denied in the name of the root.
    pub(super) fn deny(
        mut self,
        denial: Denial,
        question: &Question<'_>,
        denials: &Denials<'_>,
        revision: i64,
    ) -> Option<usize> {
        let is_bare = question.shape == Shape::Bare;
        // Where the question holds a part of what follows, the encoder would point there.
        let is_compressed_otherwise = match is_bare {
            true => denials.apex.ends_with(question.name()),
            false => !question.has_plain_apex(denials.apex),
        };
        if is_compressed_otherwise || question.own_labels().any(|label| label == MAILBOX) {
            return None;
        }
        if denial == Denial::NoName {
            self.out[3] |= NO_NAME;
        }
        let numbers = 5 * 4;
        let mailbox = 1 + MAILBOX.len() + 2;
        let at = if is_bare {
            self.put([0])?;
            self.put_fixed(6, denials.ttl, count(denials.apex.len() + mailbox + numbers))?;
            let at = self.at;
            self.put_slice(denials.apex)?;
            at
        } else {
            let at = HEADER + question.apex_at;
            self.put_pointer(at, denials.apex.len())?;
            self.put_fixed(6, denials.ttl, count(2 + mailbox + numbers))?;
            self.put_pointer(at, denials.apex.len())?;
            at
        };
        self.put_label(MAILBOX)?;
        self.put_pointer(at, denials.apex.len())?;
        // A serial is a counter modulo 2^32 (RFC 1982).
        let serial = u32::try_from(revision & i64::from(u32::MAX)).unwrap_or_default();
        for number in [serial, 7200, 1800, 86_400, denials.ttl] {
            self.put(number.to_be_bytes())?;
        }
        Some(self.end(0, 1, 0))
    }
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::A => 1,
            Self::Aaaa => 28,
            Self::Srv => 33,
        }
    }
}

/// Nothing in a datagram is longer or more than this holds.
fn count(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

fn apex_labels(apex: &[u8]) -> usize {
    let mut rest = apex;
    let mut labels = 0;
    while let Some((length, tail)) = rest.split_first().filter(|(length, _)| **length > 0) {
        labels += 1;
        rest = tail.get(usize::from(*length)..).unwrap_or_default();
    }
    labels
}
