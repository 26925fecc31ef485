//! \[IO\] How a new agent takes over from the running one: words and sockets over the control socket.
//!
//! The new agent asks by HTTP (`POST /v1/takeover?version=1`), and both then leave HTTP behind (101). The new one speaks
//! first, so that no descriptor can come along with bytes that somebody's HTTP has read ahead.
//!
//! ```text
//! new                              old
//!  Hello ─────────────────────────►       refuses commands that change state from here on
//!        ◄───────────────────────── Offer, and as many descriptors
//!  (starts, until it knows everything; the old one answers meanwhile)
//!  (reads from the sockets, too)
//!  Ready ─────────────────────────►       publishes no more
//!        ◄───────────────────────── Released
//!  Taken ─────────────────────────►       reads no more, answers what it has read, ends
//!  (publishes)
//!        ◄───────────────────────── Connection, and its descriptor; any number
//! ```
//!
//! Whoever goes away before `Taken` changes nothing: the old agent goes on. Words are JSON behind their length in four
//! octets (big endian), descriptors come behind the word that announces them, each batch with one octet.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
    time::timeout,
};

/// The version of everything above: agents of another one are not understood.
pub const VERSION: u32 = 1;

/// What the connection is from 101 on.
pub(super) const PROTOCOL: &str = "portolan-takeover";

/// Descriptors sent at once; the kernel takes at most 253 (SCM_MAX_FD).
const BATCH: usize = 64;

/// Longest word: what was read of a question (68 KiB), each octet as up to four characters, and some air.
const MAX_WORD: u32 = 1 << 19;

/// Most descriptors of one offer: 1,000 addresses with four UDP sockets and a listener each.
const MAX_DESCRIPTORS: usize = 5_000;

/// How long the running agent may take to answer at all.
const ANSWER: Duration = Duration::from_secs(5);

/// What the new agent says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Offer what there is.
    Hello,
    /// I answer, too, and know everything.
    Ready,
    /// I publish from now on.
    Taken,
}

/// What the running agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// What follows: the lock of the state directory, the control socket, the HTTP listener, then the sockets of DNS.
    Offer {
        /// Where its state is.
        state_dir: PathBuf,
        /// Where the HTTP listener listens.
        http: SocketAddr,
        /// Addresses of DNS whose sockets systemd holds: they are answered on whatever `--dns` says.
        held: Vec<SocketAddr>,
        /// How many descriptors follow.
        descriptors: usize,
    },
    /// I publish no more.
    Released,
    /// A TCP connection of DNS that owes no answer; its descriptor follows.
    Connection {
        /// What was read of the next question.
        unread: Vec<u8>,
    },
}

/// Why the running agent does not hand over.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// It said so, or does not know how to.
    #[error("the running agent does not hand over: {0}; restart it instead")]
    Refused(String),
    /// It is gone, or speaks otherwise.
    #[error("no proper answer from the running agent: {0}")]
    Broken(String),
    /// The socket cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The control socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The way between both agents.
#[derive(Debug)]
pub struct Wire {
    stream: UnixStream,
    /// What HTTP has read ahead.
    ahead: Vec<u8>,
}

impl Wire {
    pub(super) fn of(upgraded: Upgraded) -> io::Result<Self> {
        let parts = upgraded.downcast::<TokioIo<UnixStream>>();
        let parts = parts.map_err(|_| io::Error::other("the connection is no Unix socket"))?;
        Ok(Self { stream: parts.io.into_inner(), ahead: parts.read_buf.to_vec() })
    }

    /// The process at the other end.
    pub fn peer(&self) -> Option<u32> {
        u32::try_from(self.stream.peer_cred().ok()?.pid()?).ok()
    }

    /// Says a word.
    pub async fn say(&mut self, word: &impl Serialize) -> io::Result<()> {
        let word = serde_json::to_vec(word)?;
        let length = u32::try_from(word.len()).ok().filter(|length| *length <= MAX_WORD);
        let length = length.ok_or_else(|| io::Error::other("a word is too long"))?;
        self.stream.write_all(&[&length.to_be_bytes(), word.as_slice()].concat()).await
    }

    /// Hears the next word; an error also when the other one has gone.
    pub async fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut length = [0; 4];
        self.read(&mut length).await?;
        let length = u32::from_be_bytes(length);
        if length > MAX_WORD {
            return Err(io::Error::other(format!("a word of {length} octets, at most {MAX_WORD}")));
        }
        let mut word = vec![0; length as usize];
        self.read(&mut word).await?;
        Ok(serde_json::from_slice(&word)?)
    }

    async fn read(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let ahead = self.ahead.len().min(buffer.len());
        buffer[..ahead].copy_from_slice(&self.ahead[..ahead]);
        self.ahead.drain(..ahead);
        self.stream.read_exact(&mut buffer[ahead..]).await.map(drop)
    }

    /// Gives handles of descriptors to the other process.
    pub async fn give(&mut self, descriptors: &[OwnedFd]) -> io::Result<()> {
        for batch in descriptors.chunks(BATCH) {
            let batch: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
            let send = || {
                let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                control.push(SendAncillaryMessage::ScmRights(&batch));
                let sent = sendmsg(&self.stream, &[IoSlice::new(b"+")], &mut control, SendFlags::NOSIGNAL);
                sent.map_err(io::Error::from)
            };
            self.stream.async_io(Interest::WRITABLE, send).await?;
        }
        Ok(())
    }

    /// Takes as many descriptors as were announced.
    pub async fn take(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if count > MAX_DESCRIPTORS || !self.ahead.is_empty() {
            return Err(io::Error::other(format!("{count} descriptors where none can be")));
        }
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let receive = || {
                let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(BATCH))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut octet = [0; 1];
                let mut parts = [IoSliceMut::new(&mut octet)];
                let received = recvmsg(&self.stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                let mut descriptors = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        descriptors.extend(rights);
                    }
                }
                Ok((received.bytes, descriptors))
            };
            let (bytes, descriptors) = self.stream.async_io(Interest::READABLE, receive).await?;
            if bytes == 0 || descriptors.is_empty() {
                // Without room for descriptors (RLIMIT_NOFILE) the kernel leaves them out.
                return Err(io::Error::other(format!("{} of {count} descriptors came", taken.len())));
            }
            taken.extend(descriptors);
        }
        Ok(taken)
    }
}

/// Asks the agent behind a control socket to hand over. `None`: there is none.
pub async fn ask(path: &Path) -> Result<Option<Wire>, TakeoverError> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(source) => return Err(TakeoverError::Io { path: path.to_owned(), source }),
    };
    let asked = timeout(ANSWER, switch(stream)).await;
    asked.unwrap_or_else(|_| Err(TakeoverError::Broken(format!("none within {} s", ANSWER.as_secs())))).map(Some)
}

async fn switch(stream: UnixStream) -> Result<Wire, TakeoverError> {
    let broken = |error: &dyn std::fmt::Display| TakeoverError::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // It ends with the upgrade, at the latest with the process.
    tokio::spawn(connection.with_upgrades());
    let request = Request::post(format!("/v1/takeover?version={VERSION}"))
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())
        .map_err(|error| broken(&error))?;
    let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        #[derive(Deserialize)]
        struct Refusal {
            error: String,
        }
        let body = response.into_body().collect().await.map_err(|error| broken(&error))?.to_bytes();
        let words = serde_json::from_slice(&body).map_or_else(|_| status.to_string(), |Refusal { error }| error);
        return Err(TakeoverError::Refused(words));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| broken(&error))?;
    Wire::of(upgraded).map_err(|error| broken(&error))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn pair() -> (Wire, Wire) {
        let (a, b) = UnixStream::pair().unwrap();
        (Wire { stream: a, ahead: Vec::new() }, Wire { stream: b, ahead: Vec::new() })
    }

    #[tokio::test]
    async fn words_and_descriptors_arrive_in_their_order_however_many_there_are() {
        let (mut old, mut new) = pair();
        let pipes: Vec<_> = (0..BATCH * 2 + 3).map(|_| io::pipe().unwrap()).collect();
        let (readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
        let given: Vec<OwnedFd> = writers.into_iter().map(OwnedFd::from).collect();
        let count = given.len();
        let giving = async {
            old.say(&Answer::Released).await.unwrap();
            old.give(&given).await.unwrap();
            old.say(&Answer::Connection { unread: vec![0, 255] }).await.unwrap();
        };
        let taking = async {
            assert_eq!(new.hear::<Answer>().await.unwrap(), Answer::Released);
            let taken = new.take(count).await.unwrap();
            assert_eq!(new.hear::<Answer>().await.unwrap(), Answer::Connection { unread: vec![0, 255] });
            taken
        };
        let ((), taken) = tokio::join!(giving, taking);
        drop(given);
        for (number, (mut reader, writer)) in readers.into_iter().zip(taken).enumerate() {
            let mut writer = io::PipeWriter::from(writer);
            writer.write_all(&[u8::try_from(number).unwrap()]).unwrap();
            drop(writer);
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            assert_eq!(read, [u8::try_from(number).unwrap()], "the descriptors came in another order");
        }
    }

    #[tokio::test]
    async fn what_was_read_ahead_comes_first_and_an_end_is_an_error() {
        let (mut old, mut new) = pair();
        let word = serde_json::to_vec(&Ask::Hello).unwrap();
        let framed = [&u32::try_from(word.len()).unwrap().to_be_bytes(), word.as_slice()].concat();
        old.ahead = framed[..6].to_vec();
        new.stream.write_all(&framed[6..]).await.unwrap();
        assert_eq!(old.hear::<Ask>().await.unwrap(), Ask::Hello);
        drop(new);
        assert_eq!(old.hear::<Ask>().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn a_word_that_is_too_long_is_not_waited_for() {
        let (mut old, mut new) = pair();
        new.stream.write_all(&(MAX_WORD + 1).to_be_bytes()).await.unwrap();
        assert!(old.hear::<Ask>().await.unwrap_err().to_string().contains("at most"));
    }

    #[tokio::test]
    async fn where_nobody_listens_there_is_nobody_to_take_over_from() {
        let directory = tempfile::tempdir().unwrap();
        assert!(ask(&directory.path().join("none.sock")).await.unwrap().is_none());
        let stale = directory.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert!(ask(&stale).await.unwrap().is_none());
    }
}
