//! The probes of RFC 8906 section 8 with dig, and what a resolver may rely on beyond them with packets of our own: each over
//! UDP and over TCP.

use std::{net::SocketAddr, sync::Arc};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use portolan::{
    dns::server::Limits,
    model::{Driver, Local, Network, NetworkId, Scope},
};

use super::support::*;

/// A probe: the section, what dig is told, what its output must hold, and what it must not hold.
type Probe = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const SOA: &str = "svc.internal.\t\t1\tIN\tSOA\t";
const VERSION_0: &str = "; EDNS: version: 0,";

/// Without `+tcp`; `ad`, `ra` and the like are looked for in the line of flags alone. (Section 8.2.8 is 8.2.4 with DO;
/// 8.2.9 ends the list.)
const PROBES: [Probe; 18] = [
    ("8.1.1 is it configured", "+noedns +noad +norec soa", &["status: NOERROR", SOA, " aa"], &["EDNS:", " ad", " rd"]),
    (
        "8.1.2 unknown opcode",
        "+noedns +noad +norec +opcode=15 +header-only",
        &["status: NOTIMP", "opcode: RESERVED15", "QUERY: 0, ANSWER: 0, AUTHORITY: 0, ADDITIONAL: 0"],
        &[" aa", " ad", " rd", " ra"],
    ),
    (
        "8.1.3 unknown type",
        "+noedns +noad +norec type1000",
        &["status: NOERROR", "ANSWER: 0", " aa"],
        &["EDNS:", " ad"],
    ),
    ("8.1.4 flag CD", "+noedns +noad +norec +cd soa", &["status: NOERROR", SOA, " aa"], &["EDNS:", " ad"]),
    ("8.1.4 flag AD", "+noedns +norec +ad soa", &["status: NOERROR", SOA, " aa"], &["EDNS:", " ad"]),
    (
        "8.1.4 reserved flag",
        "+noedns +noad +norec +zflag soa",
        &["status: NOERROR", SOA, " aa"],
        &["EDNS:", " ad", "MBZ"],
    ),
    ("8.1.4 flag RD", "+noedns +noad +rec soa", &["status: NOERROR", SOA, " aa", " rd"], &["EDNS:", " ad"]),
    ("8.2.1 EDNS", "+nocookie +edns=0 +noad +norec soa", &["status: NOERROR", SOA, " aa", VERSION_0], &[" ad"]),
    (
        "8.2.2 EDNS version 1",
        "+nocookie +edns=1 +noednsneg +noad +norec soa",
        &["status: BADVERS", "ANSWER: 0", VERSION_0],
        &[SOA, " ad"],
    ),
    (
        "8.2.3 unknown option",
        "+nocookie +edns=0 +noad +norec +ednsopt=100 soa",
        &["status: NOERROR", SOA, " aa", VERSION_0],
        &["OPT=100", " ad"],
    ),
    (
        "8.2.4 unknown flag",
        "+nocookie +edns=0 +noad +norec +ednsflags=0x40 soa",
        &["status: NOERROR", SOA, " aa", VERSION_0],
        &["MBZ", " ad"],
    ),
    (
        "8.2.5 version 1 and an unknown flag",
        "+nocookie +edns=1 +noednsneg +noad +norec +ednsflags=0x40 soa",
        &["status: BADVERS", VERSION_0],
        &[SOA, "MBZ", " ad"],
    ),
    (
        "8.2.6 version 1 and an unknown option",
        "+nocookie +edns=1 +noednsneg +noad +norec +ednsopt=100 soa",
        &["status: BADVERS", VERSION_0],
        &[SOA, "OPT=100", " ad"],
    ),
    (
        "8.2.7 truncation",
        "+nocookie +norec +dnssec +bufsize=512 +ignore soa",
        &["status: NOERROR", VERSION_0],
        &["RRSIG"],
    ),
    ("8.2.8 DO", "+nocookie +edns=0 +noad +norec +dnssec soa", &["status: NOERROR", SOA, " aa", VERSION_0], &["RRSIG"]),
    (
        "8.2.9 version 1 and DO",
        "+nocookie +edns=1 +noednsneg +noad +norec +dnssec soa",
        &["status: BADVERS", VERSION_0],
        &[SOA],
    ),
    (
        "8.2.10 several options",
        "+edns=0 +noad +norec +cookie +nsid +expire +subnet=0.0.0.0/0 soa",
        &["status: NOERROR", SOA, " aa", VERSION_0],
        &[" ad"],
    ),
    // Nothing of the section: what a resolver sends before anything else.
    (
        "RFC 8109 priming",
        "+nocookie +edns=0 +norec ns",
        &["status: NOERROR", "svc.internal.\t\t0\tIN\tNS\tsvc.internal."],
        &[],
    ),
];

/// Asks for the apex, unless only a header is sent.
fn probe(server: SocketAddr, arguments: &str, transport: &str) -> String {
    let name = if arguments.contains("header-only") { None } else { Some("svc.internal.") };
    dig(server, &[transport].into_iter().chain(arguments.split(' ')).chain(name).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_probes_of_rfc_8906_get_what_it_expects() {
    let server = Server::start(Limits::default()).await;
    let mut wrong = Vec::new();
    for (section, arguments, holds, lacks) in PROBES {
        for transport in ["+notcp", "+tcp"] {
            let said = probe(server.address, arguments, transport);
            let flags = said.lines().find(|line| line.starts_with(";; flags:")).unwrap_or_default();
            // A flag is looked for where flags stand, before their end; anything else anywhere.
            let flags = flags.split(';').nth(2).unwrap_or_default();
            let is_there = |word: &str| match word.starts_with(' ') {
                true => flags.split(' ').any(|flag| flag == word.trim()),
                false => said.contains(word),
            };
            let missing: Vec<_> = holds.iter().filter(|word| !is_there(word)).collect();
            let surplus: Vec<_> = lacks.iter().filter(|word| is_there(word)).collect();
            if !missing.is_empty() || !surplus.is_empty() {
                wrong.push(format!("{section} {transport}: missing {missing:?}, surplus {surplus:?}\n{said}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What must come back.
enum Back {
    Code(ResponseCode),
    /// A "no" with its SOA, which says how long it may be kept (RFC 2308).
    No(ResponseCode),
    Whole(fn(&Message) -> bool),
    /// Nothing at all.
    Silence,
}

/// The plainest question with octets put in place of others.
fn changed(at: usize, octets: &[u8]) -> Vec<u8> {
    let mut packet = web();
    packet[at..at + octets.len()].copy_from_slice(octets);
    packet
}

/// The plainest question with this behind it as its one additional record.
fn with_additional(octets: &[u8]) -> Vec<u8> {
    let mut packet = [&web()[..], octets].concat();
    packet[11] = 1;
    packet
}

/// A question whose name is written as these octets.
fn named(octets: &[u8]) -> Vec<u8> {
    [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], octets, &[0, 1, 0, 1]].concat()
}

fn asked(name: &str, kind: RecordType) -> Vec<u8> {
    query(7, name, kind)
}

const OPT: [u8; 11] = [0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0];

fn cases() -> Vec<(&'static str, Vec<u8>, Back)> {
    use Back::*;
    let (form, data, name) = (Code(ResponseCode::FormErr), ResponseCode::NoError, ResponseCode::NXDomain);
    let end = web().len();
    let two_opts = {
        let mut packet = [&web()[..], &OPT, &OPT].concat();
        packet[11] = 2;
        packet
    };
    let opt = |at: usize, octets: &[u8]| {
        let mut opt = OPT;
        opt[at..at + octets.len()].copy_from_slice(octets);
        with_additional(&opt)
    };
    vec![
        ("no such name", asked("gone.default.svc.internal.", RecordType::A), No(name)),
        ("no such type (RFC 2308)", asked("web.default.svc.internal.", RecordType::MX), No(data)),
        ("an empty non-terminal exists (RFC 8020)", asked("default.svc.internal.", RecordType::A), No(data)),
        ("nothing below a name that does not exist", asked("a.gone.default.svc.internal.", RecordType::A), No(name)),
        (
            "ANY is small (RFC 8482)",
            asked("many.default.svc.internal.", RecordType::ANY),
            Whole(|reply| reply.answers.len() == 1 && reply.answers[0].record_type() == RecordType::HINFO),
        ),
        ("an opcode we do not have", changed(2, &[0x29]), Code(ResponseCode::NotImp)),
        ("another class", changed(end - 2, &[0, 3]), Code(ResponseCode::Refused)),
        ("a transfer", asked("svc.internal.", RecordType::AXFR), Code(ResponseCode::Refused)),
        ("a response is never answered", changed(2, &[0x81]), Silence),
        ("two OPT records (RFC 6891 section 6.1.1)", two_opts, Code(ResponseCode::FormErr)),
        ("an OPT that is longer than the packet", opt(9, &[0, 9]), Code(ResponseCode::FormErr)),
        (
            "an OPT that belongs to a name",
            with_additional(&[&[1, b'x'][..], &OPT].concat()),
            Code(ResponseCode::FormErr),
        ),
        ("EDNS version 1", opt(6, &[1]), Code(ResponseCode::BADVERS)),
        ("no question", changed(4, &[0, 0]), form),
        ("two questions announced", changed(4, &[0, 2]), Code(ResponseCode::FormErr)),
        ("something behind the end", [&web()[..], &[0]].concat(), Code(ResponseCode::FormErr)),
        ("a compression pointer to itself", named(&[0xc0, 12]), Code(ResponseCode::FormErr)),
        ("a compression pointer forward", named(&[0xc0, 14, 0]), Code(ResponseCode::FormErr)),
        ("a compression pointer into the header", named(&[0xc0, 0]), Code(ResponseCode::FormErr)),
        ("a label of a kind that does not exist", named(&[0x80, 0]), Code(ResponseCode::FormErr)),
        (
            "letters come back as they were sent",
            asked("wEb.DeFaUlT.sVc.InTeRnAl.", RecordType::A),
            Whole(|reply| {
                let is_kept = |name: &hickory_proto::rr::Name| name.to_ascii() == "wEb.DeFaUlT.sVc.InTeRnAl.";
                is_kept(reply.queries[0].name()) && is_kept(&reply.answers[0].name) && reply.answers.len() == 1
            }),
        ),
        (
            "SRV brings the addresses of its targets",
            asked("web.default.svc.internal.", RecordType::SRV),
            Whole(|reply| {
                reply.answers.len() == 1 && reply.additionals.iter().any(|a| a.data.ip_addr() == Some(WEB[0]))
            }),
        ),
        (
            "an address of ours has a name",
            asked("2.0.30.172.in-addr.arpa.", RecordType::PTR),
            Whole(|reply| {
                reply.answers.len() == 1
                    && reply.answers[0].data.to_string() == "000000000000.web.default.svc.internal."
            }),
        ),
        (
            "an address of our networks that nobody has (RFC 6303)",
            asked("9.9.30.172.in-addr.arpa.", RecordType::PTR),
            No(name),
        ),
        ("part of an address", asked("0.30.172.in-addr.arpa.", RecordType::PTR), No(data)),
        ("a name of others, and nobody to ask", asked("www.example.org.", RecordType::A), Code(ResponseCode::Refused)),
        ("an address of others", asked("1.2.0.192.in-addr.arpa.", RecordType::PTR), Code(ResponseCode::Refused)),
    ]
}

fn check(case: &str, packet: &[u8], reply: &[u8], back: &Back) {
    let said = decode(reply);
    assert_eq!((&reply[..2], reply[2] & 0x80), (&packet[..2], 0x80), "{case}: its id, and a response");
    match back {
        Back::Code(code) => {
            // By number: 16 is BADVERS here, and BADSIG where there is a signature.
            assert_eq!(u16::from(said.metadata.response_code), u16::from(*code), "{case}: {said}");
            assert!(said.answers.is_empty(), "{case}: {said}");
        }
        Back::No(code) => {
            assert_eq!(said.metadata.response_code, *code, "{case}: {said}");
            assert!(said.answers.is_empty() && said.metadata.authoritative, "{case}: {said}");
            assert_eq!(said.authorities.len(), 1, "{case}: {said}");
            assert_eq!(said.authorities[0].record_type(), RecordType::SOA, "{case}: {said}");
        }
        Back::Whole(holds) => {
            assert_eq!(said.metadata.response_code, ResponseCode::NoError, "{case}: {said}");
            assert!(holds(&said), "{case}: {said}");
        }
        Back::Silence => panic!("{case}: {said}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_of_every_kind_get_what_they_deserve_over_both_transports() {
    let server = Server::start(Limits::default()).await;
    let id = NetworkId("n".into());
    let network = Network {
        id: id.clone(),
        name: "n".into(),
        driver: Driver::Bridge,
        scope: Scope::Local,
        internal: false,
        icc: true,
        subnets: vec!["172.30.0.0/16".parse().unwrap()],
        gateways: vec![],
    };
    let networks = [(id, Arc::new(network))].into_iter().collect();
    server.shared.set_local(Arc::new(Local { listed: true, networks, ..Local::default() }));
    let next = query(77, "web.default.svc.internal.", RecordType::A);
    for (case, packet, back) in cases() {
        let socket = udp_client(CLIENT, server.address);
        socket.send(&packet).unwrap();
        if matches!(back, Back::Silence) {
            // What comes first is the answer to what was sent second: one socket's queries are answered in order.
            socket.send(&next).unwrap();
            assert_eq!(decode(&receive(&socket).unwrap()).metadata.id, 77, "{case}");
        } else {
            let reply = receive(&socket).unwrap_or_else(|error| panic!("{case}: {error}"));
            assert!(reply.len() <= 512 || packet.ends_with(&OPT), "{case}: {} octets", reply.len());
            check(case, &packet, &reply, &back);
        }

        let mut connection = Connection::open(CLIENT, server.address).unwrap();
        connection.send(&packet).unwrap();
        if matches!(back, Back::Silence) {
            connection.send(&next).unwrap();
            // Or it is closed: who sends responses has nothing to ask.
            assert!(connection.receive().map_or(true, |reply| decode(&reply).metadata.id == 77), "{case}");
        } else {
            let reply = connection.receive().unwrap_or_else(|error| panic!("{case} over TCP: {error}"));
            check(case, &packet, &reply, &back);
        }
    }
    server.assert_answers(CLIENT);
}
