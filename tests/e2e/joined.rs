//! Containers in the network of another one (`network_mode: container:vpn`): answered while they are in the network of its
//! present run, and on no host when they are not.

use hickory_proto::rr::RecordType;

use super::bed::{A, Container, SOON, eventually, everywhere, gone_everywhere, targets, unique, unique_port};

/// Starts a container in the network of `owner` that serves on port 8080, or only waits.
fn join(owner: &str, name: &str, service: Option<&str>) -> Container {
    let network = format!("container:{owner}");
    let label = service.map_or("portolan.ignore=true".to_owned(), |service| format!("portolan.service={service}"));
    let options = ["--network", &network, "--label", &label, "--label", "portolan.port=8080"];
    let command: &[&str] = if service.is_some() { &["httpd", "-f", "-p", "8080"] } else { &["sleep", "1d"] };
    A.run_command(name, &options, command)
}

fn owner(name: &str, port: u16) -> Container {
    let publish = format!("{port}:8080");
    A.run_command(name, &["-p", &publish, "--label", "portolan.ignore=true"], &["sleep", "1d"])
}

/// Waits until the host's problems tell this of `container`; nothing: that there is none of it.
fn told_of(container: &str, expected: &str) {
    eventually(&format!("the problem of {container} says {expected:?}"), SOON, || {
        let problems = A.http("/v1/problems");
        let read: serde_json::Value = serde_json::from_str(&problems).map_err(|error| error.to_string())?;
        let all = read["problems"].as_array().cloned().unwrap_or_default();
        let place = format!("({container})");
        let of_it = all.iter().filter(|problem| problem["place"].as_str().is_some_and(|text| text.ends_with(&place)));
        let fixes: Vec<&str> = of_it.filter_map(|problem| problem["expected"].as_str()).collect();
        if fixes.join("; ") == expected { Ok(()) } else { Err(problems) }
    });
}

#[test]
fn a_container_in_the_network_of_another_is_answered_while_it_shares_its_present_run() {
    let (vpn, side, app, port) = (unique("vpn"), unique("side"), unique("app"), unique_port());
    let service = unique("joined");
    let name = format!("{service}.svc.internal");
    let client = A.run(&unique("client"), &[]);
    let is_there = || {
        everywhere(&name, RecordType::SRV, &targets([(A.address, port)]));
        let opens = format!("{}:{port}", A.address);
        eventually(&format!("{opens} opens"), SOON, || client.connect(&opens));
    };
    let first = owner(&vpn, port);
    // Through one join, and through two.
    for (between, joined) in [(None, &vpn), (Some(&side), &side)] {
        let _between = between.map(|between| join(&vpn, between, None));
        let _app = join(joined, &app, Some(&service));
        is_there();

        A.docker(&["restart", "-t", "0", &vpn]);
        gone_everywhere(&name);
        let restart: Vec<&str> = between.map(String::as_str).into_iter().chain([app.as_str()]).collect();
        told_of(&app, &format!("restart {} (docker restart {})", restart.join(", then "), restart.join(" ")));
        for joiner in &restart {
            A.docker(&["restart", "-t", "0", joiner]);
        }
        is_there();
        told_of(&app, "");
    }
    let joiner = join(&vpn, &app, Some(&service));
    is_there();
    A.docker(&["pause", &vpn]);
    A.docker(&["unpause", &vpn]);
    is_there();
    A.docker(&["stop", "-t", "0", &vpn]);
    gone_everywhere(&name);
    told_of(&app, &format!("start {vpn}, then restart {app}"));
    drop(first);
    let second = owner(&vpn, port);
    told_of(&app, &format!("create {app} again: its network is that of a container by its id"));
    gone_everywhere(&name);
    drop(joiner);
    let _joiner = join(&vpn, &app, Some(&service));
    is_there();
    drop(second);
    gone_everywhere(&name);
}
