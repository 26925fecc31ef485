//! Resolvers before the agent: they hand on our zone as it is, keep nothing of it, and go on validating all others.

use std::process::Command;

use hickory_proto::op::ResponseCode;

use super::{super::bed::eventually, PORT, Peer, Stage};
use crate::engine::docker;

/// Where the resolvers listen beside the world, which has port 53.
const OWN_PORT: &[&str] = &["@127.0.0.1", "-p", "5300"];

/// What `dig` shows of a reply.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    status: String,
    /// The AD flag: the resolver has validated it.
    is_validated: bool,
    /// TTL, type and data of the answer section, sorted.
    answer: Vec<String>,
}

impl Reply {
    fn new(status: &str, answer: impl IntoIterator<Item = String>) -> Self {
        let mut answer: Vec<String> = answer.into_iter().collect();
        answer.sort();
        Self { status: status.into(), is_validated: false, answer }
    }

    fn read(text: &str) -> Self {
        let after = |mark: &str| text.split_once(mark).map_or("", |(_, rest)| rest.split('\n').next().unwrap_or(""));
        let records = text.lines().filter(|line| !line.starts_with(';') && !line.is_empty());
        // NAME TTL IN TYPE DATA
        let answer = records.map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            [&fields[1..2], &fields[3..]].concat().join(" ")
        });
        let status = after("status: ").split(',').next().unwrap_or("");
        let flags = after(";; flags: ").split(';').next().unwrap_or("");
        Self { is_validated: flags.split(' ').any(|flag| flag == "ad"), ..Self::new(status, answer) }
    }
}

/// Asks a resolver in its own container.
fn dig(peer: &Peer, at: &[&str], name: &str, kind: &str) -> Reply {
    let options = ["exec", &peer.name, "dig", "+tries=1", "+time=5", "+noall", "+comments", "+answer", name, kind];
    // It fails where there is no reply, which shows in what it prints.
    let output = Command::new("docker").args(options).args(at).output().expect("the `docker` client");
    Reply::read(&String::from_utf8_lossy(&output.stdout))
}

/// The resolver answers what the agent answers, TTL 0 included; and what has ended is gone as soon as it is gone there.
fn hands_on_our_zone(stage: &Stage, peer: &Peer, at: &[&str]) {
    let [one, two] = &stage.replicas;
    let ask = |kind: &str| dig(peer, at, &stage.web(), kind);
    let addresses = Reply::new("NOERROR", [one, two].map(|replica| format!("0 A {}", replica.address)));
    let mut last = None;
    let known = eventually(format_args!("{} has started and knows {}", peer.name, stage.web()), || {
        last = Some(ask("A"));
        last.as_ref().is_some_and(|reply| reply.status == "NOERROR" || reply.status == "SERVFAIL").then(|| last.take())
    });
    assert_eq!(known, Some(addresses));
    let target = |id: &str, weight: u16| format!("0 SRV 0 {weight} {PORT} {}.{}.", &id[..12], stage.web());
    let services = Reply::new("NOERROR", [target(&one.id, 256), target(&two.id, 768)]);
    assert_eq!(ask("SRV"), services);
    let named = dig(peer, at, &format!("_http._tcp.{}", stage.web()), "SRV");
    assert_eq!(named, services);
    assert_eq!(ask("TXT").answer, [""; 0], "it has none");
    let gone = dig(peer, at, &stage.web().replacen("web", "gone", 1), "A");
    assert_eq!(gone, Reply::new("NXDOMAIN", []));

    docker(&["rm", "-f", &stage.bed.name(two.short)]);
    let name = stage.web().replace(".svc.internal", "");
    stage.home.until_address(&name, &one.address);
    assert_eq!(ask("A"), Reply::new("NOERROR", [format!("0 A {}", one.address)]), "nothing was kept");
    docker(&["rm", "-f", &stage.bed.name(one.short)]);
    stage.home.until_code(&name, ResponseCode::NXDomain);
    assert_eq!(ask("A"), Reply::new("NXDOMAIN", []), "nothing was kept");
}

/// All but our zone is validated as before, and the world hears nothing of ours.
fn validates_others(peer: &Peer, at: &[&str]) {
    let reply = dig(peer, at, "signed.world", "A");
    assert!(reply.is_validated && reply.answer == ["60 A 9.9.9.9"], "{reply:?}");
    // Some write names in letters of random size.
    let asked = docker(&["exec", &peer.name, "cat", "/world/asked"]).to_ascii_lowercase();
    assert!(asked.contains("signed.world") && !asked.contains("svc.internal"), "{asked}");
}

/// A resolver that validates from a root of its own, set up by `script` after that root.
fn runs_before_the_agent(test: &str, prepare: impl FnOnce(&Stage), script: &str) {
    let stage = Stage::new(test);
    let _agent = stage.home.start();
    stage.home.until_ready();
    stage.write("world.sh", include_str!("world.sh"));
    prepare(&stage);
    let peer = stage.peer(&format!("sh /front/world.sh; {script}"));
    hands_on_our_zone(&stage, &peer, OWN_PORT);
    validates_others(&peer, OWN_PORT);
}

#[test]
fn a_validating_unbound_that_refuses_private_addresses_hands_on_our_zone() {
    let base = r#"
server:
    username: ""
    chroot: ""
    pidfile: ""
    use-syslog: no
    interface: 127.0.0.1@5300
    root-hints: "/world/root.hints"
    trust-anchor-file: "/world/anchor.key"
    do-not-query-localhost: no
    private-address: 10.0.0.0/8
    private-address: 172.16.0.0/12
    private-address: 192.168.0.0/16
remote-control:
    control-enable: no
"#;
    let prepare = |stage: &Stage| stage.write("unbound.conf", &(base.to_owned() + &stage.snippet("unbound.conf")));
    runs_before_the_agent("unbound", prepare, "exec unbound -d -c /front/unbound.conf");
}

#[test]
fn a_validating_bind_that_refuses_private_addresses_hands_on_our_zone() {
    // There is one block of options, so what the test needs comes into the page's.
    let options = r#"options {
    directory "/tmp";
    listen-on port 5300 { 127.0.0.1; };
    listen-on-v6 { none; };
    pid-file none;
    session-keyfile none;
    dnssec-validation yes;
"#;
    let rest = r#"
controls { };
include "/world/anchor.bind";
zone "." { type hint; file "/world/root.hints"; };
"#;
    let prepare = |stage: &Stage| {
        let snippet = stage.snippet("named.conf").replacen("options {\n", options, 1);
        stage.write("named.conf", &(snippet + rest));
    };
    runs_before_the_agent("bind", prepare, "exec named -g -c /front/named.conf");
}

#[test]
fn a_dnsmasq_that_validates_and_stops_rebinding_hands_on_our_zone() {
    let base = "\
keep-in-foreground
log-facility=-
user=root
pid-file=
no-resolv
no-hosts
bind-interfaces
listen-address=127.0.0.1
port=5300
server=127.0.0.1
dnssec
conf-file=/world/anchor.dnsmasq
stop-dns-rebind
";
    let prepare = |stage: &Stage| stage.write("dnsmasq.conf", &(base.to_owned() + &stage.snippet("dnsmasq.conf")));
    runs_before_the_agent("dnsmasq", prepare, "exec dnsmasq -C /front/dnsmasq.conf");
}

#[test]
fn a_validating_pdns_recursor_hands_on_our_zone_with_its_least_ttl_taken_away() {
    let base = "\
local-address=127.0.0.1
local-port=5300
socket-dir=/tmp
daemon=no
disable-syslog=yes
setuid=
setgid=
hint-file=/world/root.hints
lua-config-file=/front/recursor.lua
dnssec=validate
dont-query=10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16
";
    let prepare = |stage: &Stage| {
        stage.write("recursor.conf", &(base.to_owned() + &stage.snippet("recursor.conf")));
        stage.write("recursor.lua", &("dofile('/world/anchor.lua')\n".to_owned() + &stage.snippet("recursor.lua")));
    };
    runs_before_the_agent("pdns", prepare, "exec pdns_recursor --config-dir=/front");
}

#[test]
fn a_validating_knot_resolver_hands_on_our_zone_with_its_least_ttl_taken_away() {
    let base = "\
net.listen('127.0.0.1', 5300)
modules.load('hints > iterate')
hints.root_file('/world/root.hints')
trust_anchors.remove('.')
trust_anchors.add_file('/world/anchor.key', true)
cache.open(10 * MB, 'lmdb:///tmp')
";
    let prepare = |stage: &Stage| stage.write("kresd.conf", &(base.to_owned() + &stage.snippet("kresd.conf")));
    runs_before_the_agent("kresd", prepare, "exec kresd -n -c /front/kresd.conf /tmp");
}

#[test]
fn a_validating_systemd_resolved_hands_on_our_zone() {
    let stage = Stage::new("resolved");
    let _agent = stage.home.start();
    stage.home.until_ready();
    stage.write("world.sh", include_str!("world.sh"));
    stage.write("portolan.conf", &stage.snippet("resolved.conf"));
    stage.write("validating.conf", "[Resolve]\nDNSSEC=yes\n");
    // The interface has a server of its own, as DHCP gives it: so systemd-networkd writes it down (sd-network, links).
    stage.write("link", "ADMIN_STATE=configured\nOPER_STATE=routable\nDNS=127.0.0.1\nDNS_DEFAULT_ROUTE=yes\n");
    let peer = stage.peer(
        "sh /front/world.sh
        mkdir -p /etc/systemd/resolved.conf.d /etc/dnssec-trust-anchors.d /run/systemd/netif/links
        cp /front/*.conf /etc/systemd/resolved.conf.d/
        cp /world/anchor.ds /etc/dnssec-trust-anchors.d/root.positive
        cp /front/link /run/systemd/netif/links/$(cat /sys/class/net/eth0/ifindex)
        exec env SYSTEMD_LOG_TARGET=console /usr/lib/systemd/systemd-resolved",
    );
    let stub = &["@127.0.0.53"];
    hands_on_our_zone(&stage, &peer, stub);
    validates_others(&peer, stub);
}
