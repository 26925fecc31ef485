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
//! - **A token that renews itself**: when etcd no longer knows it, we log in again and repeat the call. Where etcd does
//!   not let us log in, a lease is renewed all the same: etcd asks for no token there, and this host's names stay.
//! - **Credentials that may change** (`credentials.rs`, `certificates.rs`): files are read again, and what cannot be
//!   used changes nothing.
//! - **A watch that ends rather than goes silent** (`watch.rs`).
//! - **A last look** at what is written: a key outside [`Options::own_prefixes`] never leaves this process.
//!
//! `etcd_client` serves as a raw stub; it and `tonic` are known only here and in the files below. Deliberately absent:
//! discovery of members (endpoints are configured), client-side balancing, backoff (the caller's), caching.

mod certificates;
mod connection;
mod convert;
mod credentials;
mod handshake;
mod watch;

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch as channel},
    time::{Instant, timeout_at},
};

pub use self::credentials::password_in;
use self::{
    connection::{Connection, Endpoint},
    convert::Failure,
    credentials::{Credentials, Renewed},
};
use super::call::{CallError, Op, Reply, Request, Revision, WatchEvent, WatchRange};
use crate::model::Problem;

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
    /// Where that password is from: read again when etcd refuses it.
    pub password_file: Option<PathBuf>,
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
            password_file: None,
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
            .field("password_file", &self.password_file)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// PEM files, read again for every connection that is made, and by [`Etcd::renew`].
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
    /// A file that cannot be used.
    #[error(transparent)]
    File(#[from] Unusable),
    /// The system has no authorities to trust.
    #[error("the certificates for etcd cannot be used: {0}")]
    Certificates(String),
}

/// A file of credentials that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{setting} {path} {reason}", path = path.display())]
pub struct Unusable {
    setting: &'static str,
    path: PathBuf,
    reason: String,
}

impl Unusable {
    fn problem(&self) -> Problem {
        let Self { setting, path, reason } = self;
        let expected = "a whole file that the agent may read; until then what it held before stays in use";
        Problem::of_error(format!("--{setting} {}", path.display()), reason, expected)
    }
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
        let has_tls = options.tls.is_some();
        let endpoint = |url: &String| Endpoint::new(url, has_tls, options.connect_deadline);
        let endpoints = options.endpoints.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        let credentials = Credentials::new(&options)?;
        endpoints.iter().try_for_each(|endpoint| endpoint.channel(&credentials).map(drop))?;
        let members = endpoints.into_iter().map(|endpoint| Member { endpoint, connection: Mutex::new(None) }).collect();
        let Options { call_deadline, connect_deadline, own_prefixes, .. } = options;
        let preferred = AtomicUsize::new(0);
        let outdated = channel::Sender::default();
        Ok(Self(Arc::new(Cluster {
            credentials,
            call_deadline,
            connect_deadline,
            own_prefixes,
            members,
            preferred,
            outdated,
        })))
    }

    /// Takes over user, password and certificates of these options; all else stays. Tells which settings say something
    /// else now, or whose files do. With other certificates or another user all connections are made again. Where a
    /// file cannot be used nothing changes.
    pub fn renew(&self, options: &Options) -> Result<Vec<&'static str>, OptionsError> {
        let Renewed { settings, outdates_connections } = self.0.credentials.renew(options)?;
        if outdates_connections {
            self.0.forget_all();
        }
        Ok(settings)
    }

    /// Files of credentials that cannot be used, and a password that etcd does not take yet: while it lasts.
    pub fn problems(&self) -> Vec<Problem> {
        self.0.credentials.problems()
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
        check_own(&request, &self.0.own_prefixes)?;
        self.0.call(&request).await
    }

    /// Follows all changes in `ranges` from revision `from` on (0: from now on). The first event is
    /// [`WatchEvent::Created`], the last [`WatchEvent::Compacted`], [`WatchEvent::Denied`] or [`WatchEvent::Broken`].
    /// Dropping the receiver ends the watch. Must be called within a tokio runtime.
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
    credentials: Credentials,
    call_deadline: Duration,
    connect_deadline: Duration,
    own_prefixes: Vec<Vec<u8>>,
    members: Box<[Member]>,
    preferred: AtomicUsize,
    /// Tells watches that their connections have other credentials than they should.
    outdated: channel::Sender<()>,
}

struct Member {
    endpoint: Endpoint,
    connection: Mutex<Option<Arc<Connection>>>,
}

impl Cluster {
    async fn call(&self, request: &Request) -> Result<Reply, CallError> {
        let deadline = Instant::now() + self.call_deadline;
        let mut failures = Vec::new();
        // Whether a member may have taken it, and how many of them we could not agree with on certificates.
        let (mut sent, mut refused) = (false, 0);
        for (index, others) in self.order() {
            // A member that hangs must not use up the time of those that would answer.
            let until = if others && is_repeatable(request) { half_way(deadline) } else { deadline };
            let reason = match self.attempt(index, request, until).await {
                Ok(reply) => {
                    self.prefer(index);
                    return Ok(reply);
                }
                Err(Failure::Final(CallError::Denied(reason))) => {
                    return Err(CallError::Denied(self.credentials.explain(&reason)));
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::NotSent(reason)) => reason,
                // Said in a handshake, where nothing has been looked at yet.
                Err(Failure::Uncertain(reason)) if convert::is_of_certificates(&reason) => reason,
                Err(Failure::Uncertain(reason) | Failure::Token(reason)) => {
                    sent = true;
                    reason
                }
            };
            refused += usize::from(convert::is_of_certificates(&reason));
            self.prefer(index + 1);
            tracing::debug!(endpoint = %self.members[index].endpoint, reason, "etcd member failed");
            failures.push(self.failure(index, &reason));
            if sent && !is_repeatable(request) || Instant::now() >= deadline {
                break;
            }
        }
        let reasons = failures.join("; ");
        Err(match (refused == failures.len(), sent) {
            (true, _) => CallError::Denied(reasons),
            (false, true) => CallError::Unknown(reasons),
            (false, false) => CallError::Unreachable(reasons),
        })
    }

    /// What failed at a member, in words.
    fn failure(&self, index: usize, reason: &str) -> String {
        self.credentials.explain(&self.members[index].endpoint.failure(reason))
    }

    /// One call to one member; a token it does not know any more is renewed once.
    async fn attempt(&self, index: usize, request: &Request, until: Instant) -> Result<Reply, Failure> {
        let connection = self.connection(index, until).await?;
        let result = match self.log_in_first(&connection, until).await {
            // A lease that ends takes all names of this host along.
            Err(Failure::Final(_)) if matches!(request, Request::KeepAlive { .. }) => Ok(()),
            result => result,
        };
        let result = match result {
            Ok(()) => self.perform_with_token(&connection, request, until).await,
            Err(failure) => Err(failure),
        };
        match result {
            Err(Failure::Token(reason)) => Err(Failure::Final(CallError::Denied(reason))),
            Err(failure @ (Failure::NotSent(_) | Failure::Uncertain(_))) => {
                self.forget(index, &connection);
                Err(match self.refusal(index, &connection, until).await {
                    Some(reason) => Failure::NotSent(reason),
                    None => failure,
                })
            }
            result => result,
        }
    }

    /// Why a connection failed that never brought a reply, where that is for certificates.
    async fn refusal(&self, index: usize, connection: &Connection, until: Instant) -> Option<String> {
        let endpoint = &self.members[index].endpoint;
        if connection.has_answered() || !endpoint.is_secured() {
            return None;
        }
        let config = self.credentials.handshake()?;
        timeout_at(until, handshake::refusal(endpoint.uri(), config)).await.ok()?
    }

    async fn perform_with_token(
        &self,
        connection: &Connection,
        request: &Request,
        until: Instant,
    ) -> Result<Reply, Failure> {
        let logins = connection.logins();
        match self.perform(connection, request, until).await {
            Err(Failure::Token(reason)) if self.credentials.has_user() => {
                tracing::debug!(reason, "logging in to etcd again");
                self.log_in(connection, logins, until).await?;
                self.perform(connection, request, until).await
            }
            result => result,
        }
    }

    async fn perform(&self, connection: &Connection, request: &Request, until: Instant) -> Result<Reply, Failure> {
        let no_reply = |_| Failure::Uncertain("no reply in time".into());
        let result = timeout_at(until, connection.perform(request)).await.map_err(no_reply)?;
        connection.note(&result);
        result
    }

    /// Logs in on a connection that has not been logged in yet, if there is a user.
    async fn log_in_first(&self, connection: &Connection, until: Instant) -> Result<(), Failure> {
        if connection.logins() > 0 || !self.credentials.has_user() {
            return Ok(());
        }
        self.log_in(connection, 0, until.min(Instant::now() + self.connect_deadline)).await
    }

    /// Gets a token, unless another call has got one since there had been so many logins.
    async fn log_in(&self, connection: &Connection, logins: u64, until: Instant) -> Result<(), Failure> {
        let log_in = async {
            let turn = connection.login_turn().await;
            if connection.logins() != logins {
                return Ok(());
            }
            loop {
                let denied = |reason| Failure::Final(CallError::Denied(reason));
                let login = self.credentials.next_login().map_err(denied)?;
                match connection.log_in(&login, &turn).await {
                    Ok(()) => {
                        self.credentials.accept(&login);
                        return Ok(());
                    }
                    // Ends: what was refused is not next again for a while.
                    Err(Failure::Final(CallError::Denied(reason))) => self.credentials.refuse(&login, &reason),
                    Err(failure) => return Err(failure),
                }
            }
        };
        let no_reply = |_| Failure::NotSent("no reply to the login in time".into());
        timeout_at(until, log_in).await.map_err(no_reply)?
    }

    /// The connection to a member, made now if there is none. Callers that find none at the same time make one each;
    /// the last one stays.
    async fn connection(&self, index: usize, until: Instant) -> Result<Arc<Connection>, Failure> {
        let member = &self.members[index];
        let present = || member.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connection) = present().clone() {
            return Ok(connection);
        }
        let until = until.min(Instant::now() + self.connect_deadline);
        let too_late = |_| Failure::NotSent("connecting took too long".into());
        let connection =
            timeout_at(until, Connection::open(&member.endpoint, &self.credentials)).await.map_err(too_late)??;
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

    /// Drops all connections, for what they were made with is outdated. Calls on their way come to their end.
    fn forget_all(&self) {
        for member in &self.members {
            *member.connection.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.outdated.send_replace(());
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
