//! What the figures are measured against: the engine's own events, the least that can answer them, and etcd alone.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, UdpSocket},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use portolan::registry::{
    call::{LeaseId, Op, Reply, Request, WatchEvent, WatchRange, prefix_end},
    etcd::{Etcd, Options},
};

use crate::agent::DEADLINE;

/// Which container's events are meant.
#[derive(Clone)]
pub(crate) enum About {
    Name(String),
    Id(String),
}

/// Headers, then one event after the other: HTTP/1.0 has no other framing.
fn event_stream() -> Result<BufReader<UnixStream>> {
    let mut stream = UnixStream::connect("/var/run/docker.sock").context("/var/run/docker.sock")?;
    stream.write_all(b"GET /events HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    Ok(BufReader::new(stream))
}

/// The least that can follow Docker and answer: one thread reads events into a flag, one replies from it. No agent can be
/// faster on the same machine at the same time.
pub(crate) struct Responder {
    /// Where it answers.
    pub(crate) address: SocketAddr,
    present: Arc<AtomicBool>,
}

/// A responder's event stream; ends when dropped.
pub(crate) struct Following(UnixStream);

impl Drop for Following {
    fn drop(&mut self) {
        let _closed = self.0.shutdown(Shutdown::Both);
    }
}

impl Responder {
    /// Answers that there is nothing.
    pub(crate) fn start() -> Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = socket.local_addr()?;
        let present = Arc::new(AtomicBool::new(false));
        let answered = Arc::clone(&present);
        thread::spawn(move || {
            let mut message = [0; 1500];
            while let Ok((length, asker)) = socket.recv_from(&mut message) {
                if length >= 12 {
                    // A reply with as many answers as are true; the asker looks at their number only.
                    message[2] |= 0x80;
                    message[7] = u8::from(answered.load(Ordering::Relaxed));
                    let _sent = socket.send_to(&message[..length], asker);
                }
            }
        });
        Ok(Self { address, present })
    }

    /// Follows the container of this name, which is the only one that starts or ends meanwhile.
    pub(crate) fn follow(&self, name: &str) -> Result<Following> {
        let events = event_stream()?;
        let stream = events.get_ref().try_clone()?;
        let (present, name) = (Arc::clone(&self.present), name.to_owned());
        thread::spawn(move || {
            for line in events.lines().map_while(Result::ok) {
                let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                match event["Action"].as_str() {
                    Some("start") if event["Actor"]["Attributes"]["name"] == name.as_str() => {
                        present.store(true, Ordering::Relaxed);
                    }
                    // A disconnect does not tell whose it is by name; there is one container at a time.
                    Some("die" | "disconnect") => present.store(false, Ordering::Relaxed),
                    _ => {}
                }
            }
        });
        Ok(Following(stream))
    }
}

/// The engine's own event stream. It is read only when somebody asks for an event, so that nobody wakes up for it while
/// something is measured: what comes meanwhile waits in the socket.
#[derive(Clone)]
pub(crate) struct Events {
    lines: Arc<Mutex<BufReader<UnixStream>>>,
}

impl Events {
    pub(crate) fn follow() -> Result<Self> {
        let stream = event_stream()?;
        stream.get_ref().set_read_timeout(Some(DEADLINE))?;
        Ok(Self { lines: Arc::new(Mutex::new(stream)) })
    }

    /// The first of these events about a container, past all that were read before, and its timestamp.
    pub(crate) fn await_event(&self, about: &About, actions: &[&'static str]) -> Result<(&'static str, Duration)> {
        let mut lines = self.lines.lock().map_err(|_| anyhow::anyhow!("whoever read events panicked"))?;
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            // The headers are no JSON.
            let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let (actor, attributes) = (&event["Actor"]["ID"], &event["Actor"]["Attributes"]);
            let is_ours = match about {
                About::Name(name) => attributes["name"] == name.as_str(),
                About::Id(id) => *actor == id.as_str() || attributes["container"] == id.as_str(),
            };
            let action = actions.iter().find(|action| is_ours && event["Action"] == **action);
            if let Some(action) = action {
                return Ok((*action, Duration::from_nanos(event["timeNano"].as_u64().unwrap_or_default())));
            }
            line.clear();
        }
        bail!("the event stream has ended")
    }
}

/// The bare put→watch time of the same etcd: the floor under every other host's figure.
pub(crate) struct Bare {
    runtime: tokio::runtime::Runtime,
    etcd: Etcd,
    lease: LeaseId,
    delivered: Arc<Mutex<tokio::sync::mpsc::Receiver<WatchEvent>>>,
}

impl Bare {
    pub(crate) fn start(endpoints: &[String]) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let prefix = b"/bench/".to_vec();
        let (etcd, lease, delivered) = runtime.block_on(async {
            let etcd = Etcd::new(Options {
                endpoints: endpoints.to_vec(),
                own_prefixes: vec![prefix.clone()],
                ..Options::default()
            })?;
            let Reply::Granted { lease, header, .. } = etcd.call(Request::Grant { ttl: 3600 }).await? else {
                bail!("no lease");
            };
            let range = WatchRange { start: prefix.clone(), end: prefix_end(&prefix) };
            let mut delivered = etcd.watch(vec![range], header.revision + 1);
            while !matches!(delivered.recv().await.context("the watch ended")?, WatchEvent::Created { .. }) {}
            Ok((etcd, lease, delivered))
        })?;
        Ok(Self { runtime, etcd, lease, delivered: Arc::new(Mutex::new(delivered)) })
    }

    /// Milliseconds from a put until its watcher has it.
    pub(crate) fn sample(&self) -> Result<f64> {
        let mut delivered = self.delivered.lock().map_err(|_| anyhow::anyhow!("a sample panicked"))?;
        self.runtime.block_on(async {
            let started = Instant::now();
            let put = Op::Put { key: b"/bench/key".to_vec(), value: vec![b'x'; 400], lease: self.lease };
            let etcd = self.etcd.clone();
            let writing = tokio::spawn(async move {
                etcd.call(Request::Txn { compare: vec![], then: vec![put], otherwise: vec![] }).await
            });
            while !matches!(delivered.recv().await.context("the watch ended")?, WatchEvent::Changes { .. }) {}
            let took = started.elapsed().as_secs_f64() * 1e3;
            writing.await??;
            Ok(took)
        })
    }
}
