//! Our answers against NSD's, which serves the zone that we export: 10,000 generated questions over UDP and TCP, compared
//! as sets. Every difference belongs to a class that is explained in [`CLASSES`], or the test fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, Record, RecordType},
};
use portolan::{
    dns::{
        access::AccessList,
        answer::{Settings, Snapshot, Source},
        export::export,
        forward::{Forwarder, Options, Upstreams},
        name::Apex,
        server::{BindState, Limits, Relay, Shared, serve},
        zone::Zone,
    },
    model::*,
};
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tokio::sync::watch;

use super::support::*;

const QUESTIONS: usize = 10_000;
const SERVICES: usize = 120;
const REVERSE: &str = "18.172.in-addr.arpa.";

/// What may differ, and why that is right.
const CLASSES: [(&str, &str); 7] = [
    (
        "elsewhere",
        "the addresses of a service with another name are looked up, and there is no upstream here; a file has none",
    ),
    ("any", "ANY gets the smallest answer (RFC 8482 section 4.2), NSD gives every RRset it has"),
    ("bare", "a single label is a service near the asker, answered as if the root were ours; NSD has no such zone"),
    ("part", "of addresses an answer over UDP holds those that fit, without TC; NSD says that there are more"),
    ("truncated", "who adds what where room is short differs (NSD: its NS records); over TCP both say the same"),
    (
        "additionals",
        "over UDP additional records are left out where room is short (RFC 2181 section 9), by us or by NSD",
    ),
    ("unreachable", "a name whose instances this asker cannot reach exists without records; a zone file cannot say so"),
];

fn label(text: &str) -> Label {
    Label::parse(text).unwrap()
}

/// The bridge of this host on which its own containers are.
fn bridge() -> NetworkId {
    NetworkId("n".into())
}

fn publication(number: usize, own: bool, rng: &mut SmallRng) -> Publication {
    let mut offers = Vec::new();
    for _ in 0..rng.random_range(1..3) {
        // Few services have very many instances.
        let service = (0..3).fold(SERVICES - 1, |most, _| rng.random_range(0..=most));
        let namespace = ["shop", "global", "default", "n1", "n2"][service % 5];
        if offers.iter().any(|offer: &Offer| offer.service.as_str() == format!("s{service}")) {
            continue;
        }
        // The same for all instances of a service, so that one number works on all of them.
        let (number, is_named) = (8000 + u16::try_from(service).unwrap(), service % 3 == 0);
        // Every eleventh service is published nowhere: others cannot reach it.
        let published = Published { ip: Ipv4Addr::UNSPECIFIED.into(), port: number, chosen: true };
        let published_6 = Published { ip: Ipv6Addr::UNSPECIFIED.into(), ..published };
        let published = if service % 11 == 0 { vec![] } else { vec![published, published_6] };
        let port = Port {
            name: is_named.then(|| label("http")),
            port: number,
            proto: if service % 2 == 0 { Proto::Tcp } else { Proto::Udp },
            published: published.into(),
            extra: None,
        };
        offers.push(Offer {
            service: label(&format!("s{service}")),
            namespace: label(namespace),
            tags: if service % 4 == 0 {
                [format!("tag \"{}\"; \\", number % 7).as_str().into()].into()
            } else {
                [].into()
            },
            weight: rng.random_range(0..4),
            port: None,
            ports: if service % 13 == 0 { [].into() } else { [port].into() },
            when_none_ready: None,
        });
    }
    let octet = |shift: usize| u8::try_from(number >> shift & 0xff).unwrap();
    let v4 = IpAddr::V4(Ipv4Addr::new(172, 18, 1 + octet(8), octet(0)));
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 1, u16::try_from(number).unwrap()));
    Publication {
        container: ShortId::parse(&format!("{:012x}", number * 7919)).unwrap(),
        name: format!("Project.{}_{number}", if own { "own" } else { "other" }).as_str().into(),
        common: Arc::new(Common {
            image: "image".into(),
            services: offers.into(),
            directory: None,
            namespace: Label::global(),
            aliases: Box::default(),
        }),
        phase: *[Phase::Serving, Phase::Serving, Phase::Serving, Phase::Serving, Phase::Draining, Phase::Paused]
            .choose(rng)
            .unwrap(),
        health: *[Health::None, Health::Healthy, Health::Unhealthy, Health::Starting].choose(rng).unwrap(),
        networks: [Attachment {
            segment: Arc::new(Segment {
                id: bridge(),
                name: "n".into(),
                driver: Driver::Bridge,
                scope: Scope::Local,
                internal: false,
            }),
            ips: if number.is_multiple_of(3) { [v4, v6].into() } else { [v4].into() },
        }]
        .into(),
        elsewhere: None,
    }
}

fn catalog(rng: &mut SmallRng) -> Catalog {
    let mut hosts = Vec::new();
    for host in 0..40usize {
        let origin = match host {
            0 => Origin::Own,
            _ => Origin::Registry(HostId::parse(&format!("host-{host}")).unwrap()),
        };
        let low = u8::try_from(host + 1).unwrap();
        let mut advertise = vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, low))];
        if host % 4 == 0 {
            advertise.push(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, low.into()).into());
        }
        let publications = (0..15).map(|slot| {
            let publication = publication(host * 15 + slot + 1, host == 0, rng);
            (publication.container, Arc::new(publication))
        });
        let publications = publications.collect();
        let session = Session { advertise, ..Session::default() };
        hosts.push((origin, Arc::new(Host { session, publications })));
    }
    // What an operator registered: a name with another name.
    let mut external = publication(9_999, false, rng);
    external.networks = [].into();
    external.phase = Phase::Serving;
    external.health = Health::None;
    external.elsewhere = Some(Elsewhere::Name("db.example.com".into()).into());
    let common = Arc::make_mut(&mut external.common);
    common.services = common.services.iter().take(1).cloned().collect();
    common.services[0].service = label("db");
    // And one at more addresses than a datagram holds.
    let crowd = (0..150u8).map(|last| {
        let mut one = external.clone();
        one.container = ShortId::parse(&format!("{:012x}", 20_000 + u32::from(last))).unwrap();
        one.elsewhere = Some(Elsewhere::Address(Ipv4Addr::new(10, 9, 0, last).into()).into());
        Arc::make_mut(&mut one.common).services[0].service = label("crowd");
        one
    });
    let registered = crowd.chain([external.clone()]).map(|one| (one.container, Arc::new(one)));
    let external = Host { publications: registered.collect(), ..Host::default() };
    hosts.push((Origin::External, Arc::new(external)));
    Catalog {
        hosts: hosts.into_iter().collect(),
        docker_listed: true,
        registry_listed: true,
        revision: 42,
        ..Catalog::default()
    }
}

fn local() -> Local {
    let network = Network {
        id: bridge(),
        name: "n".into(),
        driver: Driver::Bridge,
        scope: Scope::Local,
        internal: false,
        icc: true,
        subnets: vec!["172.18.0.0/16".parse().unwrap(), "fd00:18::/64".parse().unwrap()],
        gateways: vec!["172.18.0.1".parse().unwrap()],
    };
    Local { listed: true, networks: [(bridge(), Arc::new(network))].into_iter().collect(), ..Local::default() }
}

async fn start(catalog: &Catalog) -> Server {
    let address = fresh_address();
    // Nobody is asked for other names, nor NSD.
    let settings = Settings { forwarding: false, ..Settings::default() };
    let shared = Arc::new(Shared::new(settings, Limits::default()));
    shared.set_zone(Arc::new(Zone::of(catalog)));
    shared.set_local(Arc::new(local()));
    shared.set_access(Arc::new(AccessList::only(["127.0.0.0/8".parse().unwrap()])));
    let (wanted, watched) = watch::channel(Arc::new([address].into()));
    let (states, bound) = watch::channel(Arc::default());
    let (_, known) = watch::channel(shared.local());
    let options = Options { chosen: Upstreams::None.into(), ..Options::default() };
    let forwarder = Arc::new(Forwarder::new(options, &Apex::default(), watched.clone(), known));
    let serving = tokio::spawn(serve(Arc::clone(&shared), watched, Arc::clone(&forwarder), states, Relay::alone()));
    let mut server = Server { address, shared, forwarder, wanted, bound, serving };
    server.until(|states| matches!(states.get(&address), Some(BindState::Bound { .. }))).await;
    server
}

/// NSD with our zones.
struct Nsd {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Nsd {
    fn start(zones: &[(&str, &str)]) -> Self {
        let (folder, address) = (tempfile::tempdir().unwrap(), fresh_address());
        let place = folder.path().display();
        let mut configuration = format!(
            "server:\n  server-count: 1\n  ip-address: {}@{}\n  do-ip6: no\n  username: \"\"\n  zonesdir: \"{place}\"\n  database: \"\"\n  \
             zonelistfile: \"{place}/list\"\n  xfrdfile: \"{place}/state\"\n  xfrdir: \"{place}\"\n  pidfile: \"{place}/pid\"\n  \
             rrl-ratelimit: 0\n  tcp-timeout: 120\nremote-control:\n  control-enable: no\n",
            address.ip(),
            address.port()
        );
        for (zone, text) in zones {
            fs::write(folder.path().join(zone), text).unwrap();
            configuration += &format!("zone:\n  name: {zone}\n  zonefile: \"{zone}\"\n");
        }
        fs::write(folder.path().join("conf"), configuration).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        // Where Debian puts servers is not always searched.
        let process = Command::new("sh")
            .args(["-c", "PATH=$PATH:/usr/sbin:/sbin; exec nsd -d -c \"$0/conf\""])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, address, _folder: folder }
    }

    async fn until_loaded(&mut self, zones: &[(&str, &str)]) {
        for (zone, _) in zones {
            let soa = query(1, zone, RecordType::SOA);
            let log = self._folder.path().join("log");
            let (address, process) = (self.address, &mut self.process);
            eventually("nsd (make setup) serves the zones", || {
                let ended = process.try_wait().unwrap();
                assert!(ended.is_none(), "nsd has ended: {}", fs::read_to_string(&log).unwrap());
                let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
                socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
                socket.connect(address).unwrap();
                let reply = socket.send(&soa).and_then(|_| receive(&socket));
                reply.is_ok_and(|reply| !decode(&reply).answers.is_empty())
            })
            .await;
        }
    }
}

impl Drop for Nsd {
    fn drop(&mut self) {
        // Its children end with it if it is asked, not if it is killed.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

/// A question: a name of the file, or one made from it; in letters of any case; with and without EDNS.
fn question(id: u16, owners: &[String], rng: &mut SmallRng) -> Vec<u8> {
    let mut name = owners.choose(rng).unwrap().clone();
    match rng.random_range(0..20) {
        0 => name = format!("{}.{name}", ["x", "all", "_tcp", "_http", "a.b.c", "*"].choose(rng).unwrap()),
        1..=3 => name = name.split_once('.').unwrap().1.to_owned(),
        4 => name = name.splitn(3, '.').last().unwrap().to_owned(),
        5 => name = format!("x{name}"),
        6 => name = format!("{}.18.172.in-addr.arpa.", rng.random_range(0..300)),
        7 => name = format!("{}.1.18.172.in-addr.arpa.", rng.random_range(0..300)),
        8 => {
            let others =
                ["s5.", "nothing.", "www.example.org.", "internal.", "172.in-addr.arpa.", "svc.internal.", "."];
            name = (*others.choose(rng).unwrap()).to_owned();
        }
        9 => name = format!("{}.svc.internal.", ["a"; 60].join(".")),
        10 => {
            // Published nowhere, so that the file has no name of theirs.
            let hidden = ["s11.global", "s22.default", "s33.n1", "s55.shop", "s66.global", "s77.default"];
            if rng.random_bool(0.5) {
                name = format!("{}.svc.internal.", hidden.choose(rng).unwrap());
            }
        }
        11 => {
            let aliases: Vec<&String> = owners.iter().filter(|owner| owner.contains("db.")).collect();
            name.clone_from(aliases.choose(rng).unwrap());
        }
        _ => {}
    }
    if name.is_empty() {
        name = ".".to_owned();
    }
    if rng.random_bool(0.3) {
        let turned = name.chars().map(|c| if rng.random_bool(0.5) { c.to_ascii_uppercase() } else { c });
        name = turned.collect();
    }
    // A, AAAA, SRV, TXT, PTR, SOA, NS, CNAME, MX, CAA, HTTPS, ANY; and any other that is no question about questions.
    let kinds = [1, 1, 1, 28, 28, 33, 33, 16, 12, 12, 6, 2, 5, 15, 257, 65, 255];
    let mut kind = *kinds.choose(rng).unwrap();
    if rng.random_bool(0.05) {
        kind = rng.random_range(1..128);
    }
    if kind == 41 {
        kind = 1;
    }
    let packet = query(id, &name, RecordType::from(kind));
    match rng.random_range(0..3) {
        0 => packet,
        _ => with_edns(&packet, *[512, 1232, 4096, 65_535].choose(rng).unwrap()),
    }
}

/// What is compared.
#[derive(Debug, PartialEq)]
struct Said {
    code: ResponseCode,
    authoritative: bool,
    truncated: bool,
    edns: bool,
    answers: BTreeSet<String>,
    /// The SOA of a "no".
    denial: BTreeSet<String>,
    /// Addresses of SRV records' targets.
    additionals: BTreeSet<String>,
}

fn show(record: &Record) -> String {
    // NSD compresses names into the question, and takes over its letters.
    let (name, kind) = (record.name.to_string().to_ascii_lowercase(), record.record_type());
    let data = match kind {
        RecordType::TXT | RecordType::HINFO => record.data.to_string(),
        _ => record.data.to_string().to_ascii_lowercase(),
    };
    format!("{name} {} {kind} {data}", record.ttl)
}

fn said(packet: &[u8], reply: &[u8]) -> Said {
    let message = decode(reply);
    let mut end = 12;
    while packet[end] != 0 {
        end += 1 + usize::from(packet[end]);
    }
    // The root, type and class.
    end += 5;
    assert_eq!(&reply[..2], &packet[..2]);
    assert_eq!(&reply[12..end], &packet[12..end], "the question comes back bit by bit");
    let Message { answers, authorities, additionals, metadata, .. } = &message;
    let targets: BTreeSet<Name> = answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv.target.to_lowercase()),
            _ => None,
        })
        .collect();
    Said {
        code: metadata.response_code,
        authoritative: metadata.authoritative,
        truncated: metadata.truncation,
        edns: message.edns.is_some(),
        answers: answers.iter().map(show).collect(),
        denial: authorities.iter().filter(|record| record.record_type() == RecordType::SOA).map(show).collect(),
        additionals: additionals
            .iter()
            .filter(|record| targets.contains(&record.name.to_lowercase()))
            .map(show)
            .collect(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Over {
    Udp,
    Tcp,
}

/// The class of a difference; `None`: nobody can explain it.
fn classify(packet: &[u8], over: Over, ours: &Said, theirs: &Said, zone: &Zone) -> Option<&'static str> {
    let message = decode(packet);
    let (name, kind) = (message.queries[0].name().clone(), message.queries[0].query_type());
    if name.num_labels() == 1 {
        return (theirs.code == ResponseCode::Refused).then_some("bare");
    }
    if kind == RecordType::ANY {
        let minimal = ours.answers.len() == 1 && ours.answers.iter().all(|answer| answer.contains(" HINFO RFC8482"));
        return match theirs.code {
            code if minimal && code == ours.code => Some("any"),
            ResponseCode::NXDomain if minimal => Some("unreachable"),
            _ => None,
        };
    }
    let alike = |ours: &Said| (ours.code, ours.authoritative, ours.edns);
    let is_addresses = matches!(kind, RecordType::A | RecordType::AAAA);
    if over == Over::Udp && is_addresses && theirs.truncated && !ours.truncated && !ours.answers.is_empty() {
        return (alike(ours) == alike(theirs)).then_some("part");
    }
    if over == Over::Udp && (ours.truncated || theirs.truncated) {
        return (alike(ours) == alike(theirs)).then_some("truncated");
    }
    if alike(ours) == alike(theirs) && ours.denial == theirs.denial && ours.answers == theirs.answers {
        return (over == Over::Udp).then_some("additionals");
    }
    let text = name.to_string().to_ascii_lowercase();
    let labels: Vec<&str> = text.trim_end_matches(".svc.internal.").split('.').collect();
    let knows = |namespace: &str, service: &str| zone.service(namespace, service).is_some();
    let exists = match labels[..] {
        [service] => ["default", "global"].iter().any(|namespace| knows(namespace, service)),
        [.., service, namespace] => {
            knows(namespace, service) || ["default", "global"].iter().any(|near| knows(near, namespace))
        }
        [] => false,
    };
    if is_addresses && exists && ours.code == ResponseCode::ServFail && theirs.answers.is_empty() {
        return (theirs.code == ResponseCode::NoError && labels.contains(&"db")).then_some("elsewhere");
    }
    let (no_data, no_name) = (ResponseCode::NoError, ResponseCode::NXDomain);
    let is_unwritten = ours.code == no_data && ours.answers.is_empty() && theirs.code == no_name;
    (exists && is_unwritten && ours.denial == theirs.denial).then_some("unreachable")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_questions_get_the_answers_that_nsd_gives() {
    let mut rng = SmallRng::seed_from_u64(20_261_121);
    let catalog = catalog(&mut rng);
    let server = start(&catalog).await;
    let (zone, local) = (server.shared.zone(), server.shared.local());
    let settings = server.shared.settings();
    let snapshot = Snapshot { zone: &zone, local: &local, settings: &settings };
    let mut dump = |origin: &str| {
        let origin = Name::from_ascii(origin).unwrap();
        export(&snapshot, &Source::Host, &origin, &mut rng).unwrap_or_else(|error| panic!("{error}"))
    };
    let (forward, reverse) = (dump("svc.internal."), dump(REVERSE));
    let zones = [("svc.internal.", &*forward), (REVERSE, &*reverse)];
    let mut nsd = Nsd::start(&zones);
    nsd.until_loaded(&zones).await;

    let lines = forward.lines().chain(reverse.lines()).filter(|line| !line.starts_with(';'));
    let owners: BTreeSet<String> = lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    let owners: Vec<String> = owners.into_iter().collect();
    let sockets = [udp_client(CLIENT, server.address), udp_client(CLIENT, nsd.address)];
    let mut connections = [server.address, nsd.address].map(|address| Connection::open(CLIENT, address).unwrap());
    let mut classes: BTreeMap<&str, (usize, String)> = BTreeMap::new();
    let mut unexplained = Vec::new();
    let mut records = 0;
    for number in 0..QUESTIONS {
        let packet = question(u16::try_from(number).unwrap(), &owners, &mut rng);
        for over in [Over::Udp, Over::Tcp] {
            let [ours, theirs] = [0, 1].map(|who| {
                let reply = match over {
                    Over::Udp => sockets[who].send(&packet).and_then(|_| receive(&sockets[who])),
                    Over::Tcp => connections[who].ask(&packet),
                };
                said(&packet, &reply.unwrap_or_else(|error| panic!("{error}: {} {over:?} {who}", decode(&packet))))
            });
            records += ours.answers.len();
            if ours == theirs {
                continue;
            }
            let shown = || format!("{over:?} {}\n  ours   {ours:?}\n  theirs {theirs:?}", decode(&packet).queries[0]);
            match classify(&packet, over, &ours, &theirs, &zone) {
                Some(class) => classes.entry(class).or_insert_with(|| (0, shown())).0 += 1,
                None => unexplained.push(shown()),
            }
        }
    }
    assert!(
        unexplained.is_empty(),
        "{} unexplained, the first:\n{}",
        unexplained.len(),
        unexplained[..unexplained.len().min(12)].join("\n")
    );
    for (class, reason) in CLASSES {
        let (count, example) = classes.remove(class).unwrap_or_default();
        eprintln!("{class}: {count} ({reason})\n  {example}");
        assert!(count > 0, "no question showed the class `{class}`: it explains nothing, or is never asked");
    }
    assert!(classes.is_empty(), "classes without a reason: {:?}", classes.keys());
    assert!(records > QUESTIONS, "only {records} records were compared");
}
