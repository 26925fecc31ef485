//! What must hold for whatever an upstream says: the fuzz target `forward`. Pure.

use super::{
    super::wire::{HEADER, MAX_UDP, MAX_UDP_PLAIN, OPT_LENGTH, Transport},
    key::{Edns, Key},
    message::{self, Asked},
    reply::{Age, MAX_TTL, Reply, STALE_TTL},
};
use crate::fuzz::{Reader, Seen};

/// The id of every question to the upstream; a reply must carry it.
const ID: [u8; 2] = [0x12, 0x34];

/// The first octet says who asks how, the others are what the upstream replies to that.
///
/// Bits 0 and 1: the name; 2 and 3: the type; 4: EDNS towards the upstream; 5: the client speaks EDNS, 6: with DO;
/// 7: it asks for AD and CD.
pub(crate) fn reply(input: &[u8]) {
    let Some((how, told)) = input.split_first() else { return };
    let packet = client(*how);
    let asked = Asked::of(&packet).expect("a query of ours");
    let edns = if how & 0x10 != 0 { Edns::With } else { Edns::Without };
    let query = Key::of(&asked).query(ID, edns);
    let accepted = message::answers(&query, told);
    if accepted {
        let end = query.len() - if edns == Edns::With { usize::from(OPT_LENGTH) } else { 0 };
        assert!(told[..2] == ID && told[2] & 0x80 != 0 && told[2] & 0x78 == 0, "id, QR and opcode");
        assert_eq!(told[4..6], [0, 1], "one question");
        assert!(told[HEADER..end].eq_ignore_ascii_case(&query[HEADER..end]), "our question");
    }
    // Nothing makes reading panic, whether it was accepted or not.
    let Some(reply) = Reply::read(told) else { return };
    assert!(reply.lifetime <= MAX_TTL, "{} s", reply.lifetime);
    if !accepted {
        return;
    }
    // A place for each record, which has at least eleven octets.
    assert!(reply.len() <= told.len() + told.len() / 11 * 2, "what is kept is bounded by what came");
    for transport in [Transport::Udp, Transport::Tcp] {
        for age in [Age::Seconds(0), Age::Seconds(100), Age::Stale] {
            let mut out = vec![0xaa; 3];
            reply.write(&asked, transport, age, &mut out);
            let longest = check(&out, &asked, transport);
            let most = match age {
                Age::Seconds(age) => MAX_TTL - age,
                Age::Stale => STALE_TTL,
            };
            assert!(longest <= most, "a TTL of {longest} s, at most {most}");
        }
    }
}

/// What a client gets is for its packet, whole to the last octet, and no longer than it takes. Gives its longest TTL.
fn check(out: &[u8], asked: &Asked<'_>, transport: Transport) -> u32 {
    assert_eq!(out[..2], asked.packet[..2], "the client's id");
    assert_eq!(out[2] & 0xf8, 0x80, "QR, no opcode");
    let mut read = Reader::new(out);
    let counts = read.counts();
    assert_eq!(counts[0], 1, "one question");
    read.name();
    read.skip(4);
    assert_eq!(read.at, asked.question.end());
    assert_eq!(out[HEADER..read.at], asked.packet[HEADER..read.at], "in the client's letter case");
    let Seen { has_opt, longest_ttl } = read.records(&counts);
    assert_eq!(read.at, out.len(), "octets behind the message");
    assert_eq!(has_opt, asked.opt.is_some(), "EDNS for those who speak it");
    let most = match (transport, asked.opt) {
        (Transport::Tcp, _) => u16::MAX,
        (Transport::Udp, Some(opt)) => opt.size.clamp(MAX_UDP_PLAIN, MAX_UDP),
        (Transport::Udp, None) => MAX_UDP_PLAIN,
    };
    assert!(out.len() <= most.into(), "{} octets of {most}", out.len());
    longest_ttl
}

/// The query of a client.
pub(crate) fn client(how: u8) -> Vec<u8> {
    let name: &[u8] = match how & 3 {
        0 => b"\x03wWw\x07example\x03org\0",
        1 => b"\x01A\0",
        2 => b"\0",
        _ => &[[63; 64].as_slice(), &[63; 64], &[63; 64], &[61; 62], &[0]].concat(),
    };
    let kind = [1u8, 28, 33, 255][usize::from(how >> 2 & 3)];
    let has_opt = how & 0x20 != 0;
    let flags = if how & 0x80 != 0 { message::AD | message::CD } else { 0 };
    let header = [0xbe, 0xef, message::RD, flags, 0, 1, 0, 0, 0, 0, 0, u8::from(has_opt)];
    let mut packet = [&header, name, &[0, kind, 0, 1]].concat();
    if has_opt {
        let dnssec_ok = if how & 0x40 != 0 { message::DO } else { 0 };
        packet.extend([0, 0, 41, 2, 88, 0, 0, dnssec_ok, 0, 0, 0]);
    }
    packet
}
