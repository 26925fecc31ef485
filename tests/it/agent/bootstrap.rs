//! Starts without what an agent needs, and the ways to reach an etcd.

use std::path::Path;

use hickory_proto::op::ResponseCode;

use super::{
    bed::{Home, address, engine_bed, eventually},
    registry::{ROUTED, Registry},
};
use crate::{
    engine::Between,
    etcd::{Cluster, Options, Security},
};

#[test]
fn without_etcd_own_containers_answer_and_absence_is_not_stated() {
    let (bed, mut registry) = (engine_bed("noetcd"), Registry::single());
    let id = bed.sleeper("web", &[]);
    registry.cluster.kill(0);
    let home = registry.home(&[]);
    let _agent = home.start();
    home.until_address(&format!("{}.default", bed.name("web")), &address(&bed.name("web")));
    home.until_code("nobody.default", ResponseCode::ServFail);
    let (status, body) =
        eventually("it says what is missing", || home.get("/readyz").filter(|(_, body)| body.contains("unreachable")));
    assert_eq!(status, 503);
    assert!(body.contains("the registry has not been listed yet") && !body.contains("docker"), "{body}");

    registry.cluster.restart(0);
    registry.cluster.wait_healthy(0);
    home.until_code("nobody.default", ResponseCode::NXDomain);
    home.until_ready();
    eventually("it is published", || registry.instance(&id));
}

#[test]
fn without_docker_remote_names_answer_and_the_engine_is_listed_when_it_comes() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _context = runtime.enter();
    let (bed, registry) = (engine_bed("nodocker"), Registry::single());
    let id = bed.sleeper("web", &[]);
    let (name, ip) = (format!("{}.default", bed.name("web")), address(&bed.name("web")));
    let near = registry.home(&[]);
    let _near = near.start();
    near.until_synced();

    let mut between = Between::absent();
    let socket = between.path.to_str().expect("text").to_owned();
    let docker_host = format!("unix://{socket}");
    let home = registry.home(&["--host-id", "late", "--docker-host", &docker_host, "--routed", ROUTED]);
    let _agent = home.start();
    home.until_address(&name, &ip);
    home.until_code("nobody.default", ResponseCode::ServFail);
    // A list becomes answers first, and then what the API tells.
    let (status, body) = eventually("only Docker is missing", || {
        home.get("/readyz").filter(|(_, body)| body.contains(&socket) && !body.contains("the registry"))
    });
    assert_eq!(status, 503);
    assert!(body.contains("docker has not been listed yet"), "{body}");
    let lost = || home.metric("portolan_docker_resyncs_total");
    eventually("it has tried again and again", || (lost() >= 4.0).then_some(()));
    assert_eq!(home.logged("docker cannot be reached yet"), 1, "an outage is logged once");

    between.restore();
    home.until_code("nobody.default", ResponseCode::NXDomain);
    home.until_ready();
    home.until_synced();
    let key = format!("/portolan/v1/hosts/late/instances/{}", &id[..12]);
    eventually("it publishes the engine's containers", || {
        registry.keys().into_iter().find(|kv| kv.key == key.as_bytes())
    });
}

#[test]
fn a_user_and_a_password_are_shown_to_etcd_and_a_wrong_one_is_named() {
    let bed = engine_bed("auth");
    let id = bed.sleeper("web", &[]);
    let cluster = Cluster::single();
    cluster.enable_auth("open sesame");
    let endpoint = cluster.endpoint(0);
    let password = |name: &str, text: &str| {
        let path = cluster.directory().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("text").to_owned()
    };
    let (right, wrong) = (password("right", "open sesame\n"), password("wrong", "close simsim\n"));
    let home_with =
        |file: &str| Home::new(&["--etcd-endpoints", &endpoint, "--etcd-user", "root", "--etcd-password-file", file]);
    let home = home_with(&right);
    let _agent = home.start();
    home.until_ready();
    home.until_synced();
    let keys = cluster.ctl(&["--user", "root:open sesame", "get", "--prefix", "--keys-only", "/portolan/v1/hosts/"]);
    assert!(keys.contains(&id[..12]), "{keys}");

    let stranger = home_with(&wrong);
    let _stranger = stranger.start();
    let (status, body) = eventually("it says why not", || {
        stranger.get("/readyz").filter(|(_, body)| body.contains("etcd denied the call"))
    });
    assert_eq!(status, 503);
    assert!(!body.contains("simsim"), "no password is told: {body}");
    stranger.until_address(&format!("{}.default", bed.name("web")), &address(&bed.name("web")));
}

#[test]
fn certificates_are_shown_to_etcd() {
    let bed = engine_bed("tls");
    let id = bed.sleeper("web", &[]);
    let cluster = Cluster::start(&Options { security: Security::ClientCertificates, ..Options::default() });
    let certificates = cluster.certificates().expect("a cluster with TLS");
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let (ca, cert, key) = (text(&certificates.ca), text(&certificates.cert), text(&certificates.key));
    let endpoint = cluster.endpoint(0);
    let arguments = ["--etcd-endpoints", &endpoint, "--etcd-ca", &ca, "--etcd-cert", &cert, "--etcd-key", &key];
    let home = Home::new(&arguments);
    let _agent = home.start();
    home.until_ready();
    home.until_synced();
    let keys = cluster.ctl(&["get", "--prefix", "--keys-only", "/portolan/v1/hosts/"]);
    assert!(keys.contains(&id[..12]), "{keys}");
}

#[test]
fn a_dead_endpoint_before_a_live_one_is_passed_over() {
    let (bed, registry) = (engine_bed("dead"), Registry::single());
    let id = bed.sleeper("web", &[]);
    // Nobody listens on the discard port of loopback.
    let endpoints = format!("http://127.0.0.1:9,{}", registry.url());
    let home = Home::new(&["--etcd-endpoints", &endpoints]);
    let _agent = home.start();
    home.until_ready();
    eventually("it is published", || registry.instance(&id));
}
