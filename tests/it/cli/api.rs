//! The API over real sockets.

use std::{net::SocketAddr, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use portolan::{
    api::{
        Facts, RegistryFacts,
        control::ControlSocket,
        http::{Limits, MAX_WATCHERS},
    },
    model::{Catalog, Label, Origin, Phase, Problem, Publication},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::stage::{DEADLINE, Served, catalog, host, host_id, publication, serve, serve_leave, serve_within};

/// One raw request with its whole answer: status and body.
async fn exchange(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
    split(&answer)
}

fn split(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

async fn get(served: &Served, target: &str) -> (u16, String) {
    let address = served.address;
    exchange(address, &format!("GET {target} HTTP/1.0\r\nHost: {address}\r\n\r\n")).await
}

#[tokio::test]
async fn services_are_grouped_with_the_field_names_of_the_records() {
    let served = serve(catalog()).await;
    let (status, body) = get(&served, "/v1/services").await;
    assert_eq!(status, 200);
    let instance = |host: &str, number: usize, phase: &str| {
        serde_json::json!({
            "host": host, "container": format!("{number:012x}"), "name": format!("shop-web-{number}"), "image": "web:1",
            "phase": phase, "health": "none",
            "service": "web", "namespace": "shop", "tags": ["a"], "weight": 1,
            "ports": [{ "name": "http", "port": 80, "proto": "tcp",
                        "published": [{ "ip": "0.0.0.0", "port": 8080, "chosen": true }] }],
            "networks": [{ "id": "n1", "name": "shop_default", "driver": "bridge", "scope": "local", "internal": false,
                           "ips": ["172.18.0.2"] }],
        })
    };
    let expected = serde_json::json!({
        "revision": 7, "cluster": 1, "complete": true, "stale": false, "problems": 1,
        "services": [{
            "service": "web", "namespace": "shop", "ready": 2, "answers": "ready",
            "instances": [instance("a", 1, "serving"), instance("b", 2, "serving"), instance("b", 3, "draining")],
        }],
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(&body).expect("json"), expected);

    for (filter, services) in [("namespace=shop", 1), ("namespace=blog", 0), ("service=web", 1), ("service=api", 0)] {
        let (_, body) = get(&served, &format!("/v1/services?{filter}")).await;
        let listing: serde_json::Value = serde_json::from_str(&body).expect("json");
        assert_eq!(listing["services"].as_array().map(Vec::len), Some(services), "{filter}");
    }
}

#[tokio::test]
async fn several_services_are_one_valid_list() {
    let named = |number: usize, service: &str| {
        let mut publication = Publication::clone(&publication(number, Phase::Serving));
        Arc::make_mut(&mut publication.common).services[0].service = Label::parse(service).expect("a label");
        Arc::new(publication)
    };
    let mut catalog = catalog();
    catalog.hosts.insert(Origin::Own, host([named(1, "c"), named(2, "a"), named(3, "b")]));
    let (_, body) = get(&serve(catalog).await, "/v1/services").await;
    let listing: serde_json::Value = serde_json::from_str(&body).expect("json");
    let names: Vec<_> = listing["services"].as_array().expect("a list").iter().map(|s| &s["service"]).collect();
    assert_eq!(names, ["a", "b", "c", "web"]);
}

#[tokio::test]
async fn readiness_names_what_is_missing_and_never_turns_red_again() {
    let served = serve(Catalog::default()).await;
    served.facts.send_modify(|facts| facts.docker.last_error = Some("no such socket".to_owned()));
    assert_eq!(get(&served, "/healthz").await, (200, "ok\n".to_owned()));
    let missing = "not ready\ndocker has not been listed yet (no such socket)\nthe registry has not been listed yet\n";
    assert_eq!(get(&served, "/readyz").await, (503, missing.to_owned()));

    served.catalog.send_modify(|catalog| Arc::make_mut(catalog).docker_listed = true);
    assert_eq!(get(&served, "/readyz").await, (503, "not ready\nthe registry has not been listed yet\n".to_owned()));

    served.catalog.send_modify(|catalog| Arc::make_mut(catalog).registry_listed = true);
    assert_eq!(get(&served, "/readyz").await, (200, "ready\n".to_owned()));

    served.catalog.send_modify(|catalog| Arc::make_mut(catalog).stale = true);
    served.facts.send_replace(Facts {
        registry: RegistryFacts { last_error: Some("no leader".to_owned()), ..RegistryFacts::default() },
        ..Facts::default()
    });
    let stale = "ready\nstale: docker cannot be heard\nstale: the registry cannot be heard (no leader)\n";
    assert_eq!(get(&served, "/readyz").await, (200, stale.to_owned()));

    // Another cluster is being listed anew.
    served.catalog.send_modify(|catalog| Arc::make_mut(catalog).registry_listed = false);
    assert_eq!(get(&served, "/readyz").await.0, 200);
}

#[tokio::test]
async fn problems_of_all_parts_are_told_once() {
    let served = serve(catalog()).await;
    let label = Problem::new("container 000000000001 (shop-web-1), label portolan.port", "http", "a port number");
    served.facts.send_modify(|facts| facts.problems = vec![label.clone(), label]);
    let (_, body) = get(&served, "/v1/problems").await;
    let problems: serde_json::Value = serde_json::from_str(&body).expect("json");
    let places: Vec<_> = problems["problems"].as_array().expect("a list").iter().map(|p| &p["place"]).collect();
    assert_eq!(
        places,
        ["container 000000000001 (shop-web-1), label portolan.port", "key /portolan/v1/hosts/c/instances/x"]
    );
}

#[tokio::test]
async fn metrics_and_status_are_read_from_the_moment() {
    let served = serve(catalog()).await;
    let (status, text) = get(&served, "/metrics").await;
    assert_eq!(status, 200);
    for sample in [
        "portolan_catalog_hosts 2.0",
        "portolan_catalog_services 1.0",
        "portolan_catalog_instances{ready=\"true\"} 2.0",
        "portolan_catalog_instances{ready=\"false\"} 1.0",
        "portolan_catalog_services_without_ready{answers=\"draining\"} 0.0",
        "portolan_catalog_revision 7.0",
        "portolan_problems 1.0",
        "portolan_docker_connected 1.0",
    ] {
        assert!(text.lines().any(|line| line == sample), "{sample}\n{text}");
    }
    let (_, body) = get(&served, "/v1/status").await;
    let status: serde_json::Value = serde_json::from_str(&body).expect("json");
    assert_eq!((&status["host"], &status["catalog"]["revision"]), (&"a".into(), &7.into()));
    assert_eq!(status["facts"]["docker"]["connected"], true);
}

/// DNS rebinding: a name that an attacker made to lead here.
#[tokio::test]
async fn only_our_own_addresses_and_localhost_are_taken_as_host() {
    let served = serve(catalog()).await;
    let port = served.address.port();
    for (host, status) in [
        (format!("127.0.0.1:{port}"), 200),
        ("127.0.0.1".to_owned(), 200),
        (format!("localhost:{port}"), 200),
        ("LOCALHOST".to_owned(), 200),
        (format!("[::1]:{port}"), 200),
        ("127.9.9.9".to_owned(), 200),
        ("10.0.0.5".to_owned(), 403),
        (format!("evil.example:{port}"), 403),
        ("localhost.evil.example".to_owned(), 403),
        ("127.0.0.1.evil.example".to_owned(), 403),
        (String::new(), 403),
        ("localhost\r\nHost: evil.example".to_owned(), 403),
    ] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let (got, body) = exchange(served.address, &request).await;
        assert_eq!(got, status, "{host}: {body}");
        assert_eq!(status == 403, body.contains(&format!("use http://127.0.0.1:{port}/")), "{host}: {body}");
    }
    // The target's own host wins over the header.
    let request = "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(served.address, request).await.0, 403);
    assert_eq!(exchange(served.address, "GET /healthz HTTP/1.0\r\n\r\n").await.0, 403);
}

#[tokio::test]
async fn a_listener_on_all_addresses_takes_any_address_but_no_name() {
    let served = serve_within(catalog(), "0.0.0.0:0", Limits::default()).await;
    let address = SocketAddr::from(([127, 0, 0, 1], served.address.port()));
    for (host, status) in [("10.0.0.5:7300", 200), ("host-a:7300", 403)] {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(exchange(address, &request).await.0, status, "{host}");
    }
}

#[tokio::test]
async fn nothing_changes_over_tcp() {
    let served = serve(catalog()).await;
    for target in ["/v1/services", "/v1/watch", "/healthz"] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            assert_eq!(exchange(served.address, &request).await.0, 405, "{method} {target}");
        }
    }
    let request = "POST /v1/leave HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(served.address, request).await.0, 404);
    let request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(exchange(served.address, request).await.0, 413);
}

#[tokio::test]
async fn a_slow_head_is_cut_off() {
    let limits = Limits { head: Duration::from_millis(300), ..Limits::default() };
    let served = serve_within(catalog(), "127.0.0.1:0", limits).await;
    let mut slow = TcpStream::connect(served.address).await.expect("a connection");
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: local").await.expect("half a head");
    let mut rest = Vec::new();
    timeout(DEADLINE, slow.read_to_end(&mut rest)).await.expect("cut off in time").unwrap_or_default();
}

#[tokio::test]
async fn a_full_house_lets_the_next_one_wait() {
    let limits = Limits { connections: 1, ..Limits::default() };
    let served = serve_within(catalog(), "127.0.0.1:0", limits).await;
    let mut watch = Watch::open(&served, "").await;
    assert_eq!(watch.event().await.0, "synced");
    let mut waiting = std::pin::pin!(get(&served, "/healthz"));
    // Long enough to be answered many times over.
    assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err());
    drop(watch);
    assert_eq!(timeout(DEADLINE, waiting).await.expect("its turn").0, 200);
}

#[tokio::test]
async fn a_connection_may_ask_again() {
    let served = serve(catalog()).await;
    let mut stream = TcpStream::connect(served.address).await.expect("a connection");
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("a request");
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            let read = timeout(DEADLINE, stream.read_buf(&mut answer)).await.expect("in time").expect("an answer");
            assert_ne!(read, 0);
        }
    }
}

/// The lines of a watch stream.
struct Watch(BufReader<TcpStream>);

impl Watch {
    async fn open(served: &Served, query: &str) -> Self {
        let mut stream = TcpStream::connect(served.address).await.expect("a connection");
        let request = format!("GET /v1/watch{query} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut watch = Self(BufReader::new(stream));
        while !watch.line().await.trim().is_empty() {}
        watch
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(DEADLINE, self.0.read_line(&mut line)).await.expect("in time").expect("a line");
        line
    }

    /// What happened, to which container.
    async fn event(&mut self) -> (String, String) {
        let line = self.line().await;
        let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?} is no event"));
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        (text("event"), text("name"))
    }
}

fn happened(event: &str, name: &str) -> (String, String) {
    (event.to_owned(), name.to_owned())
}

fn set_own(served: &Served, publications: impl IntoIterator<Item = Arc<Publication>>) {
    let own = host(publications);
    served.catalog.send_modify(|catalog| {
        Arc::make_mut(catalog).hosts.insert(Origin::Own, own);
    });
}

#[tokio::test]
async fn a_watch_tells_what_comes_changes_and_goes() {
    let served = serve(catalog()).await;
    let mut watch = Watch::open(&served, "").await;
    assert_eq!(watch.event().await, happened("synced", ""));
    set_own(&served, [publication(1, Phase::Serving), publication(4, Phase::Serving)]);
    assert_eq!(watch.event().await, happened("added", "shop-web-4"));
    set_own(&served, [publication(1, Phase::Paused), publication(4, Phase::Serving)]);
    assert_eq!(watch.event().await, happened("changed", "shop-web-1"));
    // Nothing changed, so nothing is told.
    set_own(&served, [publication(1, Phase::Paused), publication(4, Phase::Serving)]);
    set_own(&served, [publication(4, Phase::Serving)]);
    assert_eq!(watch.event().await, happened("removed", "shop-web-1"));
    served.catalog.send_modify(|catalog| Arc::make_mut(catalog).stale = true);
    assert_eq!(watch.event().await, happened("stale", ""));
    served.catalog.send_modify(|catalog| Arc::make_mut(catalog).stale = false);
    assert_eq!(watch.event().await, happened("fresh", ""));
    // A whole host goes.
    served.catalog.send_modify(|catalog| {
        Arc::make_mut(catalog).hosts.remove(&Origin::Registry(host_id("b")));
    });
    assert_eq!(watch.event().await, happened("removed", "shop-web-2"));
    assert_eq!(watch.event().await, happened("removed", "shop-web-3"));
}

#[tokio::test]
async fn a_watch_may_begin_with_everything() {
    let served = serve(catalog()).await;
    let mut watch = Watch::open(&served, "?initial=true").await;
    for name in ["shop-web-1", "shop-web-2", "shop-web-3"] {
        assert_eq!(watch.event().await, happened("added", name));
    }
    assert_eq!(watch.event().await, happened("synced", ""));
}

/// At the first list of Docker our own containers move from the registry's copy to our own.
#[tokio::test]
async fn a_publication_that_only_moves_is_no_change() {
    let mut before = catalog();
    let own = before.hosts.remove(&Origin::Own).expect("our own");
    before.hosts.insert(Origin::Registry(host_id("a")), Arc::clone(&own));
    let served = serve(before).await;
    let mut watch = Watch::open(&served, "").await;
    assert_eq!(watch.event().await, happened("synced", ""));
    // In one snapshot with something that is a change, so that the move cannot be skipped.
    let mut after = catalog();
    after.hosts.insert(Origin::Own, host([publication(1, Phase::Serving), publication(4, Phase::Serving)]));
    served.catalog.send_replace(Arc::new(after));
    assert_eq!(watch.event().await, happened("added", "shop-web-4"));
}

/// A reader that sleeps through 2,000 changes costs no memory for each and sees the last state.
#[tokio::test]
async fn a_slow_watcher_skips_to_the_latest() {
    const CHURN: usize = 2_000;
    const MANY: usize = 400;
    let served = serve(catalog()).await;
    let mut watch = Watch::open(&served, "").await;
    assert_eq!(watch.event().await, happened("synced", ""));
    for round in 0..CHURN {
        let phase = if round % 2 == 0 { Phase::Paused } else { Phase::Serving };
        set_own(&served, (1..=MANY).map(|number| publication(number, phase)));
        tokio::task::yield_now().await;
    }
    set_own(&served, [publication(99_999, Phase::Serving)]);
    let mut lines = 0;
    loop {
        let (event, name) = watch.event().await;
        lines += 1;
        if event == "removed" && name == format!("shop-web-{MANY}") {
            break;
        }
    }
    assert_eq!(watch.event().await, happened("added", "shop-web-99999"));
    // What the sockets' buffers take is told; the rest is skipped: far from all of 800,000.
    assert!(lines < CHURN * MANY / 4, "{lines} lines");
}

#[tokio::test]
async fn watchers_are_limited_and_leave_their_place() {
    let served = serve(catalog()).await;
    let mut watches = Vec::new();
    for _ in 0..MAX_WATCHERS {
        let mut watch = Watch::open(&served, "").await;
        assert_eq!(watch.event().await.0, "synced");
        watches.push(watch);
    }
    assert_eq!(get(&served, "/v1/watch").await.0, 503);
    assert_eq!(get(&served, "/healthz").await.0, 200);
    drop(watches.pop());
    let reopened = async {
        loop {
            let mut watch = Watch::open(&served, "").await;
            if watch.line().await.contains("synced") {
                return;
            }
        }
    };
    timeout(DEADLINE, reopened).await.expect("a place is free again");
}

#[tokio::test]
async fn leave_goes_over_the_control_socket_of_its_owner_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/control.sock");
    let (task, mut told) = serve_leave(&path, Ok(()));
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("it exists").permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().expect("a parent"))), (0o600, 0o700));

    let ask = |request: &'static str| {
        let path = path.clone();
        async move {
            let mut stream = UnixStream::connect(&path).await.expect("a connection");
            stream.write_all(request.as_bytes()).await.expect("a request");
            let mut answer = String::new();
            timeout(DEADLINE, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
            split(&answer)
        }
    };
    assert_eq!(ask("POST /v1/leave HTTP/1.0\r\n\r\n").await, (200, r#"{"host":"a","left":true}"#.to_owned()));
    assert!(told.recv().await.is_some());
    assert_eq!(ask("GET /v1/leave HTTP/1.0\r\n\r\n").await.0, 405);
    assert_eq!(ask("GET /v1/services HTTP/1.0\r\n\r\n").await.0, 404);
    assert!(told.try_recv().is_err());

    // One that a crash left behind is replaced; the name goes with the agent that has it, and with no other.
    let newer = ControlSocket::bind(&path).expect("the name is taken over");
    task.abort();
    let _ = task.await;
    assert!(path.exists());
    drop(newer);
    assert!(!path.exists());
}
