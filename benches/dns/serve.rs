//! Our own side: the real server in a process of its own, and a bare echo, each started by the benchmark from its own
//! binary and ended with its standard input.

use std::{
    io::{BufRead, IoSlice, IoSliceMut, Write},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use portolan::{
    dns::{forward::Upstreams, server::Shared, zone::Zone},
    model::Catalog,
};

use crate::{load::BATCH, serving, world};

/// Changes of instances per second, when they are asked for.
pub(crate) const CHANGES: u32 = 1_000;

/// Commands on standard input.
pub(crate) const CHURN: &str = "churn";
/// Ends the changes.
pub(crate) const QUIET: &str = "quiet";

/// Sends back what comes, one datagram at a time.
pub(crate) fn echo(address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(address)?;
    ready()?;
    end_with_standard_input();
    let mut buffer = [0; 2048];
    loop {
        let (length, peer) = socket.recv_from(&mut buffer)?;
        socket.send_to(&buffer[..length], peer)?;
    }
}

/// Sends back what comes, as many datagrams at once as are there.
pub(crate) fn echo_batches(address: SocketAddr) -> Result<()> {
    let socket = UdpSocket::bind(address)?;
    ready()?;
    end_with_standard_input();
    let (mut came, mut gone) = (MultiHeaders::preallocate(BATCH, None), MultiHeaders::preallocate(BATCH, None));
    let mut buffers = vec![[0; 2048]; BATCH];
    loop {
        let mut room: Vec<[IoSliceMut<'_>; 1]> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let waiting = recvmmsg(socket.as_raw_fd(), &mut came, room.iter_mut(), MsgFlags::MSG_WAITFORONE, None)?;
        let (lengths, peers): (Vec<usize>, Vec<Option<SockaddrIn>>) =
            waiting.map(|message| (message.bytes, message.address)).unzip();
        let texts = buffers.iter().zip(&lengths);
        let texts: Vec<[IoSlice<'_>; 1]> = texts.map(|(buffer, length)| [IoSlice::new(&buffer[..*length])]).collect();
        let _sent = sendmmsg(socket.as_raw_fd(), &mut gone, &texts, &peers, [], MsgFlags::empty())?.count();
    }
}

fn end_with_standard_input() {
    thread::spawn(|| {
        // The benchmark has ended, however it did.
        let _ended = std::io::stdin().lock().read_until(0, &mut Vec::new());
        std::process::exit(0);
    });
}

/// Answers from a zone of so many services until standard input ends, and forwards to `upstream`.
pub(crate) fn server(address: SocketAddr, services: usize, upstream: Option<SocketAddr>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let catalog = world::catalog(services);
    let zone = Arc::new(Zone::of(&catalog));
    let upstreams = upstream.map_or(Upstreams::None, |upstream| Upstreams::Fixed(vec![upstream]));
    let (shared, forwarder) =
        serving::start(&runtime, address, &catalog, Arc::clone(&zone), world::local(), upstreams)?;
    runtime.spawn(async move { forwarder.follow().await });
    ready()?;

    let mut churn = Churn { shared, services, known: Some((catalog, zone)), running: None };
    for line in std::io::stdin().lock().lines() {
        match line?.as_str() {
            CHURN => churn.start()?,
            QUIET => churn.stop()?,
            other => bail!("no such command: {other:?}"),
        }
        ready()?;
    }
    // Not by dropping everything first: the benchmark waits for nobody.
    std::process::exit(0);
}

/// Tells the benchmark that what it asked for is done.
fn ready() -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    Ok(out.flush()?)
}

type Known = (Catalog, Arc<Zone>);

/// The thread that changes instances as a busy cluster does: one revision, one zone, one swap for each.
struct Churn {
    shared: Arc<Shared>,
    services: usize,
    known: Option<Known>,
    running: Option<(Arc<AtomicBool>, thread::JoinHandle<Known>)>,
}

impl Churn {
    fn start(&mut self) -> Result<()> {
        let (mut catalog, mut zone) = self.known.take().context("changes go on already")?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, shared, services) = (Arc::clone(&stop), Arc::clone(&self.shared), self.services);
        let thread = thread::Builder::new().name("churn".into()).spawn(move || {
            let began = Instant::now();
            for step in 0u32.. {
                if stopped.load(Relaxed) {
                    break;
                }
                // A prime, so that services come in an order of no meaning.
                let service = (step as usize * 7_919) % services;
                let next = world::moved(&catalog, service, step as usize / services);
                zone = Arc::new(zone.update(&catalog, &next));
                shared.set_zone(Arc::clone(&zone));
                catalog = next;
                let due = Duration::from_secs(1) * (step + 1) / CHANGES;
                thread::sleep(due.saturating_sub(began.elapsed()));
            }
            (catalog, zone)
        })?;
        self.running = Some((stop, thread));
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Relaxed);
            self.known = Some(thread.join().ok().context("the thread that changes instances has died")?);
        }
        Ok(())
    }
}
