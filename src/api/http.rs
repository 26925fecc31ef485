//! \[IO\] The HTTP side: read-only routes over TCP, the one that changes state over the control socket, and the accept
//! loop with its limits.
//!
//! A browser on this host can be made to ask us: DNS rebinding turns an attacker's name into our address. So the TCP
//! side answers only requests whose `Host` is an address it is bound to, a loopback address or `localhost`: an
//! attacker has to use a name. Readiness never turns red again once it was green (D14): losing etcd or Docker later
//! empties nothing, and a load balancer that drops a working resolver makes the outage.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, HttpBody},
    extract::{Query, Request, State},
    http::{HeaderValue, StatusCode, header, uri::Authority},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
    serve::{Listener, ListenerExt},
};
use futures_util::{Stream, stream};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    ApiState, AskAs, DumpError, DumpRequest, ExplainRequest, ResolveError, ResolveRequest,
    changes::{Change, changes},
    host_names,
    json::{self},
    main_ports, metrics, projects,
};
use crate::model::{Catalog, Problem};

/// What one listener allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; further ones wait in the kernel's backlog. 64 people, scrapers and load balancers.
    pub connections: usize,
    /// From a connection's start, or the end of its last request, to the end of the next request's head.
    pub head: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 64, head: Duration::from_secs(10) }
    }
}

/// Streams of `/v1/watch` at a time: a quarter of the connections, so that watchers never keep health checks out.
pub const MAX_WATCHERS: usize = 16;

/// Zone files under way at a time: that of 100,000 instances is some 100 MiB of text, held until its reader has taken it.
pub const MAX_DUMPS: usize = 1;

/// Octets of a zone file handed over at once.
const DUMP_PIECE: usize = 64 << 10;

/// Largest request head in bytes: a line and a few headers; hyper's smallest allowed is 8 KiB.
const MAX_HEAD: usize = 16 << 10;

/// Most headers of a request.
const MAX_HEADERS: usize = 64;

/// A peer that takes no byte for this long is gone (TCP_USER_TIMEOUT): three beats of a watch stream.
const PEER_TIMEOUT: Duration = Duration::from_secs(45);

/// A watch stream is never silent for longer, so that both ends find out that the other is gone.
pub const WATCH_BEAT: Duration = Duration::from_secs(15);

/// Most bytes of a watch stream that are made ahead of its reader.
const WATCH_PIECE: usize = 64 << 10;

struct Public {
    state: ApiState,
    bound: SocketAddr,
    was_ready: AtomicBool,
    /// What was found in the last catalog that was looked through.
    whole: Mutex<(Weak<Catalog>, Arc<[Problem]>)>,
    watchers: Arc<Semaphore>,
    dumps: Arc<Semaphore>,
}

impl Public {
    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.state.catalog.borrow())
    }

    /// Of the registry's data and of everything else, each once.
    fn problems(&self, catalog: &Arc<Catalog>) -> Vec<Problem> {
        let mut problems = (self.state.facts)().problems;
        problems.extend_from_slice(&catalog.problems);
        problems.extend_from_slice(&self.of_the_whole(catalog));
        problems.sort();
        problems.dedup();
        problems
    }
}

impl Public {
    /// What is only seen in all hosts' records together. Takes the time of the catalog once for each: 100,000 instances take
    /// some 10 ms.
    fn of_the_whole(&self, catalog: &Arc<Catalog>) -> Arc<[Problem]> {
        let mut held = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::ptr::eq(held.0.as_ptr(), Arc::as_ptr(catalog)) {
            let own = &self.state.host;
            let found =
                [projects::problems(catalog, own), main_ports::problems(catalog), host_names::problems(catalog, own)]
                    .concat();
            *held = (Arc::downgrade(catalog), found.into());
        }
        Arc::clone(&held.1)
    }
}

/// The read-only routes. `bound` is the address the listener really has.
pub fn public(state: ApiState, bound: SocketAddr) -> Router {
    let watchers = Arc::new(Semaphore::new(MAX_WATCHERS));
    let dumps = Arc::new(Semaphore::new(MAX_DUMPS));
    let public =
        Arc::new(Public { state, bound, was_ready: AtomicBool::new(false), whole: Mutex::default(), watchers, dumps });
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/v1/services", get(services))
        .route("/v1/resolve", get(resolve))
        .route("/v1/explain", get(explain))
        .route("/v1/zone", get(zone))
        .route("/v1/watch", get(watch))
        .route("/v1/problems", get(problems))
        .route("/v1/status", get(status))
        .route("/v1/cache", get(cache))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&public), check))
        .with_state(public)
}

pub(super) fn refusal(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(json!({ "error": message.into() }))).into_response()
}

pub(super) async fn no_such_route(request: Request) -> Response {
    refusal(StatusCode::NOT_FOUND, format!("no such path: {}", request.uri().path()))
}

pub(super) async fn wrong_method(request: Request) -> Response {
    let message = format!("{} is not possible here; what changes state goes over the control socket", request.method());
    refusal(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// Before every route: the Host header, and no body.
async fn check(State(public): State<Arc<Public>>, request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let header = hosts.next().and_then(|host| host.to_str().ok()).and_then(|host| host.parse().ok());
    // A target with a host of its own wins over the header (RFC 9112 section 3.2.2).
    let authority = request.uri().authority().cloned().or(header);
    if hosts.next().is_some() || !authority.is_some_and(|authority| may_be_asked_as(&authority, public.bound)) {
        let bound = public.bound;
        let message = format!(
            "this port answers to its address and to localhost only, whatever name leads to it (DNS rebinding); use http://{bound}/"
        );
        return refusal(StatusCode::FORBIDDEN, message);
    }
    if !request.body().is_end_stream() {
        let mut response = refusal(StatusCode::PAYLOAD_TOO_LARGE, "a request here has no body");
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return response;
    }
    next.run(request).await
}

/// Rebinding needs a name, so an address is trusted where the listener has it, or may have it.
fn may_be_asked_as(authority: &Authority, bound: SocketAddr) -> bool {
    let host = authority.host();
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host).parse::<IpAddr>();
    match address.map(|address| address.to_canonical()) {
        Ok(address) => address.is_loopback() || bound.ip().is_unspecified() || address == bound.ip().to_canonical(),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

async fn healthz() -> &'static str {
    "ok\n"
}

async fn readyz(State(public): State<Arc<Public>>) -> Response {
    let catalog = public.catalog();
    if catalog.is_complete() {
        public.was_ready.store(true, Ordering::Relaxed);
    }
    let facts = (public.state.facts)();
    let because = |error: Option<String>| error.map(|error| format!(" ({error})")).unwrap_or_default();
    let mut lines = Vec::new();
    if !catalog.docker_listed {
        lines.push(format!("docker has not been listed yet{}", because(facts.docker.last_error)));
    } else if !facts.docker.connected {
        lines.push(format!("stale: docker cannot be heard{}", because(facts.docker.last_error)));
    }
    if !catalog.registry_listed {
        lines.push(format!("the registry has not been listed yet{}", because(facts.registry.last_error)));
    } else if catalog.stale {
        lines.push(format!("stale: the registry cannot be heard{}", because(facts.registry.last_error)));
    }
    lines.extend(facts.registry.conflict.map(|conflict| format!("nothing of this host is published: {conflict}")));
    let (status, word) = match public.was_ready.load(Ordering::Relaxed) {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let body: String = std::iter::once(word).chain(lines.iter().map(String::as_str)).flat_map(|l| [l, "\n"]).collect();
    (status, body).into_response()
}

async fn metrics(State(public): State<Arc<Public>>) -> Response {
    // The catalog is walked once: 100,000 instances take some 20 ms, which no worker of the DNS side should lose.
    let render = tokio::task::spawn_blocking(move || {
        let (catalog, local) = (public.catalog(), Arc::clone(&public.state.local.borrow()));
        let problems = public.problems(&catalog).len();
        let policy = (public.state.when_none_ready)();
        metrics::render(&public.state.host, (&catalog, policy), &local, &(public.state.facts)(), problems)
    });
    match render.await {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn services(State(public): State<Arc<Public>>, Query(filter): Query<json::Filter>) -> Response {
    let index = tokio::task::spawn_blocking(move || {
        let catalog = public.catalog();
        json::services(
            &catalog,
            &public.state.host,
            &filter,
            public.problems(&catalog).len(),
            (public.state.when_none_ready)(),
        )
    });
    match index.await {
        Ok(pieces) => {
            let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)));
            ([(header::CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[derive(Deserialize)]
struct ResolveQuery {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "as")]
    asker: Option<String>,
}

async fn resolve(State(public): State<Arc<Public>>, Query(query): Query<ResolveQuery>) -> Response {
    let asker = query.asker.map(AskAs::from);
    let kind = query.kind.unwrap_or_else(|| "A".to_owned()).to_ascii_uppercase();
    match (public.state.resolve)(ResolveRequest { name: query.name, kind, asker }) {
        Ok(reply) => Json(reply).into_response(),
        Err(ResolveError::Invalid(message)) => refusal(StatusCode::BAD_REQUEST, message),
        Err(ResolveError::NoSuchAsker(message)) => refusal(StatusCode::NOT_FOUND, message),
    }
}

#[derive(Deserialize)]
struct ExplainQuery {
    name: Option<String>,
    container: Option<String>,
    #[serde(rename = "as")]
    asker: Option<String>,
}

async fn explain(State(public): State<Arc<Public>>, Query(query): Query<ExplainQuery>) -> Response {
    let ExplainQuery { name, container, asker } = query;
    if name.is_none() && container.is_none() {
        return refusal(StatusCode::BAD_REQUEST, "explain what? add name=NAME or container=CONTAINER");
    }
    let request = ExplainRequest { name, container, asker: asker.map(AskAs::from) };
    // A service of thousands of instances takes milliseconds, which no worker of the DNS side should lose.
    match tokio::task::spawn_blocking(move || (public.state.explain)(request)).await {
        Ok(Ok(reply)) => Json(reply).into_response(),
        Ok(Err(ResolveError::Invalid(message))) => refusal(StatusCode::BAD_REQUEST, message),
        Ok(Err(ResolveError::NoSuchAsker(message))) => refusal(StatusCode::NOT_FOUND, message),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[derive(Deserialize)]
struct ZoneQuery {
    zone: Option<String>,
    #[serde(rename = "as")]
    asker: Option<String>,
}

async fn zone(State(public): State<Arc<Public>>, Query(query): Query<ZoneQuery>) -> Response {
    let Ok(permit) = Arc::clone(&public.dumps).try_acquire_owned() else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "a zone is being written for somebody else; try again");
    };
    let request = DumpRequest { zone: query.zone, asker: query.asker.map(AskAs::from) };
    match tokio::task::spawn_blocking(move || (public.state.dump)(request)).await {
        Ok(Ok(text)) => {
            // RFC 4027 names the type.
            let pieces = stream::unfold((text.into_bytes(), 0, permit), |(text, sent, permit)| async move {
                let piece = text[sent..].chunks(DUMP_PIECE).next()?.to_vec();
                let sent = sent + piece.len();
                Some((Ok::<_, Infallible>(piece), (text, sent, permit)))
            });
            ([(header::CONTENT_TYPE, "text/dns")], Body::from_stream(pieces)).into_response()
        }
        Ok(Err(DumpError::Invalid(message))) => refusal(StatusCode::BAD_REQUEST, message),
        Ok(Err(DumpError::NotFound(message))) => refusal(StatusCode::NOT_FOUND, message),
        Ok(Err(DumpError::NotYet(message))) => refusal(StatusCode::SERVICE_UNAVAILABLE, message),
        Err(error) => refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

async fn problems(State(public): State<Arc<Public>>) -> Response {
    Json(json!({ "problems": public.problems(&public.catalog()) })).into_response()
}

async fn status(State(public): State<Arc<Public>>) -> Response {
    let (catalog, local) = (public.catalog(), Arc::clone(&public.state.local.borrow()));
    Json(json!({
        "host": public.state.host,
        "version": env!("CARGO_PKG_VERSION"),
        "zone": public.state.zone,
        "catalog": {
            "hosts": catalog.docker_hosts(),
            "revision": catalog.revision,
            "cluster": catalog.cluster,
            "docker_listed": catalog.docker_listed,
            "registry_listed": catalog.registry_listed,
            "stale": catalog.stale,
        },
        "local": { "askers": local.askers.len(), "networks": local.networks.len() },
        "problems": public.problems(&catalog).len(),
        "facts": (public.state.facts)(),
    }))
    .into_response()
}

async fn cache(State(public): State<Arc<Public>>) -> Response {
    Json((public.state.facts)().cache).into_response()
}

#[derive(Deserialize)]
struct WatchQuery {
    /// Begin with everything that is known, as `added`.
    #[serde(default)]
    initial: bool,
}

async fn watch(State(public): State<Arc<Public>>, Query(query): Query<WatchQuery>) -> Response {
    let Ok(permit) = Arc::clone(&public.watchers).try_acquire_owned() else {
        let message = format!("{MAX_WATCHERS} watch already; close one");
        return refusal(StatusCode::SERVICE_UNAVAILABLE, message);
    };
    let body = Body::from_stream(watch_stream(public, permit, query.initial));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

/// What a watcher has been told so far.
struct Watcher {
    public: Arc<Public>,
    receiver: tokio::sync::watch::Receiver<Arc<Catalog>>,
    /// The catalog that the reader has, once `pending` has been written.
    told: Arc<Catalog>,
    pending: std::vec::IntoIter<Change>,
    greeted: bool,
    _permit: OwnedSemaphorePermit,
}

/// Lines of JSON: changes as they come, `synced` when the stream stands, `stale` and `fresh` as the registry goes and
/// comes back, an empty line in silence. Nothing is queued: hyper asks for the next piece when the last is written, and
/// the difference is then taken to the newest catalog, so a slow reader skips what came and went.
fn watch_stream(
    public: Arc<Public>,
    permit: OwnedSemaphorePermit,
    initial: bool,
) -> impl Stream<Item = Result<Vec<u8>, Infallible>> {
    let mut receiver = public.state.catalog.clone();
    let now = Arc::clone(&receiver.borrow_and_update());
    let before = if initial { Arc::new(Catalog { stale: now.stale, ..Catalog::default() }) } else { Arc::clone(&now) };
    let pending = changes(&before, &now, &public.state.host).into_iter();
    let watcher = Watcher { public, receiver, told: now, pending, greeted: false, _permit: permit };
    stream::unfold(watcher, |mut watcher| async move {
        let piece = watcher.next().await?;
        Some((Ok(piece), watcher))
    })
}

impl Watcher {
    /// The next piece of the stream; `None` when the agent ends.
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut piece = Vec::new();
        let beat = Instant::now() + WATCH_BEAT;
        loop {
            for change in self.pending.by_ref() {
                piece.extend(json::event(change.kind.as_str(), &change.host, &change.publication));
                if piece.len() >= WATCH_PIECE {
                    return Some(piece);
                }
            }
            if !self.greeted {
                self.greeted = true;
                let (revision, stale) = (self.told.revision, self.told.stale);
                piece.extend(json::line(&json!({ "event": "synced", "revision": revision, "stale": stale })));
            }
            if !piece.is_empty() {
                return Some(piece);
            }
            match timeout_at(beat, self.receiver.changed()).await {
                Err(_) => return Some(b"\n".to_vec()),
                Ok(Err(_)) => return None,
                Ok(Ok(())) => {}
            }
            let now = Arc::clone(&self.receiver.borrow_and_update());
            if now.stale != self.told.stale {
                piece.extend(json::line(&json!({ "event": if now.stale { "stale" } else { "fresh" } })));
            }
            self.pending = changes(&self.told, &now, &self.public.state.host).into_iter();
            self.told = now;
        }
    }
}

/// Binds the address of the public routes, unless another process hands its listener over.
pub async fn listen(address: SocketAddr, handed: Option<OwnedFd>) -> io::Result<TcpListener> {
    let Some(handed) = handed else { return TcpListener::bind(address).await };
    let listener = std::net::TcpListener::from(handed);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Serves a router on a TCP listener. Dropping it takes its connections along. When `stop` says so, it accepts no more and
/// ends with the requests that have come.
pub async fn serve_tcp(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: tokio::sync::watch::Receiver<bool>,
) {
    let listener = listener.tap_io(|stream| {
        // Best effort: without it a vanished peer keeps its place until the kernel's retries end.
        let socket = socket2::SockRef::from(&*stream);
        if let Err(error) = socket.set_tcp_user_timeout(Some(PEER_TIMEOUT)) {
            tracing::debug!(%error, "no TCP_USER_TIMEOUT on an API connection");
        }
    });
    serve(listener, router, limits, stop).await;
}

pub(super) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    limits: Limits,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
    let mut connections = JoinSet::new();
    while !*stop.borrow_and_update() || !connections.is_empty() {
        let stops = *stop.borrow();
        tokio::select! {
            (io, _) = listener.accept(), if connections.len() < limits.connections && !stops => {
                let service = TowerToHyperService::new(router.clone());
                let connection = http.serve_connection(TokioIo::new(io), service).with_upgrades();
                connections.spawn(until_stopped(connection, stop.clone()));
            }
            Ok(()) = stop.changed() => {}
            Some(ended) = connections.join_next() => {
                // A peer that goes, or sends no HTTP, is its own affair; a panic is ours.
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "an API request panicked");
                }
            }
        }
    }
}

/// A connection; when the listener stops, it ends with its current request.
async fn until_stopped<I, S, B>(
    connection: hyper::server::conn::http1::UpgradeableConnection<I, S>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: HttpBody + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // How it ends is its peer's affair.
        _ = connection.as_mut() => return,
        Ok(_) = stop.wait_for(|stop| *stop) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
