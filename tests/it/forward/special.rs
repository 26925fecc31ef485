//! Names of others that have a meaning of their own, asked of a whole server whose upstream counts what it is asked.

use portolan::{
    dns::{
        access::AccessList,
        answer::Settings,
        forward::SiteNames,
        server::{BindState, Limits},
        special::{SingleLabels, Singles},
    },
    model::{Catalog, Host, HostId, Origin, Session},
};

use super::*;
use crate::dns_server::support::{CLIENT, Server, ask};

/// An address of documentation, which no machine and no site has: what is sent there is lost.
const PUBLIC: &str = "203.0.113.53:53";

/// What a row asks, of whom, and what comes of it.
struct Row {
    /// Asked instead of, or beside, the one that counts.
    public: Public,
    /// `--upstream DOMAIN=` the one that counts.
    domain: Option<&'static str>,
    site_names: SiteNames,
    single_labels: SingleLabels,
    /// Names, each with its type, what it gets, and how often the one that counts is asked for it.
    questions: &'static [(&'static str, &'static str, &'static str, usize)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Public {
    /// The upstream that counts, on loopback, is the only one.
    No,
    /// An upstream on the internet is the only one.
    Only,
    /// It stands first, and the one that counts second.
    First,
}

const PLAIN: Row = Row {
    public: Public::No,
    domain: None,
    site_names: SiteNames::Auto,
    single_labels: SingleLabels::Answer,
    questions: &[],
};

async fn check(row: Row) {
    // It knows addresses, and says of all other types that there are none.
    let upstream = Upstream::start(|packet, _| {
        let is_a = decode(packet).queries[0].query_type == RecordType::A;
        vec![answer(packet, u8::from(is_a))]
    })
    .await;
    let public: SocketAddr = PUBLIC.parse().unwrap();
    let general = match (row.public, row.domain) {
        (Public::No, None) => vec![upstream.address],
        (Public::No, Some(_)) => vec![],
        (Public::Only, _) => vec![public],
        (Public::First, _) => vec![public, upstream.address],
    };
    let suffixes = row.domain.iter().map(|domain| (domain.parse().unwrap(), vec![upstream.address])).collect();
    let mut server = Server::forwarding(Limits::default(), Upstreams::None).await;
    server.forwarder.choose(Chosen {
        suffixes,
        site_names: row.site_names,
        single_labels: row.single_labels,
        ..Upstreams::Fixed(general).into()
    });
    let named = row.domain.iter().filter(|domain| !domain.contains('.')).map(|domain| Box::from(*domain)).collect();
    let singles = Singles { others: row.single_labels, named };
    server.shared.set_settings(Arc::new(Settings { singles, ..Settings::default() }));
    for (place, (name, kind, expected, times)) in row.questions.iter().enumerate() {
        // A second time it may be known, and must be the same.
        for again in [0, 1] {
            let before = (upstream.asked(), server.forwarder.counts().attempts);
            let id = u16::try_from(2 * place + again).unwrap();
            let packet = with_edns(&query(id, name, kind.parse().unwrap()), 1232);
            let reply = tokio::task::spawn_blocking({
                let (address, packet) = (server.address, packet.clone());
                move || ask(CLIENT, address, &packet).unwrap()
            })
            .await
            .unwrap();
            assert_eq!(told(&reply), *expected, "{name} {kind}");
            let asked = upstream.asked() - before.0;
            // What is absent is kept only if an SOA says for how long.
            let is_kept = again == 1 && *expected == INSIDE;
            assert_eq!(asked, if is_kept { 0 } else { *times }, "{name} {kind}, asked {again} times before");
            if row.public != Public::First || *times == 0 {
                let attempts = server.forwarder.counts().attempts - before.1;
                assert_eq!(attempts, asked as u64, "{name} {kind}: no other upstream is asked");
            }
        }
    }
    server.until(|_| true).await;
}

/// A reply in a word: addresses, a response code, NODATA.
fn told(reply: &[u8]) -> String {
    let message = decode(reply);
    let mut all: Vec<String> = addresses(reply).iter().map(ToString::to_string).collect();
    all.sort();
    match (all.is_empty(), message.answers.is_empty(), message.metadata.response_code) {
        (false, ..) => all.join(" "),
        (true, false, _) => message.answers[0].record_type().to_string(),
        (true, true, ResponseCode::NoError) => "NODATA".to_owned(),
        (true, true, code) => format!("{code:?}").to_uppercase(),
    }
}

/// One test a row.
macro_rules! rows {
    ($($name:ident: $row:expr,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            check($row).await;
        }
    )*};
}

const INSIDE: &str = "203.0.113.9";

rows! {
    localhost_and_below_is_loopback: Row {
        questions: &[
            ("localhost.", "A", "127.0.0.1", 0),
            ("localhost.", "AAAA", "::1", 0),
            ("LocalHost.", "A", "127.0.0.1", 0),
            ("www.localhost.", "A", "127.0.0.1", 0),
            ("a.b.localhost.", "AAAA", "::1", 0),
            ("localhost.", "DS", "NODATA", 0),
        ],
        ..PLAIN
    },
    invalid_is_denied_here: Row {
        single_labels: SingleLabels::Forward,
        site_names: SiteNames::Forward,
        questions: &[
            ("invalid.", "A", "NXDOMAIN", 0),
            ("www.invalid.", "A", "NXDOMAIN", 0),
            ("invalid.", "DS", "NXDOMAIN", 0),
            ("invalid.", "SOA", "NXDOMAIN", 0),
        ],
        ..PLAIN
    },
    onion_is_denied_here: Row {
        single_labels: SingleLabels::Forward,
        site_names: SiteNames::Forward,
        questions: &[
            ("onion.", "A", "NXDOMAIN", 0),
            ("duckduckgo.Onion.", "AAAA", "NXDOMAIN", 0),
            ("onion.", "DNSKEY", "NXDOMAIN", 0),
        ],
        ..PLAIN
    },
    test_is_asked_of_an_upstream_of_the_site: Row {
        questions: &[("www.test.", "A", INSIDE, 1), ("WWW.corp.TEST.", "A", INSIDE, 1)],
        ..PLAIN
    },
    test_is_denied_here_where_upstreams_are_on_the_internet: Row {
        public: Public::Only,
        questions: &[
            ("www.test.", "A", "NXDOMAIN", 0),
            ("www.corp.test.", "AAAA", "NXDOMAIN", 0),
            ("test.", "SOA", "SOA", 0),
        ],
        ..PLAIN
    },
    test_is_asked_of_the_upstream_that_is_named_for_it: Row {
        public: Public::Only,
        domain: Some("test"),
        questions: &[("www.test.", "A", INSIDE, 1), ("nas.home.arpa.", "A", "NXDOMAIN", 0)],
        ..PLAIN
    },
    home_arpa_is_asked_of_an_upstream_of_the_site: Row {
        questions: &[("nas.home.arpa.", "A", INSIDE, 1)],
        ..PLAIN
    },
    home_arpa_is_denied_here_where_upstreams_are_on_the_internet: Row {
        public: Public::Only,
        questions: &[
            ("nas.home.arpa.", "A", "NXDOMAIN", 0),
            ("home.arpa.", "SOA", "SOA", 0),
            ("home.arpa.", "NS", "NS", 0),
            ("home.arpa.", "A", "NODATA", 0),
        ],
        ..PLAIN
    },
    private_reverse_zones_are_asked_of_an_upstream_of_the_site: Row {
        questions: &[
            ("5.0.0.10.in-addr.arpa.", "PTR", "NODATA", 1),
            ("5.0.20.172.in-addr.arpa.", "PTR", "NODATA", 1),
            ("1.1.168.192.in-addr.arpa.", "PTR", "NODATA", 1),
            ("1.1.64.100.in-addr.arpa.", "PTR", "NODATA", 1),
            ("254.169.254.169.in-addr.arpa.", "PTR", "NODATA", 1),
            ("1.0.0.0.d.f.ip6.arpa.", "PTR", "NODATA", 1),
            ("1.0.8.e.f.ip6.arpa.", "PTR", "NODATA", 1),
        ],
        ..PLAIN
    },
    private_reverse_zones_are_denied_here_where_upstreams_are_on_the_internet: Row {
        public: Public::Only,
        questions: &[
            ("5.0.0.10.in-addr.arpa.", "PTR", "NXDOMAIN", 0),
            ("5.0.20.172.in-addr.arpa.", "PTR", "NXDOMAIN", 0),
            ("20.172.in-addr.arpa.", "NS", "NS", 0),
            ("1.1.168.192.in-addr.arpa.", "PTR", "NXDOMAIN", 0),
            ("1.1.64.100.in-addr.arpa.", "PTR", "NXDOMAIN", 0),
            ("254.169.254.169.in-addr.arpa.", "PTR", "NXDOMAIN", 0),
            ("1.0.0.0.d.f.ip6.arpa.", "PTR", "NXDOMAIN", 0),
            ("1.0.8.e.f.ip6.arpa.", "PTR", "NXDOMAIN", 0),
        ],
        ..PLAIN
    },
    an_upstream_on_the_internet_is_passed_over_for_one_of_the_site: Row {
        public: Public::First,
        questions: &[("5.0.0.10.in-addr.arpa.", "PTR", "NODATA", 1), ("a.google.internal.", "A", INSIDE, 1)],
        ..PLAIN
    },
    the_sites_names_may_be_denied_everywhere: Row {
        site_names: SiteNames::Answer,
        questions: &[
            ("www.test.", "A", "NXDOMAIN", 0),
            ("5.0.0.10.in-addr.arpa.", "PTR", "NXDOMAIN", 0),
            ("www.example.org.", "A", INSIDE, 1),
        ],
        ..PLAIN
    },
    the_metadata_server_is_asked_for_where_the_cloud_answers: Row {
        questions: &[("metadata.google.internal.", "A", INSIDE, 1)],
        ..PLAIN
    },
    the_metadata_server_is_no_affair_of_an_upstream_on_the_internet: Row {
        public: Public::Only,
        questions: &[("metadata.google.internal.", "A", "NXDOMAIN", 0)],
        ..PLAIN
    },
    single_labels_stay_here: Row {
        questions: &[
            ("nas.", "A", "NXDOMAIN", 0),
            ("nas.", "AAAA", "NXDOMAIN", 0),
            ("nas.", "SRV", "NXDOMAIN", 0),
            ("nas.", "TXT", "NXDOMAIN", 0),
            ("nas.", "ANY", "NXDOMAIN", 0),
            ("web.", "A", "172.30.0.2", 0),
        ],
        ..PLAIN
    },
    a_single_label_is_asked_of_the_upstream_that_is_named_for_it: Row {
        domain: Some("nas"),
        questions: &[("nas.", "A", INSIDE, 1), ("NAS.", "TXT", "NODATA", 1), ("printer.", "A", "NXDOMAIN", 0)],
        ..PLAIN
    },
    a_service_is_nearer_than_the_upstream_that_is_named_for_its_label: Row {
        domain: Some("web"),
        questions: &[("web.", "A", "172.30.0.2", 0), ("web.", "SRV", "SRV", 0), ("www.web.", "A", INSIDE, 1)],
        ..PLAIN
    },
    all_single_labels_may_be_forwarded: Row {
        single_labels: SingleLabels::Forward,
        questions: &[("printer.", "A", INSIDE, 1), ("web.", "A", "172.30.0.2", 0)],
        ..PLAIN
    },
    what_a_validating_resolver_asks_of_top_level_domains_is_forwarded: Row {
        questions: &[
            ("com.", "DS", "NODATA", 1),
            ("com.", "DNSKEY", "NODATA", 1),
            ("com.", "NS", "NODATA", 1),
            ("com.", "SOA", "NODATA", 1),
            ("com.", "A", "NXDOMAIN", 0),
        ],
        ..PLAIN
    },
    of_a_label_that_is_also_a_service_the_keys_are_forwarded_and_nothing_else: Row {
        questions: &[
            ("web.", "DS", "NODATA", 1),
            ("web.", "DNSKEY", "NODATA", 1),
            ("web.", "NS", "NODATA", 0),
            ("web.", "SOA", "NODATA", 0),
            ("web.", "A", "172.30.0.2", 0),
        ],
        ..PLAIN
    },
    our_own_zone_stays_whatever_is_forwarded: Row {
        domain: Some("internal"),
        single_labels: SingleLabels::Forward,
        site_names: SiteNames::Forward,
        questions: &[
            ("none.svc.internal.", "A", "NXDOMAIN", 0),
            ("svc.internal.", "DS", "NODATA", 0),
            ("other.internal.", "A", INSIDE, 1),
        ],
        ..PLAIN
    },
}

/// What an upstream has said before does not come back for a name that it may not be asked for any more.
#[tokio::test]
async fn what_is_known_of_the_sites_names_counts_only_while_it_may_be_asked_for() {
    let upstream = Upstream::helpful().await;
    let forwarder = forwarder(Options { cache: 1 << 20, ..options(Upstreams::Fixed(vec![upstream.address])) });
    let packet = query(7, "www.test.", RecordType::A);
    assert_eq!(addresses(&forward(&forwarder, &packet).await), [THERE]);
    let mut out = Vec::new();
    let mut at_once = || {
        let is_known = forwarder.at_once(&packet, Transport::Udp, Instant::now(), &mut out);
        is_known.then(|| told(&out))
    };
    assert_eq!(at_once().as_deref(), Some("203.0.113.9"));
    forwarder.choose(Upstreams::Fixed(vec![PUBLIC.parse().unwrap()]).into());
    assert_eq!(at_once().as_deref(), Some("NXDOMAIN"));
    assert_eq!(told(&forward(&forwarder, &packet).await), "NXDOMAIN");
    assert_eq!((upstream.asked(), forwarder.counts().attempts, forwarder.counts().kept), (1, 1, 2));
}

/// Over UDP, by both paths: an asker at the address that another host advertises is sent on, with the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_of_another_host_is_told_to_ask_its_own() {
    // Loopback is always this host, so another address is needed: that of the default route, which nothing here calls ours.
    let towards_nowhere = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    if let Err(error) = towards_nowhere.connect("192.0.2.1:9") {
        eprintln!("skipped: this machine has no default route: {error}");
        return;
    }
    let peer = towards_nowhere.local_addr().unwrap().ip();
    let address = SocketAddr::new(peer, 5398);
    let mut server = Server::listening(Limits::default(), Upstreams::None, [address]);
    server.until(|states| matches!(states.get(&address), Some(BindState::Bound { .. }))).await;
    let session = Session { advertise: vec![peer], ..Session::default() };
    let hosts = [(Origin::Registry(HostId::parse("b").unwrap()), Arc::new(Host { session, ..Host::default() }))];
    let catalog = Catalog { hosts: hosts.into_iter().collect(), ..Catalog::default() };
    let stranger = Arc::new(AccessList::only([peer.into()]));
    let known = Arc::new(AccessList::new(&server.shared.local(), &catalog, &[]));
    for (access, name, expected) in [
        (&known, "nothing.", ResponseCode::Refused),
        (&known, "nothing.svc.internal.", ResponseCode::Refused),
        (&known, "default.svc.internal.", ResponseCode::Refused),
        (&known, "nothing.shop.svc.internal.", ResponseCode::NXDomain),
        (&known, "web.", ResponseCode::NoError),
        (&stranger, "nothing.", ResponseCode::NXDomain),
        (&stranger, "default.svc.internal.", ResponseCode::NoError),
    ] {
        server.shared.set_access(Arc::clone(access));
        // MX is left to the complete path, A is answered by the hot one.
        for kind in [RecordType::A, RecordType::MX] {
            let packet = with_edns(&query(7, name, kind), 1232);
            let asking = packet.clone();
            let reply = tokio::task::spawn_blocking(move || ask(peer, address, &asking).unwrap()).await.unwrap();
            assert_eq!(rcode(&reply), expected, "{name} {kind}");
            let reasons = decode(&reply).edns.unwrap().options().as_ref().len();
            assert_eq!(reasons, usize::from(expected == ResponseCode::Refused), "{name} {kind}");
            assert!(reply.len() <= 3 * packet.len(), "{name} {kind}");
        }
    }
}
