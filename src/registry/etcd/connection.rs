//! One connection to one member: made, logged in, and asked. \[IO\]

use std::{fmt, fs, path::Path, time::Duration};

use etcd_client::{Channel, Client, ConnectOptions, Error, KvClient};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use super::{MAX_REPLY_BYTES, Options, OptionsError, Tls, convert, convert::Failure};
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
    tls: Option<Tls>,
}

impl Endpoint {
    pub(super) fn new(url: &str, options: &Options) -> Result<Self, OptionsError> {
        let invalid = |reason: String| OptionsError::Endpoint { url: url.into(), reason };
        let full = match (url.split_once("://"), &options.tls) {
            (Some(("https", _)), _) => url.to_owned(),
            (Some(("http", _)), None) => url.to_owned(),
            (Some(("http", _)), Some(_)) => return Err(OptionsError::Plain(url.into())),
            (Some((scheme, _)), _) => return Err(invalid(format!("{scheme} is neither http nor https"))),
            (None, None) => format!("http://{url}"),
            (None, Some(_)) => format!("https://{url}"),
        };
        let channel = tonic::transport::Endpoint::from_shared(full.clone())
            .map_err(|error| invalid(convert::with_causes(&error)))?
            .connect_timeout(options.connect_deadline)
            .tcp_keepalive(Some(TCP_KEEPALIVE))
            .tcp_keepalive_interval(Some(TCP_KEEPALIVE_INTERVAL))
            .tcp_keepalive_retries(Some(TCP_KEEPALIVE_RETRIES))
            .keep_alive_while_idle(false)
            .http2_keep_alive_interval(PING_AFTER)
            .keep_alive_timeout(PING_TIMEOUT);
        let tls = full.starts_with("https://").then(|| options.tls.clone().unwrap_or_default());
        let endpoint = Self { url: full, channel, tls };
        endpoint.channel()?;
        Ok(endpoint)
    }

    /// A failure there in words. Where the server seems to speak TLS and the URL does not say so, or the reverse, the
    /// libraries' own words do not help.
    pub(super) fn failure(&self, reason: &str) -> String {
        let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
        let hint = match self.tls {
            Some(_) if says(&["handshake eof", "InvalidContentType", "corrupt message"]) => {
                " (does the server speak TLS? If not, the URL begins with http://)"
            }
            // Which of these it is depends on how far the request had got when the server hung up.
            None if says(&["h2 protocol error", "http2 error", "operation was canceled"])
                || reason == "transport error" =>
            {
                " (is this etcd's client port? If it speaks TLS, the URL begins with https://)"
            }
            _ => "",
        };
        format!("{}: {reason}{hint}", self.url)
    }

    /// The channel to be, with its certificates as they are now. Reads the few small files where it is: they are local,
    /// and this happens once per connection.
    fn channel(&self) -> Result<tonic::transport::Endpoint, OptionsError> {
        let Some(tls) = &self.tls else {
            return Ok(self.channel.clone());
        };
        let mut config = match &tls.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match (&tls.cert, &tls.key) {
            (Some(cert), Some(key)) => config = config.identity(Identity::from_pem(read(cert)?, read(key)?)),
            (None, None) => {}
            _ => return Err(OptionsError::HalfIdentity),
        }
        let unusable = |error| OptionsError::Certificates(convert::with_causes(&error));
        self.channel.clone().tls_config(config).map_err(unusable)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, OptionsError> {
    fs::read(path).map_err(|source| OptionsError::File { path: path.into(), source })
}

/// A connection that has been made. It may have died since; then calls say so.
pub(super) struct Connection {
    client: Client,
}

impl Connection {
    /// Connects and logs in.
    pub(super) async fn open(endpoint: &Endpoint, options: &Options) -> Result<Self, Failure> {
        let channel = endpoint.channel().map_err(|error| Failure::NotSent(error.to_string()))?;
        let channel = channel.connect().await.map_err(|error| Failure::NotSent(convert::with_causes(&error)))?;
        let stub_options = ConnectOptions::new().with_require_leader(true);
        let client =
            Client::from_channel(Channel::Tonic(channel), Some(stub_options)).await.map_err(convert::failure)?;
        let connection = Self { client };
        connection.log_in(options.user.as_ref()).await?;
        Ok(connection)
    }

    /// Gets a token, if there is a user. A cluster whose authentication is not enabled (yet) needs none.
    pub(super) async fn log_in(&self, user: Option<&(String, String)>) -> Result<(), Failure> {
        let Some(user) = user else {
            return Ok(());
        };
        match self.client.clone().update_user(Some(user.clone())).await {
            Ok(()) => Ok(()),
            Err(Error::GRpcStatus(status)) if status.message().contains("authentication is not enabled") => Ok(()),
            Err(error) => Err(convert::failure(error).before_sending()),
        }
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
            let endpoint = Endpoint::new(url, &Options::default()).unwrap_or_else(|error| panic!("{url}: {error}"));
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
