//! DNS cookies: proof that a client receives what is sent to its address (RFC 7873), made as RFC 9018 section 4 says, so that
//! several servers with one secret understand each other's.
//!
//! Over UDP anybody can write anybody's address into a query. Whoever shows a cookie of ours has received a reply of ours
//! there, within the last hour; that one is given long answers and is not counted against the rate of its address.

use std::{hash::Hasher, net::IpAddr};

use siphasher::sip::SipHasher24;

/// Octets of a client's part.
pub(super) const CLIENT: usize = 8;

/// Octets of our part: version, three reserved, time, hash.
pub(super) const SERVER: usize = 16;

/// The only version there is.
const VERSION: u8 = 1;

/// A cookie older than this, in seconds, is not taken (RFC 9018 section 4.3).
const MAX_AGE: u32 = 3600;

/// A cookie that is to come in more than this many seconds is not taken: clocks differ.
const MAX_AHEAD: u32 = 300;

/// What makes our cookies and knows them again.
#[derive(Clone)]
pub struct Cookies {
    secret: [u8; 16],
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookies")
    }
}

/// What a client's cookie option says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    /// Its own part, which is handed back.
    pub(super) client: [u8; CLIENT],
    /// Whether our part is one that we gave to this address lately.
    pub(super) is_ours: bool,
}

/// An option of a length that no cookie has (RFC 7873 section 5.2.2): FORMERR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl Cookies {
    /// With a secret, 16 octets of chance. After a restart another one does no harm: clients learn the new cookies at once.
    pub fn new(secret: [u8; 16]) -> Self {
        Self { secret }
    }

    /// Reads the data of a cookie option from `source` at `now`, in seconds since 1970.
    pub(super) fn read(&self, option: &[u8], source: IpAddr, now: u32) -> Result<Shown, Malformed> {
        let (client, server) = option.split_first_chunk::<CLIENT>().ok_or(Malformed)?;
        // A server's part has 8 to 32 octets; one of another length than ours is another server's.
        if !matches!(server.len(), 0 | 8..=32) {
            return Err(Malformed);
        }
        let is_ours = <[u8; SERVER]>::try_from(server).is_ok_and(|server| {
            let made = u32::from_be_bytes([server[4], server[5], server[6], server[7]]);
            // Serial number arithmetic (RFC 1982), as the clock has 32 bits.
            let age = now.wrapping_sub(made);
            let is_timely = age <= MAX_AGE || age.wrapping_neg() <= MAX_AHEAD;
            is_timely && self.made(client, source, made) == server
        });
        Ok(Shown { client: *client, is_ours })
    }

    /// The whole option's data for a reply at `now`: the client's part and ours.
    pub(super) fn answer(&self, client: &[u8; CLIENT], source: IpAddr, now: u32) -> [u8; CLIENT + SERVER] {
        let mut option = [0; CLIENT + SERVER];
        option[..CLIENT].copy_from_slice(client);
        option[CLIENT..].copy_from_slice(&self.made(client, source, now));
        option
    }

    fn made(&self, client: &[u8; CLIENT], source: IpAddr, at: u32) -> [u8; SERVER] {
        let mut server = [0; SERVER];
        server[0] = VERSION;
        server[4..8].copy_from_slice(&at.to_be_bytes());
        let mut hasher = SipHasher24::new_with_key(&self.secret);
        hasher.write(client);
        hasher.write(&server[..8]);
        match source.to_canonical() {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        server[8..].copy_from_slice(&hasher.finish().to_le_bytes());
        server
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
    }

    /// Secret, client's part, source, time, our part: the examples of RFC 9018, appendix A.
    #[test]
    fn cookies_are_those_of_the_standards_examples() {
        for (secret, client, source, now, expected) in [
            (
                "e5e973e5a6b2a43f48e7dc849e37bfcf",
                "2464c4abcf10c957",
                "198.51.100.100",
                1_559_731_985,
                "010000005cf79f111f8130c3eee29480",
            ),
            (
                "e5e973e5a6b2a43f48e7dc849e37bfcf",
                "2464c4abcf10c957",
                "198.51.100.100",
                1_559_734_385,
                "010000005cf7a871d4a564a1442aca77",
            ),
            (
                "dd3bdf9344b678b185a6f5cb60fca715",
                "22681ab97d52c298",
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                1_559_741_817,
                "010000005cf7c57926556bd0934c72f8",
            ),
            (
                "445536bcd2513298075a5d379663c962",
                "22681ab97d52c298",
                "2001:db8:220:1:59de:d0f4:8769:82b8",
                1_559_741_961,
                "010000005cf7c609a6bb79d16625507a",
            ),
        ] {
            let made = Cookies::new(hex(secret)).answer(&hex(client), source.parse().unwrap(), now);
            assert_eq!(made[CLIENT..], hex::<SERVER>(expected), "{source} at {now}");
        }
    }

    #[test]
    fn only_our_own_timely_cookie_for_this_address_counts() {
        let cookies = Cookies::new([7; 16]);
        let source: IpAddr = "192.0.2.9".parse().unwrap();
        let client = [1, 2, 3, 4, 5, 6, 7, 8];
        let made = 1_700_000_000;
        let option = cookies.answer(&client, source, made);
        let shown = |option: &[u8], source: &str, now| {
            cookies.read(option, source.parse().unwrap(), now).map(|shown| shown.is_ours)
        };
        for (now, expected) in [
            (made, true),
            (made + MAX_AGE, true),
            (made + MAX_AGE + 1, false),
            (made - MAX_AHEAD, true),
            (made - MAX_AHEAD - 1, false),
        ] {
            assert_eq!(shown(&option, "192.0.2.9", now), Ok(expected), "{now}");
        }
        assert_eq!(shown(&option, "::ffff:192.0.2.9", made), Ok(true));
        assert_eq!(shown(&option, "192.0.2.10", made), Ok(false), "somebody else's address");
        for at in 0..option.len() {
            let mut other = option;
            other[at] ^= 1;
            assert_eq!(shown(&other, "192.0.2.9", made), Ok(false), "octet {at}");
        }
        let other = Cookies::new([8; 16]).answer(&client, source, made);
        assert_eq!(shown(&other, "192.0.2.9", made), Ok(false), "another secret");
    }

    #[test]
    fn an_option_is_one_part_or_two_of_the_right_lengths() {
        let cookies = Cookies::new([7; 16]);
        for length in 0..=64 {
            let read = cookies.read(&vec![3; length], "192.0.2.9".parse().unwrap(), 0);
            let expected = match length {
                8 | 16..=40 => Ok(Shown { client: [3; 8], is_ours: false }),
                _ => Err(Malformed),
            };
            assert_eq!(read, expected, "{length}");
        }
    }
}
