use hickory_proto::{
    op::{Edns, Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME, SOA, TXT},
    },
};
use proptest::prelude::*;

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn query(kind: RecordType, edns: Option<(u16, bool)>) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.metadata.id = 7;
    message.add_query(hickory_proto::op::Query::query(name("WwW.example.org."), kind));
    if let Some((size, dnssec_ok)) = edns {
        let mut edns = Edns::new();
        edns.set_max_payload(size).set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

fn a(owner: &str, ttl: u32, last: u8) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A::new(192, 0, 2, last)))
}

fn soa(ttl: u32, minimum: u32) -> Record {
    let soa = SOA::new(name("ns.example.org."), name("root.example.org."), 1, 2, 3, 4, minimum);
    Record::from_rdata(name("example.org."), ttl, RData::SOA(soa))
}

/// The upstream's message, with an OPT record that carries whatever it likes.
fn told(kind: RecordType, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::from_vec(&query(kind, None)).unwrap().into_response();
    message.queries[0].set_name(name("www.example.org."));
    message.metadata.authoritative = true;
    message.metadata.authentic_data = true;
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    edns.options_mut().insert(hickory_proto::rr::rdata::opt::EdnsOption::Unknown(65001, vec![1, 2, 3]));
    message.set_edns(edns);
    change(&mut message);
    message.to_vec().unwrap()
}

fn written(reply: &Reply, query: &[u8], transport: Transport, age: Age) -> Message {
    let mut out = vec![1, 2, 3];
    reply.write(&Asked::of(query).unwrap(), transport, age, &mut out);
    Message::from_vec(&out).unwrap()
}

#[test]
fn a_client_gets_its_own_id_case_flags_and_edns_and_none_of_the_upstreams() {
    let reply = Reply::read(&told(RecordType::A, |m| m.answers = vec![a("www.example.org.", 300, 1)])).unwrap();
    assert_eq!(reply.lifetime, 300);
    let plain = written(&reply, &query(RecordType::A, None), Transport::Udp, Age::Seconds(100));
    assert_eq!(plain.metadata.id, 7);
    assert_eq!(plain.queries[0].name.to_string(), "WwW.example.org.");
    assert_eq!((plain.answers.len(), plain.answers[0].ttl), (1, 200));
    assert!(plain.edns.is_none(), "it did not say EDNS");
    let flags = plain.metadata;
    assert!(flags.recursion_available && flags.recursion_desired && !flags.authoritative);
    assert!(!flags.authentic_data, "it did not ask whether");
    let with_do = written(&reply, &query(RecordType::A, Some((1232, true))), Transport::Udp, Age::Stale);
    let edns = with_do.edns.as_ref().unwrap();
    assert!(edns.flags().dnssec_ok && edns.options().as_ref().is_empty(), "{edns:?}");
    assert!(with_do.metadata.authentic_data);
    assert_eq!(with_do.answers[0].ttl, STALE_TTL);
    let mut wants_ad = query(RecordType::A, None);
    wants_ad[3] |= AD | CD;
    let flags = written(&reply, &wants_ad, Transport::Udp, Age::Seconds(0)).metadata;
    assert!(flags.authentic_data && flags.checking_disabled);
}

#[test]
fn how_long_an_answer_is_true_is_said_by_its_shortest_ttl_or_its_soa() {
    type Change = fn(&mut Message);
    let cases: [(&str, Change, u32); 12] = [
        ("the shortest", |m| m.answers = vec![a("www.example.org.", 300, 1), a("www.example.org.", 60, 2)], 60),
        (
            "of all sections",
            |m| {
                m.answers = vec![a("www.example.org.", 300, 1)];
                m.additionals = vec![a("x.example.org.", 5, 1)];
            },
            5,
        ),
        ("a day at most", |m| m.answers = vec![a("www.example.org.", 999_999, 1)], MAX_TTL),
        ("the uppermost bit", |m| m.answers = vec![a("www.example.org.", 1 << 31, 1)], 0),
        ("0 is 0", |m| m.answers = vec![a("www.example.org.", 0, 1)], 0),
        ("absent: the SOA's minimum", |m| m.authorities = vec![soa(900, 120)], 120),
        ("absent: the SOA's TTL", |m| m.authorities = vec![soa(90, 120)], 90),
        ("absent: an hour at most", |m| m.authorities = vec![soa(9999, 9999)], MAX_NEGATIVE_TTL),
        ("absent, without SOA", |_| {}, 0),
        (
            "no such name",
            |m| {
                m.metadata.response_code = ResponseCode::NXDomain;
                m.authorities = vec![soa(90, 120)];
            },
            90,
        ),
        (
            "a chain that leads nowhere",
            |m| {
                m.answers =
                    vec![Record::from_rdata(name("www.example.org."), 30, RData::CNAME(CNAME(name("b.example."))))];
            },
            0,
        ),
        (
            "another code",
            |m| {
                m.metadata.response_code = ResponseCode::YXDomain;
                m.answers = vec![a("www.example.org.", 300, 1)];
            },
            0,
        ),
    ];
    for (what, change, expected) in cases {
        assert_eq!(Reply::read(&told(RecordType::A, change)).unwrap().lifetime, expected, "{what}");
    }
    let negative = Reply::read(&told(RecordType::A, |m| m.authorities = vec![soa(900, 120)])).unwrap();
    let message = written(&negative, &query(RecordType::A, None), Transport::Udp, Age::Seconds(20));
    assert_eq!(message.authorities[0].ttl, 100, "the SOA's TTL is that of the absence (RFC 2308 section 5)");
}

#[test]
fn what_does_not_fit_loses_the_additional_section_first_and_then_the_last_records_of_the_answer() {
    let many = |count: u8| (0..count).map(|i| a("www.example.org.", 300, i)).collect::<Vec<_>>();
    let reply = Reply::read(&told(RecordType::A, |m| {
        m.answers = many(20);
        m.additionals = many(20);
    }))
    .unwrap();
    let of = |edns, transport| {
        let message = written(&reply, &query(RecordType::A, edns), transport, Age::Seconds(0));
        (message.answers.len(), message.additionals.len(), message.metadata.truncation)
    };
    assert_eq!(of(Some((1232, false)), Transport::Udp), (20, 20, false));
    assert_eq!(of(None, Transport::Udp), (20, 0, false), "353 octets of answers");
    assert_eq!(of(None, Transport::Tcp), (20, 20, false));
    let reply = Reply::read(&told(RecordType::A, |m| m.answers = many(60))).unwrap();
    for (edns, held) in [(Some((512, false)), 29), (None, 29), (Some((600, false)), 34)] {
        let message = written(&reply, &query(RecordType::A, edns), Transport::Udp, Age::Seconds(10));
        assert!(message.metadata.truncation && message.edns.is_some() == edns.is_some(), "{message}");
        assert_eq!(message.answers, (0..held).map(|i| a("www.example.org.", 290, i)).collect::<Vec<_>>());
        assert!(message.authorities.is_empty() && message.additionals.is_empty());
    }
    // A record that does not fit leaves those behind it out, too.
    let texts = |length: usize| TXT::new(vec!["x".repeat(255); length]);
    let reply = Reply::read(&told(RecordType::TXT, |m| {
        m.answers = vec![
            Record::from_rdata(name("www.example.org."), 300, RData::TXT(texts(1))),
            Record::from_rdata(name("www.example.org."), 300, RData::TXT(texts(3))),
            Record::from_rdata(name("www.example.org."), 300, RData::TXT(TXT::new(vec!["y".to_owned()]))),
        ];
        m.authorities = vec![soa(900, 120)];
    }))
    .unwrap();
    let message = written(&reply, &query(RecordType::TXT, None), Transport::Udp, Age::Seconds(0));
    assert_eq!((message.metadata.truncation, message.answers.len(), message.authorities.len()), (true, 1, 0));
}

#[test]
fn what_stands_behind_opt_goes_with_it() {
    let mut message = told(RecordType::A, |m| {
        m.answers = vec![a("www.example.org.", 300, 1)];
        m.additionals = vec![a("x.example.org.", 300, 1)];
    });
    // A record behind OPT, whose owner is written out.
    message.extend([1, b'y', 0, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 1, 2, 3, 4]);
    message[11] += 1;
    let reply = Reply::read(&message).unwrap();
    let written = written(&reply, &query(RecordType::A, None), Transport::Udp, Age::Seconds(0));
    assert_eq!((written.answers.len(), written.additionals.len()), (1, 1), "{written}");
    assert_eq!(reply.lifetime, 300);
}

#[test]
fn broken_messages_are_no_replies() {
    let whole = told(RecordType::A, |m| m.answers = vec![a("www.example.org.", 300, 1)]);
    for length in 0..whole.len() {
        assert_eq!(Reply::read(&whole[..length]), None, "cut to {length}");
    }
    let mut bad_version = whole.clone();
    let opt = whole.len() - 7 - 11;
    assert_eq!(whole[opt..opt + 3], [0, 0, 41]);
    bad_version[opt + 5] = 1;
    assert_eq!(Reply::read(&bad_version), None, "a response code beyond 15");
}

/// The second owner points into the first one's TTL of 300, where 44 stands for the length of a label.
#[test]
fn a_name_that_leads_through_a_ttl_is_broken() {
    let mut message = told(RecordType::A, |m| {
        m.answers = vec![a("www.example.org.", 300, 1), a("www.example.org.", 300, 2)];
        m.authorities = vec![soa(300, 300)];
    });
    assert!(Reply::read(&message).is_some());
    assert_eq!((message[42], message[49]), (44, 0xc0));
    message[50] = 42;
    assert_eq!(Reply::read(&message), None);
}

proptest! {
    #[test]
    fn whatever_an_upstream_says_a_client_gets_a_message_or_nothing(
        edits in proptest::collection::vec((0usize..200, any::<u8>()), 0..6),
        cut in 0usize..260,
        size in proptest::option::of(any::<u16>()),
    ) {
        let mut message = told(RecordType::A, |m| {
            m.answers = vec![a("www.example.org.", 300, 1), a("www.example.org.", 300, 2)];
            m.authorities = vec![soa(300, 300)];
        });
        for (at, value) in edits {
            let at = at % message.len();
            message[at] = value;
        }
        message.truncate(cut.max(12));
        // The exchange has compared the question before.
        let query = query(RecordType::A, size.map(|size| (size, false)));
        let end = Asked::of(&query).unwrap().question.end();
        if message.len() >= end {
            message[4..6].copy_from_slice(&[0, 1]);
            let lower = query[12..end].to_ascii_lowercase();
            message[12..end].copy_from_slice(&lower);
        }
        if let Some(reply) = Reply::read(&message) {
            for (transport, age) in [(Transport::Udp, Age::Seconds(9)), (Transport::Tcp, Age::Stale)] {
                let asked = Asked::of(&query).unwrap();
                let mut out = Vec::new();
                reply.write(&asked, transport, age, &mut out);
                prop_assert!(out.len() <= asked.limit(transport));
                prop_assert_eq!(&out[..2], &query[..2]);
                prop_assert_eq!(&out[12..end], &query[12..end]);
                prop_assert!(Reply::read(&out).is_some(), "what we send can be read");
            }
        }
    }
}

fn outer(reply: &Reply, query: &[u8]) -> Message {
    let mut out = vec![1, 2, 3];
    reply.write_outer(&Asked::of(query).unwrap(), Transport::Udp, Age::Seconds(0), &mut out);
    Message::from_vec(&out).unwrap()
}

#[test]
fn what_leads_inside_a_network_is_left_out_and_nothing_else() {
    let inner = |owner: &str| Record::from_rdata(name(owner), 300, RData::A(A::new(10, 0, 0, 1)));
    let read = |change: &dyn Fn(&mut Message)| Reply::read(&told(RecordType::A, change)).unwrap();
    let query = query(RecordType::A, Some((1232, true)));
    let fine = read(&|m| m.answers = vec![a("www.example.org.", 300, 1)]);
    let whole = written(&fine, &query, Transport::Udp, Age::Seconds(0));
    assert_eq!((fine.inside, outer(&fine, &query)), (Inside::Nowhere, whole));
    let beside = read(&|m| {
        m.answers = vec![a("www.example.org.", 300, 1)];
        m.additionals = vec![a("mail.example.org.", 300, 2), inner("mail.example.org.")];
    });
    let told = outer(&beside, &query);
    assert_eq!((beside.inside, told.answers.len(), told.additionals.len()), (Inside::Additional, 1, 0));
    assert!(told.metadata.authentic_data && !told.metadata.truncation);
    let inside = read(&|m| m.answers = vec![a("www.example.org.", 300, 1), inner("www.example.org.")]);
    let told = outer(&inside, &query);
    assert_eq!(
        (inside.inside, told.answers.len(), told.metadata.response_code),
        (Inside::Answer, 0, ResponseCode::NoError)
    );
    assert!(!told.metadata.authentic_data && !told.metadata.truncation && told.edns.is_some());
}
