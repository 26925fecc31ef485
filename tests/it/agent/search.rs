//! A container with a search list of its own: it loses the host's, and finds both worlds with both in it.

use std::path::Path;

use hickory_proto::rr::RecordType;
use portolan::dns::wire::Transport;

use super::{
    bed::{Home, engine_bed, eventually, succeeds},
    resolvers::{address, compile},
};
use crate::{
    dns_server::support::decode,
    engine::{IMAGE, docker},
    forward::{THERE, Upstream, answer},
};

/// Knows `waffle.corp.test` and nothing else.
fn corporate(packet: &[u8], _: Transport) -> Vec<Vec<u8>> {
    let query = decode(packet).queries[0].clone();
    let is_waffle = query.name.to_ascii().eq_ignore_ascii_case("waffle.corp.test.");
    let mut reply = decode(&answer(packet, u8::from(is_waffle && query.query_type == RecordType::A)));
    if !is_waffle {
        reply.metadata.response_code = hickory_proto::op::ResponseCode::NXDomain;
    }
    vec![reply.to_vec().expect("a reply fits")]
}

#[test]
fn waffle_of_the_site_is_found_beside_web_of_ours_with_both_in_the_search_list() {
    let (bed, folder) = (engine_bed("search"), tempfile::tempdir().expect("a directory"));
    let musl = compile("musl-gcc", &["-static"], &folder.path().join("musl"));
    let glibc = compile("gcc", &[], &folder.path().join("glibc"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let upstream = runtime.block_on(Upstream::start(corporate));

    let network = bed.network("net", &[]);
    let gateway = docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &network]);
    // What dockerd would give to a container without a search list of its own.
    let resolv_conf = folder.path().join("resolv.conf");
    std::fs::write(&resolv_conf, "nameserver 10.9.9.9\nsearch corp.test\n").expect("a file");
    let home = Home::new(&[
        "--dns",
        &format!("{gateway}:53"),
        "--upstream",
        &upstream.address.to_string(),
        "--resolv-conf",
        resolv_conf.to_str().expect("text"),
    ]);
    let _agent = home.start();
    home.until_ready();

    let shop = ["--network", &network, "--label", "portolan.namespace=shop"];
    bed.sleeper("web", &[&shop[..], &["--label", "portolan.service=web"]].concat());
    let web = address(&bed.name("web"), "IPAddress");
    let programs = [format!("{musl}:/musl:ro"), format!("{glibc}:/glibc:ro")];
    let libraries = ["/usr:/usr:ro", "/lib:/lib:ro", "/lib64:/lib64:ro"];
    let mounts = programs
        .iter()
        .map(String::as_str)
        .chain(libraries.into_iter().filter(|mount| Path::new(mount.split(':').next().unwrap_or_default()).exists()));
    let mounts: Vec<&str> = mounts.flat_map(|mount| ["-v", mount]).collect();
    let own = ["--dns", &gateway, "--dns-opt", "ndots:1", "--dns-search", "svc.internal"];
    bed.sleeper("alone", &[&shop[..], &mounts, &own].concat());
    bed.sleeper("both", &[&shop[..], &mounts, &own, &["--dns-search", "corp.test"]].concat());

    let found = [format!("web {web}"), format!("waffle {THERE}")];
    for (asker, expected) in [("both", &found), ("alone", &[found[0].clone(), "waffle NONAME".to_owned()])] {
        for program in ["/musl", "/glibc"] {
            let resolve = || docker(&["exec", &bed.name(asker), program, "web", "waffle"]);
            eventually(format_args!("{program} {asker}: {expected:?}"), || {
                resolve().lines().eq(expected.iter().map(String::as_str)).then_some(())
            });
        }
    }

    let explained = |asker: &str| {
        let output = home.client(&["explain", &bed.name(asker)]);
        succeeds(&output);
        String::from_utf8(output.stdout).expect("text")
    };
    let told = explained("alone");
    assert!(
        told.contains("dns_search (svc.internal) replaces this host's search list") && told.contains("corp.test"),
        "{told}"
    );
    assert!(!explained("both").contains("dns_search"), "it loses nothing");
}

#[test]
fn a_container_that_wants_port_53_of_all_addresses_is_told_the_way_out() {
    let bed = engine_bed("wants53");
    let network = bed.network("net", &[]);
    let gateway = docker(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &network]);
    let home = Home::new(&["--dns", &format!("{gateway}:53")]);
    let _agent = home.start();
    home.until_ready();
    // Only made, not started: whether it could start depends on what else this machine runs.
    let name = bed.adopt("pihole");
    docker(&["create", "--name", &name, "--network", &network, "-p", "53:53/udp", IMAGE, "sleep", "1000"]);
    let problem = eventually("it is told", || {
        home.problems().into_iter().find(|problem| problem.starts_with(&format!("container {name} ")))
    });
    assert!(problem.contains(&format!("{gateway}:53")) && problem.contains("-p 10.0.0.5:53:53"), "{problem}");
}
