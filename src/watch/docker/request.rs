//! The five requests: the event stream, the two lists, the two inspects. Each is a GET.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use tokio::{sync::mpsc, time::timeout};

use super::{
    API_DEFAULT_VERSION, Answer, Docker, DockerError, Endpoint, EventsOptions, InspectContainerOptions,
    InspectNetworkOptions, ListContainersOptions, Lost, QUEUE, decode, models,
};
use crate::{
    model::NetworkId,
    watch::{
        container::{ContainerId, Event, Inspected, Moment, NetworkFacts, Summary},
        metadata::Gather,
    },
};

/// How far back events are asked for when we connect. It narrows the race with the list; the list closes it.
const REPLAY: Duration = Duration::from_secs(2);
/// bollard's own deadline for response headers, a backstop behind ours.
const HEADERS_SECONDS: u64 = 60;
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

pub(super) fn connect(endpoint: &Endpoint) -> Result<Docker, DockerError> {
    match endpoint {
        Endpoint::Unix(path) => Docker::connect_with_unix(path, HEADERS_SECONDS, API_DEFAULT_VERSION),
        Endpoint::Tcp(address) => Docker::connect_with_http(address, HEADERS_SECONDS, API_DEFAULT_VERSION),
    }
}

/// Decodes and enqueues, nothing else; ends with the stream, or when the queue is full.
pub(super) async fn read(docker: Docker, queue: mpsc::Sender<models::EventMessage>) -> Answer {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().saturating_sub(REPLAY);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let filters = [("type".to_owned(), words(&["container", "network"])), ("event".to_owned(), words(&ACTIONS))];
    let options = EventsOptions {
        since: Some(format!("{}.{:09}", since.as_secs(), since.subsec_nanos())),
        until: None,
        filters: Some(filters.into()),
    };
    let mut stream = std::pin::pin!(docker.events(Some(options)));
    let why = loop {
        match stream.next().await {
            None => break "the event stream ended".to_owned(),
            Some(Err(error)) => break format!("event stream: {}", describe("GET /events", &error)),
            Some(Ok(message)) => {
                if queue.try_send(message).is_err() {
                    break format!("{QUEUE} events are waiting: too many to follow one by one");
                }
            }
        }
    };
    Answer::StreamEnded(Lost(why))
}

pub(super) async fn list(docker: &Docker) -> Result<(Vec<Summary>, Vec<NetworkFacts>), String> {
    let networks = docker.list_networks(None).await.map_err(|error| describe("GET /networks", &error))?;
    let all = ListContainersOptions { all: true, ..Default::default() };
    let containers =
        docker.list_containers(Some(all)).await.map_err(|error| describe("GET /containers/json", &error))?;
    Ok((
        containers.into_iter().filter_map(decode::summary).collect(),
        networks.into_iter().filter_map(decode::network).collect(),
    ))
}

pub(super) async fn inspect(
    docker: &Docker,
    wanted: Gather,
    id: &ContainerId,
) -> Result<Option<Box<Inspected>>, String> {
    match docker.inspect_container(id.as_str(), None::<InspectContainerOptions>).await {
        Ok(response) => Ok(Some(Box::new(decode::inspect(wanted, id.clone(), response)))),
        Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(describe("GET /containers/<id>/json", &error)),
    }
}

/// Why this engine is not followed, if it is one that we know not to work. An engine that does not say what it is, as behind
/// a socket proxy that refuses the question, is taken for Docker.
pub(super) async fn unsupported(docker: &Docker, deadline: Duration) -> Option<String> {
    let version = timeout(deadline, docker.version()).await.ok()?.ok()?;
    // Podman's Docker API leaves out the addresses of containers that start, and tells no end of some.
    let component = version.components?.into_iter().find(|component| component.name.contains("Podman"))?;
    Some(format!("this is {} {}, which is not supported yet", component.name, component.version))
}

pub(super) async fn inspect_network(docker: &Docker, id: NetworkId, began: Moment, deadline: Duration) -> Event {
    match timeout(deadline, docker.inspect_network(&id.0, None::<InspectNetworkOptions>)).await {
        Ok(Ok(response)) => match decode::network_inspect(response) {
            Some((facts, endpoints)) => Event::NetworkPresent { began, facts: Box::new(facts), endpoints },
            None => Event::NetworkFailed(id),
        },
        Ok(Err(DockerError::DockerResponseServerError { status_code: 404, .. })) => Event::NetworkAbsent(id),
        Ok(Err(_)) | Err(_) => Event::NetworkFailed(id),
    }
}

/// An error of a request in words with its causes. A decoding error quotes what it could not read, perhaps a value of an environment:
/// only its place is told.
pub(super) fn describe(request: &str, error: &DockerError) -> String {
    match error {
        DockerError::DockerResponseServerError { status_code: status_code @ (401 | 403), message } => {
            let message: String = message.trim().chars().take(200).collect();
            format!(
                "{request} was refused (status {status_code}: {message}): a proxy before the engine has to allow it"
            )
        }
        DockerError::JsonDataError { column, .. } => format!("an answer that is not Docker's API, at column {column}"),
        DockerError::JsonSerdeError { err } => {
            format!("an answer that is not Docker's API, at column {}", err.column())
        }
        DockerError::SocketNotFoundError(path) => format!("no socket at {path}"),
        DockerError::DockerResponseServerError { status_code, message } => {
            format!("status {status_code}: {}", message.chars().take(200).collect::<String>())
        }
        error => {
            let mut text = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                let cause_text = cause.to_string();
                if !text.contains(&cause_text) {
                    text = format!("{text}: {cause_text}");
                }
                source = cause.source();
            }
            if text.contains("Permission denied") {
                text.push_str("; run as root, or as a member of the group that owns the socket (often `docker`)");
            }
            text
        }
    }
}
