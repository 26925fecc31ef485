//! One connection to one member: made, logged in, and asked. \[IO\]

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use etcd_client::{Channel, Client, ConnectOptions, Error, KvClient};
use tokio::sync::{Mutex, MutexGuard};
use tonic::transport::Uri;

use super::{
    MAX_REPLY_BYTES, OptionsError, convert,
    convert::Failure,
    credentials::{Credentials, Login},
};
use crate::registry::call::{CallError, LeaseId, Reply, Request, Revision};

/// How long a connection in use may stay silent before it is pinged, and how long the ping's answer may take: a peer
/// that vanished is noticed after 8 s also where nothing else is waiting. etcd hangs up on clients that ping more often
/// than every 5 s, or while nothing is under way.
const PING_AFTER: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The same for the kernel, on connections that nothing is under way on: given up after 10 s + 3 * 2 s.
const TCP_KEEPALIVE: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const TCP_KEEPALIVE_RETRIES: u32 = 3;

/// A member's address, checked.
pub(super) struct Endpoint {
    url: String,
    channel: tonic::transport::Endpoint,
    is_secured: bool,
}

impl Endpoint {
    /// The endpoint of a URL, where there are certificates or not.
    pub(super) fn new(url: &str, has_tls: bool, connect_deadline: Duration) -> Result<Self, OptionsError> {
        let invalid = |reason: String| OptionsError::Endpoint { url: url.into(), reason };
        let full = match (url.split_once("://"), has_tls) {
            (Some(("https", _)), _) | (Some(("http", _)), false) => url.to_owned(),
            (Some(("http", _)), true) => return Err(OptionsError::Plain(url.into())),
            (Some((scheme, _)), _) => return Err(invalid(format!("{scheme} is neither http nor https"))),
            (None, false) => format!("http://{url}"),
            (None, true) => format!("https://{url}"),
        };
        let channel = tonic::transport::Endpoint::from_shared(full.clone())
            .map_err(|error| invalid(convert::with_causes(&error)))?
            .connect_timeout(connect_deadline)
            .tcp_keepalive(Some(TCP_KEEPALIVE))
            .tcp_keepalive_interval(Some(TCP_KEEPALIVE_INTERVAL))
            .tcp_keepalive_retries(Some(TCP_KEEPALIVE_RETRIES))
            .keep_alive_while_idle(false)
            .http2_keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT);
        Ok(Self { is_secured: full.starts_with("https://"), url: full, channel })
    }

    /// A failure there in words. Where the server seems to speak TLS and the URL does not say so, or the reverse, the
    /// libraries' own words do not help.
    pub(super) fn failure(&self, reason: &str) -> String {
        let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        let hint = match self.is_secured {
            true if says(&["handshake eof", "InvalidContentType", "corrupt message"]) => {
                " (does the server speak TLS? If not, the URL begins with http://)"
            }
            // Which of these it is depends on how far the request had got when the server hung up.
            false
                if says(&["h2 protocol error", "http2 error", "operation was canceled"])
                    || reason == "transport error" =>
            {
                " (is this etcd's client port? If it speaks TLS, the URL begins with https://)"
            }
            _ => "",
        };
        format!("{}: {reason}{hint}", self.url)
    }

    pub(super) fn is_secured(&self) -> bool {
        self.is_secured
    }

    pub(super) fn uri(&self) -> &Uri {
        self.channel.uri()
    }

    /// The channel to be, with the certificates as they are now.
    pub(super) fn channel(&self, credentials: &Credentials) -> Result<tonic::transport::Endpoint, OptionsError> {
        if !self.is_secured {
            return Ok(self.channel.clone());
        }
        let unusable = |error| OptionsError::Certificates(convert::with_causes(&error));
        self.channel.clone().tls_config(credentials.tls()).map_err(unusable)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

/// A connection that has been made. It may have died since; then calls say so.
pub(super) struct Connection {
    client: Client,
    /// How often it was logged in.
    logins: AtomicU64,
    /// The last login brought a token, as it does where authentication is enabled.
    has_token: AtomicBool,
    /// etcd has said something on it: both sides take each other's certificates.
    has_answered: AtomicBool,
    /// One login at a time: each costs etcd more than all else that we ask for.
    turn: Mutex<()>,
}

impl Connection {
    /// Connects, and does not log in yet.
    pub(super) async fn open(endpoint: &Endpoint, credentials: &Credentials) -> Result<Self, Failure> {
        let channel = endpoint.channel(credentials).map_err(|error| Failure::NotSent(error.to_string()))?;
        let channel = channel.connect().await.map_err(|error| Failure::NotSent(convert::with_causes(&error)))?;
        let stub_options = ConnectOptions::new().with_require_leader(true);
        let client =
            Client::from_channel(Channel::Tonic(channel), Some(stub_options)).await.map_err(convert::failure)?;
        Ok(Self {
            client,
            logins: AtomicU64::default(),
            has_token: AtomicBool::default(),
            has_answered: AtomicBool::default(),
            turn: Mutex::default(),
        })
    }

    /// How often it was logged in: what failed for want of a token may be tried again once this is another number.
    pub(super) fn logins(&self) -> u64 {
        self.logins.load(Ordering::Acquire)
    }

    /// Whether calls carry a token, be it one that etcd has forgotten.
    pub(super) fn has_token(&self) -> bool {
        self.has_token.load(Ordering::Acquire)
    }

    /// Whether etcd has ever said something on it.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Acquire)
    }

    /// Takes note of what became of a request.
    pub(super) fn note<T>(&self, result: &Result<T, Failure>) {
        if !matches!(result, Err(Failure::NotSent(_) | Failure::Uncertain(_))) {
            self.has_answered.store(true, Ordering::Release);
        }
    }

    /// Waits until no other call logs in.
    pub(super) async fn login_turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// Gets a token. A cluster whose authentication is not enabled (any more, or yet) needs none, and must be shown
    /// none: it refuses calls with a token that it does not know also then.
    pub(super) async fn log_in(&self, login: &Login, _turn: &MutexGuard<'_, ()>) -> Result<(), Failure> {
        let user = (login.user.clone(), login.password.clone());
        let mut client = self.client.clone();
        let has_token = match client.update_user(Some(user)).await {
            Ok(()) => true,
            Err(Error::GRpcStatus(status)) if status.message().contains("authentication is not enabled") => {
                client.update_user(None).await.map_err(convert::failure)?;
                false
            }
            Err(error) => {
                let failed = Err(convert::failure(error).before_sending());
                self.note(&failed);
                return failed;
            }
        };
        self.has_token.store(has_token, Ordering::Release);
        self.logins.fetch_add(1, Ordering::Release);
        Ok(())
    }

    /// A stub for watches.
    pub(super) fn watch_client(&self) -> etcd_client::WatchClient {
        self.client.watch_client().max_decoding_message_size(MAX_REPLY_BYTES)
    }

    /// Sends a request and takes its reply.
    pub(super) async fn perform(&self, request: &Request) -> Result<Reply, Failure> {
        match request {
            Request::Grant { ttl } => {
                let reply = self.client.lease_client().grant(*ttl, None).await.map_err(convert::failure)?;
                let header = convert::header(reply.0.header)?;
                Ok(Reply::Granted { header, lease: LeaseId(reply.0.id), ttl: reply.0.ttl })
            }
            Request::KeepAlive { lease } => self.keep_alive(*lease).await,
            Request::Revoke { lease } => {
                let reply = self.client.lease_client().revoke(lease.0).await.map_err(convert::failure)?;
                Ok(Reply::Revoked { header: convert::header(reply.0.header)? })
            }
            Request::Txn { compare, then, otherwise } => {
                let reply = self.kv().txn(convert::txn(compare, then, otherwise)).await.map_err(convert::failure)?;
                convert::txn_reply(reply.0, then.len(), otherwise.len())
            }
            Request::Range { start, end, limit, revision } => self.range(start, end, *limit, *revision).await,
        }
    }

    fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MAX_REPLY_BYTES)
    }

    /// etcd has no single renewal, only a stream of them. We use a new stream each time, so that a renewal is a call
    /// with a reply of its own. The stub keeps a stream's first reply to itself, and with it the header: renew twice.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Reply, Failure> {
        let mut leases = self.client.lease_client();
        let (mut keeper, mut replies) = match leases.keep_alive(lease.0).await {
            Ok(stream) => stream,
            Err(Error::LeaseKeepAliveError(_)) => return self.confirm_lost(lease).await,
            Err(error) => return Err(convert::failure(error)),
        };
        keeper.keep_alive().await.map_err(convert::failure)?;
        match replies.message().await.map_err(convert::failure)? {
            Some(reply) => Ok(Reply::Alive { header: convert::header(reply.0.header)?, ttl: reply.0.ttl }),
            None => Err(Failure::Uncertain("etcd ended the lease stream".into())),
        }
    }

    /// Asks for a lease that could not be renewed: for the header, and because so much hangs on it.
    async fn confirm_lost(&self, lease: LeaseId) -> Result<Reply, Failure> {
        let reply = self.client.lease_client().time_to_live(lease.0, None).await.map_err(convert::failure)?;
        if reply.0.ttl > 0 {
            return Err(Failure::Uncertain("the lease cannot be renewed, but exists".into()));
        }
        Ok(Reply::Alive { header: convert::header(reply.0.header)?, ttl: 0 })
    }

    /// Reads a range. Where the reply would be larger than we take, fewer keys are read than were asked for, and `more`
    /// says so: a few huge foreign values must not keep us from the rest.
    async fn range(
        &self,
        start: &[u8],
        end: &[u8],
        mut limit: i64,
        revision: Option<Revision>,
    ) -> Result<Reply, Failure> {
        loop {
            let options =
                etcd_client::GetOptions::new().with_range(end).with_limit(limit).with_revision(revision.unwrap_or(0));
            match self.kv().get(start, Some(options)).await.map_err(convert::failure) {
                Ok(reply) => {
                    let header = convert::header(reply.0.header)?;
                    let kvs = reply.0.kvs.into_iter().map(convert::key_value).collect();
                    return Ok(Reply::Range { header, kvs, more: reply.0.more });
                }
                Err(Failure::Final(CallError::Invalid(reason)))
                    if convert::is_too_large_reply(&reason) && limit > 1 =>
                {
                    limit /= 2;
                }
                Err(failure) => return Err(failure),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_seems_to_speak_tls_or_not_to_is_asked_about() {
        let failure = |url: &str, reason: &str| {
            let endpoint = Endpoint::new(url, false, Duration::ZERO).unwrap_or_else(|error| panic!("{url}: {error}"));
            endpoint.failure(reason)
        };
        for reason in ["h2 protocol error: http2 error", "operation was canceled", "transport error"] {
            let said = failure("http://etcd:2379", reason);
            assert!(
                said.starts_with(&format!("http://etcd:2379: {reason} (")) && said.contains("begins with https://")
            );
            assert_eq!(failure("https://etcd:2379", reason), format!("https://etcd:2379: {reason}"));
        }
        let said = failure("https://etcd:2379", "tls handshake eof");
        assert!(said.contains("If not, the URL begins with http://"), "{said}");
        assert_eq!(failure("http://etcd:2379", "Connection refused"), "http://etcd:2379: Connection refused");
    }
}
