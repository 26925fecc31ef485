//! Words and fields of engines that do not exist yet, and of plugins: they harm nothing but what they say.

use portolan::{
    model::{Driver, Health, Phase},
    watch::docker::Options,
};
use serde_json::{Value, json};

use super::{Fake, Follower, id_of};

/// The `db` of an engine from the future: every word of it that is one of a few with Docker is another here.
fn odd(fake: &Fake) -> (Value, Value) {
    let (mut listed, mut inspect) = fake.seen("db");
    listed["State"] = json!("hibernating");
    listed["Mounts"] = json!([{"Type": "cloud", "Destination": "/data", "RW": "sometimes"}]);
    listed["Ports"] = json!([{"PrivatePort": 70_000, "Type": "quic"}, {"PrivatePort": 80, "Type": 6}]);
    listed["Health"] = json!({"Status": "dizzy", "FailingStreak": "many"});
    listed["HostConfig"]["NetworkMode"] = json!({"mode": "own"});
    listed["ImageManifestDescriptor"] = json!({"size": "big"});
    listed["Future"] = json!({"Fields": [1, 2, 3]});
    inspect["Created"] = json!("some time ago");
    inspect["State"]["Status"] = json!("hibernating");
    inspect["State"]["Health"]["Status"] = json!("dizzy");
    inspect["State"]["Health"]["Log"] = json!([{"Start": "then", "End": 7, "ExitCode": "fine"}]);
    inspect["HostConfig"]["RestartPolicy"] = json!({"Name": "on-tuesdays", "MaximumRetryCount": "three"});
    inspect["HostConfig"]["CgroupnsMode"] = json!("shared");
    inspect["HostConfig"]["Isolation"] = json!("moat");
    inspect["HostConfig"]["BlkioWeight"] = json!(1_000_000);
    inspect["HostConfig"]["Mounts"] = json!([{"Type": "cloud", "Target": "/data"}]);
    inspect["Mounts"] = listed["Mounts"].clone();
    inspect["Config"]["Healthcheck"]["Retries"] = json!("a few");
    inspect["Config"]["Cmd"] = json!("sleep 1000");
    inspect["NetworkSettings"]["Ports"]["443/quic"] = json!([{"HostIp": "0.0.0.0", "HostPort": "443"}]);
    inspect["Future"] = json!({"Fields": [1, 2, 3]});
    (listed, inspect)
}

#[tokio::test]
async fn a_container_of_unknown_words_is_published_beside_the_others() {
    for version in ["20.10", "26.1", "29.0"] {
        let fake = Fake::start(version);
        fake.add(odd(&fake));
        fake.add(fake.seen("web"));
        let mut follower = Follower::start(&fake.path, Options::default());
        follower.desired("the first list", |desired| desired.listed).await;
        follower.publishes("web", |web| web.health == Health::Healthy).await;
        // What it does its inspect says in words that did not change; an unknown verdict is none.
        let db = follower.publication("db").expect("published");
        assert_eq!((db.phase, db.health, db.networks.len()), (Phase::Serving, Health::None, 1));
        let status = follower.status.borrow().clone();
        assert_eq!((status.resyncs, status.failed_inspects), (0, 0), "{version}: {:?}", status.last_error);
    }
}

#[tokio::test]
async fn a_container_that_is_being_removed_is_no_reason_to_inspect_it() {
    let fake = Fake::start("29.0");
    let (mut listed, inspect) = fake.seen("db");
    listed["State"] = json!("removing");
    fake.add((listed, inspect));
    fake.add(fake.seen("web"));
    let mut follower = Follower::start(&fake.path, Options::default());
    follower.desired("the first list", |desired| desired.listed).await;
    assert!(follower.publication("web").is_some() && follower.publication("db").is_none());
    assert_eq!(fake.asked(&format!("/containers/{}/json", id_of(&fake.seen("db")))), 0);
}

#[tokio::test]
async fn events_of_unknown_types_actions_and_scopes_do_not_end_the_stream() {
    let fake = Fake::start("29.0");
    let db = fake.seen("db");
    let mut follower = Follower::start(&fake.path, Options::default());
    follower.desired("the first list", |desired| desired.listed).await;
    for line in [
        json!({"Type": "dream", "Action": "begin", "Actor": {"ID": "x", "Attributes": {}}, "scope": "local"}),
        json!({"Type": "container", "Action": "hibernate", "Actor": {"ID": id_of(&db)}, "scope": "galaxy"}),
        json!({"Type": "network", "Action": "fold", "Actor": {"ID": "n", "Attributes": null}, "timeNano": 7}),
        json!({"Type": "container", "Action": "start", "scope": 7, "time": "now", "Future": {"Fields": [1]}}),
        json!({}),
    ] {
        fake.tell_line(&line);
    }
    fake.add(db.clone());
    fake.tell(id_of(&db), &["create", "connect", "start"]);
    follower.publishes("db", |db| db.networks.len() == 1).await;
    let status = follower.status.borrow().clone();
    assert_eq!((status.resyncs, status.events), (0, 8), "{:?}", status.last_error);
}

#[tokio::test]
async fn a_network_of_an_unknown_driver_and_scope_is_one_that_nothing_is_known_of() {
    let fake = Fake::start("29.0");
    let name = "shop_default";
    fake.change_network(name, |network| {
        network["Driver"] = json!("weave:3");
        network["Scope"] = json!("galaxy");
        network["IPAM"]["Config"][0]["Gateway"] = json!("somewhere");
        network["IPAM"]["Options"] = json!([1, 2]);
        network["Status"] = json!("busy");
        network["Created"] = json!(7);
    });
    fake.add(fake.seen("web"));
    let mut follower = Follower::start(&fake.path, Options::default());
    follower.desired("the first list", |desired| desired.listed).await;
    let web = follower.publication("web").expect("published");
    assert_eq!((&*web.networks[0].name, &web.networks[0].driver), (name, &Driver::Other("weave:3".into())));
    assert_eq!(web.networks[0].ips.len(), 2);
    assert_eq!(follower.status.borrow().resyncs, 0);
}
