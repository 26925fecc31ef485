//! What clients get whose address anybody may have written into the query.

use std::cell::Cell;

use super::*;

const CLIENT_ADDRESS: &str = "198.51.100.7";

/// A service that strangers reach, with more instances than an unproven client is told of.
fn world() -> World {
    let instances: String =
        (0..16).map(|n| format!("\n  b{n:x} @host web.shop http:80/tcp\nhost h{n} 192.0.2.{}", n + 10)).collect();
    World::parse(&format!("network n1 bridge 172.18.0.0/16\nasker f1 shop n1=172.18.0.9\nhost h 192.0.2.1{instances}"))
}

fn guarded(world: &World, who: &str, packet: &[u8], transport: Transport, pace: Pace) -> Outcome {
    allowed(world, who, packet, transport, pace, &|_| false)
}

/// As `guarded`, with an allowance.
fn allowed(
    world: &World,
    who: &str,
    packet: &[u8],
    transport: Transport,
    pace: Pace,
    allows: &dyn Fn(usize) -> bool,
) -> Outcome {
    let cookies = Cookies::new([3; 16]);
    let address = CLIENT_ADDRESS.parse().unwrap();
    let guard = Guard { cookies: &cookies, address, now: 1_700_000_000, pace, allows, is_part: &Cell::default() };
    let mut rng = SmallRng::seed_from_u64(1);
    respond_guarded(&world.snapshot(), &world.source(who), packet, transport, &guard, &mut rng)
}

fn reply(world: &World, who: &str, packet: &[u8], pace: Pace) -> Vec<u8> {
    match guarded(world, who, packet, Transport::Udp, pace) {
        Outcome::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

/// A question for `web.shop` with a cookie option.
fn with_cookie(kind: u16, cookie: &[u8]) -> Vec<u8> {
    let shown: String = cookie.iter().map(|octet| format!("{octet:02x}")).collect();
    packet(&format!("q=web.shop.svc.internal/{kind}/1 opt=1232/0/0000/000a{:04x}{shown}", cookie.len()))
}

fn cookie_in(reply: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_vec(reply).unwrap();
    let options = message.edns.as_ref()?.options().as_ref().to_vec();
    options.into_iter().find_map(|(_, option)| match option {
        EdnsOption::Unknown(COOKIE, data) => Some(data),
        _ => None,
    })
}

const FRESH: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

#[test]
fn whoever_has_not_proven_its_address_gets_three_octets_for_one_and_may_ask_again_over_tcp() {
    let world = world();
    let plain = packet("q=web.shop.svc.internal/1/1");
    let strangers = reply(&world, "stranger", &plain, Pace::Answer);
    let message = Message::from_vec(&strangers).unwrap();
    assert!(strangers.len() <= 3 * plain.len() && message.metadata.truncation && !message.answers.is_empty());
    for (who, transport) in [("f1", Transport::Udp), ("host", Transport::Udp), ("stranger", Transport::Tcp)] {
        let Outcome::Reply(whole) = guarded(&world, who, &plain, transport, Pace::Answer) else { panic!() };
        let message = Message::from_vec(&whole).unwrap();
        assert!(!message.metadata.truncation && message.answers.len() == 16, "{who}: {message}");
    }
}

/// Load balancers that never ask over TCP need whole answers.
#[test]
fn an_address_that_may_be_forged_gets_whole_answers_as_long_as_it_has_an_allowance() {
    let world = world();
    let taken = Cell::new(0);
    let allowance = |left: usize| {
        taken.set(0);
        let taken = &taken;
        move |octets: usize| {
            let has = octets <= left;
            taken.set(taken.get() + if has { octets } else { 0 });
            has
        }
    };
    let ask = |who: &str, words: &str, pace, left: usize| {
        let packet = packet(words);
        match allowed(&world, who, &packet, Transport::Udp, pace, &allowance(left)) {
            Outcome::Reply(reply) => (Message::from_vec(&reply).unwrap(), reply.len(), packet.len()),
            other => panic!("{other:?}"),
        }
    };
    for kind in [1, 33] {
        let words = format!("q=web.shop.svc.internal/{kind}/1 opt=1232/0/0000/");
        let (whole, length, asked) = ask("stranger", &words, Pace::Answer, 2000);
        assert!(!whole.metadata.truncation && whole.answers.len() == 16, "{whole}");
        assert_eq!(taken.get(), length - 3 * asked, "what exceeds three times the query is taken, and no more");
        let (cut, length, asked) = ask("stranger", &words, Pace::Answer, 10);
        assert!(cut.metadata.truncation && length <= 3 * asked && taken.get() == 0, "{cut}");
        // How often it asks is another matter.
        let (cut, ..) = ask("stranger", &words, Pace::Truncate, 2000);
        assert!(cut.metadata.truncation && cut.answers.is_empty() && taken.get() == 0);
        ask("f1", &words, Pace::Answer, 0);
        assert_eq!(taken.get(), 0);
    }
    let (small, ..) = ask("stranger", "q=nothing.shop.svc.internal/1/1", Pace::Answer, 0);
    assert_eq!((small.metadata.truncation, taken.get()), (false, 0), "what is fair needs no allowance");
}

/// The addresses of SRV targets are what clients connect to, so what the guard keeps from them they are told to fetch.
#[test]
fn addresses_that_the_guard_leaves_out_are_a_reason_to_use_tcp() {
    let world = World::parse("host h 192.0.2.1\n  b1 @host web.shop 80/tcp\n  b2 @host web.shop 81/tcp");
    let plain = packet("q=web.shop.svc.internal/33/1");
    let cut = Message::from_vec(&reply(&world, "stranger", &plain, Pace::Answer)).unwrap();
    assert!(cut.metadata.truncation && cut.additionals.len() < 2, "{cut}");
    let whole = Message::from_vec(&reply(&world, "host", &plain, Pace::Answer)).unwrap();
    assert!(!whole.metadata.truncation && whole.additionals.len() == 2, "{whole}");
}

#[test]
fn a_cookie_of_ours_proves_the_address() {
    let world = world();
    let first = reply(&world, "stranger", &with_cookie(1, &FRESH), Pace::Answer);
    assert!(Message::from_vec(&first).unwrap().metadata.truncation);
    let cookie = cookie_in(&first).unwrap();
    assert_eq!((cookie.len(), &cookie[..8]), (24, &FRESH[..]));
    for pace in [Pace::Answer, Pace::Truncate, Pace::Drop] {
        let known = reply(&world, "stranger", &with_cookie(1, &cookie), pace);
        let message = Message::from_vec(&known).unwrap();
        assert!(!message.metadata.truncation && message.answers.len() == 16, "{pace:?}: {message}");
    }
    let mut forged = cookie.clone();
    forged[20] ^= 1;
    let unknown = reply(&world, "stranger", &with_cookie(1, &forged), Pace::Answer);
    assert!(Message::from_vec(&unknown).unwrap().metadata.truncation);
    assert_eq!(cookie_in(&unknown), Some(cookie), "it is told the right one");
    assert_eq!(guarded(&world, "stranger", &with_cookie(1, &forged), Transport::Udp, Pace::Drop), Outcome::Drop);
}

#[test]
fn who_asks_too_often_is_told_to_use_tcp_or_nothing() {
    let world = world();
    let plain = packet("q=web.shop.svc.internal/1/1");
    let cut = reply(&world, "stranger", &plain, Pace::Truncate);
    let message = Message::from_vec(&cut).unwrap();
    assert!(message.metadata.truncation && message.answers.is_empty() && cut.len() <= plain.len());
    assert_eq!(guarded(&world, "stranger", &plain, Transport::Udp, Pace::Drop), Outcome::Drop);
}

/// RFC 7873 sections 5.2 and 5.4: what the option's length, and a query without a question, come to.
#[test]
fn cookies_of_wrong_lengths_are_format_errors_and_a_cookie_may_be_all_that_is_asked_for() {
    let world = world();
    for (length, expected) in [
        (0, "FORMERR"),
        (7, "FORMERR"),
        (8, "NOERROR"),
        (9, "FORMERR"),
        (16, "NOERROR"),
        (40, "NOERROR"),
        (41, "FORMERR"),
    ] {
        let reply = reply(&world, "stranger", &with_cookie(1, &vec![9; length]), Pace::Answer);
        let code = Message::from_vec(&reply).unwrap().metadata.response_code;
        let code = if code == ResponseCode::NoError { "NOERROR" } else { "FORMERR" };
        assert_eq!(code, expected, "{length} octets");
    }
    let bare = packet("opt=1232/0/0000/000a00080102030405060708");
    let told = reply(&world, "stranger", &bare, Pace::Answer);
    let message = Message::from_vec(&told).unwrap();
    assert_eq!((message.metadata.response_code, message.queries.len()), (ResponseCode::NoError, 0));
    assert_eq!(cookie_in(&told).map(|cookie| cookie.len()), Some(24));
    // Without a cookie it asks for nothing at all.
    let nothing = reply(&world, "stranger", &packet("opt=1232/0/0000/"), Pace::Answer);
    assert_eq!(Message::from_vec(&nothing).unwrap().metadata.response_code, ResponseCode::FormErr);
}

/// What an upstream has said carries no cookie of ours, and a client that was given one would drop it.
#[test]
fn who_is_forwarded_for_is_never_given_a_cookie() {
    let world = world();
    for who in ["host", "f1", "unknown"] {
        for length in [8, 16, 7] {
            let query = with_cookie(1, &vec![9; length]);
            match guarded(&world, who, &query, Transport::Udp, Pace::Answer) {
                Outcome::Reply(reply) => {
                    let code = Message::from_vec(&reply).unwrap().metadata.response_code;
                    assert_eq!((cookie_in(&reply), code), (None, ResponseCode::NoError), "{who}, {length} octets");
                }
                outcome => assert_eq!((outcome, who), (Outcome::Wait, "unknown")),
            }
        }
    }
}

proptest! {
    #[test]
    fn no_reply_to_an_unproven_client_is_longer_than_three_times_its_query(
        name in proptest::sample::select(&[
            "web.shop.svc.internal", "b0.web.shop.svc.internal", "all.web.shop.svc.internal", "nothing.svc.internal",
            "svc.internal", "example.com", "_http._tcp.web.shop.svc.internal", "w.w.w.w.w.svc.internal", "web", "",
        ]),
        kind in proptest::sample::select(&[1u16, 2, 6, 12, 16, 28, 33, 255, 65]),
        edns in proptest::sample::select(&["", "opt=1232/0/8000/", "opt=4096/0/0000/000a00080102030405060708"]),
    ) {
        let world = world();
        let query = packet(&format!("q={name}/{kind}/1 {edns}"));
        if let Outcome::Reply(reply) = guarded(&world, "stranger", &query, Transport::Udp, Pace::Answer) {
            prop_assert!(reply.len() <= 3 * query.len(), "{} for {}", reply.len(), query.len());
            prop_assert!(Message::from_vec(&reply).is_ok());
        }
    }
}
