use std::{collections::BTreeSet, time::Instant};

use hickory_proto::{
    op::{Edns, Message, MessageType},
    rr::{RData, Record, RecordType, rdata::opt::EdnsOption},
    serialize::binary::{BinDecodable, BinDecoder},
};
use proptest::prelude::*;
use rand::{SeedableRng, rngs::SmallRng};

use super::*;
use crate::dns::fixture::{ADDRESS, World, query};

const SHOP: &str = "
    network n1 bridge 172.18.0.0/16
    network cut bridge 172.20.0.0/16 internal
    asker f1 shop n1=172.18.0.9
    asker in shop cut=172.20.0.9
    host own 192.0.2.1
      a1 @n1=172.18.0.2 web.shop http:80/tcp tag=x
      a2 @n1=172.18.0.3 web.shop http:80/tcp
";

fn reply_to(world: &World, who: &str, packet: &[u8], transport: Transport) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(1);
    respond(&world.snapshot(), &world.source(who), ADDRESS, packet, transport, &mut rng)
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// A query written as words: `flags=0100`, `q=name/type/class`, `opt=size/version/flags/data`, `an=` and `ad=` with
/// one record in hex, `qd=` with a count that lies, `cut=` octets off the end, `+` octets at the end.
fn packet(words: &str) -> Vec<u8> {
    let mut flags = 0x0100u16;
    let mut counts = [0u16; 4];
    let mut sections: [Vec<u8>; 4] = Default::default();
    let (mut lie, mut cut, mut tail) = (None, 0, Vec::new());
    for word in words.split_whitespace() {
        let (key, value) = word.split_once('=').unwrap_or(("+", &word[1..]));
        let mut put = |section: usize, octets: &[u8]| {
            counts[section] += 1;
            sections[section].extend_from_slice(octets);
        };
        match key {
            "flags" => flags = u16::from_str_radix(value, 16).unwrap(),
            "q" => {
                let [name, kind, class] = value.split('/').collect::<Vec<_>>()[..] else { panic!("{value}") };
                let mut octets = Vec::new();
                for label in name.split('.').filter(|label| !label.is_empty()) {
                    octets.push(u8::try_from(label.len()).unwrap());
                    octets.extend_from_slice(label.as_bytes());
                }
                octets.push(0);
                octets.extend(kind.parse::<u16>().unwrap().to_be_bytes());
                octets.extend(class.parse::<u16>().unwrap().to_be_bytes());
                put(0, &octets);
            }
            "opt" => {
                let [size, version, flags, data] = value.split('/').collect::<Vec<_>>()[..] else { panic!("{value}") };
                let data = hex(data);
                let mut octets = vec![0, 0, 41];
                octets.extend(size.parse::<u16>().unwrap().to_be_bytes());
                octets.extend([0, version.parse().unwrap()]);
                octets.extend(hex(flags));
                octets.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
                octets.extend(data);
                put(3, &octets);
            }
            "an" => put(1, &hex(value)),
            "ad" => put(3, &hex(value)),
            "raw" => put(0, &hex(value)),
            "qd" => lie = Some(value.parse().unwrap()),
            "cut" => cut = value.parse().unwrap(),
            "+" => tail = hex(value),
            other => panic!("{other}"),
        }
    }
    counts[0] = lie.unwrap_or(counts[0]);
    let mut packet = vec![0xbe, 0xef];
    packet.extend(flags.to_be_bytes());
    packet.extend(counts.iter().flat_map(|count| count.to_be_bytes()));
    packet.extend(sections.concat());
    packet.extend(tail);
    packet.truncate(packet.len() - cut);
    packet
}

/// The reply's header, read by hand: code, flags, sections, and its OPT.
fn show(outcome: Outcome) -> String {
    let reply = match outcome {
        Outcome::Reply(reply) => reply,
        Outcome::Drop => return "DROP".into(),
        Outcome::Forward(query) => return format!("FORWARD {query}"),
        Outcome::Follow(follow) => return format!("FOLLOW {}", follow.shown()),
        Outcome::Wait => return "WAIT".into(),
    };
    assert_eq!(reply[..2], [0xbe, 0xef], "the id");
    assert_eq!(reply[2] >> 7, 1, "QR");
    let message = Message::from_vec(&reply).unwrap();
    let code = u16::from(reply[3] & 15) | message.edns.as_ref().map_or(0, |edns| u16::from(edns.rcode_high()) << 4);
    let code = match code {
        0 => "NOERROR",
        1 => "FORMERR",
        2 => "SERVFAIL",
        3 => "NXDOMAIN",
        4 => "NOTIMP",
        5 => "REFUSED",
        16 => "BADVERS",
        other => panic!("code {other}"),
    };
    let mut shown = format!("{code} op{}", reply[2] >> 3 & 15);
    for (octet, bit, name) in
        [(2, 4, "aa"), (2, 2, "tc"), (2, 1, "rd"), (3, 0x80, "ra"), (3, 0x40, "z"), (3, 0x20, "ad"), (3, 0x10, "cd")]
    {
        if reply[octet] & bit != 0 {
            shown += &format!(" {name}");
        }
    }
    shown += &format!(" {}/{}/{}", message.queries.len(), message.answers.len(), message.authorities.len());
    if let Some(edns) = &message.edns {
        assert_eq!(edns.version(), 0);
        // What is said there beside the code: `others.rs`.
        let is_ours = |code: u16| [extended::EXTENDED, NSID].contains(&code);
        assert!(edns.options().as_ref().iter().all(|(code, _)| is_ours((*code).into())));
        shown += &format!(" opt{}{}", edns.max_payload(), if edns.flags().dnssec_ok { " do" } else { "" });
        assert_eq!(edns.flags().z, 0);
    }
    shown
}

#[test]
fn the_probes_of_rfc_8906_section_8_and_more() {
    let world = World::parse(SHOP);
    let mut wrong = Vec::new();
    for row in PROBES.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let [words, expected] = row.split('|').map(str::trim).collect::<Vec<_>>()[..] else { panic!("{row:?}") };
        let given = show(reply_to(&world, "f1", &packet(words), Transport::Udp));
        if given != expected {
            wrong.push(format!("{words} | {given}      <- expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} rows differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Types: 1 A, 2 NS, 6 SOA, 33 SRV, 252 AXFR, 251 IXFR, 255 ANY. Class 1 IN, 3 CH.
const PROBES: &str = "
    q=svc.internal/6/1                                        | NOERROR op0 aa rd ra 1/1/0
    flags=0000 q=svc.internal/6/1                             | NOERROR op0 aa ra 1/1/0
    q=web.svc.internal/1/1                                    | NOERROR op0 aa rd ra 1/2/0
    q=web.svc.internal/1000/1                                 | NOERROR op0 aa rd ra 1/0/1
    q=web.svc.internal/65535/1                                | NOERROR op0 aa rd ra 1/0/1
    q=web.svc.internal/0/1                                    | NOERROR op0 aa rd ra 1/0/1
    q=web.svc.internal/255/1                                  | NOERROR op0 aa rd ra 1/1/0
    q=none.svc.internal/1/1                                   | NXDOMAIN op0 aa rd ra 1/0/1
    flags=0110 q=svc.internal/6/1                             | NOERROR op0 aa rd ra 1/1/0
    flags=0120 q=svc.internal/6/1                             | NOERROR op0 aa rd ra 1/1/0
    flags=0140 q=svc.internal/6/1                             | NOERROR op0 aa rd ra 1/1/0
    flags=0580 q=svc.internal/6/1                             | NOERROR op0 aa rd ra 1/1/0
    flags=0300 q=svc.internal/6/1                             | NOERROR op0 aa rd ra 1/1/0
    flags=010f q=svc.internal/6/1                             | NOERROR op0 aa rd ra 1/1/0
    flags=8100 q=svc.internal/6/1                             | DROP
    flags=8180                                                | DROP
    flags=7900                                                | NOTIMP op15 rd 0/0/0
    flags=7900 q=svc.internal/6/1                             | NOTIMP op15 rd 1/0/0
    flags=0800 q=svc.internal/1/1                             | NOTIMP op1 1/0/0
    flags=1000                                                | NOTIMP op2 0/0/0
    flags=2000 q=svc.internal/6/1                             | NOTIMP op4 1/0/0
    flags=2800 q=svc.internal/6/1 opt=1232/0/0000/            | NOTIMP op5 1/0/0 opt1232
    flags=3000                                                | NOTIMP op6 0/0/0
    flags=a800 q=svc.internal/6/1                             | DROP
    q=version.bind/16/3                                       | REFUSED op0 rd ra 1/0/0
    q=svc.internal/6/255                                      | REFUSED op0 rd ra 1/0/0
    q=svc.internal/6/254                                      | REFUSED op0 rd ra 1/0/0
    q=svc.internal/6/0                                        | REFUSED op0 rd ra 1/0/0
    q=svc.internal/252/1                                      | REFUSED op0 rd ra 1/0/0
    q=svc.internal/251/1                                      | REFUSED op0 rd ra 1/0/0
    q=example.com/252/1                                       | REFUSED op0 rd ra 1/0/0
    q=example.com/1/1                                         | FORWARD example.com. IN A
    q=ExAmPle.com/1/1 opt=4096/0/8000/                        | FORWARD ExAmPle.com. IN A
                                                              | FORMERR op0 rd ra 0/0/0
    q=svc.internal/6/1 q=svc.internal/6/1                     | FORMERR op0 rd ra 0/0/0
    q=svc.internal/6/1 qd=65535                               | FORMERR op0 rd ra 0/0/0
    qd=1                                                      | FORMERR op0 rd ra 0/0/0
    q=svc.internal/6/1 cut=1                                  | FORMERR op0 rd ra 0/0/0
    q=svc.internal/6/1 cut=5                                  | FORMERR op0 rd ra 0/0/0
    q=svc.internal/6/1 qd=0                                   | FORMERR op0 rd ra 0/0/0
    q=svc.internal/6/1 +00                                    | FORMERR op0 rd ra 1/0/0
    raw=c00c00060001                                          | FORMERR op0 rd ra 0/0/0
    raw=037765624077                                          | FORMERR op0 rd ra 0/0/0
    raw=c00000010001                                          | FORMERR op0 rd ra 0/0/0
    raw=c00500010001                                          | FORMERR op0 rd ra 0/0/0
    raw=4077656200010001                                      | FORMERR op0 rd ra 0/0/0
    cut=1                                                     | DROP
    cut=12                                                    | DROP
    q=svc.internal/6/1 opt=1232/0/0000/                       | NOERROR op0 aa rd ra 1/1/0 opt1232
    q=svc.internal/6/1 opt=0/0/0000/                          | NOERROR op0 aa rd ra 1/1/0 opt1232
    q=svc.internal/6/1 opt=65535/0/0000/                      | NOERROR op0 aa rd ra 1/1/0 opt1232
    q=svc.internal/6/1 opt=1232/1/0000/                       | BADVERS op0 rd ra 1/0/0 opt1232
    q=svc.internal/6/1 opt=1232/255/0000/                     | BADVERS op0 rd ra 1/0/0 opt1232
    q=svc.internal/6/3 opt=1232/1/0000/                       | BADVERS op0 rd ra 1/0/0 opt1232
    q=svc.internal/6/1 opt=1232/0/0000/00640000               | NOERROR op0 aa rd ra 1/1/0 opt1232
    q=svc.internal/6/1 opt=1232/0/0000/ffff0003abcdef         | NOERROR op0 aa rd ra 1/1/0 opt1232
    q=svc.internal/6/1 opt=1232/1/0000/00640000               | BADVERS op0 rd ra 1/0/0 opt1232
    q=svc.internal/6/1 opt=1232/0/0040/                       | NOERROR op0 aa rd ra 1/1/0 opt1232
    q=svc.internal/6/1 opt=1232/1/0040/                       | BADVERS op0 rd ra 1/0/0 opt1232
    q=svc.internal/6/1 opt=1232/0/8000/                       | NOERROR op0 aa rd ra 1/1/0 opt1232 do
    q=svc.internal/6/1 opt=1232/1/8000/                       | BADVERS op0 rd ra 1/0/0 opt1232 do
    q=none.svc.internal/1/1 opt=512/0/ffff/                   | NXDOMAIN op0 aa rd ra 1/0/1 opt1232 do
    q=svc.internal/6/1 opt=512/0/0000/000300000008000400010000000a00081122334455667788 | NOERROR op0 aa rd ra 1/1/0 opt1232
    q=svc.internal/6/1 opt=1232/0/0000/0064                   | FORMERR op0 rd ra 1/0/0
    q=svc.internal/6/1 opt=1232/0/0000/00640001               | FORMERR op0 rd ra 1/0/0
    q=svc.internal/6/1 opt=1232/0/0000/0064000000             | FORMERR op0 rd ra 1/0/0
    q=svc.internal/6/1 opt=1232/0/0000/ cut=1                 | FORMERR op0 rd ra 1/0/0
    q=svc.internal/6/1 opt=1232/0/0000/ opt=1232/0/0000/      | FORMERR op0 rd ra 1/0/0
    q=svc.internal/6/1 an=00002904d0000000000000              | FORMERR op0 rd ra 1/0/0
    q=svc.internal/6/1 ad=016100002904d0000000000000          | FORMERR op0 rd ra 1/0/0
    q=svc.internal/6/1 ad=c00c0001000100000000000401020304    | NOERROR op0 aa rd ra 1/1/0
    q=svc.internal/6/1 an=c00c0001000100000000000401020304    | NOERROR op0 aa rd ra 1/1/0
    q=svc.internal/6/1 ad=c00c00010001000000000000            | NOERROR op0 aa rd ra 1/1/0
    q=svc.internal/6/1 ad=c00c000100010000000000ff01020304    | FORMERR op0 rd ra 1/0/0
    q=svc.internal/6/1 ad=c0ff0001000100000000000401020304    | FORMERR op0 rd ra 1/0/0
";

#[test]
fn ra_is_set_for_whom_names_of_others_are_forwarded() {
    let mut world = World::parse(SHOP);
    let ask = |world: &World, who| show(reply_to(world, who, &packet("q=svc.internal/6/1"), Transport::Udp));
    for (who, expected) in [
        ("f1", "NOERROR op0 aa rd ra 1/1/0"),
        ("host", "NOERROR op0 aa rd ra 1/1/0"),
        ("in", "NOERROR op0 aa rd 1/1/0"),
        ("stranger", "NOERROR op0 aa rd 1/1/0"),
        ("unknown", "WAIT"),
    ] {
        assert_eq!(ask(&world, who), expected, "{who}");
    }
    world.settings.forwarding = false;
    assert_eq!(ask(&world, "f1"), "NOERROR op0 aa rd 1/1/0");
}

#[test]
fn one_that_is_not_known_waits_only_with_a_good_question() {
    let world = World::parse(SHOP);
    for (words, expected) in [
        ("q=example.com/1/1", "WAIT"),
        ("q=svc.internal/6/3", "REFUSED op0 rd 1/0/0"),
        ("", "FORMERR op0 rd 0/0/0"),
        ("flags=8000 q=example.com/1/1", "DROP"),
    ] {
        assert_eq!(show(reply_to(&world, "unknown", &packet(words), Transport::Udp)), expected, "{words}");
    }
}

#[test]
fn the_question_comes_back_octet_for_octet_and_owns_the_answers() {
    let world = World::parse(SHOP);
    let asked = packet("q=wEB.sHOP.Svc.INTERNAL/1/1");
    let Outcome::Reply(reply) = reply_to(&world, "f1", &asked, Transport::Udp) else { panic!() };
    assert_eq!(reply[12..asked.len()], asked[12..]);
    // Both answers point to the question's name.
    assert_eq!(reply[asked.len()..asked.len() + 4], [0xc0, 0x0c, 0, 1]);
    let message = Message::from_vec(&reply).unwrap();
    assert!(message.answers.iter().all(|record| record.name.to_ascii() == "wEB.sHOP.Svc.INTERNAL."));
}

#[test]
fn a_failure_says_its_code_and_nothing_else() {
    for (words, code, expected) in [
        ("q=ExAmple.com/1/1", ResponseCode::ServFail, "SERVFAIL op0 rd 1/0/0"),
        ("q=example.com/1/1 opt=4096/0/8000/", ResponseCode::Refused, "REFUSED op0 rd 1/0/0 opt1232 do"),
        ("q=example.com/1/1 q=example.com/1/1", ResponseCode::Refused, "REFUSED op0 rd 0/0/0"),
        ("flags=0000", ResponseCode::FormErr, "FORMERR op0 0/0/0"),
    ] {
        let reply = failure(&packet(words), code, None, false).unwrap();
        assert_eq!(show(Outcome::Reply(reply)), expected, "{words}");
    }
    assert_eq!(failure(&packet("flags=8000 q=example.com/1/1"), ResponseCode::ServFail, None, false), None);
    assert_eq!(failure(b"short", ResponseCode::ServFail, None, false), None);
}

fn many(count: usize) -> World {
    let containers = (0..count).map(|i| {
        format!("{i:012x} @n1=172.18.{0}.{1},fd00:18::{i:x} web.default 80/tcp 81/tcp\n", i / 250, i % 250 + 2)
    });
    let containers: String = containers.collect();
    World::parse(&format!("network n1 bridge 172.18.0.0/16,fd00:18::/64\nhost own\n{containers}"))
}

fn ask(world: &World, name: &str, kind: &str, size: Option<u16>, transport: Transport) -> Message {
    let mut query = query(name, kind);
    if let Some(size) = size {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        query.set_edns(edns);
    }
    let packet = query.to_vec().unwrap();
    let Outcome::Reply(reply) = reply_to(world, "host", &packet, transport) else { panic!() };
    let limit = match (transport, size) {
        (Transport::Tcp, _) => 65_535,
        (Transport::Udp, None) => 512,
        (Transport::Udp, Some(size)) => usize::from(size.clamp(512, 1232)),
    };
    assert!(reply.len() <= limit, "{} octets of {limit}", reply.len());
    let mut decoder = BinDecoder::new(&reply);
    Message::read(&mut decoder).unwrap();
    assert!(decoder.is_empty(), "{} octets follow the message", decoder.len());
    Message::from_vec(&reply).unwrap()
}

#[test]
fn what_does_not_fit_sets_tc_and_keeps_what_fits() {
    let world = many(40);
    let long = "000000000000.web.default.svc.internal";
    // name, type, size, transport: TC, answers, additionals
    for (name, kind, size, transport, expected) in [
        // 12 + 9 octets before, 16 or 28 for each record. What does not fit is no reason to ask again.
        ("web", "A", None, Transport::Udp, (false, 30, 0)),
        ("web", "A", Some(512), Transport::Udp, (false, 30, 0)),
        ("web", "A", Some(1232), Transport::Udp, (false, 40, 0)),
        ("web", "A", None, Transport::Tcp, (false, 40, 0)),
        ("web", "AAAA", None, Transport::Udp, (false, 17, 0)),
        ("web", "AAAA", Some(512), Transport::Udp, (false, 17, 0)),
        ("web.default.svc.internal", "AAAA", Some(1232), Transport::Udp, (false, 40, 0)),
        (long, "AAAA", None, Transport::Udp, (false, 1, 0)),
        // 12 + 9 octets before, 12 + 6 + 39 for each record: eight in 512, 21 in 1232 - 11.
        ("web", "SRV", None, Transport::Udp, (true, 8, 0)),
        ("web", "SRV", Some(512), Transport::Udp, (true, 8, 0)),
        ("web", "SRV", Some(1232), Transport::Udp, (true, 21, 0)),
        ("web", "SRV", Some(9000), Transport::Udp, (true, 21, 0)),
        ("web", "SRV", None, Transport::Tcp, (false, 80, 80)),
        ("web", "SRV", Some(512), Transport::Tcp, (false, 80, 80)),
        // The addresses of one more target do not fit; they are no reason to ask again.
        (long, "SRV", None, Transport::Udp, (false, 2, 2)),
    ] {
        let reply = ask(&world, name, kind, size, transport);
        let given = (reply.metadata.truncation, reply.answers.len(), reply.additionals.len());
        assert_eq!(given, expected, "{kind} {name} {size:?} {transport:?}");
    }
}

#[test]
fn additional_addresses_come_whole_or_not_at_all_and_set_no_tc() {
    let world = many(6);
    let full = ask(&world, "web", "SRV", None, Transport::Tcp);
    assert_eq!((full.answers.len(), full.additionals.len()), (12, 12));
    for length in 1..40 {
        let service = "s".repeat(length);
        let place = |i| format!("{i:012x} @n1=172.18.0.{},fd00:18::{i:x} {service}.default 80/tcp\n", i + 2);
        let instances: String = (0..5).map(place).collect();
        let world = World::parse(&format!("network n1 bridge 172.18.0.0/16,fd00:18::/64\nhost own\n{instances}"));
        let plain = ask(&world, &service, "SRV", None, Transport::Udp);
        assert_eq!(plain.additionals.len() % 2, 0, "{length}: A and AAAA of a target");
    }
    let mut seen = BTreeSet::new();
    for size in 780..1000 {
        let reply = ask(&world, "web", "SRV", Some(size), Transport::Udp);
        assert_eq!((reply.metadata.truncation, reply.answers.len()), (false, 12), "{size}");
        assert_eq!(reply.additionals.len() % 2, 0, "{size}: A and AAAA of a target");
        seen.insert(reply.additionals.len());
    }
    assert!(seen.len() > 3, "{seen:?}");
}

#[test]
fn the_largest_answers_fit_into_a_tcp_message() {
    let label = "x".repeat(63);
    let tags: String = (0..140).map(|i| format!("tag={i:0>255} ")).collect();
    let instances: String =
        (0..200).map(|i| format!("{i:012x} @n1=172.18.0.{} {label}.{label} 80/tcp 81/tcp {tags}\n", i % 250)).collect();
    let mut world = World::parse(&format!("network n1 bridge 172.18.0.0/16\nhost own\n{instances}"));
    world.settings.apex = format!("{}.{}", "a".repeat(63), "b".repeat(48)).parse().unwrap();
    let name = format!("{label}.{label}.{}", world.settings.apex);
    let srv = ask(&world, &name, "SRV", None, Transport::Tcp);
    assert_eq!((srv.metadata.truncation, srv.answers.len()), (false, 127));
    let txt = ask(&world, &format!("{:012x}.{name}", 0), "TXT", None, Transport::Tcp);
    let [Record { data: RData::TXT(txt), .. }] = &txt.answers[..] else { panic!() };
    assert_eq!(txt.txt_data.len(), 128);
    // The SOA of the longest denial fits into the smallest datagram.
    let denied = ask(&world, &format!("{}.{name}", "x".repeat(12)), "A", Some(512), Transport::Udp);
    assert_eq!((denied.metadata.truncation, denied.authorities.len()), (false, 1));
}

fn kinds() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&["A", "AAAA", "SRV", "TXT", "PTR", "SOA", "NS", "ANY", "MX", "AXFR", "CNAME"])
}

fn names() -> impl Strategy<Value = String> {
    let known = [
        "web",
        "shop",
        "svc.internal",
        "web.shop.svc.internal",
        "all.web.shop.svc.internal",
        "example.com",
        ".",
        "a10000000000.web.shop.svc.internal",
        "_http._tcp.web.svc.internal",
        "2.0.18.172.in-addr.arpa",
        "0.18.172.in-addr.arpa",
        "18.172.in-addr.arpa",
        "_tcp.web.svc.internal",
    ];
    let mixed = (prop::sample::select(known.to_vec()), any::<u64>()).prop_map(|(name, bits)| {
        let flip = |(i, c): (usize, char)| if bits >> (i % 64) & 1 == 1 { c.to_ascii_uppercase() } else { c };
        name.chars().enumerate().map(flip).collect()
    });
    prop_oneof![mixed, "([a-zA-Z0-9_-]{1,12}\\.){0,5}(svc\\.internal|in-addr\\.arpa|x)"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_reply_parses_echoes_id_and_question_and_keeps_its_limit(
        name in names(),
        kind in kinds(),
        id: u16,
        size in prop::option::of(any::<u16>()),
        who in prop::sample::select(&["f1", "in", "host", "stranger", "unknown"]),
        tcp: bool,
    ) {
        let world = World::parse(SHOP);
        let mut query = query(&name, kind);
        query.metadata.id = id;
        if let Some(size) = size {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            query.set_edns(edns);
        }
        let packet = query.to_vec().unwrap();
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let outcome = reply_to(&world, who, &packet, transport);
        if who == "unknown" && kind != "AXFR" {
            prop_assert_eq!(outcome, Outcome::Wait);
            return Ok(());
        }
        let may_forward = matches!(who, "f1" | "host");
        let limit = if tcp { 65_535 } else { size.map_or(512, |size| usize::from(size.clamp(512, 1232))) };
        match outcome {
            Outcome::Reply(reply) => {
                prop_assert!(reply.len() <= limit);
                let message = Message::from_vec(&reply).unwrap();
                prop_assert_eq!(message.metadata.id, id);
                prop_assert_eq!(message.metadata.message_type, MessageType::Response);
                let end = 12 + query.queries[0].name.iter().map(|label| label.len() + 1).sum::<usize>() + 5;
                prop_assert_eq!(&reply[12..end], &packet[12..end]);
                prop_assert_eq!(message.edns.is_some(), size.is_some());
            }
            Outcome::Forward(asked) => {
                prop_assert!(may_forward);
                let text = asked.name.to_ascii().to_ascii_lowercase();
                prop_assert!(!text.ends_with("svc.internal.") || text.ends_with("xsvc.internal."));
                let is_parents = matches!(kind, "DS" | "DNSKEY" | "NS" | "SOA");
                prop_assert!(
                    text == "." || text.trim_end_matches('.').contains('.') || is_parents,
                    "{text} is a single label"
                );
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn no_packet_makes_us_panic_or_answer_a_response(packet in prop::collection::vec(any::<u8>(), 0..600)) {
        let world = World::parse(SHOP);
        for transport in [Transport::Udp, Transport::Tcp] {
            check_any(&world, &packet, transport)?;
        }
    }

    #[test]
    fn no_damage_to_a_good_packet_makes_us_panic(
        row in 0..PROBES.lines().count(),
        cut in 0usize..60,
        damage in prop::collection::vec((0usize..80, any::<u8>()), 0..6),
    ) {
        let Some((words, _)) = PROBES.lines().nth(row).unwrap().split_once('|') else { return Ok(()) };
        let world = World::parse(SHOP);
        let mut packet = packet(words);
        for (place, octet) in damage {
            if let Some(at) = packet.get_mut(place) {
                *at = octet;
            }
        }
        packet.truncate(packet.len().saturating_sub(cut.saturating_sub(30)));
        check_any(&world, &packet, Transport::Udp)?;
    }
}

fn check_any(world: &World, packet: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    let is_query = packet.len() >= 12 && packet[2] & 0x80 == 0;
    match reply_to(world, "f1", packet, transport) {
        Outcome::Reply(reply) => {
            prop_assert!(is_query);
            prop_assert!(Message::from_vec(&reply).is_ok());
            prop_assert_eq!(&reply[..2], &packet[..2]);
            prop_assert!(transport == Transport::Tcp || reply.len() <= 1232);
        }
        Outcome::Drop => prop_assert!(!is_query),
        Outcome::Forward(_) | Outcome::Follow(_) | Outcome::Wait => prop_assert!(is_query),
    }
    prop_assert_eq!(failure(packet, ResponseCode::ServFail, None, false).is_some(), is_query);
    Ok(())
}

/// Figures, not assertions: `cargo test --release -- --ignored --nocapture figures`.
#[test]
#[ignore = "prints figures, asserts nothing about time"]
#[expect(clippy::print_stdout, reason = "its product is what it prints")]
fn figures_of_one_answer() {
    let mut rng = SmallRng::seed_from_u64(1);
    for (count, name, kind) in [
        (3, "web.default.svc.internal", "A"),
        (3, "web.default.svc.internal", "SRV"),
        (3, "none.default.svc.internal", "A"),
        (10, "web", "A"),
        (1000, "web", "A"),
    ] {
        let world = many(count);
        let packet = query(name, kind).to_vec().unwrap();
        let source = world.source("host");
        let start = Instant::now();
        let rounds = if count > 100 { 1000 } else { 100_000 };
        for _ in 0..rounds {
            std::hint::black_box(respond(&world.snapshot(), &source, ADDRESS, &packet, Transport::Udp, &mut rng));
        }
        println!("{kind} {name} of {count}: {:?}", start.elapsed() / rounds);
    }
}

/// A world in which an operator registered another name, and the query for it.
fn alias(kind: RecordType, options: impl FnOnce(&mut Message)) -> (Vec<u8>, Follow) {
    let world = World::parse(
        "network n1 bridge 172.18.0.0/16\nasker f1 shop n1=172.18.0.9
        host external\n e1 =redis.example.com redis.global 6379/tcp",
    );
    let mut query = Message::query();
    query.add_query(Query::query("redis.svc.internal.".parse().unwrap(), kind));
    options(&mut query);
    let packet = query.to_vec().unwrap();
    match reply_to(&world, "f1", &packet, Transport::Udp) {
        Outcome::Follow(follow) => (packet, *follow),
        other => panic!("{other:?}"),
    }
}

/// An upstream's answer to what is followed, with these records (`name TYPE data`).
fn told(follow: &Follow, code: ResponseCode, records: &[&str]) -> Vec<u8> {
    let mut message = Message::from_vec(&follow.query()).unwrap();
    message.metadata.message_type = MessageType::Response;
    message.metadata.response_code = code;
    for record in records {
        let [name, kind, data] = record.split(' ').collect::<Vec<_>>()[..] else { panic!("{record:?}") };
        let data = match kind {
            "CNAME" => RData::CNAME(hickory_proto::rr::rdata::CNAME(data.parse().unwrap())),
            "A" => RData::A(data.parse().unwrap()),
            _ => RData::AAAA(data.parse().unwrap()),
        };
        message.add_answer(Record::from_rdata(name.parse().unwrap(), 60, data));
    }
    message.to_vec().unwrap()
}

fn shown(reply: Option<Vec<u8>>) -> String {
    let reply = Message::from_vec(&reply.unwrap()).unwrap();
    let mut answers: Vec<String> =
        reply.answers.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
    answers.sort();
    format!("{:?} {}", reply.metadata.response_code, answers.join(", "))
}

/// The reply, given what an upstream says of the other name.
fn reply_of(packet: &[u8], follow: &Follow, told: &[u8]) -> Option<Vec<u8>> {
    followed(packet, Transport::Udp, follow, told, None, &mut SmallRng::seed_from_u64(1))
}

#[test]
fn the_addresses_of_the_other_name_are_given_as_the_services_own() {
    let (packet, follow) = alias(RecordType::A, |_| {});
    let asked = Message::from_vec(&follow.query()).unwrap();
    assert_eq!(asked.queries[0].to_string(), "redis.example.com. IN A");
    assert!(asked.metadata.recursion_desired && asked.edns.is_some());
    let reply = |code, records: &[&str]| shown(reply_of(&packet, &follow, &told(&follow, code, records)));
    assert_eq!(reply(ResponseCode::NoError, &["redis.example.com. A 192.0.2.7"]), "NoError A 192.0.2.7");
    let chain = ["redis.example.com. CNAME r.example.net.", "r.example.net. A 192.0.2.7", "r.example.net. A 192.0.2.8"];
    assert_eq!(reply(ResponseCode::NoError, &chain), "NoError A 192.0.2.7, A 192.0.2.8");
    let strange = ["bank.example. A 192.0.2.66", "redis.example.com. AAAA 2001:db8::7"];
    assert_eq!(reply(ResponseCode::NoError, &strange), "NoError ", "what was not asked for is not handed on");
    assert_eq!(reply(ResponseCode::NoError, &[]), "NoError ");
    assert_eq!(reply(ResponseCode::NXDomain, &[]), "NoError ", "the service is there all the same");
    assert_eq!(reply(ResponseCode::Refused, &[]), "ServFail ");
    assert_eq!(shown(reply_of(&packet, &follow, b"nonsense")), "ServFail ");
}

#[test]
fn the_whole_chain_says_how_long_addresses_of_another_name_hold() {
    let (packet, follow) = alias(RecordType::A, |_| {});
    let mut message = Message::from_vec(&told(&follow, ResponseCode::NoError, &[])).unwrap();
    for (owner, ttl, data) in [
        ("redis.example.com.", 30, RData::CNAME(hickory_proto::rr::rdata::CNAME("r.example.net.".parse().unwrap()))),
        ("r.example.net.", 300, RData::A("192.0.2.7".parse().unwrap())),
        ("bank.example.", 1, RData::A("192.0.2.66".parse().unwrap())),
    ] {
        message.add_answer(Record::from_rdata(owner.parse().unwrap(), ttl, data));
    }
    let reply = Message::from_vec(&reply_of(&packet, &follow, &message.to_vec().unwrap()).unwrap()).unwrap();
    let [record] = &reply.answers[..] else { panic!("{reply}") };
    assert_eq!((record.name.to_string().as_str(), record.ttl), ("redis.svc.internal.", 30));
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    // What is not there has our own SOA, by which that may be kept.
    let none = Message::from_vec(&reply_of(&packet, &follow, &told(&follow, ResponseCode::NoError, &[])).unwrap());
    let none = none.unwrap();
    let [soa] = &none.authorities[..] else { panic!("{none}") };
    assert_eq!((soa.record_type(), soa.name.to_string().as_str()), (RecordType::SOA, "svc.internal."));
}

#[test]
fn an_other_name_that_does_not_exist_is_told_apart_from_one_without_addresses() {
    let (packet, follow) = alias(RecordType::A, |query| {
        query.set_edns(Edns::new());
    });
    let said = |code| {
        let reply = reply_of(&packet, &follow, &told(&follow, code, &[])).unwrap();
        let message = Message::from_vec(&reply).unwrap();
        assert_eq!((message.metadata.response_code, message.authorities.len()), (ResponseCode::NoError, 1));
        others::extended(&reply)
    };
    assert_eq!(said(ResponseCode::NoError), []);
    assert_eq!(said(ResponseCode::NXDomain), [(0, "the other name of the service does not exist".to_owned())]);
}

#[test]
fn of_many_addresses_of_another_name_as_many_are_given_as_fit() {
    let (packet, follow) = alias(RecordType::A, |_| {});
    let many: Vec<String> = (0..200).map(|n| format!("redis.example.com. A 192.0.2.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let long = reply_of(&packet, &follow, &told(&follow, ResponseCode::NoError, &many)).unwrap();
    let reply = Message::from_vec(&long).unwrap();
    assert!(long.len() <= 512 && long.len() > 480 && !reply.metadata.truncation, "{}: {reply}", long.len());
}

proptest! {
    #[test]
    fn whatever_an_upstream_says_the_reply_is_one(reply in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..100) {
        let (packet, follow) = alias(RecordType::AAAA, |_| {});
        let mut real = told(&follow, ResponseCode::NoError, &["redis.example.com. AAAA 2001:db8::7"]);
        real.truncate(real.len().saturating_sub(cut));
        for foreign in [reply, real] {
            let reply = reply_of(&packet, &follow, &foreign).unwrap();
            prop_assert!(Message::from_vec(&reply).is_ok() && reply.len() <= 512 && reply[..2] == packet[..2]);
        }
    }
}

mod guarded;
mod others;
