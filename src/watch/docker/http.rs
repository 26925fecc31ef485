//! \[IO\] One GET for each question to the engine, each on a connection of its own: an inspect that blocks holds no
//! other up, and an answer that is given up ends with its connection. No version in the paths, which every engine
//! accepts.
//!
//! Only what is read of an answer is decoded (`wire.rs`): a client library that knows all of Docker's API turns one
//! word it has not heard of, in a field that is not even read here, into a list of no containers.

use std::{error::Error, io, path::Path, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    task::JoinSet,
    time::timeout,
};

use super::Endpoint;

/// From the request to the head of its answer: a backstop behind the deadlines of those who ask. The event stream's
/// head comes at once.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);
/// Largest answer that is held in memory: 10,000 containers of a list with 25 KB each, of which labels are most.
const MAX_ANSWER: usize = 256 << 20;
/// Longest event: all labels of a container, each of which may have 100 KB.
const MAX_EVENT: usize = 16 << 20;
/// Characters of the engine's own words that an error quotes.
const MAX_WORDS: usize = 200;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The engine does not know what was asked for.
    #[error("{0}")]
    Absent(String),
    /// A proxy before the engine lets the request not pass.
    #[error("{0}")]
    Refused(String),
    /// Another try may do better.
    #[error("{0}")]
    Other(String),
}

/// Asks for something, and decodes the whole answer. `name` is the request as a person knows it: `GET /networks/<id>`.
pub(super) async fn get<T: DeserializeOwned>(endpoint: &Endpoint, name: &str, target: &str) -> Result<T, Failure> {
    let Reply { response, connection: _connection } = ask(endpoint, name, target).await?;
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let body = body.map_err(|error| Failure::Other(in_words(&*error)))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| undecodable(&error))
}

/// Asks for a stream of lines.
pub(super) async fn lines(endpoint: &Endpoint, name: &str, target: &str) -> Result<Lines, Failure> {
    let Reply { response, connection } = ask(endpoint, name, target).await?;
    Ok(Lines { body: response.into_body(), rest: Vec::new(), ended: false, _connection: connection })
}

/// An answer that comes line by line, each a JSON value.
pub(super) struct Lines {
    body: Incoming,
    /// What came after the last whole line.
    rest: Vec<u8>,
    ended: bool,
    _connection: JoinSet<()>,
}

impl Lines {
    /// The next value; `None`: the stream has ended.
    pub(super) async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        loop {
            if let Some(line) = self.line() {
                if line.iter().all(u8::is_ascii_whitespace) {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(|error| undecodable(&error));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                None => {
                    self.ended = true;
                    self.rest.push(b'\n');
                }
                Some(Ok(frame)) => self.rest.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(Failure::Other(in_words(&error))),
            }
            if self.rest.len() > MAX_EVENT {
                return Err(Failure::Other(format!("a line of more than {MAX_EVENT} octets")));
            }
        }
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let end = self.rest.iter().position(|octet| *octet == b'\n')?;
        let after = self.rest.split_off(end + 1);
        Some(std::mem::replace(&mut self.rest, after))
    }
}

/// The head of an answer, and the task that carries the rest: it ends when this is dropped.
struct Reply {
    response: Response<Incoming>,
    connection: JoinSet<()>,
}

async fn ask(endpoint: &Endpoint, name: &str, target: &str) -> Result<Reply, Failure> {
    let exchange = async {
        match endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| no_socket(path, &error))?;
                send(stream, "localhost", target).await
            }
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await.map_err(|error| Failure::Other(in_words(&error)))?;
                send(stream, address, target).await
            }
        }
    };
    let silent = |_| Failure::Other(format!("no answer to {name} within {HEAD_DEADLINE:?}"));
    let reply = timeout(HEAD_DEADLINE, exchange).await.map_err(silent)??;
    if reply.response.status().is_success() { Ok(reply) } else { Err(refusal(name, reply).await) }
}

async fn send<S>(stream: S, authority: &str, target: &str) -> Result<Reply, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get(target)
        .header(header::HOST, authority)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Other(in_words(&error)))?;
    let failure = |error: hyper::Error| Failure::Other(in_words(&error));
    let (mut sender, io) = http1::handshake(TokioIo::new(stream)).await.map_err(failure)?;
    let mut connection = JoinSet::new();
    connection.spawn(async move {
        // Who asked is told by the answer, or by its end.
        let _ended = io.await;
    });
    let response = sender.send_request(request).await.map_err(failure)?;
    Ok(Reply { response, connection })
}

/// What an answer that is none says.
async fn refusal(name: &str, Reply { response, connection: _connection }: Reply) -> Failure {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_WORDS * 16).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let words = serde_json::from_slice(&body).map(|Refusal { message }| message);
    let words = words.unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned());
    of_status(name, status, &words)
}

/// What a status other than success means.
pub(super) fn of_status(name: &str, status: u16, words: &str) -> Failure {
    let words: String = words.trim().chars().take(MAX_WORDS).collect();
    let said = format!("status {status}: {words}");
    match status {
        401 | 403 => {
            Failure::Refused(format!("{name} was refused ({said}): a proxy before the engine has to allow it"))
        }
        404 => Failure::Absent(said),
        _ => Failure::Other(said),
    }
}

fn no_socket(path: &str, error: &io::Error) -> Failure {
    let is_missing = error.kind() == io::ErrorKind::NotFound && !Path::new(path).exists();
    Failure::Other(if is_missing { format!("no socket at {path}") } else { in_words(error) })
}

/// serde's own words quote what it could not read, perhaps a value of an environment: only its place is told.
pub(super) fn undecodable(error: &serde_json::Error) -> Failure {
    Failure::Other(format!("an answer that is not Docker's API, at column {}", error.column()))
}

/// An error with its causes.
fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
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
