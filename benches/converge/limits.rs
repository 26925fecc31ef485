//! What the figures are measured against: the engine's own events, the least that can answer them, and etcd alone.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use portolan::registry::{
    call::{LeaseId, Op, Reply, Request, WatchEvent, WatchRange, prefix_end},
    etcd::{Etcd, Options},
};

use crate::agent::{Cue, DEADLINE};

/// Which container's events are meant.
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
pub(crate) struct Responder;

impl Responder {
    /// Follows containers with this prefix to their names, one at a time; gives the address that answers.
    pub(crate) fn start(prefix: &'static str) -> Result<SocketAddr> {
        let events = event_stream()?;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = socket.local_addr()?;
        let present = Arc::new(AtomicBool::new(false));
        let answered = Arc::clone(&present);
        thread::spawn(move || {
            for line in events.lines().map_while(Result::ok) {
                let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                let is_ours =
                    event["Actor"]["Attributes"]["name"].as_str().is_some_and(|name| name.starts_with(prefix));
                match event["Action"].as_str() {
                    Some("start") if is_ours => present.store(true, Ordering::Relaxed),
                    // A disconnect does not tell whose it is by name; there is one container at a time.
                    Some("die" | "disconnect") => present.store(false, Ordering::Relaxed),
                    _ => {}
                }
            }
        });
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
        Ok(address)
    }
}

/// The engine's own event stream.
pub(crate) struct Events {
    lines: Arc<Mutex<BufReader<UnixStream>>>,
}

impl Events {
    pub(crate) fn follow() -> Result<Self> {
        let stream = event_stream()?;
        stream.get_ref().set_read_timeout(Some(DEADLINE))?;
        Ok(Self { lines: Arc::new(Mutex::new(stream)) })
    }

    /// Waits, when called, for the first of these events about a container, and tells its timestamp.
    pub(crate) fn cue(&self, about: About, actions: &'static [&'static str]) -> (Cue, mpsc::Receiver<Duration>) {
        let (tell, told) = mpsc::channel();
        let lines = Arc::clone(&self.lines);
        let cue = move || {
            let mut lines = lines.lock().expect("nobody panics with it");
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
                // The headers are no JSON.
                let event: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
                let (actor, attributes) = (&event["Actor"]["ID"], &event["Actor"]["Attributes"]);
                let is_ours = match &about {
                    About::Name(name) => attributes["name"] == name.as_str(),
                    About::Id(id) => *actor == id.as_str() || attributes["container"] == id.as_str(),
                };
                if is_ours && event["Action"].as_str().is_some_and(|action| actions.contains(&action)) {
                    let _told = tell.send(Duration::from_nanos(event["timeNano"].as_u64().unwrap_or_default()));
                    return;
                }
                line.clear();
            }
        };
        (Box::new(cue), told)
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
