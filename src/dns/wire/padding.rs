//! Padding: over an encrypted connection the length of a reply says which question it answers, unless lengths are rounded up
//! (RFC 7830).

use hickory_proto::{
    rr::Name,
    serialize::binary::{BinDecodable, BinDecoder},
};

use super::{
    HEADER, PADDING,
    request::{Malformed, walk_options},
};

/// Replies are padded to a multiple of this (RFC 8467 section 4.1).
const BLOCK: usize = 468;

/// The type of EDNS's pseudo record.
const OPT: u16 = 41;

/// Whether a query asks for its reply to be padded.
pub fn asks_for_padding(query: &[u8]) -> bool {
    let Ok(Some(opt)) = last_opt(query) else { return false };
    let data = query.get(opt.data..).unwrap_or_default();
    walk_options(data).is_ok_and(|options| options.padding)
}

/// Pads a reply. One without EDNS, and one that would become too long, stays as it is.
pub fn pad(mut reply: Vec<u8>) -> Vec<u8> {
    let Ok(Some(opt)) = last_opt(&reply) else { return reply };
    let padding = (BLOCK - (reply.len() + 4) % BLOCK) % BLOCK;
    let length = opt.length + 4 + padding;
    let (Ok(padding), Ok(length), Ok(_)) =
        (u16::try_from(padding), u16::try_from(length), u16::try_from(reply.len() + 4 + padding))
    else {
        return reply;
    };
    reply[opt.data - 2..opt.data].copy_from_slice(&length.to_be_bytes());
    reply.extend(PADDING.to_be_bytes());
    reply.extend(padding.to_be_bytes());
    reply.resize(reply.len() + usize::from(padding), 0);
    reply
}

/// An OPT record at the end of a message.
struct Opt {
    /// Where its options begin, and how many octets they have.
    data: usize,
    length: usize,
}

/// The OPT record, if it is the last one: as we write it, and as clients do that sign nothing.
fn last_opt(message: &[u8]) -> Result<Option<Opt>, Malformed> {
    let count = |at: usize| message.get(at..at + 2).map_or(0, |octets| u16::from_be_bytes([octets[0], octets[1]]));
    let mut decoder = BinDecoder::new(message);
    decoder.read_slice(HEADER)?;
    for _ in 0..count(4) {
        Name::read(&mut decoder)?;
        decoder.read_slice(4)?;
    }
    let records = [6, 8, 10].map(|at| u32::from(count(at))).iter().sum::<u32>();
    let mut last = None;
    for _ in 0..records {
        Name::read(&mut decoder)?;
        let kind = decoder.read_u16()?.unverified(/* any value is a type */);
        decoder.read_slice(6)?;
        let length = usize::from(decoder.read_u16()?.unverified(/* read_slice checks it */));
        last = (kind == OPT).then_some(Opt { data: decoder.index(), length });
        decoder.read_slice(length)?;
    }
    Ok(last.filter(|_| decoder.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, the question `a. A IN` and OPT with these options.
    fn message(options: &[u8]) -> Vec<u8> {
        let mut message = vec![0, 7, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 1, 1, b'a', 0, 0, 1, 0, 1];
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0]);
        message.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
        message.extend(options);
        message
    }

    #[test]
    fn only_a_query_that_says_so_asks_for_padding() {
        for (options, expected) in [
            (&[][..], false),
            (&[0, 12, 0, 0][..], true),
            (&[0, 12, 0, 3, 0, 0, 0][..], true),
            (&[0, 3, 0, 0, 0, 12, 0, 0][..], true),
            (&[0, 10, 0, 0][..], false),
            (&[0, 12, 0, 9][..], false),
        ] {
            assert_eq!(asks_for_padding(&message(options)), expected, "{options:?}");
        }
        assert!(!asks_for_padding(b"short"));
    }

    #[test]
    fn a_padded_reply_has_a_length_that_says_little_and_says_the_same() {
        for extra in [0usize, 1, 100, 430, 434, 435, 436, 437, 438, 439, 500, 2000] {
            let options = [&[0, 99][..], &u16::try_from(extra).unwrap().to_be_bytes(), &vec![7; extra]].concat();
            let plain = message(&options);
            let padded = pad(plain.clone());
            assert_eq!(padded.len() % BLOCK, 0, "{extra}");
            assert!(padded.len() - plain.len() < BLOCK + 4, "{extra}");
            let read = |message: &[u8]| hickory_proto::op::Message::from_vec(message).unwrap();
            assert_eq!(read(&padded).queries, read(&plain).queries);
            assert!(asks_for_padding(&padded), "it carries the option");
        }
        let plain = b"no message".to_vec();
        assert_eq!(pad(plain.clone()), plain);
        let mut bare = message(&[]);
        bare.truncate(19);
        bare[11] = 0;
        assert_eq!(pad(bare.clone()), bare, "without EDNS there is no padding");
        let long = message(&[&[0, 99, 255, 220][..], &[7; 65_500]].concat());
        assert_eq!(pad(long.clone()), long, "too long for a message");
    }
}
