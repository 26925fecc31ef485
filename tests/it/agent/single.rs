//! One host alone, with the embedded registry.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
};

use hickory_proto::op::ResponseCode;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::bed::{Home, address, engine_bed, eventually};
use crate::engine::{Bed, SOCKET, docker};

#[test]
fn a_start_becomes_an_answer_everywhere_and_a_removal_takes_it_away_everywhere() {
    let (bed, home) = (engine_bed("all"), Home::new(&[]));
    let _agent = home.start();
    home.until_ready();
    let watch = home.watch();
    let container = bed.name("web");
    let name = format!("{container}.default");
    home.until_code(&name, ResponseCode::NXDomain);

    bed.sleeper("web", &["--expose", "80"]);
    let ip = address(&container);
    home.until_address(&name, &ip);
    watch.until("it came", |event| event["event"] == "added" && event["name"] == *container);
    let output = home.client(&["services", "-o", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let listing: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let services = listing["services"].as_array().expect("a list");
    let service = services.iter().find(|service| service["service"] == *container).expect("it is listed");
    assert_eq!((&service["namespace"], &service["ready"]), (&json!("default"), &json!(1)));
    assert_eq!(service["instances"][0]["ports"][0]["port"], 80);
    let table = String::from_utf8(home.client(&["services"]).stdout).expect("text");
    assert!(table.contains(&container), "{table}");
    for arguments in [&["resolve", &name][..], &["resolve", &container, "--as", &container]] {
        let output = home.client(arguments);
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ip, "{output:?}");
        assert_eq!(output.status.code(), Some(0));
    }

    docker(&["rm", "-f", &container]);
    home.until_code(&name, ResponseCode::NXDomain);
    watch.until("it went", |event| event["event"] == "removed" && event["name"] == *container);
    let listing = String::from_utf8(home.client(&["services", "-o", "name"]).stdout).expect("text");
    assert!(!listing.contains(&container), "{listing}");
    // Not found, and nobody of that name who could ask.
    assert_eq!(home.client(&["resolve", &name]).status.code(), Some(3));
    eventually("it is no asker any more", || {
        (home.client(&["resolve", &name, "--as", &container]).status.code() == Some(3)).then_some(())
    });
}

#[test]
fn the_introduction_says_what_it_is_and_how_to_ask_and_the_line_works() {
    let (bed, home) = (engine_bed("introduction"), Home::new(&[]));
    bed.sleeper("web", &[]);
    let agent = home.start();
    assert_eq!(agent.introduces("zone"), ["svc.internal"]);
    assert_eq!(agent.introduces("dns"), [home.dns.to_string()]);
    assert_eq!(agent.introduces("http"), [format!("http://{}", home.http)]);
    assert!(agent.introduces("registry")[0].starts_with("memory"), "{:?}", agent.introduction);
    home.until_ready();
    let line = agent.introduces("try")[0].replace("NAME", &format!("{}.default", bed.name("web")));
    let (program, arguments) = line.split_once(' ').expect("a command with arguments");
    let output = Command::new(program).args(arguments.split(' ')).arg("+short").output().expect("dig of dnsutils");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), address(&bed.name("web")), "{line}");
}

#[test]
fn a_state_directory_serves_one_agent_at_a_time() {
    let home = Home::new(&[]);
    let mut first = home.start();
    let output = home.command().output().expect("the binary starts");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(home.state().to_str().expect("text")), "{error}");
    assert!(error.contains("stop that one") && error.contains("another --state-dir"), "{error}");
    assert!(first.runs());
    // It ended before it touched anything of the first one's.
    home.until_ready();
    assert_eq!(home.client(&["leave"]).status.code(), Some(0));
    assert!(first.end(Signal::SIGTERM).success());
    assert!(home.start().runs(), "the directory is free again");
}

/// Creates and starts a container with labels that no command line could carry.
fn run_labelled(bed: &Bed, short: &str, labels: &Value) {
    let name = bed.adopt(short);
    // One that sleeps is there already: its image is the one to take.
    let image = docker(&["inspect", "-f", "{{.Config.Image}}", &bed.name("good")]);
    let mut labels = labels.clone();
    labels["portolan-test"] = "agentit".into();
    let body = json!({ "Image": image, "Cmd": ["sleep", "1000"], "Labels": labels }).to_string();
    let mut stream = UnixStream::connect(SOCKET).expect("the engine's socket");
    let head = "Host: docker\r\nContent-Type: application/json\r\nConnection: close";
    write!(stream, "POST /containers/create?name={name} HTTP/1.1\r\n{head}\r\nContent-Length: {}\r\n\r\n", body.len())
        .and_then(|()| stream.write_all(body.as_bytes()))
        .expect("the engine listens");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("text");
    assert!(reply.starts_with("HTTP/1.1 201"), "{short}: {reply}");
    docker(&["start", &name]);
}

#[test]
fn hostile_labels_harm_only_their_container_and_are_shown() {
    let (bed, home) = (engine_bed("hostile"), Home::new(&[]));
    let mut agent = home.start();
    bed.sleeper("good", &["--label", "portolan.port=80"]);
    let mebibyte = "x".repeat(1 << 20);
    let broken = [
        json!({ "portolan.service": "a".repeat(64) }),
        json!({ "portolan.service": "ünïcøde" }),
        json!({ "portolan.service": "\u{0}\n\u{1b}[31mred" }),
        json!({ "portolan.service": mebibyte }),
        json!({ "portolan.namespace": "../.." }),
        json!({ "portolan.port": "99999999999999999999" }),
        json!({ "portolan.port.0.name": "http" }),
        json!({ "portolan.weight": "-1" }),
        json!({ "portolan.servce": "web" }),
        json!({ "portolan.tags": mebibyte }),
        json!({ "com.docker.compose.project": "global" }),
        json!({ "SERVICE_80_NAME": "a/b" }),
    ];
    for (number, labels) in broken.iter().enumerate() {
        run_labelled(&bed, &format!("broken{number}"), labels);
    }
    // Nothing of ours: it may be as large as it likes.
    run_labelled(&bed, "large", &json!({ "com.example.note": mebibyte }));
    home.until_address(&format!("{}.default", bed.name("large")), &address(&bed.name("large")));
    for (number, labels) in broken.iter().enumerate() {
        let own = format!("({})", bed.name(&format!("broken{number}")));
        let shown: String = labels.to_string().chars().take(100).collect();
        let problem = eventually(format_args!("a problem about {shown}"), || {
            home.problems().into_iter().find(|problem| problem.contains(&own))
        });
        assert!(problem.len() < 1_000 && !problem.chars().any(char::is_control), "{problem:?}");
    }
    home.until_address(&format!("{}.default", bed.name("good")), &address(&bed.name("good")));
    assert!(agent.runs());
}
