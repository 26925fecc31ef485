//! Engines that are not followed, and proxies that do not let everything pass.

use std::{collections::BTreeSet, time::Duration};

use portolan::{
    model::{Driver, Local, Network, NetworkId, Problem},
    watch::docker::Options,
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    Fake, Follower,
    fake::Fault::{Refuse, Stall},
    id_of,
};

const INSPECT: &str = "GET /containers/<id>/json";

fn problems(follower: &Follower) -> Vec<Problem> {
    follower.status.borrow().problems.clone()
}

#[tokio::test]
async fn podman_is_not_followed_and_a_problem_says_so() {
    let fake = Fake::start("26.1");
    // As Podman's own service answers, with the version of its Docker API beside it.
    fake.set_version(json!({
        "Platform": {"Name": "linux/amd64/debian-12"},
        "Components": [
            {"Name": "Podman Engine", "Version": "5.4.0", "Details": {"APIVersion": "5.4.0", "MinAPIVersion": "4.0.0"}},
            {"Name": "Conmon", "Version": "conmon version 2.1.12"}
        ],
        "Version": "5.4.0", "ApiVersion": "1.41", "MinAPIVersion": "1.24"
    }));
    let web = fake.seen("web");
    fake.add(web.clone());
    fake.tell(id_of(&web), &["create", "connect", "start"]);
    let mut follower = Follower::start(&fake.path, Options::default());
    follower.status("it is refused, and asked again later", |status| status.resyncs >= 2).await;
    let [problem] = &problems(&follower)[..] else { panic!("one problem: {:?}", problems(&follower)) };
    assert_eq!(problem.place, format!("--docker-host unix://{}", fake.path.display()));
    assert_eq!(problem.found, "this is Podman Engine 5.4.0, which is not supported yet");
    assert!(problem.expected.starts_with("a Docker engine that answers there"), "{}", problem.expected);
    assert!(problem.expected.contains("correct --docker-host"), "{}", problem.expected);
    let desired = follower.desired.borrow().clone();
    assert!(!desired.listed && desired.publications.is_empty() && !follower.local.borrow().listed);
    assert!(!follower.status.borrow().connected);
}

#[tokio::test]
async fn all_bridges_of_an_engine_that_says_it_is_rootless_are_apart() {
    let fake = Fake::start("26.1");
    fake.set_info(json!({"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]}));
    let mut follower = Follower::start(&fake.path, Options::default());
    let is_bridge = |network: &Network| network.driver == Driver::Bridge;
    let apart = |local: &Local| {
        let bridges = local.networks.values().filter(|network| is_bridge(network)).map(|network| network.id.clone());
        let bridges: BTreeSet<NetworkId> = bridges.collect();
        !bridges.is_empty() && *local.apart == bridges
    };
    follower.local("without a container", apart).await;
}

#[tokio::test]
async fn an_engine_that_may_not_say_what_it_is_is_taken_for_docker() {
    let fake = Fake::start("26.1");
    fake.add(fake.seen("web"));
    fake.set_faults(&[Refuse("/version".into())]);
    let mut follower = Follower::start(&fake.path, Options::default());
    follower.publishes("web", |_| true).await;
    follower.status("it is connected", |status| status.connected).await;
    assert_eq!(problems(&follower), []);
}

#[tokio::test]
async fn an_engine_that_never_says_what_it_is_costs_the_deadline_of_an_inspect_and_no_more() {
    let fake = Fake::start("26.1");
    fake.add(fake.seen("web"));
    fake.set_faults(&[Stall("/version".into())]);
    let deadline = Duration::from_millis(500);
    let began = Instant::now();
    let mut follower = Follower::start(&fake.path, Options { inspect_deadline: deadline, ..Options::default() });
    // The list and the events wait for nothing; what they say does.
    for target in ["/networks", "/containers/json", "/events"] {
        fake.until_asked(target, 1).await;
    }
    assert!(began.elapsed() < deadline, "they are asked for at once");
    follower.publishes("web", |_| true).await;
    assert!(began.elapsed() >= deadline, "nothing is published while it may be another engine");
    assert_eq!((follower.status.borrow().resyncs, fake.asked("/version")), (0, 1));
}

#[tokio::test]
async fn inspects_that_a_proxy_refuses_are_one_problem_while_it_lasts() {
    let fake = Fake::start("26.1");
    let (web, db) = (fake.seen("web"), fake.seen("db"));
    fake.add(web.clone());
    fake.add(db.clone());
    fake.set_faults(&[Refuse(id_of(&web).to_owned()), Refuse(id_of(&db).to_owned())]);
    let mut follower = Follower::start(&fake.path, Options::default());
    for container in [&web, &db] {
        fake.until_asked(id_of(container), 2).await;
    }
    follower.status("a problem", |status| !status.problems.is_empty()).await;
    assert!(follower.status.borrow().connected, "lists and events pass");
    let [problem] = &problems(&follower)[..] else { panic!("one problem: {:?}", problems(&follower)) };
    assert_eq!(problem.place, format!("--docker-host unix://{}, {INSPECT}", fake.path.display()));
    assert!(problem.found.contains("status 403: not allowed here"), "{}", problem.found);
    assert!(problem.expected.starts_with(&format!("a proxy before the engine that allows {INSPECT}")), "{problem:?}");

    // One that is let pass, or gone, is no sign that the other is.
    fake.set_faults(&[Refuse(id_of(&db).to_owned())]);
    follower.publishes("web", |_| true).await;
    assert_eq!(problems(&follower).len(), 1);
    fake.remove("db");
    fake.tell(id_of(&db), &["die", "destroy"]);
    follower.status("the problem ends with its container", |status| status.problems.is_empty()).await;
    assert_eq!(follower.status.borrow().resyncs, 0);
}
