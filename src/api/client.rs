//! \[IO\] One HTTP request to an agent, over TCP or its control socket, with a deadline for everything.
//!
//! One connection per request, no pool, no redirects, no retries: a person waits in front of it.

use std::{fmt, future::Future, io, path::PathBuf, time::Duration};

use http_body_util::{BodyExt, Empty};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{control::LEAVE_DEADLINE, http::WATCH_BEAT};

/// From the first packet to the open connection; an agent is on this host or on the same network.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// From the request to the head of its answer: what `leave` may take on the agent's side, and the way back.
const HEAD_DEADLINE: Duration = LEAVE_DEADLINE.saturating_add(Duration::from_secs(2));

/// Between two pieces of a body. A watch stream beats three times in it.
const PIECE_DEADLINE: Duration = WATCH_BEAT.saturating_mul(3);

/// Largest answer that is held in memory: 100,000 instances of some 1 KB, doubled.
pub const MAX_ANSWER: usize = 200 << 20;

/// Longest line of a stream: a record as large as etcd takes one (1.5 MiB), and what JSON adds to it.
pub const MAX_LINE: usize = 4 << 20;

/// Where an agent is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// `host:port`, for reading.
    Tcp(String),
    /// The control socket, for what changes state.
    Control(PathBuf),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "http://{authority}"),
            Self::Control(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens there, nobody answers in time, or the agent ended in the middle.
    #[error("no agent answers at {place}: {reason}; {}", remedy(.place))]
    Unreachable {
        /// The URL or the socket.
        place: Client,
        /// What happened.
        reason: String,
    },
    /// The socket is another user's.
    #[error("{place} belongs to another user; run this as the user of the agent, as with sudo")]
    Denied {
        /// The socket.
        place: Client,
    },
    /// The agent answered that it will not, or cannot.
    #[error("{message}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its reason.
        message: String,
    },
    /// What answers there is no agent.
    #[error("no proper answer from {place}: {reason}")]
    Broken {
        /// The URL or the socket.
        place: Client,
        /// What was wrong.
        reason: String,
    },
}

fn remedy(place: &Client) -> &'static str {
    match place {
        Client::Tcp(_) => "is it running? start it with `portolan agent`, or name another with --api URL",
        Client::Control(_) => "is it running? start it with `portolan agent`, or name its socket with --control PATH",
    }
}

impl Client {
    /// From `http://host:port`, as the configuration has checked it.
    pub fn of_url(url: &str) -> Self {
        Self::Tcp(url.trim_start_matches("http://").to_owned())
    }

    /// Asks and takes the whole answer.
    pub async fn get(&self, target: &str) -> Result<Bytes, ClientError> {
        let response = self.request(Method::GET, target).await?;
        self.collect(response.into_body()).await
    }

    /// Asks for a change and takes the whole answer.
    pub async fn post(&self, target: &str) -> Result<Bytes, ClientError> {
        let response = self.request(Method::POST, target).await?;
        self.collect(response.into_body()).await
    }

    /// Asks for a stream of lines and hands on each that is not empty, until the agent ends or `take` fails.
    pub async fn lines<E: From<ClientError>>(
        &self,
        target: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut body = self.request(Method::GET, target).await?.into_body();
        let mut rest = Vec::new();
        while let Some(piece) = self.piece(&mut body).await? {
            rest.extend_from_slice(&piece);
            let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                take(line)?;
            }
            rest.drain(..whole);
            if rest.len() > MAX_LINE {
                return Err(self.broken(format!("a line of more than {MAX_LINE} bytes")).into());
            }
        }
        Ok(())
    }

    async fn request(&self, method: Method, target: &str) -> Result<Response<Incoming>, ClientError> {
        tracing::debug!(%method, place = %self, target, "asking the agent");
        let request = |authority: &str| {
            Request::builder()
                .method(method)
                .uri(target)
                .header(header::HOST, authority)
                .header(header::CONNECTION, "close")
                .body(Empty::<Bytes>::new())
                .map_err(|error| self.broken(error.to_string()))
        };
        let response = match self {
            Self::Tcp(authority) => {
                let stream = self.connect(TcpStream::connect(authority)).await?;
                self.send(stream, request(authority)?).await?
            }
            Self::Control(path) => {
                let stream = self.connect(UnixStream::connect(path)).await?;
                self.send(stream, request("localhost")?).await?
            }
        };
        if response.status().is_success() { Ok(response) } else { Err(self.refusal(response).await) }
    }

    async fn connect<S>(&self, connect: impl Future<Output = io::Result<S>>) -> Result<S, ClientError> {
        match timeout(CONNECT_DEADLINE, connect).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied && matches!(self, Self::Control(_)) => {
                Err(ClientError::Denied { place: self.clone() })
            }
            Ok(Err(error)) => Err(self.unreachable(error.to_string())),
            Err(_) => Err(self.unreachable(format!("no connection within {} s", CONNECT_DEADLINE.as_secs()))),
        }
    }

    async fn send<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        request: Request<Empty<Bytes>>,
    ) -> Result<Response<Incoming>, ClientError> {
        let handshake = http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.map_err(|error| self.failure(error))?;
        // It ends with the connection, at the latest with the process.
        let connection = tokio::spawn(connection);
        match timeout(HEAD_DEADLINE, sender.send_request(request)).await {
            Ok(Ok(response)) => Ok(response),
            // The connection knows why.
            Ok(Err(error)) if error.is_canceled() => match connection.await {
                Ok(Err(error)) => Err(self.failure(error)),
                _ => Err(self.failure(error)),
            },
            Ok(Err(error)) => Err(self.failure(error)),
            Err(_) => Err(self.unreachable(format!("no answer within {} s", HEAD_DEADLINE.as_secs()))),
        }
    }

    async fn collect(&self, mut body: Incoming) -> Result<Bytes, ClientError> {
        let mut answer = Vec::with_capacity(
            body.size_hint().exact().map_or(0, |size| usize::try_from(size).unwrap_or(MAX_ANSWER).min(MAX_ANSWER)),
        );
        while let Some(piece) = self.piece(&mut body).await? {
            answer.extend_from_slice(&piece);
            if answer.len() > MAX_ANSWER {
                return Err(self.broken(format!("an answer of more than {MAX_ANSWER} bytes")));
            }
        }
        Ok(answer.into())
    }

    async fn piece(&self, body: &mut Incoming) -> Result<Option<Bytes>, ClientError> {
        loop {
            match timeout(PIECE_DEADLINE, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
                Ok(Some(Err(error))) => return Err(self.failure(error)),
                Err(_) => return Err(self.unreachable(format!("silent for {} s", PIECE_DEADLINE.as_secs()))),
            }
        }
    }

    /// The agent's own words where there are any.
    async fn refusal(&self, response: Response<Incoming>) -> ClientError {
        #[derive(serde::Deserialize)]
        struct Refusal {
            error: String,
        }
        let status = response.status();
        let words = match self.collect(response.into_body()).await {
            Ok(body) => serde_json::from_slice(&body).ok().map(|Refusal { error }| error),
            Err(_) => None,
        };
        ClientError::Refused { status, message: words.unwrap_or_else(|| format!("{self} answered {status}")) }
    }

    /// Whoever breaks off has gone; whoever speaks otherwise is no agent.
    fn failure(&self, error: hyper::Error) -> ClientError {
        let is_foreign = error.is_parse();
        let reason = format!("{:#}", anyhow::Error::from(error));
        if is_foreign { self.broken(reason) } else { self.unreachable(reason) }
    }

    fn unreachable(&self, reason: String) -> ClientError {
        ClientError::Unreachable { place: self.clone(), reason }
    }

    fn broken(&self, reason: String) -> ClientError {
        ClientError::Broken { place: self.clone(), reason }
    }
}

/// A text as part of a query (RFC 3986 section 2.3).
pub fn escape(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(char::from(byte)),
            // Writing into a string does not fail.
            _ => write!(escaped, "%{byte:02X}").unwrap_or_default(),
        }
        escaped
    })
}
