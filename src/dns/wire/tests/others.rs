//! Replies about names of others: why one is refused, and what an empty zone says.

use super::*;

/// The extended errors of a reply: code and text.
pub(super) fn extended(reply: &[u8]) -> Vec<(u16, String)> {
    let message = Message::from_vec(reply).unwrap();
    let options = message.edns.map(|edns| edns.options().as_ref().to_vec()).unwrap_or_default();
    options
        .into_iter()
        .filter_map(|(_, option)| match option {
            EdnsOption::Unknown(extended::EXTENDED, data) => {
                let (code, text) = data.split_first_chunk::<2>()?;
                Some((u16::from_be_bytes(*code), String::from_utf8(text.to_vec()).unwrap()))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn who_gets_no_answer_is_told_why_if_it_speaks_edns_and_ra_says_who_is_forwarded_for() {
    use ResponseCode::{FormErr, NXDomain, NoError, NotImp, Refused, ServFail};
    let world = World::parse(SHOP);
    let mut alone = World::parse(SHOP);
    alone.settings.forwarding = false;
    let mut young = World::parse(SHOP);
    young.zone = crate::dns::zone::Zone::default();
    let cname = World::parse("host external\n e1 =redis.example.com redis.global 6379/tcp");
    let mut blind = World::parse("host external\n e1 =redis.example.com redis.global 6379/tcp");
    blind.settings.forwarding = false;
    // What is asked, by whom; the code, RA, and the extended error.
    for (world, who, words, code, forwards, expected) in [
        (&world, "peer", "q=x/1/1", Refused, false, Some((20, "not in default or global: ask your own host"))),
        (
            &world,
            "peer",
            "q=web.svc.internal/1/1",
            Refused,
            false,
            Some((20, "not in default or global: ask your own host")),
        ),
        (
            &world,
            "peer",
            "q=example.com/1/1",
            Refused,
            false,
            Some((20, "from your address only names of ours are asked")),
        ),
        (
            &world,
            "stranger",
            "q=example.com/1/1",
            Refused,
            false,
            Some((20, "from your address only names of ours are asked")),
        ),
        (&world, "stranger", "q=x/1/1", NXDomain, false, None),
        (&world, "stranger", "q=web.shop.svc.internal/1/1", NoError, false, None),
        (&world, "f1", "q=x/1/1", NXDomain, true, None),
        (&world, "f1", "q=web.shop.svc.internal/1/1", NoError, true, None),
        (&world, "in", "q=example.com/1/1", Refused, false, Some((18, "all networks of this container are internal"))),
        (&world, "in", "q=web/1/1", NoError, false, None),
        (&alone, "f1", "q=example.com/1/1", Refused, false, Some((20, "there is no upstream to ask"))),
        (&alone, "host", "q=web.shop.svc.internal/1/1", NoError, false, None),
        (&young, "f1", "q=web/1/1", ServFail, true, Some((14, "Docker or the registry is not listed yet"))),
        (
            &young,
            "stranger",
            "q=web.shop.svc.internal/1/1",
            ServFail,
            false,
            Some((14, "Docker or the registry is not listed yet")),
        ),
        (&world, "f1", "q=web/252/1", Refused, true, Some((21, "only class IN, and no transfers"))),
        (&world, "stranger", "q=web/1/3", Refused, false, Some((21, "only class IN, and no transfers"))),
        (&world, "f1", "flags=2100 q=web/1/1", NotImp, false, Some((21, "only class IN, and no transfers"))),
        (&world, "f1", "q=web/1/1 q=db/1/1", FormErr, true, None),
        (&blind, "host", "q=redis.svc.internal/1/1", ServFail, false, Some((20, "there is no upstream to ask"))),
        (&cname, "host", "q=redis.svc.internal/33/1", NoError, true, None),
        (&cname, "host", "q=redis.svc.internal/5/1", NoError, true, None),
        (&cname, "stranger", "q=redis.svc.internal/15/1", NoError, false, None),
    ] {
        for opt in ["", " opt=1232/0/8000/"] {
            let packet = packet(&format!("{words}{opt}"));
            for transport in [Transport::Udp, Transport::Tcp] {
                let Outcome::Reply(reply) = reply_to(world, who, &packet, transport) else {
                    panic!("{words} for {who}")
                };
                let message = Message::from_vec(&reply).unwrap();
                let metadata = &message.metadata;
                assert_eq!(
                    (metadata.response_code, metadata.recursion_available),
                    (code, forwards),
                    "{words} for {who}"
                );
                let expected = expected.filter(|_| !opt.is_empty()).map(|(code, text)| (code, text.to_owned()));
                assert_eq!(extended(&reply), expected.into_iter().collect::<Vec<_>>(), "{words} for {who}");
                assert!(code != Refused || reply.len() <= 3 * packet.len(), "{words}: {}", reply.len());
            }
        }
    }
}

/// RFC 5001: who answers, for those who may know.
#[test]
fn who_is_near_and_asks_is_told_which_host_answers() {
    let mut world = World::parse(SHOP);
    world.settings.host = "host-1".into();
    let cookie = "000a00080102030405060708";
    for (who, options, expected) in [
        ("f1", "00030000", Some("host-1")),
        ("host", "00030000", Some("host-1")),
        ("host", "0003000168", Some("host-1")),
        ("host", "", None),
        ("stranger", "00030000", None),
        ("peer", "00030000", None),
        ("f1", cookie, None),
    ] {
        for name in ["web.shop.svc.internal/1/1", "nothing.shop.svc.internal/28/1", "web/252/1"] {
            let packet = packet(&format!("q={name} opt=1232/0/0000/{options}"));
            let Outcome::Reply(reply) = reply_to(&world, who, &packet, Transport::Udp) else { panic!("{who}") };
            let message = Message::from_vec(&reply).unwrap();
            let options = message.edns.map(|edns| edns.options().as_ref().to_vec()).unwrap_or_default();
            let ids: Vec<_> = options.into_iter().filter(|(code, _)| u16::from(*code) == NSID).collect();
            let told = ids.first().map(|(_, option)| match option {
                EdnsOption::NSID(id) => String::from_utf8(id.as_ref().to_vec()).unwrap(),
                other => format!("{other:?}"),
            });
            assert_eq!((told.as_deref(), ids.len()), (expected, expected.iter().len()), "{who} {name}");
        }
    }
}

#[test]
fn an_empty_zone_has_its_own_records_and_denies_the_rest() {
    for (name, labels, kind, expected) in [
        ("home.arpa", 2, 6, "NoError home.arpa. SOA"),
        ("HOME.arpa", 2, 2, "NoError HOME.arpa. NS"),
        ("home.arpa", 2, 1, "NoError -"),
        ("nas.home.arpa", 2, 1, "NXDomain -"),
        ("5.0.20.172.in-addr.arpa", 4, 12, "NXDomain -"),
        ("test", 1, 6, "NoError test. SOA"),
    ] {
        for opt in ["", " opt=1232/0/8000/"] {
            let packet = packet(&format!("q={name}/{kind}/1{opt}"));
            let reply = from_empty_zone(&packet, labels, Transport::Udp).unwrap();
            let message = Message::from_vec(&reply).unwrap();
            let first = message.answers.first();
            let told = first.map_or("-".to_owned(), |record| format!("{} {}", record.name, record.record_type()));
            assert_eq!(format!("{:?} {told}", message.metadata.response_code), expected, "{name}");
            assert!(message.metadata.authoritative && message.metadata.recursion_available);
            assert_eq!(reply[12..12 + name.len() + 2], packet[12..12 + name.len() + 2], "the question's own letters");
            assert_eq!(message.edns.is_some(), !opt.is_empty());
            if told == "-" {
                let [soa] = &message.authorities[..] else { panic!("one SOA: {message}") };
                assert_eq!(soa.name.iter().count(), labels);
                assert!(matches!(&soa.data, RData::SOA(soa) if soa.mname.iter().count() == labels));
            }
        }
    }
    assert_eq!(from_empty_zone(&[0; 11], 1, Transport::Udp), None);
}
