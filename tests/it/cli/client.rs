//! The client commands against the API with a hand-made state: what is printed where, and the exit codes.

use std::process::{Output, Stdio};

use portolan::{
    api::{CacheFacts, UpstreamFacts},
    model::{Catalog, Origin, Phase},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::timeout,
};

use super::{
    stage::{DEADLINE, Served, catalog, host_id, serve, serve_leave},
    transcript,
};

fn command(arguments: &[&str], api: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.args(arguments).env_clear().env("HOME", "/home/anna").env("PORTOLAN_API", api);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

pub(super) async fn portolan(arguments: &[&str], served: &Served) -> Output {
    let output = command(arguments, &format!("http://{}", served.address)).output();
    timeout(DEADLINE, output).await.expect("in time").expect("the binary starts")
}

pub(super) async fn shown(arguments: &[&str], served: &Served) -> String {
    transcript(&portolan(arguments, served).await).replace(&served.address.to_string(), "AGENT")
}

#[tokio::test]
async fn services_are_a_table_with_the_problems_aside() {
    let served = serve(catalog()).await;
    insta::assert_snapshot!(shown(&["services"], &served).await, @r"
    exit 0
    --- stdout
    SERVICE  NAMESPACE  INSTANCES  READY  ANSWERS  HOSTS  PORTS
    web      shop       3          2      ready    2      80/tcp
    --- stderr
    1 problem: see http://AGENT/v1/problems
    ");
    insta::assert_snapshot!(shown(&["services", "shop", "-o", "name"], &served).await, @r"
    exit 0
    --- stdout
    web.shop
    --- stderr
    1 problem: see http://AGENT/v1/problems
    ");
    let output = portolan(&["services", "-o", "json"], &served).await;
    let listing: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json and nothing else");
    assert_eq!(listing["services"][0]["instances"][0]["container"], "000000000001");
    insta::assert_snapshot!(shown(&["services", "bl&g"], &served).await, @r"
    exit 3
    --- stdout
    --- stderr
    1 problem: see http://AGENT/v1/problems
    no services in namespace bl&g
    ");
}

#[tokio::test]
async fn services_say_when_they_may_be_old_or_too_few() {
    let served = serve(Catalog { stale: true, problems: [].into(), ..catalog() }).await;
    insta::assert_snapshot!(shown(&["services", "-o", "name"], &served).await, @r"
    exit 0
    --- stdout
    web.shop
    --- stderr
    note: the registry cannot be heard; other hosts' services are those last seen
    ");
    let served = serve(Catalog::default()).await;
    insta::assert_snapshot!(shown(&["services"], &served).await, @r"
    exit 3
    --- stdout
    --- stderr
    note: docker or the registry has not been listed yet; there may be more
    no services
    ");
}

#[tokio::test]
async fn resolve_prints_data_alone_and_the_rest_aside() {
    let served = serve(catalog()).await;
    insta::assert_snapshot!(shown(&["resolve", "web.shop"], &served).await, @r"
    exit 0
    --- stdout
    172.18.0.2
    172.18.0.3
    --- stderr
    NOERROR: 2 answers for web.shop.svc.internal. A, asked as host
    ");
    insta::assert_snapshot!(shown(&["resolve", "web", "--type", "srv", "--as", "shop-web-1"], &served).await, @r"
    exit 0
    --- stdout
    1 1 80 000000000001.web.shop.svc.internal.
    --- stderr
    NOERROR: 1 answer for web.svc.internal. SRV, asked as container shop-web-1 (namespace shop)
    ");
    insta::assert_snapshot!(shown(&["resolve", "web", "--type", "SRV", "--as", "fd00::1", "-o", "name"], &served).await, @r"
    exit 0
    --- stdout
    000000000001.web.shop.svc.internal.
    --- stderr
    NOERROR: 1 answer for web.svc.internal. SRV, asked as stranger fd00::1
    ");
    let output = portolan(&["resolve", "web", "-o", "json"], &served).await;
    let reply: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json and nothing else");
    assert_eq!(reply["answers"][1]["data"], "172.18.0.3");
}

#[tokio::test]
async fn zone_dump_prints_the_file_alone() {
    let served = serve(catalog()).await;
    insta::assert_snapshot!(shown(&["zone", "dump"], &served).await, @r"
    exit 0
    --- stdout
    svc.internal. 1 IN SOA svc.internal. hostmaster.svc.internal. 1 7200 1800 86400 1
    ; None
    --- stderr
    ");
    insta::assert_snapshot!(shown(&["zone", "dump", "18.172.in-addr.arpa", "--as", "shop-web-1"], &served).await, @r#"
    exit 0
    --- stdout
    18.172.in-addr.arpa. 1 IN SOA 18.172.in-addr.arpa. hostmaster.18.172.in-addr.arpa. 1 7200 1800 86400 1
    ; Some(Container("shop-web-1"))
    --- stderr
    "#);
    insta::assert_snapshot!(shown(&["zone", "dump", "nowhere"], &served).await, @r"
    exit 3
    --- stdout
    --- stderr
    error: `nowhere.` is no zone of this host; these are: svc.internal.
    ");
    insta::assert_snapshot!(shown(&["zone", "dump", "early"], &served).await, @r"
    exit 1
    --- stdout
    --- stderr
    error: docker or the registry has not been listed yet
    ");
}

#[tokio::test]
async fn the_exit_code_of_resolve_tells_the_kind_of_answer() {
    let served = serve(catalog()).await;
    for (arguments, code) in [
        (&["resolve", "gone"][..], 3),
        (&["resolve", "web", "--type", "AAAA"], 3),
        (&["resolve", "broken"], 1),
        (&["resolve", "web", "--as", "ghost"], 3),
        (&["resolve", "web", "--type", "LOC"], 2),
    ] {
        let output = portolan(arguments, &served).await;
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", transcript(&output));
    }
    insta::assert_snapshot!(shown(&["resolve", "web", "--as", "ghost"], &served).await, @r#"
    exit 3
    --- stdout
    --- stderr
    error: no container "ghost" on this host
    "#);
}

#[tokio::test]
async fn watch_streams_until_the_agent_ends() {
    let served = serve(catalog()).await;
    let mut child = command(&["watch", "--initial"], &format!("http://{}", served.address))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut next = async || timeout(DEADLINE, lines.next_line()).await.expect("in time").expect("text");
    assert_eq!(next().await.as_deref(), Some("added    000000000001  a/shop-web-1  web.shop"));
    assert_eq!(next().await.as_deref(), Some("added    000000000002  b/shop-web-2  web.shop"));
    assert_eq!(next().await.as_deref(), Some("added    000000000003  b/shop-web-3 (draining)  web.shop"));
    served.catalog.send_modify(|catalog| {
        std::sync::Arc::make_mut(catalog).hosts.remove(&Origin::Registry(host_id("b")));
    });
    assert_eq!(next().await.as_deref(), Some("removed  000000000002  b/shop-web-2  web.shop"));
    assert_eq!(next().await.as_deref(), Some("removed  000000000003  b/shop-web-3 (draining)  web.shop"));
    drop(served);
    assert_eq!(next().await, None);
    let status = timeout(DEADLINE, child.wait()).await.expect("in time").expect("a status");
    assert_eq!(status.code(), Some(4));
}

#[tokio::test]
async fn a_pipe_that_closes_is_quiet() {
    let served = serve(catalog()).await;
    let many = |number| super::stage::publication(number, Phase::Serving);
    let host = portolan::model::Host {
        publications: (1..5_000).map(many).map(|publication| (publication.container, publication)).collect(),
        ..Default::default()
    };
    served.catalog.send_modify(|catalog| {
        std::sync::Arc::make_mut(catalog).hosts.insert(Origin::Own, host.into());
    });
    let mut child = command(&["services", "-o", "json"], &format!("http://{}", served.address))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    // Megabytes wait for a reader that goes without taking any.
    drop(child.stdout.take());
    let output = timeout(DEADLINE, child.wait_with_output()).await.expect("in time").expect("an end");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[tokio::test]
async fn leave_tells_how_it_went() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("control.sock");
    let socket = path.to_str().expect("text");
    for (outcome, code, text) in [
        (Ok(()), 0, "this host has left\n"),
        (
            Err("the lease could not be revoked: no leader".to_owned()),
            1,
            "error: the lease could not be revoked: no leader\n",
        ),
    ] {
        let (task, _told) = serve_leave(&path, outcome);
        let output = timeout(DEADLINE, command(&["leave", "--control", socket], "").output());
        let output = output.await.expect("in time").expect("the binary starts");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(code), text));
        assert!(output.stdout.is_empty());
        for (form, data) in [("json", "{\"host\":\"a\",\"left\":true}\n"), ("name", "a\n"), ("table", "")] {
            let output = timeout(DEADLINE, command(&["leave", "--control", socket, "-o", form], "").output());
            let output = output.await.expect("in time").expect("the binary starts");
            let data = if code == 0 { data } else { "" };
            assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(code), data));
        }
        task.abort();
        let _ = task.await;
    }
}

/// Runs a command over the control socket of a hand-made agent, in the test's own words.
async fn controlled(arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("control.sock");
    let socket = path.to_str().expect("text");
    let (task, _told) = serve_leave(&path, Ok(()));
    let output = timeout(DEADLINE, command(&[arguments, &["--control", socket]].concat(), "").output());
    let output = output.await.expect("in time").expect("the binary starts");
    task.abort();
    let _ = task.await;
    transcript(&output)
}

#[tokio::test]
async fn drain_says_whom_it_is_about_and_waits_until_everybody_knows() {
    insta::assert_snapshot!(controlled(&["drain", "shop-web-1"]).await, @r"
    exit 0
    --- stdout
    CONTAINER     NAME
    000000000001  shop-web-1
    --- stderr
    ");
    insta::assert_snapshot!(controlled(&["drain", "--host", "--wait", "-o", "name"]).await, @r"
    exit 0
    --- stdout
    shop-web-1
    --- stderr
    every live host answers without --host
    ");
    insta::assert_snapshot!(controlled(&["drain", "shop-web-1", "--wait", "--timeout", "0s", "-o", "json"]).await, @r#"
    exit 1
    --- stdout
    {"host":"a","round":7,"containers":[{"container":"000000000001","name":"shop-web-1"}]}
    --- stderr
    error: not everybody knows after 0ns: waiting for host b; it stays drained, `portolan undrain shop-web-1` takes it back
    "#);
    insta::assert_snapshot!(controlled(&["drain", "mail"]).await, @r"
    exit 3
    --- stdout
    --- stderr
    error: nothing called mail
    ");
    insta::assert_snapshot!(controlled(&["undrain", "shop-web-1", "-o", "name"]).await, @r"
    exit 0
    --- stdout
    shop-web-1
    --- stderr
    ");
    for arguments in [&["drain"][..], &["drain", "web", "--host"], &["undrain"], &["drain", "web", "--timeout", "soon"]]
    {
        assert!(controlled(arguments).await.starts_with("exit 2\n"), "{arguments:?}");
    }
}

#[tokio::test]
async fn something_else_that_answers_is_no_agent() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let api = format!("http://{}", listener.local_addr().expect("an address"));
    let rude = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        stream.read_buf(&mut Vec::new()).await.expect("a request");
        stream.write_all(b"SSH-2.0-OpenSSH\r\n").await.expect("a greeting");
    });
    let output = timeout(DEADLINE, command(&["services"], &api).output()).await.expect("in time").expect("a run");
    assert_eq!(output.status.code(), Some(1), "{}", transcript(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("no proper answer from {api}")));
    rude.await.expect("it was asked");
}

#[tokio::test]
async fn register_tells_what_it_replaces_and_unregister_what_is_gone() {
    for (arguments, expected) in [
        (
            &["register", "db", "--address", "10.0.0.9:5432"][..],
            "exit 0\n--- stdout\ndb.global\n--- stderr\nregistered db address=10.0.0.9:5432\n",
        ),
        (
            &["register", "redis", "--cname", "r.example.com", "-o", "json"],
            "exit 0\n--- stdout\n{\"name\":\"redis.global\",\"replaced\":\"redis address=10.0.0.8\"}\n\
             --- stderr\nregistered redis cname=r.example.com; before: redis address=10.0.0.8\n",
        ),
        (
            &["unregister", "redis"],
            "exit 0\n--- stdout\nredis.global\n--- stderr\nunregistered redis address=10.0.0.8\n",
        ),
        (
            &["unregister", "db"],
            "exit 3\n--- stdout\n--- stderr\nerror: no external service is registered as db.global\n",
        ),
        (
            &["register", "redis", "--cname", "web.svc.internal"],
            "exit 2\n--- stdout\n--- stderr\nerror: \"web.svc.internal\" lies in our own zone: a name outside of svc.internal, \
             or the addresses\n",
        ),
        (
            &["register", "redis", "--address", "10.0.0.9", "--check", "tcp"],
            "exit 2\n--- stdout\n--- stderr\nerror: check: a port is needed wherever it is asked\n",
        ),
    ] {
        assert_eq!(controlled(arguments).await, expected, "{arguments:?}");
    }
}

#[tokio::test]
async fn the_cache_is_shown_and_flushed() {
    let served = serve(catalog()).await;
    served.facts.send_modify(|facts| {
        let upstream = |domain: Option<&str>, address: &str, state: &str, rtt_ms| UpstreamFacts {
            domain: domain.map(str::to_owned),
            address: address.parse().expect("an address"),
            state: state.to_owned(),
            rtt_ms,
            failures: 0,
        };
        facts.cache = CacheFacts {
            entries: 12,
            octets: 5000,
            limit: 16 << 20,
            hits: 345,
            misses: 67,
            stale: 8,
            upstreams: vec![
                upstream(None, "9.9.9.9:53", "up", Some(12.345)),
                upstream(Some("corp.example"), "[fd00::1]:53", "down", None),
            ],
            ..CacheFacts::default()
        };
    });
    insta::assert_snapshot!(shown(&["cache", "stats"], &served).await, @r#"
    exit 0
    --- stdout
    ANSWERS  OCTETS  LIMIT     HITS  MISSES  STALE
    12       5000    16777216  345   67      8

    DOMAIN        UPSTREAM      STATE  RTT
    all others    9.9.9.9:53    up     12.3 ms
    corp.example  [fd00::1]:53  down   -
    --- stderr
    "#);
    insta::assert_snapshot!(shown(&["cache", "stats", "-o", "name"], &served).await, @r#"
    exit 0
    --- stdout
    9.9.9.9:53
    [fd00::1]:53
    --- stderr
    "#);
    insta::assert_snapshot!(shown(&["cache", "stats", "-o", "json"], &served).await, @r#"
    exit 0
    --- stdout
    {"entries":12,"octets":5000,"limit":16777216,"hits":345,"misses":67,"stale":8,"coalesced":0,"evictions":0,"mismatched":0,"upstreams":[{"address":"9.9.9.9:53","state":"up","rtt_ms":12.345,"failures":0},{"domain":"corp.example","address":"[fd00::1]:53","state":"down","failures":0}]}
    --- stderr
    "#);

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("control.sock");
    let (_task, _told) = serve_leave(&path, Ok(()));
    let flush = async |arguments: &[&str]| {
        let control = ["--control", path.to_str().expect("text")];
        transcript(&portolan(&[&["cache", "flush"], arguments, &control].concat(), &served).await)
    };
    insta::assert_snapshot!(flush(&[]).await, @r#"
    exit 0
    --- stdout
    --- stderr
    3 answers forgotten
    "#);
    insta::assert_snapshot!(flush(&["example.com"]).await, @r#"
    exit 0
    --- stdout
    --- stderr
    1 answer forgotten
    "#);
    insta::assert_snapshot!(flush(&["example.com", "-o", "json"]).await, @r#"
    exit 0
    --- stdout
    {"flushed":1,"freed":0}
    --- stderr
    1 answer forgotten
    "#);
    insta::assert_snapshot!(flush(&["db"]).await, @r#"
    exit 0
    --- stdout
    --- stderr
    0 answers forgotten
    1 namespace had lost the name: `global` is asked from now on
    "#);
    insta::assert_snapshot!(flush(&["a..b"]).await, @r#"
    exit 2
    --- stdout
    --- stderr
    error: "a..b" is no name
    "#);
}
