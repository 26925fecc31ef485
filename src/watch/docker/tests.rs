//! Answers of real engines, old and new, and what else may come over the wire.

use serde_json::json;

use super::{
    decode,
    http::{of_status, undecodable},
    *,
};
use crate::{
    model::{Health, Proto},
    watch::{
        container::{ContainerId, Inspected, NetworkMode, State},
        metadata::Gather,
    },
};

const ID: &str = "1ad77bcbc6e842cb68c802fe0cdb1ef950c7641688b11e45f2e7416bee22fd24";

fn inspected(answer: serde_json::Value) -> Inspected {
    decode::inspect(Gather::default(), ContainerId::parse(ID).unwrap(), serde_json::from_value(answer).unwrap())
}

/// As engine 20.10 answers, with the top-level addresses that newer engines dropped.
fn answer() -> serde_json::Value {
    json!({
        "Id": ID, "Name": "/web", "Image": "sha256:0",
        "State": {"Status": "running", "Running": true, "Paused": false, "Restarting": false, "Pid": 11559},
        "Config": {
            "Hostname": "h", "Image": "web:1", "Env": ["PATH=/bin", "SERVICE_NAME=api"], "Labels": {"a": "b"},
            "ExposedPorts": {"80/tcp": {}, "81/tcp": {}, "90/udp": {}}, "StopSignal": "SIGQUIT", "StopTimeout": 3
        },
        "HostConfig": {
            "NetworkMode": "net",
            "PortBindings": {
                "80/tcp": [{"HostIp": "", "HostPort": ""}],
                "81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8099"}],
                "82/tcp": [{"HostIp": "", "HostPort": "0"}],
                "83/tcp": [{"HostIp": "", "HostPort": "9000-9010"}]
            }
        },
        "NetworkSettings": {
            "IPAddress": "9.9.9.9", "GlobalIPv6Address": "9::9",
            "Ports": {
                "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "32769"}, {"HostIp": "::", "HostPort": "32770"}],
                "81/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8099"}],
                "82/tcp": [{"HostIp": "", "HostPort": "32771"}],
                "83/tcp": [{"HostIp": "0.0.0.0", "HostPort": "9001"}],
                "90/udp": null
            },
            "Networks": {
                "net": {"NetworkID": "n1", "IPAddress": "172.18.0.2", "GlobalIPv6Address": "fd00::2"},
                "gone": {"NetworkID": "", "IPAddress": "", "GlobalIPv6Address": ""}
            }
        }
    })
}

#[test]
fn an_inspect_is_read_from_its_networks_only() {
    let web = inspected(answer());
    assert_eq!((&*web.name, &*web.image, &*web.hostname), ("web", "web:1", "h"));
    assert_eq!((web.stop_signal.as_deref(), web.stop_timeout), (Some("SIGQUIT"), Some(3)));
    assert_eq!((web.state, web.health, web.network_mode), (State::Running, Health::None, NetworkMode::Own));
    let endpoints: Vec<_> = web.endpoints.iter().map(|endpoint| (&*endpoint.name, endpoint.ips.len())).collect();
    assert_eq!(endpoints, [("net", 2)]);
    assert_eq!(web.exposed, [(80, Proto::Tcp), (81, Proto::Tcp), (90, Proto::Udp)].into());
}

#[test]
fn a_port_is_chosen_only_if_the_operator_wrote_its_number() {
    let bindings = inspected(answer()).bindings;
    let shown: Vec<String> =
        bindings.iter().map(|b| format!("{} {}:{} {}", b.port, b.at.ip, b.at.port, b.at.chosen)).collect();
    assert_eq!(
        shown,
        [
            "80 0.0.0.0:32769 false",
            "80 :::32770 false",
            "81 127.0.0.1:8099 true",
            "82 0.0.0.0:32771 false",
            "83 0.0.0.0:9001 false"
        ]
    );
}

#[test]
fn what_was_asked_for_is_read_with_its_address_and_number() {
    let shown = |inspected: Inspected| -> Vec<String> {
        let show = |r: &container::Requested| format!("{} {:?} {:?}", r.port, r.ip, r.number);
        inspected.requested.iter().map(show).collect()
    };
    assert_eq!(
        shown(inspected(answer())),
        ["80 None None", "81 Some(127.0.0.1) Some(8099)", "82 None None", "83 None None"]
    );
    let every = json!({
        "Config": {"ExposedPorts": {"80/tcp": {}, "53/udp": {}}}, "HostConfig": {"PublishAllPorts": true}
    });
    assert_eq!(shown(inspected(every)), ["53 None None", "80 None None"], "-P: Docker chooses");
    let searching = inspected(json!({"HostConfig": {"DnsSearch": ["corp.test", "svc.internal"]}}));
    assert_eq!(searching.search[..], ["corp.test".into(), "svc.internal".into()]);
    assert_eq!(inspected(json!({"HostConfig": {"DnsSearch": null}})).search.len(), 0);
}

#[test]
fn states_and_health_are_read_as_docker_means_them() {
    let state = |state: serde_json::Value| inspected(json!({"State": state})).state;
    assert_eq!(state(json!({"Running": true, "Restarting": true, "Pid": 0})), State::Restarting);
    assert_eq!(state(json!({"Running": true, "Pid": 0})), State::Stopped);
    assert_eq!(state(json!({"Running": true, "Paused": true, "Pid": 7})), State::Paused);
    assert_eq!(state(json!({"Running": false, "Pid": 0})), State::Stopped);
    let health = |test: serde_json::Value, health: serde_json::Value| {
        let config = json!({"Healthcheck": {"Test": test}});
        inspected(json!({"State": {"Running": true, "Health": health}, "Config": config})).health
    };
    assert_eq!(health(json!(["CMD", "x"]), json!({"Status": "starting"})), Health::Starting);
    assert_eq!(health(json!(["CMD", "x"]), json!({"Status": "healthy"})), Health::Healthy);
    assert_eq!(health(json!(["CMD", "x"]), json!({"Status": "unhealthy"})), Health::Unhealthy);
    assert_eq!(health(json!(["NONE"]), json!({"Status": "healthy"})), Health::None);
    assert_eq!(health(json!(null), json!(null)), Health::None);
}

#[test]
fn an_empty_inspect_is_a_stopped_container() {
    let empty = inspected(json!({}));
    assert_eq!((empty.state, empty.endpoints.len(), empty.bindings.len()), (State::Stopped, 0, 0));
}

#[test]
fn events_are_read_without_the_fields_that_newer_engines_dropped() {
    let show = |event: serde_json::Value| match decode::event(&serde_json::from_value(event).unwrap(), true) {
        None => "nothing".to_owned(),
        Some(event) => format!("{event:?}").split(['(', ' ']).next().unwrap_or_default().to_owned(),
    };
    let container = |action: &str| json!({"Type": "container", "Action": action, "Actor": {"ID": ID, "Attributes": {"name": "web"}}});
    let network = |action: &str| json!({"Type": "network", "Action": action, "Actor": {"ID": "n", "Attributes": {"container": ID}}});
    for (event, expected) in [
        (container("create"), "Created"),
        (container("start"), "Started"),
        (container("unpause"), "Changed"),
        (container("rename"), "Changed"),
        (container("health_status: healthy"), "Changed"),
        (container("pause"), "Paused"),
        (container("die"), "Died"),
        (container("destroy"), "Destroyed"),
        (container("kill"), "nothing"),
        (container("exec_start: x"), "nothing"),
        (network("create"), "NetworkCreated"),
        (network("destroy"), "NetworkDestroyed"),
        (network("connect"), "Connected"),
        (network("disconnect"), "Disconnected"),
        (json!({"Type": "network", "Action": "connect", "Actor": {"ID": "n", "Attributes": {}}}), "nothing"),
        (json!({"Type": "container", "Action": "die", "Actor": {"ID": "../x"}}), "nothing"),
        (json!({"Type": "container", "Action": "die"}), "nothing"),
        (json!({"Type": "image", "Action": "pull", "Actor": {"ID": ID}}), "nothing"),
        (json!({}), "nothing"),
    ] {
        assert_eq!(show(event.clone()), expected, "{event}");
    }
}

#[test]
fn a_network_is_read_with_its_containers_and_without_its_other_endpoints() {
    let answer = json!({
        "Name": "n", "Id": "i", "Scope": "local", "Driver": "bridge", "Internal": true,
        "IPAM": {"Config": [{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}, {"Subnet": "fd00::/64"}, {"Subnet": "x"}]},
        "Options": {"com.docker.network.bridge.enable_icc": "false"},
        "Containers": {
            (ID): {"IPv4Address": "172.18.0.2/16", "IPv6Address": "fd00::2/64"},
            "ep-1": {"IPv4Address": "172.18.0.9/16", "IPv6Address": ""}
        }
    });
    let (facts, endpoints) = decode::network_inspect(serde_json::from_value(answer).unwrap()).unwrap();
    assert_eq!((facts.subnets.len(), facts.gateways.len(), facts.icc, facts.internal), (2, 1, false, true));
    assert_eq!(endpoints.len(), 1);
    assert_eq!(*endpoints[0].1, ["172.18.0.2".parse::<std::net::IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
}

#[test]
fn a_listed_container_is_called_by_its_own_name_and_not_by_a_link() {
    let listed = json!({"Id": ID, "Names": ["/web/db", "/db"], "State": "paused"});
    let summary = decode::summary(serde_json::from_value(listed).unwrap()).unwrap();
    assert_eq!((&*summary.name, summary.state), ("db", State::Paused));
}

#[test]
fn an_error_does_not_quote_what_it_could_not_read() {
    let error = serde_json::from_str::<wire::Config>(r#"{"Env": "SECRET=zqxj"}"#).unwrap_err();
    assert!(error.to_string().contains("zqxj"), "or this test is void: {error}");
    let told = undecodable(&error).to_string();
    assert!(!told.contains("zqxj") && told.contains("column 21"), "{told}");
}

#[test]
fn endpoints_are_unix_paths_and_tcp_addresses() {
    for good in ["unix:///var/run/docker.sock", "tcp://127.0.0.1:2375", "tcp://[::1]:2375", "tcp://docker:2375"] {
        assert_eq!(good.parse::<Endpoint>().unwrap().to_string(), good);
    }
    for bad in
        ["", "docker.sock", "unix://relative", "tcp://host", "tcp://:2375", "tcp://h:0", "ssh://me@host", "tcp://h/x:1"]
    {
        let error = bad.parse::<Endpoint>().unwrap_err();
        assert!(error.to_string().contains("unix:///PATH or tcp://HOST:PORT"), "{bad}");
    }
}

#[test]
fn a_proxys_refusal_names_the_request_that_was_refused() {
    for status in [401, 403] {
        let Failure::Refused(said) = of_status("GET /networks", status, "Forbidden\n") else { panic!("{status}") };
        assert!(said.starts_with("GET /networks was refused") && said.contains(&status.to_string()), "{said}");
        assert!(said.contains("Forbidden)"), "{said}");
    }
    assert_eq!(of_status("GET /networks", 500, "broken"), Failure::Other("status 500: broken".into()));
    assert_eq!(of_status("GET /networks/<id>", 404, "no such"), Failure::Absent("status 404: no such".into()));
}

#[test]
fn an_engine_says_among_its_security_options_that_it_is_rootless() {
    for (info, expected) in [
        (json!({"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]}), true),
        (json!({"SecurityOptions": ["name=rootless,x=y"]}), true),
        (json!({"SecurityOptions": ["name=seccomp,profile=rootless", "name=userns"]}), false),
        (json!({"SecurityOptions": null}), false),
        (json!({}), false),
    ] {
        assert_eq!(decode::is_rootless(&serde_json::from_value(info.clone()).unwrap()), expected, "{info}");
    }
}
