//! Engines of several versions as the follower meets them: what each has sent, replayed over HTTP on a socket. No
//! engine is needed.
//!
//! | folder | API | where it is from |
//! |---|---|---|
//! | `20.10` | 1.41 | seen on engine 20.10.24: `docker run` of two containers, and their end |
//! | `26.1` | 1.45 | seen on engine 26.1.5: the same |
//! | `29.0` | 1.52 | not seen on a real engine: that of 26.1, changed as moby's API history says of 1.46 to 1.52 |

pub(crate) mod fake;
mod odd;
mod refused;

use fake::Fake;
use portolan::{
    model::{Health, Phase, Publication},
    watch::docker::Options,
};
use serde_json::Value;

use crate::docker::bed::{Follower, askers};

fn id_of(container: &(Value, Value)) -> &str {
    container.1["Id"].as_str().expect("an id")
}

/// What is published of a container, but for what chance has given it: its id and its port on the host.
fn shown(publication: &Publication) -> String {
    let attachment = |attachment: &portolan::model::Attachment| {
        let ips: Vec<String> = attachment.ips.iter().map(ToString::to_string).collect();
        format!("{} {:?} {}", attachment.segment.name, attachment.segment.driver, ips.join(" "))
    };
    let port = |port: &portolan::model::Port| {
        // Whether the host has IPv6 is no matter of the engine.
        let v4 = port.published.iter().filter(|at| at.ip.is_ipv4());
        let published = v4.map(|at| format!(" at {} chosen {}", at.ip, at.chosen));
        format!("{}/{}{}", port.port, port.proto.as_str(), published.collect::<String>())
    };
    let offer = |offer: &portolan::model::Offer| {
        let ports: Vec<String> = offer.ports.iter().map(port).collect();
        format!("{}.{} [{}]", offer.service.as_str(), offer.namespace.as_str(), ports.join(", "))
    };
    let networks: Vec<String> = publication.networks.iter().map(attachment).collect();
    let offers: Vec<String> = publication.services.iter().map(offer).collect();
    format!(
        "{} {} {:?} {:?}: {} on {}",
        publication.name,
        publication.image,
        publication.phase,
        publication.health,
        offers.join("; "),
        networks.join("; ")
    )
}

/// What runs is found by the list; what starts and ends, by events.
async fn is_followed(version: &str) {
    let fake = Fake::start(version);
    let (web, db) = (fake.seen("web"), fake.seen("db"));
    fake.add(web);
    let mut follower = Follower::start(&fake.path, Options::default());
    follower.desired("the first list", |desired| desired.listed).await;
    assert_eq!(
        shown(&follower.publication("web").expect("published with the first list")),
        "web busybox:1.35 Serving Healthy: web.shop [80/tcp at 0.0.0.0 chosen false, 9090/tcp] \
         on shop_default Bridge 10.203.7.2 fd7a:1::2"
    );
    assert_eq!(askers(&follower.local.borrow(), "web").len(), 2, "one for each address");

    // While it starts it has no verdict yet.
    let mut starting = db.clone();
    starting.1["State"]["Health"]["Status"] = "starting".into();
    fake.add(starting);
    fake.tell(id_of(&db), &["create", "connect", "start"]);
    follower.publishes("db", |db| db.health == Health::Starting && db.phase == Phase::Serving).await;
    fake.remove("db");
    fake.add(db.clone());
    fake.tell(id_of(&db), &["health_status: healthy"]);
    follower.publishes("db", |db| db.health == Health::Healthy).await;
    assert_eq!(
        shown(&follower.publication("db").expect("published")),
        "db busybox:1.35 Serving Healthy: db.shop [80/tcp at 0.0.0.0 chosen false, 9090/tcp] \
         on shop_default Bridge 10.203.7.3 fd7a:1::3"
    );

    fake.remove("db");
    fake.tell(id_of(&db), &["kill", "die", "disconnect", "destroy"]);
    follower.withdraws("db").await;
    follower.local("its addresses are free", |local| askers(local, "db").is_empty()).await;
    let status = follower.status.borrow().clone();
    assert_eq!((status.resyncs, status.unheard, status.failed_inspects), (0, 0, 0), "{status:?}");
    assert!(status.problems.is_empty() && follower.desired.borrow().problems.is_empty());
}

#[tokio::test]
async fn engine_20_10_is_followed() {
    is_followed("20.10").await;
}

#[tokio::test]
async fn engine_26_1_is_followed_whose_aliases_lack_the_short_id() {
    is_followed("26.1").await;
}

#[tokio::test]
async fn engine_29_not_seen_on_a_real_one_is_followed_whose_events_and_inspects_lost_fields() {
    is_followed("29.0").await;
}

/// The fixtures differ in what they are there for: a test that passes on three copies of one would prove nothing.
#[test]
fn the_fixtures_differ_as_the_engines_do() {
    let place = |version: &str| {
        let folder = format!("{}/tests/it/engines/{version}", env!("CARGO_MANIFEST_DIR"));
        let text = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).expect("a fixture");
        let web: Value = serde_json::from_str(&text("web.json")).expect("JSON");
        let event: Value = serde_json::from_str(text("events.jsonl").lines().next().expect("a line")).expect("JSON");
        (web, event)
    };
    let (old, old_event) = place("20.10");
    let (newer, _) = place("26.1");
    let (newest, newest_event) = place("29.0");
    let endpoint = |web: &Value, key: &str| web["NetworkSettings"]["Networks"]["shop_default"][key].clone();
    let short = |web: &Value| Value::from(&web["Id"].as_str().expect("an id")[..12]);
    let holds = |list: Value, item: &Value| list.as_array().is_some_and(|list| list.contains(item));
    assert!(holds(endpoint(&old, "Aliases"), &short(&old)) && endpoint(&old, "DNSNames").is_null());
    for web in [&newer, &newest] {
        assert!(!holds(endpoint(web, "Aliases"), &short(web)) && holds(endpoint(web, "DNSNames"), &short(web)));
        assert!(web["Config"]["Healthcheck"]["StartInterval"].is_number());
    }
    for key in ["IPAddress", "Gateway", "GlobalIPv6Address"] {
        assert!(newer["NetworkSettings"][key].is_string() && newest["NetworkSettings"][key].is_null(), "{key}");
    }
    for key in ["status", "id", "from"] {
        assert!(old_event[key].is_string() && newest_event[key].is_null(), "{key}");
    }
}
