//! The calls of [`call`](super::call) and the watch, carried to a real etcd cluster. \[IO\]
//!
//! In comes a [`Request`], out goes a [`Reply`] or a [`CallError`] within [`Options::call_deadline`], whatever etcd and
//! the network do. Nothing here remembers leases, keys or revisions and nothing is retried for longer than that: the
//! session belongs to the publisher and the mirror. What this file adds to the wire:
//!
//! - **One connection per member**, made when first needed and by its own deadline. The member that answered last is
//!   asked first; when it fails, the next one is, as long as that is safe: always when the request was not sent, and
//!   when it was sent only if carrying it out twice does no harm. Otherwise the caller learns that the outcome is
//!   unknown ([`CallError::Unknown`]).
//! - **A token that renews itself**: when etcd no longer knows it, we log in again and repeat the call.
//! - **A watch that ends rather than goes silent** (`watch.rs`).
//! - **A last look** at what is written: a key outside [`Options::own_prefixes`] never leaves this process.
//!
//! `etcd_client` serves as a raw stub; it and `tonic` are known only here and in the files below. Deliberately absent:
//! discovery of members (endpoints are configured), client-side balancing, backoff (the caller's), caching.

mod connection;
mod convert;
mod watch;

use std::{
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use self::{
    connection::{Connection, Endpoint},
    convert::Failure,
};
use super::call::{CallError, Op, Reply, Request, Revision, WatchEvent, WatchRange};

/// How many events of a watch wait for their reader before etcd has to.
const WATCH_BUFFER: usize = 64;

/// Largest reply or piece of a watch response we take. Lists are cut into pages of some 4 MiB, and
/// 40 foreign keys of the largest size etcd takes (1.5 MiB) still fit; larger pages are read in parts.
const MAX_REPLY_BYTES: usize = 64 << 20;

/// Where etcd is, and how to talk to it.
#[derive(Clone)]
pub struct Options {
    /// At least one URL; without a scheme it is `https://` if [`tls`](Self::tls) is given, else `http://`.
    pub endpoints: Vec<String>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Certificates; `https://` without them trusts the system's authorities.
    pub tls: Option<Tls>,
    /// The longest a call takes, connecting and trying other members included.
    pub call_deadline: Duration,
    /// The longest that connecting to one member takes, login included.
    pub connect_deadline: Duration,
    /// Keys are put and deleted only below these.
    pub own_prefixes: Vec<Vec<u8>>,
}

impl Default for Options {
    /// No endpoints, no own keys; 2 s for a call, of which 1 s for connecting, so that a second member gets its turn.
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            user: None,
            tls: None,
            call_deadline: Duration::from_secs(2),
            connect_deadline: Duration::from_secs(1),
            own_prefixes: Vec::new(),
        }
    }
}

impl fmt::Debug for Options {
    /// Everything but the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("endpoints", &self.endpoints)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// PEM files, read anew for every connection we make: rotated ones are used once the connection before has failed.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Whom to trust; `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    /// Who we are, together with `key`.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`.
    pub key: Option<PathBuf>,
}

/// Why there can be no [`Etcd`] with these [`Options`].
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// There is nobody to talk to.
    #[error("no etcd endpoint is given")]
    NoEndpoint,
    /// Not a URL we know.
    #[error("the etcd endpoint {url:?} is not a URL like https://10.0.0.1:2379: {reason}")]
    Endpoint {
        /// As given.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Certificates are of no use on a plain connection.
    #[error("the etcd endpoint {0:?} is not https, but certificates are given for it")]
    Plain(String),
    /// A certificate needs its key, and the key its certificate.
    #[error("a client certificate for etcd needs both the certificate's file and the key's")]
    HalfIdentity,
    /// A file that cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Files that can be read, but hold no certificate or key.
    #[error("the certificates for etcd cannot be used: {0}")]
    Certificates(String),
}

/// A cluster of etcd. Clones share their connections.
#[derive(Clone)]
pub struct Etcd(Arc<Cluster>);

impl Etcd {
    /// Checks the options; connects to nobody yet.
    pub fn new(options: Options) -> Result<Self, OptionsError> {
        if options.endpoints.is_empty() {
            return Err(OptionsError::NoEndpoint);
        }
        let members = options
            .endpoints
            .iter()
            .map(|url| Ok(Member { endpoint: Endpoint::new(url, &options)?, connection: Mutex::new(None) }))
            .collect::<Result<_, OptionsError>>()?;
        Ok(Self(Arc::new(Cluster { options, members, preferred: AtomicUsize::new(0) })))
    }

    /// The member that is asked first: the one that answered last, if any did.
    pub fn endpoint(&self) -> String {
        let Cluster { members, preferred, .. } = &*self.0;
        members[preferred.load(Ordering::Relaxed) % members.len()].endpoint.to_string()
    }

    /// All members, as they are asked, with commas between them.
    pub fn endpoints(&self) -> String {
        let all: Vec<String> = self.0.members.iter().map(|member| member.endpoint.to_string()).collect();
        all.join(",")
    }

    /// Carries out one call, within [`Options::call_deadline`].
    pub async fn call(&self, request: Request) -> Result<Reply, CallError> {
        check_own(&request, &self.0.options.own_prefixes)?;
        self.0.call(&request).await
    }

    /// Follows all changes in `ranges` from revision `from` on (0: from now on). The first event is
    /// [`WatchEvent::Created`], the last [`WatchEvent::Compacted`] or [`WatchEvent::Broken`]. Dropping the receiver ends
    /// the watch. Must be called within a tokio runtime.
    pub fn watch(&self, ranges: Vec<WatchRange>, from: Revision) -> mpsc::Receiver<WatchEvent> {
        let (sender, receiver) = mpsc::channel(WATCH_BUFFER);
        tokio::spawn(watch::run(self.0.clone(), ranges, from, sender));
        receiver
    }
}

/// Invariant I4, looked at a last time: whatever the planner thinks, we write only what is ours.
fn check_own(request: &Request, own: &[Vec<u8>]) -> Result<(), CallError> {
    let Request::Txn { then, otherwise, .. } = request else {
        return Ok(());
    };
    for op in then.iter().chain(otherwise) {
        let (Op::Put { key, .. } | Op::Delete { key }) = op else {
            continue;
        };
        if !own.iter().any(|prefix| key.starts_with(prefix)) {
            let key = key.escape_ascii();
            tracing::error!(%key, "refused to write a key in etcd that is not ours");
            debug_assert!(false, "invariant I4: {key} is not below any of our prefixes");
            return Err(CallError::Invalid(format!("{key} is not ours to write")));
        }
    }
    Ok(())
}

/// The members, and which of them to ask first.
struct Cluster {
    options: Options,
    members: Box<[Member]>,
    preferred: AtomicUsize,
}

struct Member {
    endpoint: Endpoint,
    connection: Mutex<Option<Arc<Connection>>>,
}

impl Cluster {
    async fn call(&self, request: &Request) -> Result<Reply, CallError> {
        let deadline = Instant::now() + self.options.call_deadline;
        let mut failures = Vec::new();
        let mut sent = false;
        for (index, others) in self.order() {
            // A member that hangs must not use up the time of those that would answer.
            let until = if others && is_repeatable(request) { half_way(deadline) } else { deadline };
            let reason = match self.attempt(index, request, until).await {
                Ok(reply) => {
                    self.prefer(index);
                    return Ok(reply);
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::NotSent(reason)) => reason,
                Err(Failure::Uncertain(reason) | Failure::Token(reason)) => {
                    sent = true;
                    reason
                }
            };
            self.prefer(index + 1);
            tracing::debug!(endpoint = %self.members[index].endpoint, reason, "etcd member failed");
            failures.push(self.members[index].endpoint.failure(&reason));
            if sent && !is_repeatable(request) || Instant::now() >= deadline {
                break;
            }
        }
        let reasons = failures.join("; ");
        Err(if sent { CallError::Unknown(reasons) } else { CallError::Unreachable(reasons) })
    }

    /// One call to one member; a token it does not know any more is renewed once.
    async fn attempt(&self, index: usize, request: &Request, until: Instant) -> Result<Reply, Failure> {
        let connection = self.connection(index, until).await?;
        let result = match self.perform(&connection, request, until).await {
            Err(Failure::Token(reason)) if self.options.user.is_some() => {
                tracing::debug!(endpoint = %self.members[index].endpoint, reason, "logging in to etcd again");
                match self.log_in(&connection, until).await {
                    Ok(()) => self.perform(&connection, request, until).await,
                    Err(failure) => Err(failure),
                }
            }
            result => result,
        };
        match result {
            Err(Failure::Token(reason)) => Err(Failure::Final(CallError::Denied(reason))),
            Err(failure @ (Failure::NotSent(_) | Failure::Uncertain(_))) => {
                self.forget(index, &connection);
                Err(failure)
            }
            result => result,
        }
    }

    async fn perform(&self, connection: &Connection, request: &Request, until: Instant) -> Result<Reply, Failure> {
        let no_reply = |_| Failure::Uncertain("no reply in time".into());
        timeout_at(until, connection.perform(request)).await.map_err(no_reply)?
    }

    async fn log_in(&self, connection: &Connection, until: Instant) -> Result<(), Failure> {
        let no_reply = |_| Failure::NotSent("no reply to the login in time".into());
        timeout_at(until, connection.log_in(self.options.user.as_ref())).await.map_err(no_reply)?
    }

    /// The connection to a member, made now if there is none. Callers that find none at the same time make one each;
    /// the last one stays.
    async fn connection(&self, index: usize, until: Instant) -> Result<Arc<Connection>, Failure> {
        let member = &self.members[index];
        let present = || member.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = present().clone() {
            return Ok(connection);
        }
        let until = until.min(Instant::now() + self.options.connect_deadline);
        let too_late = |_| Failure::NotSent("connecting took too long".into());
        let connection =
            timeout_at(until, Connection::open(&member.endpoint, &self.options)).await.map_err(too_late)??;
        let connection = Arc::new(connection);
        *present() = Some(connection.clone());
        Ok(connection)
    }

    /// Drops a connection that failed, unless another one has taken its place.
    fn forget(&self, index: usize, failed: &Arc<Connection>) {
        let mut present = self.members[index].connection.lock().unwrap_or_else(PoisonError::into_inner);
        if present.as_ref().is_some_and(|connection| Arc::ptr_eq(connection, failed)) {
            *present = None;
        }
    }

    /// The members in the order in which to try them, and whether there are others to come.
    fn order(&self) -> impl Iterator<Item = (usize, bool)> + use<> {
        let (count, first) = (self.members.len(), self.preferred.load(Ordering::Relaxed));
        (0..count).map(move |turn| ((first + turn) % count, turn + 1 < count))
    }

    /// Asks this member first from now on.
    fn prefer(&self, index: usize) {
        self.preferred.store(index % self.members.len(), Ordering::Relaxed);
    }

    /// Asks another member first from now on, if this one is the preferred.
    fn demote(&self, index: usize) {
        let next = (index + 1) % self.members.len();
        let _ = self.preferred.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// Whether carrying it out twice does no harm.
fn is_repeatable(request: &Request) -> bool {
    match request {
        Request::Range { .. } | Request::KeepAlive { .. } => true,
        Request::Txn { then, otherwise, .. } => then.iter().chain(otherwise).all(|op| matches!(op, Op::Get { .. })),
        Request::Grant { .. } | Request::Revoke { .. } => false,
    }
}

fn half_way(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}
