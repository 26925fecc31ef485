//! Who asks: containers on networks of their own, and somebody from outside.

use std::{
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use hickory_proto::{
    op::{Message, MessageType},
    rr::{RData, Record, RecordType, rdata::A},
};

use super::{
    bed::{Home, address, engine_bed, eventually},
    cable::Cable,
};
use crate::engine::{Between, docker};

/// What our upstream says of every name.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);

/// An upstream on loopback: its address, and how many questions came. Ends with the test's process.
fn upstream() -> (String, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = socket.local_addr().expect("a bound socket has an address");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        let mut buffer = [0; 65_535];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::Relaxed);
            let mut reply = Message::from_vec(&buffer[..length]).expect("a question");
            reply.metadata.message_type = MessageType::Response;
            reply.metadata.recursion_available = true;
            let question = reply.queries.first().expect("a question").clone();
            if question.query_type() == RecordType::A {
                reply.add_answer(Record::from_rdata(question.name().clone(), 60, RData::A(A(ELSEWHERE))));
            }
            let _ = socket.send_to(&reply.to_vec().expect("it fits"), peer);
        }
    });
    (address.to_string(), asked)
}

/// What a resolver in a container prints about a name. It fails where one family has no address, which says nothing.
fn nslookup(container: &str, name: &str, server: &str) -> String {
    let arguments = ["exec", container, "/bin/busybox", "nslookup", name, server];
    let output = Command::new("docker").args(arguments).output().expect("the `docker` client");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

fn gateway(network: &str) -> String {
    docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", network])
}

#[test]
fn containers_are_answered_in_their_own_namespace_and_internal_ones_reach_nothing_else() {
    let bed = engine_bed("asker");
    let (outer, inner) = (bed.network("outer", &[]), bed.network("inner", &["--internal"]));
    let (outer_dns, inner_dns) = (gateway(&outer), gateway(&inner));
    let (upstream, asked) = upstream();
    let (outer_listen, inner_listen) = (format!("{outer_dns}:53"), format!("{inner_dns}:53"));
    let home = Home::new(&["--dns", &outer_listen, "--dns", &inner_listen, "--upstream", &upstream]);
    let _agent = home.start();
    home.until_ready();

    let shop = ["--label", "portolan.namespace=shop"];
    let service = ["--label", "portolan.service=backend"];
    for (short, network) in [("outer-web", &outer), ("inner-web", &inner)] {
        bed.sleeper(short, &[&["--network", network][..], &shop, &service].concat());
    }
    // With an option of its own a container does not inherit a host's `ndots:0`, with which Docker keeps single labels to itself.
    let asks =
        |network: &str, dns: &str| ["--network", network, "--dns", dns, "--dns-opt", "timeout:2"].map(str::to_owned);
    for (short, network, dns, namespace) in [
        ("outer-asker", &outer, &outer_dns, "shop"),
        ("inner-asker", &inner, &inner_dns, "shop"),
        ("other-asker", &outer, &outer_dns, "else"),
    ] {
        let (own, label) = (asks(network, dns), format!("portolan.namespace={namespace}"));
        bed.sleeper(short, &own.iter().map(String::as_str).chain(["--label", &label]).collect::<Vec<_>>());
    }
    let (outer_ip, inner_ip) = (address(&bed.name("outer-web")), address(&bed.name("inner-web")));

    // Through the engine's own resolver, as an application asks; each sees the instance on its own network only.
    let embedded = "127.0.0.11";
    for (asker, ip, other) in [("outer-asker", &outer_ip, &inner_ip), ("inner-asker", &inner_ip, &outer_ip)] {
        for name in ["backend.", "backend.shop.svc.internal."] {
            let said = eventually(format_args!("{asker} is told {ip} for {name}"), || {
                Some(nslookup(&bed.name(asker), name, embedded)).filter(|said| said.contains(&format!(": {ip}")))
            });
            assert!(!said.contains(other.as_str()), "{said}");
        }
    }
    let said = nslookup(&bed.name("other-asker"), "backend.", embedded);
    assert!(said.contains("NXDOMAIN"), "a bare name of another namespace is none: {said}");

    // Other names are passed on for those who may leave their network, and for nobody else.
    let said = nslookup(&bed.name("outer-asker"), "example.com.", embedded);
    assert!(said.contains(&ELSEWHERE.to_string()), "{said}");
    let passed_on = asked.load(Ordering::Relaxed);
    assert!(passed_on > 0);
    let said = nslookup(&bed.name("inner-asker"), "example.com.", &inner_dns);
    assert!(said.contains("REFUSED"), "{said}");
    // Nor through the address of another network's gateway, should the kernel let it pass.
    let said = nslookup(&bed.name("inner-asker"), "example.org.", embedded);
    assert!(!said.contains(&ELSEWHERE.to_string()), "{said}");
    assert_eq!(asked.load(Ordering::Relaxed), passed_on);
}

#[test]
fn a_container_that_asks_before_docker_is_listed_is_told_to_ask_again() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _context = runtime.enter();
    let bed = engine_bed("early");
    let network = bed.network("net", &[]);
    let server = gateway(&network);
    bed.sleeper("web", &["--network", &network]);
    bed.sleeper("asker", &["--network", &network]);
    let name = format!("{}.default.svc.internal.", bed.name("web"));
    let ask = || nslookup(&bed.name("asker"), &name, &server);

    let mut between = Between::absent();
    let docker_host = format!("unix://{}", between.path.display());
    let home = Home::new(&["--dns", &format!("{server}:53"), "--docker-host", &docker_host]);
    let _agent = home.start();
    let said = eventually("it is answered", || Some(ask()).filter(|said| !said.contains("timed out")));
    assert!(said.contains("SERVFAIL") && !said.contains("REFUSED"), "{said}");
    between.restore();
    let ip = address(&bed.name("web"));
    eventually("it is told", || Some(ask()).filter(|said| said.contains(&format!(": {ip}"))));
}

#[test]
fn a_source_that_is_not_on_the_list_is_refused_until_it_is_allowed() {
    let bed = engine_bed("outside");
    let cable = Cable::lay(&bed, 18, 30, 1);
    let (ours, theirs) = (cable.ours[0].to_string(), cable.theirs);

    bed.sleeper("web", &["--network", "host"]);
    let name = format!("{}.default.svc.internal.", bed.name("web"));
    let listen = format!("{ours}:53");
    let ask = |home: &Home, expected: &str| {
        let _agent = home.start();
        home.until_ready();
        eventually(format_args!("{theirs} is told {expected}"), || {
            Some(nslookup(&cable.container, &name, &ours)).filter(|said| said.contains(expected))
        });
    };
    let advertise = ["--advertise", "192.0.2.1", "--dns", &listen];
    ask(&Home::new(&advertise), "REFUSED");
    ask(&Home::new(&[&advertise[..], &["--allow", &format!("{theirs}/32")]].concat()), ": 192.0.2.1");
}
