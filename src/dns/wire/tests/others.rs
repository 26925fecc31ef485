//! Replies about names of others: why one is refused, and what an empty zone says.

use super::*;

/// The extended errors of a reply: code and text.
fn extended(reply: &[u8]) -> Vec<(u16, String)> {
    let message = Message::from_vec(reply).unwrap();
    let options = message.edns.map(|edns| edns.options().as_ref().to_vec()).unwrap_or_default();
    options
        .into_iter()
        .filter_map(|(_, option)| match option {
            EdnsOption::Unknown(EXTENDED, data) => {
                let (code, text) = data.split_first_chunk::<2>()?;
                Some((u16::from_be_bytes(*code), String::from_utf8(text.to_vec()).unwrap()))
            }
            _ => None,
        })
        .collect()
}

#[test]
fn a_peer_is_told_why_it_is_refused_if_it_speaks_edns() {
    let world = World::parse(SHOP);
    let reason = (20, "not in default or global: ask your own host".to_owned());
    for (who, words, code, expected) in [
        ("peer", "q=x/1/1 opt=512/0/0000/", ResponseCode::Refused, &[reason.clone()][..]),
        ("peer", "q=web.svc.internal/1/1 opt=1232/0/8000/", ResponseCode::Refused, &[reason]),
        ("peer", "q=x/1/1", ResponseCode::Refused, &[]),
        ("peer", "q=example.com/1/1 opt=1232/0/0000/", ResponseCode::Refused, &[]),
        ("stranger", "q=x/1/1 opt=1232/0/0000/", ResponseCode::NXDomain, &[]),
        ("f1", "q=x/1/1 opt=1232/0/0000/", ResponseCode::NXDomain, &[]),
    ] {
        let packet = packet(words);
        for transport in [Transport::Udp, Transport::Tcp] {
            let Outcome::Reply(reply) = reply_to(&world, who, &packet, transport) else { panic!("{words}") };
            let message = Message::from_vec(&reply).unwrap();
            assert_eq!(message.metadata.response_code, code, "{words} for {who}");
            assert!(!message.metadata.authoritative || code == ResponseCode::NXDomain);
            assert_eq!(extended(&reply), expected, "{words} for {who}");
            assert!(code != ResponseCode::Refused || reply.len() <= 3 * packet.len(), "{words}: {}", reply.len());
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
