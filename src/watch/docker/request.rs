//! What is asked of the engine: its version, the event stream, the two lists, the two inspects.

use std::{
    fmt::Write,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::mpsc, time::timeout};

use super::{
    Answer, Endpoint, Lost, QUEUE, decode,
    http::{self, Failure},
    journal::INSPECT,
    wire,
};
use crate::{
    model::NetworkId,
    watch::{
        container::{ContainerId, Event, Inspected, Moment, NetworkFacts, Summary},
        host,
        metadata::Gather,
    },
};

/// How far back events are asked for when we connect. It narrows the race with the list; the list closes it.
const REPLAY: Duration = Duration::from_secs(2);
/// All events that concern us. Naming them leaves out `exec_*`, three for each health probe.
const ACTIONS: [&str; 12] = [
    "create",
    "start",
    "kill",
    "die",
    "destroy",
    "pause",
    "unpause",
    "rename",
    "update",
    "health_status",
    "connect",
    "disconnect",
];

/// Decodes and enqueues, nothing else; ends with the stream, or when the queue is full.
pub(super) async fn read(engine: Endpoint, queue: mpsc::Sender<wire::Message>) -> Answer {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(REPLAY);
    let (seconds, nanoseconds) = (since.as_secs(), since.subsec_nanos());
    let filters = serde_json::json!({"type": ["container", "network"], "event": ACTIONS}).to_string();
    let target = format!("/events?since={seconds}.{nanoseconds:09}&filters={}", escape(&filters));
    Answer::StreamEnded(Lost(enqueue(&engine, &target, queue).await))
}

/// Why it ended.
async fn enqueue(engine: &Endpoint, target: &str, queue: mpsc::Sender<wire::Message>) -> String {
    let mut stream = match http::lines(engine, "GET /events", target).await {
        Ok(stream) => stream,
        Err(failure) => return format!("event stream: {failure}"),
    };
    loop {
        match stream.next().await {
            Ok(None) => return "the event stream ended".to_owned(),
            Err(failure) => return format!("event stream: {failure}"),
            Ok(Some(message)) => {
                if queue.try_send(message).is_err() {
                    return format!("{QUEUE} events are waiting: too many to follow one by one");
                }
            }
        }
    }
}

pub(super) async fn list(engine: &Endpoint) -> Result<(Vec<Summary>, Vec<NetworkFacts>), Failure> {
    let networks: Vec<wire::Network> = http::get(engine, "GET /networks", "/networks").await?;
    let containers: Vec<wire::Listed> = http::get(engine, "GET /containers/json", "/containers/json?all=true").await?;
    Ok((
        containers.into_iter().filter_map(decode::summary).collect(),
        networks.into_iter().filter_map(decode::network).collect(),
    ))
}

/// `None`: there is no such container.
pub(super) async fn inspect(
    engine: &Endpoint,
    wanted: Gather,
    id: &ContainerId,
) -> Result<Option<Box<Inspected>>, Failure> {
    let asked: Result<wire::Container, Failure> =
        http::get(engine, INSPECT, &format!("/containers/{}/json", id.as_str())).await;
    match asked {
        Ok(answer) => {
            let process = answer.state.as_ref().and_then(|state| state.pid).filter(|process| *process > 0);
            let mut inspected = decode::inspect(wanted, id.clone(), answer);
            let namespace = |process| host::network_namespace(Path::new("/proc"), process, id.as_str());
            inspected.namespace = process.filter(|_| inspected.state.is_alive()).and_then(namespace);
            Ok(Some(Box::new(inspected)))
        }
        Err(Failure::Absent(_)) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// An image's labels. An engine behind a socket proxy may refuse them.
pub(super) async fn inspect_image(engine: Endpoint, id: Arc<str>, deadline: Duration) -> Event {
    // `sha256:` and digits: anything else is no id.
    let is_id = id.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b':');
    let target = format!("/images/{id}/json");
    let asked = http::get::<wire::Image>(&engine, "GET /images/<id>/json", &target);
    let asked = if is_id { timeout(deadline, asked).await.ok() } else { None };
    let facts = asked.and_then(Result::ok).map(decode::image);
    Event::Image { id, facts }
}

/// Whether the engine says that it runs without a root's rights. Where it does not say, as behind a socket proxy that
/// refuses the question, the addresses of its bridges tell.
pub(super) async fn is_rootless(engine: Endpoint, deadline: Duration) -> Answer {
    let asked = timeout(deadline, http::get::<wire::Info>(&engine, "GET /info", "/info")).await;
    Answer::Rootless(asked.ok().and_then(Result::ok).is_some_and(|info| decode::is_rootless(&info)))
}

/// Why this engine is not followed, if it is one that we know not to work. An engine that does not say what it is, as
/// behind a socket proxy that refuses the question, is taken for Docker.
pub(super) async fn unsupported(engine: &Endpoint, deadline: Duration) -> Option<String> {
    let asked = http::get(engine, "GET /version", "/version");
    let version: wire::Version = timeout(deadline, asked).await.ok()?.ok()?;
    // Podman's Docker API leaves out the addresses of containers that start, and tells no end of some.
    version.components?.into_iter().find_map(|component| {
        let name = component.name.filter(|name| name.contains("Podman"))?;
        Some(format!("this is {name} {}, which is not supported yet", component.version.unwrap_or_default()))
    })
}

pub(super) async fn inspect_network(engine: &Endpoint, id: NetworkId, began: Moment, deadline: Duration) -> Event {
    let target = format!("/networks/{}", escape(&id.0));
    match timeout(deadline, http::get(engine, "GET /networks/<id>", &target)).await {
        Ok(Ok(answer)) => match decode::network_inspect(answer) {
            Some((facts, endpoints)) => Event::NetworkPresent { began, facts: Box::new(facts), endpoints },
            None => Event::NetworkFailed(id),
        },
        Ok(Err(Failure::Absent(_))) => Event::NetworkAbsent(id),
        Ok(Err(_)) | Err(_) => Event::NetworkFailed(id),
    }
}

/// A text as part of a target (RFC 3986 section 2.1).
fn escape(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len() * 2), |mut escaped, octet| {
        if octet.is_ascii_alphanumeric() || b"-._~".contains(&octet) {
            escaped.push(char::from(octet));
        } else {
            // Writing into a string does not fail.
            let _ = write!(escaped, "%{octet:02X}");
        }
        escaped
    })
}
