//! `watch/` against a real Docker engine, which other tests use at the same time: each looks at its own containers only.

pub(crate) mod bed;

use std::time::Duration;

use bed::{Follower, askers, label};
use portolan::{
    model::{Desired, Driver, Phase, Proto, Publication, ShortId},
    watch::docker::Options,
};

use crate::engine::{Bed, Between, Fault, docker};

fn addresses(publication: &Publication) -> usize {
    publication.networks.iter().map(|network| network.ips.len()).sum()
}

fn has_address(publication: &Publication) -> bool {
    addresses(publication) > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_published_while_it_runs() {
    let (bed, mut follower) = (Bed::new("watch", "run"), Follower::listed().await);
    let name = bed.name("web");
    bed.sleeper("web", &["--expose", "80", "-e", "SERVICE_TAGS=a,b"]);
    follower.publishes(&name, |web| web.phase == Phase::Serving && has_address(web)).await;
    let web = follower.publication(&name).unwrap();
    let offer = &web.services[0];
    assert_eq!((offer.service.as_str(), offer.namespace.as_str()), (name.as_str(), "default"));
    assert_eq!((offer.ports[0].port, offer.ports[0].proto, &*offer.tags[1]), (80, Proto::Tcp, "b"));
    assert_eq!((&web.networks[0].driver, &*web.networks[0].name), (&Driver::Bridge, "bridge"));
    docker(&["stop", "-t", "5", &name]);
    follower.withdraws(&name).await;
    docker(&["start", &name]);
    follower.publishes(&name, has_address).await;
    docker(&["restart", "-t", "5", &name]);
    follower.publishes(&name, has_address).await;
    docker(&["rm", "-f", &name]);
    follower.withdraws(&name).await;
    follower.local("its address is free", |local| askers(local, &name).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_before_us_is_published_with_the_first_list() {
    let bed = Bed::new("watch", "before");
    bed.sleeper("web", &[]);
    let follower = Follower::listed().await;
    assert!(follower.publication(&bed.name("web")).is_some_and(|web| has_address(&web)));
    assert_eq!(askers(&follower.local.borrow(), &bed.name("web")).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_shows_and_unpause_serves() {
    let (bed, mut follower) = (Bed::new("watch", "pause"), Follower::listed().await);
    let name = bed.name("web");
    bed.sleeper("web", &[]);
    follower.publishes(&name, has_address).await;
    docker(&["pause", &name]);
    follower.publishes(&name, |web| web.phase == Phase::Paused).await;
    docker(&["unpause", &name]);
    follower.publishes(&name, |web| web.phase == Phase::Serving && has_address(web)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rename_moves_the_derived_name() {
    let (bed, mut follower) = (Bed::new("watch", "rename"), Follower::listed().await);
    bed.sleeper("old", &[]);
    follower.publishes(&bed.name("old"), has_address).await;
    bed.rename("old", "new");
    let service = label(&bed.name("new"));
    follower.publishes(&bed.name("new"), |web| web.services[0].service == service).await;
    assert!(follower.publication(&bed.name("old")).is_none());
    follower.local("the asker is renamed", |local| askers(local, &bed.name("new")).len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_signal_changes_nothing() {
    let (bed, mut follower) = (Bed::new("watch", "hup"), Follower::listed().await);
    let name = bed.name("web");
    bed.run("web", &[], &["sh", "-c", "trap : HUP; echo ready; while :; do sleep 1; done"]);
    follower.publishes(&name, has_address).await;
    // It is published before its shell has read the first word.
    bed.says("web", "ready").await;
    let before = follower.publication(&name).unwrap();
    docker(&["kill", "-s", "HUP", &name]);
    // Whatever the signal caused would come before what the next container causes.
    bed.sleeper("next", &[]);
    follower.publishes(&bed.name("next"), has_address).await;
    let after = follower.publication(&name).unwrap();
    assert!(std::sync::Arc::ptr_eq(&before, &after));
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_come_and_go_with_both_families() {
    let (bed, mut follower) = (Bed::new("watch", "net"), Follower::listed().await);
    let name = bed.name("web");
    // A prefix of this process alone, below fd00::/8 (RFC 4193).
    let subnet = format!("fd7a:{:x}::/64", std::process::id() & 0xffff);
    let network = bed.network("six", &["--ipv6", "--subnet", &subnet]);
    follower.local("the network is known", |local| local.networks.values().any(|held| *held.name == *network)).await;
    bed.sleeper("web", &["--label", "portolan.namespace=shop"]);
    follower.publishes(&name, |web| addresses(web) == 1).await;
    docker(&["network", "connect", &network, &name]);
    follower.publishes(&name, |web| addresses(web) == 3 && web.networks.len() == 2).await;
    follower
        .local("it asks from all three", |local| {
            let all = askers(local, &name);
            all.len() == 3 && all.iter().all(|asker| asker.namespace == label("shop") && asker.networks.len() == 2)
        })
        .await;
    docker(&["network", "disconnect", &network, &name]);
    follower.publishes(&name, |web| addresses(web) == 1 && web.networks.len() == 1).await;
    follower.local("the addresses are free", |local| askers(local, &name).len() == 1).await;
    docker(&["network", "rm", &network]);
    follower.local("the network is gone", |local| local.networks.values().all(|held| *held.name != *network)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_shows_its_gateway_and_subnet() {
    let (bed, mut follower) = (Bed::new("watch", "gateway"), Follower::listed().await);
    let network = bed.network("inner", &["--internal", "-o", "com.docker.network.bridge.enable_icc=false"]);
    follower
        .local("the network is known", |local| {
            let held = local.networks.values().find(|held| *held.name == *network);
            held.is_some_and(|held| {
                let inside = held.gateways.iter().all(|ip| held.subnets[0].contains(ip));
                held.internal && !held.icc && held.gateways.len() == 1 && inside
            })
        })
        .await;
    let local = follower.local.borrow();
    let bridge = local.networks.values().find(|held| &*held.name == "bridge").expect("the default bridge");
    assert!(bridge.gateways.iter().any(|ip| local.addresses.contains(ip)), "{bridge:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn published_ports_are_followed_and_the_proxy_is_seen() {
    let (bed, mut follower) = (Bed::new("watch", "ports"), Follower::listed().await);
    let name = bed.name("web");
    bed.sleeper("web", &["-p", "80", "-p", "127.0.0.1::81/udp"]);
    follower.publishes(&name, has_address).await;
    let web = follower.publication(&name).unwrap();
    let ports = &web.services[0].ports;
    assert_eq!(
        ports.iter().map(|port| (port.port, port.proto)).collect::<Vec<_>>(),
        [(80, Proto::Tcp), (81, Proto::Udp)]
    );
    assert!(ports.iter().all(|port| !port.published.is_empty() && port.published.iter().all(|at| !at.chosen)));
    assert!(ports[1].published[0].ip.is_loopback());
    let host = (Proto::Tcp, ports[0].published[0].port);
    follower.local("docker-proxy holds the port", |local| local.proxied.contains(&host)).await;
    docker(&["rm", "-f", &name]);
    follower.local("the port is free", |local| !local.proxied.contains(&host)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_written_by_the_operator_is_chosen() {
    let (bed, mut follower) = (Bed::new("watch", "chosen"), Follower::listed().await);
    // A port that was free a moment ago, outside the range of ephemeral ones.
    let free = (20_000..30_000u16)
        .map(|offset| 20_000 + (offset + u16::try_from(std::process::id() % 10_000).unwrap()) % 10_000)
        .find(|port| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok())
        .expect("a free port");
    bed.sleeper("web", &["-p", &format!("{free}:80")]);
    let chosen = |web: &Publication| {
        let published = &web.services[0].ports[0].published;
        !published.is_empty() && published.iter().all(|at| at.chosen && at.port == free)
    };
    follower.publishes(&bed.name("web"), chosen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_loop_is_published_only_while_it_runs() {
    let (bed, mut follower) = (Bed::new("watch", "crash"), Follower::listed().await);
    let name = bed.name("web");
    bed.run("web", &["--restart", "always"], &["sh", "-c", "sleep 0.5; exit 1"]);
    for _ in 0..3 {
        follower.publishes(&name, has_address).await;
        follower.withdraws(&name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immediate_exit_leaves_no_ghost() {
    let (bed, mut follower) = (Bed::new("watch", "ghost"), Follower::listed().await);
    let before = follower.status.borrow().clone();
    let ids: Vec<_> = (0..5).map(|number| bed.run(&format!("fast{number}"), &["--rm"], &["true"])).collect();
    bed.sleeper("last", &[]);
    follower.publishes(&bed.name("last"), has_address).await;
    // `--rm` removes in the background.
    for (number, id) in ids.iter().enumerate() {
        let short = ShortId::parse(id).unwrap();
        follower.desired("no ghost", |desired| !desired.publications.contains_key(&short)).await;
        let name = bed.name(&format!("fast{number}"));
        follower.local("no ghost asks", |local| askers(local, &name).is_empty()).await;
    }
    assert_eq!(follower.status.borrow().resyncs, before.resyncs);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_network_and_anothers_network() {
    let (bed, mut follower) = (Bed::new("watch", "modes"), Follower::listed().await);
    bed.sleeper("host", &["--network", "host", "--label", "portolan.port=8080"]);
    follower.publishes(&bed.name("host"), |host| host.is_on_host_network() && !has_address(host)).await;
    assert_eq!(follower.publication(&bed.name("host")).unwrap().services[0].port, Some(8080));
    bed.sleeper("owner", &["-p", "5000", "--label", "portolan.service=owner"]);
    bed.sleeper("guest", &["--network", &format!("container:{}", bed.name("owner")), "--label", "portolan.port=5000"]);
    bed.sleeper("alone", &["--network", "none"]);
    follower.publishes(&bed.name("guest"), has_address).await;
    let (owner, guest) =
        (follower.publication(&bed.name("owner")).unwrap(), follower.publication(&bed.name("guest")).unwrap());
    assert_eq!(owner.networks, guest.networks);
    assert_eq!(owner.services[0].ports[0].published, guest.services[0].ports[0].published);
    assert_eq!(owner.services[0].namespace.as_str(), "global");
    follower.publishes(&bed.name("alone"), |alone| alone.networks.is_empty()).await;
    docker(&["stop", "-t", "5", &bed.name("owner")]);
    let name = bed.name("guest");
    let gone = |desired: &Desired| desired.publications.values().all(|held| *held.name != *name);
    follower.desired("the guest is gone with its network", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ignored_container_asks_but_is_not_published() {
    let (bed, mut follower) = (Bed::new("watch", "ignored"), Follower::listed().await);
    bed.sleeper("web", &["-e", "SERVICE_IGNORE=1", "--label", "com.docker.compose.project=shop"]);
    follower
        .local("it asks", |local| askers(local, &bed.name("web")).iter().any(|asker| asker.namespace == label("shop")))
        .await;
    bed.sleeper("next", &[]);
    follower.publishes(&bed.name("next"), has_address).await;
    assert!(follower.publication(&bed.name("web")).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_label_is_a_problem_of_its_container_alone() {
    let (bed, mut follower) = (Bed::new("watch", "broken"), Follower::listed().await);
    let huge = "x".repeat(100_000);
    bed.sleeper("web", &["--label", "portolan.servce=x", "--label", &format!("portolan.tags={huge}")]);
    follower.publishes(&bed.name("web"), has_address).await;
    let own = format!("({})", bed.name("web"));
    let desired = follower.desired.borrow();
    let problems: Vec<_> = desired.problems.iter().filter(|problem| problem.place.contains(&own)).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_disappears_freezes_everything_and_is_caught_up_with() {
    let bed = Bed::new("watch", "cut");
    let mut between = Between::absent();
    let mut follower = Follower::start(&between.path, Options::default());
    follower
        .status("the missing socket is named", |status| {
            status.last_error.as_ref().is_some_and(|error| error.contains("docker.sock"))
        })
        .await;
    assert!(!follower.desired.borrow().listed);
    bed.sleeper("stays", &[]);
    bed.sleeper("leaves", &[]);
    between.restore();
    follower.desired("the first list", |desired| desired.listed).await;
    follower.publishes(&bed.name("leaves"), has_address).await;

    between.cut();
    follower.status("the loss is seen", |status| !status.connected).await;
    docker(&["rm", "-f", &bed.name("leaves")]);
    bed.sleeper("comes", &[]);
    let stays = follower.publication(&bed.name("stays")).unwrap();
    assert!(follower.publication(&bed.name("leaves")).is_some(), "nothing is withdrawn until it is proven dead");
    assert!(follower.desired.borrow().listed);

    between.restore();
    follower.publishes(&bed.name("comes"), has_address).await;
    follower.withdraws(&bed.name("leaves")).await;
    assert!(std::sync::Arc::ptr_eq(&stays, &follower.publication(&bed.name("stays")).unwrap()));
    docker(&["rm", "-f", &bed.name("comes")]);
    follower.withdraws(&bed.name("comes")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replay_after_a_reconnect_does_not_repeat_a_death() {
    let bed = Bed::new("watch", "replay");
    let mut between = Between::absent();
    between.restore();
    let mut follower = Follower::start(&between.path, Options::default());
    let name = bed.name("web");
    bed.sleeper("web", &[]);
    follower.publishes(&name, has_address).await;
    docker(&["restart", "-t", "0", &name]);
    bed.sleeper("after", &[]);
    // Once this one is seen, all events of the restart were.
    follower.publishes(&bed.name("after"), has_address).await;
    follower.publishes(&name, has_address).await;
    let before = follower.publication(&name).unwrap();
    // Well within the two seconds that are asked for once more.
    between.cut();
    follower.status("the loss is seen", |status| !status.connected).await;
    between.restore();
    bed.sleeper("last", &[]);
    follower.publishes(&bed.name("last"), has_address).await;
    let after = follower.publication(&name).unwrap();
    assert!(std::sync::Arc::ptr_eq(&before, &after), "it was withdrawn and published again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_does_not_answer_holds_nobody_else() {
    let bed = Bed::new("watch", "stuck");
    let id = bed.sleeper("stuck", &[]);
    let mut between = Between::absent();
    between.set(&[Fault::Stall(format!("/containers/{id}/json"))]);
    between.restore();
    let deadline = Duration::from_millis(300);
    let mut follower = Follower::start(&between.path, Options { inspect_deadline: deadline, ..Options::default() });
    follower.desired("the list does not wait for ever", |desired| desired.listed).await;
    assert!(follower.publication(&bed.name("stuck")).is_none());
    let own = format!("({})", bed.name("stuck"));
    assert!(follower.desired.borrow().problems.iter().any(|problem| problem.place.contains(&own)));
    follower.local("it may ask all the same", |local| askers(local, &bed.name("stuck")).len() == 1).await;
    bed.sleeper("next", &[]);
    follower.publishes(&bed.name("next"), has_address).await;
    between.set(&[]);
    follower.publishes(&bed.name("stuck"), has_address).await;
    assert!(!follower.desired.borrow().problems.iter().any(|problem| problem.place.contains(&own)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undecodable_inspect_harms_only_its_container() {
    let bed = Bed::new("watch", "garbage");
    let id = bed.sleeper("odd", &[]);
    bed.sleeper("even", &[]);
    let mut between = Between::absent();
    between.set(&[Fault::Garbage(format!("/containers/{id}/json"))]);
    between.restore();
    let mut follower = Follower::start(&between.path, Options::default());
    follower.publishes(&bed.name("even"), has_address).await;
    follower.desired("the list is followed up", |desired| desired.listed).await;
    assert!(follower.publication(&bed.name("odd")).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_no_longer_answers_lists_is_connected_anew() {
    let bed = Bed::new("watch", "dead");
    let mut between = Between::absent();
    between.restore();
    let options = Options {
        list_every: Duration::from_millis(200),
        list_deadline: Duration::from_millis(500),
        ..Options::default()
    };
    let mut follower = Follower::start(&between.path, options);
    follower.desired("the first list", |desired| desired.listed).await;
    between.set(&[Fault::Stall("/containers/json".into())]);
    follower.status("the loss is seen", |status| !status.connected).await;
    between.set(&[]);
    bed.sleeper("web", &[]);
    follower.publishes(&bed.name("web"), has_address).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_silent_or_nonsense_is_made_up_for_by_lists() {
    for fault in [Fault::Stall("/events".into()), Fault::Garbage("/events".into())] {
        let bed = Bed::new("watch", "silent");
        let mut between = Between::absent();
        between.set(&[fault]);
        between.restore();
        let options = Options { list_every: Duration::from_millis(300), ..Options::default() };
        let mut follower = Follower::start(&between.path, options);
        follower.desired("the first list", |desired| desired.listed).await;
        bed.sleeper("web", &[]);
        follower.publishes(&bed.name("web"), has_address).await;
        docker(&["rm", "-f", &bed.name("web")]);
        follower.withdraws(&bed.name("web")).await;
        follower.status("it is noticed", |status| status.resyncs > 0).await;
    }
}
