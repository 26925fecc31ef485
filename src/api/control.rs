//! The control socket: what changes state of this host, for its owner alone. \[IO\]

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::post,
    serve::Listener,
};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use tokio::{
    net::{UnixListener, UnixStream, unix},
    sync::{RwLock, mpsc, oneshot, watch},
    time::timeout,
};

use super::{
    drain::Drains,
    external::{Externals, NotRegistered, Registered},
    http::{Limits, no_such_route, refusal, serve, wrong_method},
    json::{Flushed, Left},
    takeover::{PROTOCOL, VERSION, Wire},
};
use crate::{
    model::HostId,
    watch::container::{Command, NotDone, Target},
};

/// How long `leave` may take: a revoke on one endpoint after the other, 2 s each, and some air.
pub const LEAVE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a drain's order and a look at its progress may take: one read of etcd on one endpoint after the other, 2 s
/// each, and some air.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(8);

/// A request to withdraw this host. The answer says that it is done, or why not.
pub type Leave = oneshot::Sender<Result<(), String>>;

/// Forgets what upstreams have said of a name and all below it, or of everything, and that namespaces have had the name: how
/// many answers went, and how many namespaces; or why the text is no name.
pub type Flush = Arc<dyn Fn(Option<&str>) -> Result<(usize, usize), String> + Send + Sync>;

/// What the control socket can do.
#[derive(Clone)]
pub struct Control {
    /// This host.
    pub host: HostId,
    /// Where withdrawals go.
    pub leave: mpsc::Sender<Leave>,
    /// What drains.
    pub drains: Drains,
    /// What registers external services.
    pub externals: Externals,
    /// What forgets answers of upstreams.
    pub flush: Flush,
    /// Where an agent goes that wants to take over.
    pub takeover: mpsc::Sender<Wire>,
    /// Held for writing while one does: what it has read of this host's state must not change.
    pub handing: Arc<RwLock<()>>,
}

/// The routes that change state of this host; only ever served on the control socket.
pub fn control(control: Control) -> Router {
    Router::new()
        .route("/v1/leave", post(withdraw))
        .route("/v1/drain", post(drain).get(drain_progress))
        .route("/v1/undrain", post(undrain))
        .route("/v1/register", post(register))
        .route("/v1/unregister", post(unregister))
        .route("/v1/cache/flush", post(flush))
        .route("/v1/takeover", post(takeover))
        .route_layer(middleware::from_fn_with_state(control.clone(), refuse_while_handing))
        .fallback(no_such_route)
        .method_not_allowed_fallback(wrong_method)
        .with_state(control)
}

/// Nothing that changes state while somebody takes over, and no two who do.
async fn refuse_while_handing(State(control): State<Control>, request: Request, next: Next) -> Response {
    if request.method() == Method::GET {
        return next.run(request).await;
    }
    let Ok(_place) = Arc::clone(&control.handing).try_read_owned() else {
        let message = "another agent is taking over this host: try again in a moment";
        return refusal(StatusCode::CONFLICT, message);
    };
    next.run(request).await
}

#[derive(Deserialize)]
struct TakeoverQuery {
    version: Option<u32>,
}

/// Leaves HTTP behind and hands the connection to the agent.
async fn takeover(
    State(control): State<Control>,
    Query(TakeoverQuery { version }): Query<TakeoverQuery>,
    mut request: Request,
) -> Response {
    if version != Some(VERSION) {
        let other = version.map_or_else(|| "none".to_owned(), |version| version.to_string());
        let message = format!("this agent hands over by version {VERSION} of the protocol, and was asked for {other}");
        return refusal(StatusCode::BAD_REQUEST, message);
    }
    if request.headers().get(header::UPGRADE).is_none_or(|value| value != PROTOCOL) {
        return refusal(StatusCode::UPGRADE_REQUIRED, format!("`Upgrade: {PROTOCOL}` is missing"));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    // It goes on when this response has been written, and ends with the connection.
    tokio::spawn(async move {
        match upgrade.await.map_err(io::Error::other).and_then(Wire::of) {
            Ok(wire) => drop(control.takeover.send(wire).await),
            Err(error) => tracing::warn!(%error, "another agent wanted to take over, and has gone"),
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, [(header::CONNECTION, "upgrade"), (header::UPGRADE, PROTOCOL)]).into_response()
}

#[derive(Deserialize)]
struct DrainQuery {
    target: Option<String>,
    #[serde(default)]
    host: bool,
}

async fn drain(State(control): State<Control>, Query(query): Query<DrainQuery>) -> Response {
    order(control, query, Command::Drain).await
}

async fn undrain(State(control): State<Control>, Query(query): Query<DrainQuery>) -> Response {
    order(control, query, Command::Undrain).await
}

async fn order(control: Control, query: DrainQuery, order: fn(Target) -> Command) -> Response {
    let target = match (query.target, query.host) {
        (Some(name), false) if !name.is_empty() => Target::Named(name),
        (None, true) => Target::Host,
        _ => return refusal(StatusCode::BAD_REQUEST, "either target=CONTAINER|SERVICE or host=true"),
    };
    match timeout(DRAIN_DEADLINE, (control.drains.order)(order(target))).await {
        Ok(Ok(drained)) => Json(drained).into_response(),
        Ok(Err(NotDone::NoSuch(message))) => refusal(StatusCode::NOT_FOUND, message),
        Ok(Err(NotDone::Impossible(message))) => refusal(StatusCode::INTERNAL_SERVER_ERROR, message),
        Err(_) => refusal(StatusCode::GATEWAY_TIMEOUT, format!("not done within {} s", DRAIN_DEADLINE.as_secs())),
    }
}

#[derive(Deserialize)]
struct FlushQuery {
    name: Option<String>,
}

async fn flush(State(control): State<Control>, Query(query): Query<FlushQuery>) -> Response {
    match (control.flush)(query.name.as_deref()) {
        Ok((flushed, freed)) => Json(Flushed { flushed, freed }).into_response(),
        Err(message) => refusal(StatusCode::BAD_REQUEST, message),
    }
}

#[derive(Deserialize)]
struct ExternalQuery {
    service: String,
}

async fn register(State(control): State<Control>, Query(query): Query<ExternalQuery>) -> Response {
    change((control.externals.register)(query.service)).await
}

async fn unregister(State(control): State<Control>, Query(query): Query<ExternalQuery>) -> Response {
    change((control.externals.unregister)(query.service)).await
}

async fn change(outcome: BoxFuture<'static, Result<Registered, NotRegistered>>) -> Response {
    let status = match timeout(DRAIN_DEADLINE, outcome).await {
        Ok(Ok(registered)) => return Json(registered).into_response(),
        Ok(Err(error)) => match error {
            NotRegistered::Invalid(_) => (StatusCode::BAD_REQUEST, error.to_string()),
            NotRegistered::NoSuch(_) => (StatusCode::NOT_FOUND, error.to_string()),
            NotRegistered::Elsewhere => (StatusCode::CONFLICT, error.to_string()),
            NotRegistered::Unkept(_) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        },
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, format!("not done within {} s", DRAIN_DEADLINE.as_secs())),
    };
    refusal(status.0, status.1)
}

#[derive(Deserialize)]
struct RoundQuery {
    round: u64,
}

async fn drain_progress(State(control): State<Control>, Query(query): Query<RoundQuery>) -> Response {
    match timeout(DRAIN_DEADLINE, (control.drains.progress)(query.round)).await {
        Ok(progress) => Json(progress).into_response(),
        Err(_) => refusal(StatusCode::GATEWAY_TIMEOUT, format!("not known within {} s", DRAIN_DEADLINE.as_secs())),
    }
}

async fn withdraw(State(Control { host, leave, .. }): State<Control>) -> Response {
    let (done, outcome) = oneshot::channel();
    let stopping = || refusal(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");
    let asked = timeout(LEAVE_DEADLINE, async {
        leave.send(done).await.ok()?;
        outcome.await.ok()
    });
    match asked.await {
        Ok(Some(Ok(()))) => Json(Left { host: host.to_string(), left: true }).into_response(),
        Ok(Some(Err(message))) => refusal(StatusCode::INTERNAL_SERVER_ERROR, message),
        Ok(None) => stopping(),
        Err(_) => refusal(
            StatusCode::GATEWAY_TIMEOUT,
            format!("not done within {} s; the names leave when the lease ends", LEAVE_DEADLINE.as_secs()),
        ),
    }
}

/// Serves a router on the control socket. Dropping it takes its connections along.
/// When `stop` says so, it accepts no more and ends with the requests that have come.
pub async fn serve_control(socket: ControlSocket, router: Router, limits: Limits, stop: watch::Receiver<bool>) {
    serve(socket, router, limits, stop).await;
}

/// The control socket: only its owner may open it (0600), and its name goes when it goes.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    /// Another agent has the socket now, and its name.
    handed: Arc<AtomicBool>,
}

impl ControlSocket {
    /// Binds it. It is made under another name and renamed when it is ready: nobody sees it with other permissions,
    /// one left behind by a crash is replaced, and a newer agent takes the name over without a gap.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(format!(".{}", std::process::id()));
        let unfinished = PathBuf::from(unfinished);
        match std::fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
        socket.bind(&socket2::SockAddr::unix(&unfinished)?)?;
        std::fs::set_permissions(&unfinished, PermissionsExt::from_mode(0o600))?;
        socket.listen(16)?; // One person at a time, and a few scripts.
        socket.set_nonblocking(true)?;
        let inode = std::fs::symlink_metadata(&unfinished)?.ino();
        std::fs::rename(&unfinished, path)?;
        let listener = UnixListener::from_std(OwnedFd::from(socket).into())?;
        Ok(Self { listener, path: path.to_owned(), inode, handed: Arc::default() })
    }

    /// The other agent has gone, or never was: the name goes with this socket.
    pub fn own_name(&self) {
        self.handed.store(false, Ordering::Relaxed);
    }

    /// The socket of the agent before, which has this name, and keeps it until [`own_name`](Self::own_name).
    pub fn succeed(path: &Path, socket: OwnedFd) -> io::Result<Self> {
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        let inode = std::fs::symlink_metadata(path)?.ino();
        let (listener, handed) = (UnixListener::from_std(listener)?, Arc::new(AtomicBool::new(true)));
        Ok(Self { listener, path: path.to_owned(), inode, handed })
    }

    /// A handle of it for another agent, and what says that this one has it now.
    pub fn lend(&self) -> io::Result<(OwnedFd, Arc<AtomicBool>)> {
        Ok((self.listener.as_fd().try_clone_to_owned()?, Arc::clone(&self.handed)))
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // A newer agent may have the name by now.
        if !self.handed.load(Ordering::Relaxed)
            && std::fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode)
        {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Listener for ControlSocket {
    type Io = UnixStream;
    type Addr = unix::SocketAddr;

    /// Only of the agent's own user, and root: who holds a handle of the socket need not have opened it by its name.
    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.listener).await;
            let peer = stream.peer_cred().map(|peer| peer.uid());
            match peer {
                Ok(0) => return (stream, address),
                Ok(user) if user == nix::unistd::geteuid().as_raw() => return (stream, address),
                other => tracing::warn!(user = ?other.ok(), "a command of another user is refused"),
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
