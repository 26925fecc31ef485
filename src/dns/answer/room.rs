//! How many addresses an answer holds, and which ones where there are more.
//!
//! Many clients take an A answer for the whole set and never ask over TCP (musl before 1.2.4, Netty, Prometheus). So an
//! answer holds as many addresses as its transport carries. Where that is not all of them, each asker is given a subset of its
//! own that stays: by rendezvous each address has a score with each asker, and the highest are given (Thaler and Ravishankar,
//! 1998; with weights Schindler's, 2005). One replica more or less then moves one address, and many askers share all replicas
//! between them.

use std::{hash::Hasher, net::IpAddr};

use siphasher::sip::SipHasher13;

/// Owner, type, class, TTL and length of a record whose owner is a pointer to the question's name.
const FIXED: usize = 2 + 2 + 2 + 4 + 2;

/// What an answer has room for, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Octets behind the question.
    pub octets: usize,
    /// Where the question came from.
    pub asker: IpAddr,
}

impl Room {
    /// As much as a TCP message holds behind the longest question: 65,535 - 12 for the header - 255 - 4 for the question - 11
    /// for EDNS.
    pub const fn whole(asker: IpAddr) -> Self {
        Self { octets: 65_535 - 12 - 255 - 4 - 11, asker }
    }

    /// How many records with `data` octets fit that are owned by the question's name, which has `name` octets on the wire. One
    /// at least: where not even that fits, the reply is truncated.
    #[inline]
    pub(in crate::dns) fn records(self, name: usize, data: usize) -> usize {
        // The encoder writes an owner in full before it finds that a pointer does.
        let last = name.max(FIXED + data);
        self.octets.checked_sub(last).map_or(1, |rest| 1 + rest / (FIXED + data))
    }
}

/// How much an address is this asker's: the more, the sooner it is given. Weight 0 comes after all others.
pub(super) fn score(asker: IpAddr, address: &[u8], weight: u32) -> (bool, f64) {
    let key = match asker {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let mut hasher = SipHasher13::new_with_key(&key);
    hasher.write(address);
    // 53 bits are what a float holds; in (0, 1), so that its logarithm is finite and not 0.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
    let chance = ((hasher.finish() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    (weight > 0, f64::from(weight.max(1)) / -chance.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_records_fit_as_the_encoder_writes() {
        let room = |octets| Room { octets, asker: IpAddr::from([192, 0, 2, 1]) };
        // The name, octets of data, the room, and how many.
        for (name, data, octets, expected) in [
            (5, 4, 15, 1),
            (5, 4, 16, 1),
            (5, 4, 31, 1),
            (5, 4, 32, 2),
            (23, 4, 22, 1),
            (23, 4, 23, 1),
            (23, 4, 38, 1),
            (23, 4, 39, 2),
            (23, 16, 28, 1),
            (23, 16, 56, 2),
            (255, 4, 10, 1),
        ] {
            assert_eq!(room(octets).records(name, data), expected, "{name} {data} {octets}");
        }
    }
}
