//! The bed itself, without any agent: what every other test stands on.

use super::bed::{A, B, ETCD, HOSTS, SOON, etcdctl, eventually, unique, unique_port};

#[test]
fn all_engines_run_containers_that_reach_each_other() {
    let port = unique_port();
    let publish = format!("{port}:80");
    let servers = HOSTS.map(|host| host.run(&unique("server"), &["-p", &publish]));
    for host in HOSTS {
        let client = host.run(&unique("client"), &[]);
        for server in &servers {
            let target = format!("{}:{port}", server.host.address);
            eventually(&format!("{} reaches {target}", host.container), SOON, || client.connect(&target));
        }
    }
    let client = A.run(&unique("client"), &[]);
    let refused = client.connect(&format!("{}:1", B.address));
    assert!(refused.is_err(), "a connection to a closed port must fail, or no test of connections proves anything");
}

#[test]
fn etcd_has_three_members_and_all_are_well() {
    let health = etcdctl(&["endpoint", "health", "-w", "json"]).expect("etcd is well");
    assert_eq!(health.matches("\"health\":true").count(), ETCD.len(), "{health}");
}
