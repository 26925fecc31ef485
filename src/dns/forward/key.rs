//! What makes two questions the same one: name, type, class, and the flags that change what an upstream says. Pure.
//!
//! The letter case is folded (RFC 4343). RD, CD and DO are part of the key, for they change the answer; AD is not, for
//! we always ask for it and clear it where the client did not (RFC 6840 section 5.7). The query that goes to an upstream
//! is made from the key alone, so whoever has the same key can be given the same answer.

use super::{
    super::wire::{HEADER, own_opt},
    message::{AD, Asked, CD, RD},
};

/// The longest name (RFC 1035 section 2.3.4), type and class, and an octet of flags.
const MAX_KEY: usize = 255 + 4 + 1;

/// Flags as they stand in a key.
const WITH_RD: u8 = 1;
const WITH_CD: u8 = 2;
const WITH_DO: u8 = 4;

/// A key, on the stack: finding something by it allocates nothing.
#[derive(Clone, Copy)]
pub(super) struct Key {
    octets: [u8; MAX_KEY],
    length: usize,
}

impl Key {
    /// The key of a query.
    pub(super) fn of(asked: &Asked<'_>) -> Self {
        let mut octets = [0; MAX_KEY];
        let name = asked.question.name.len();
        // Length octets are at most 63, so no letters.
        octets[..name].copy_from_slice(asked.question.name);
        octets[..name].make_ascii_lowercase();
        octets[name..name + 4].copy_from_slice(&asked.question.kind);
        octets[name + 4] =
            flag(asked.recursion_desired(), WITH_RD) | flag(asked.has(CD), WITH_CD) | flag(asked.dnssec_ok(), WITH_DO);
        Self { octets, length: name + 5 }
    }

    /// The question for the root's name servers: every resolver knows them, and a server that is none refuses at once.
    pub(super) fn root() -> Self {
        const NS: u8 = 2;
        Self::made(&[0], NS)
    }

    /// The question for the addresses of a name in wire form and lower case, of at most 255 octets.
    pub(super) fn address(name: &[u8]) -> Self {
        const A: u8 = 1;
        Self::made(name, A)
    }

    fn made(name: &[u8], kind: u8) -> Self {
        let mut octets = [0; MAX_KEY];
        octets[..name.len()].copy_from_slice(name);
        octets[name.len()..name.len() + 5].copy_from_slice(&[0, kind, 0, 1, WITH_RD]);
        Self { octets, length: name.len() + 5 }
    }

    /// All of it.
    pub(super) fn octets(&self) -> &[u8] {
        &self.octets[..self.length]
    }

    /// The query to send to an upstream, with that id. With EDNS most answers fit into one datagram; without it we ask
    /// those who do not know it (RFC 6891 section 6.2.2).
    pub(super) fn query(&self, id: [u8; 2], edns: Edns) -> Vec<u8> {
        let flags = self.octets[self.length - 1];
        let mut query = Vec::with_capacity(HEADER + self.length + 11);
        query.extend(id);
        query.push(flag(flags & WITH_RD != 0, RD));
        query.push(AD | flag(flags & WITH_CD != 0, CD));
        query.extend([0, 1, 0, 0, 0, 0, 0, u8::from(edns == Edns::With)]);
        query.extend_from_slice(&self.octets[..self.length - 1]);
        if edns == Edns::With {
            query.extend(own_opt(flags & WITH_DO != 0));
        }
        query
    }
}

/// The name of a key, as it is held.
pub(super) fn name(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(5)]
}

/// Whether a query carries OPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edns {
    With,
    Without,
}

fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{super::message::DO, *};

    fn query(name: &[u8], kind: u8, flags: [u8; 2], opt: Option<u8>) -> Vec<u8> {
        let mut query = vec![1, 2, flags[0], flags[1], 0, 1, 0, 0, 0, 0, 0, u8::from(opt.is_some())];
        query.extend_from_slice(name);
        query.extend([0, kind, 0, 1]);
        query.extend(opt.map(|flags| own_opt(flags & DO != 0)).into_iter().flatten());
        query
    }

    fn key(query: &[u8]) -> Vec<u8> {
        Key::of(&Asked::of(query).unwrap()).octets().to_vec()
    }

    #[test]
    fn only_what_changes_the_answer_tells_two_keys_apart() {
        let same = key(&query(b"\x01a\x02bc\0", 1, [RD, 0], None));
        for (what, other, is_same) in [
            ("letter case", query(b"\x01A\x02Bc\0", 1, [RD, 0], None), true),
            ("EDNS without DO", query(b"\x01a\x02bc\0", 1, [RD, 0], Some(0)), true),
            ("AD", query(b"\x01a\x02bc\0", 1, [RD, AD], None), true),
            ("the Z bit", query(b"\x01a\x02bc\0", 1, [RD, 0x40], None), true),
            ("DO", query(b"\x01a\x02bc\0", 1, [RD, 0], Some(DO)), false),
            ("CD", query(b"\x01a\x02bc\0", 1, [RD, CD], None), false),
            ("no RD", query(b"\x01a\x02bc\0", 1, [0, 0], None), false),
            ("type", query(b"\x01a\x02bc\0", 28, [RD, 0], None), false),
            ("name", query(b"\x01a\x02bd\0", 1, [RD, 0], None), false),
            ("labels", query(b"\x02ab\x01c\0", 1, [RD, 0], None), false),
        ] {
            assert_eq!(key(&other) == same, is_same, "{what}");
        }
    }

    #[test]
    fn the_query_to_an_upstream_says_what_the_key_says_and_nothing_else() {
        let plain = query(b"\x01A\0", 1, [RD, 0x40], None);
        let asked = Asked::of(&plain).unwrap();
        assert_eq!(
            Key::of(&asked).query([9, 9], Edns::Without),
            [9, 9, RD, AD, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1]
        );
        let with_all = query(b"\x01A\0", 1, [0, CD], Some(DO));
        let made = Key::of(&Asked::of(&with_all).unwrap()).query([9, 9], Edns::With);
        assert_eq!(made[..12], [9, 9, 0, AD | CD, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert!(Asked::of(&made).unwrap().dnssec_ok());
        assert_eq!(Asked::of(&made).unwrap().opt.unwrap().size, 1232);
    }

    #[test]
    fn the_longest_name_fits() {
        let name = [[63; 64].as_slice(), &[63; 64], &[63; 64], &[61; 62], &[0]].concat();
        assert_eq!(name.len(), 255);
        let query = query(&name, 1, [RD, 0], None);
        assert_eq!(key(&query).len(), MAX_KEY);
    }
}
