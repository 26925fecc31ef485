//! `make bench-zone`: what one change costs, and what instances weigh, at 1,000 and at 1,000,000 instances.
//!
//! Records are decoded as those from etcd are, put into a catalog and a zone, and answered by the real server. Timed is one
//! change: the catalog that holds it, the zone made of that, and the swap. Weighed is the process, before, with catalog and
//! zone, and once every service was asked for its A and its SRV records, because answers may be kept from the first time on.
//! Replicas are alike but for name and address, as with `-p 8080:80`, so that they share what the mirror's interner finds
//! alike. Not weighed is the mirror's ledger: the revisions of each key, an entry of 36 octets.

use std::{
    collections::VecDeque,
    fs,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use portolan::{
    dns::{
        access::AccessList,
        answer::Settings,
        forward::{Forwarder, Options, Upstreams},
        name::Apex,
        server::{BindState, Limits, Relay, Shared, serve},
        zone::Zone,
    },
    model::{Catalog, Host, HostId, Local, Origin, Publication, Session, ShortId},
    registry::record::{Interner, decode},
};
use tokio::sync::watch;

#[path = "../tests/support/figures.rs"]
mod figures;

use figures::{Figures, percentile};

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Instances of one service.
const REPLICAS: usize = 10;
/// Instances of one host.
const PER_HOST: usize = 1_000;
/// Changes that are timed: the 99th percentile is the 50th worst.
const CHANGES: usize = 5_000;
/// Changes before those.
const WARM_UP: usize = 500;
/// Where the server answers.
const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5391);
/// Questions under way: half of what the smallest receive buffer holds.
const WINDOW: usize = 64;

fn main() -> Result<()> {
    // This, too.
    let _small_pages = nix::sys::prctl::set_thp_disable(true);
    let mut figures = Figures::new("zone");
    figures.say(&format!("services of {REPLICAS} instances, {PER_HOST} instances per host"));
    for instances in [1_000, 1_000_000] {
        measure(instances, &mut figures)?;
    }
    figures.write()
}

fn measure(instances: usize, figures: &mut Figures) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let shared = Arc::new(Shared::new(Settings::default(), Limits::default()));
    let listening = runtime.block_on(listen(&shared))?;

    let empty = memory()?;
    // Kept, as the mirror keeps it.
    let mut interner = Interner::default();
    let mut catalog = fill(instances, &mut interner)?;
    let mut zone = Arc::new(Zone::of(&catalog));
    shared.set_zone(Arc::clone(&zone));
    let known = memory()?;
    let services = instances / REPLICAS;
    ask_all(services, 1)?;
    ask_all(services, 33)?;
    let asked = memory()?;

    let mut took = Vec::with_capacity(CHANGES);
    for step in 0..WARM_UP + CHANGES {
        // A prime, so that neighbours do not follow each other.
        let instance = step * 7_919 % instances;
        let changed = Arc::new(publication(instance, instances, step + 1, &mut interner)?);
        let origin = origin(instance)?;
        let began = Instant::now();
        let mut next = catalog.clone();
        next.revision += 1;
        let host = next.hosts.get_mut(&origin).context("a host")?;
        Arc::make_mut(host).publications.insert(changed.container, changed);
        zone = Arc::new(zone.update(&catalog, &next));
        shared.set_zone(Arc::clone(&zone));
        catalog = next;
        if step >= WARM_UP {
            took.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    let [p50, p99] = [50.0, 99.0].map(|share| percentile(&mut took, share));
    figures.row(&format!("one change among {instances}"), &[("p50", p50, "us"), ("p99", p99, "us")]);
    // A few pages more or less say nothing.
    if instances >= 100_000 {
        let per = 100_000.0 / instances as f64;
        let rows =
            [("catalog and zone", (known - empty) * per, "MiB"), ("and all answers", (asked - empty) * per, "MiB")];
        figures.row("memory per 100,000 instances", &rows);
    }
    listening.abort();
    // Its sockets are closed with it.
    let _aborted = runtime.block_on(listening);
    Ok(())
}

fn fill(instances: usize, interner: &mut Interner) -> Result<Catalog> {
    let mut hosts: Vec<Host> = Vec::new();
    for instance in 0..instances {
        let host = instance / PER_HOST;
        if hosts.len() <= host {
            let advertise = Ipv4Addr::from(0x0a00_0001 + u32::try_from(host)?);
            let session = Session { advertise: vec![advertise.into()], ..Session::default() };
            hosts.push(Host { session, ..Host::default() });
        }
        let publication = Arc::new(publication(instance, instances, 0, interner)?);
        hosts[host].publications.insert(publication.container, publication);
    }
    let all = hosts.into_iter().enumerate().map(|(host, known)| Ok((origin(host * PER_HOST)?, Arc::new(known))));
    Ok(Catalog { hosts: all.collect::<Result<_>>()?, docker_listed: true, registry_listed: true, ..Catalog::default() })
}

fn origin(instance: usize) -> Result<Origin> {
    Ok(Origin::Registry(HostId::parse(&format!("host-{:04}", instance / PER_HOST))?))
}

/// A record as README.md documents it, decoded. Replicas of a service are on hosts far from each other.
fn publication(instance: usize, instances: usize, step: usize, interner: &mut Interner) -> Result<Publication> {
    let address = Ipv4Addr::from(0xac12_0000 + u32::try_from((instance + step) % 60_000)? + 2);
    let service = service(instance, instances);
    let record = serde_json::json!({
        "name": format!("{service}-{instance}"), "image": "registry.example/shop/backend:1.42", "phase": "serving", "health": "none",
        "services": [{"service": service, "namespace": "bench", "tags": ["v1"], "weight": 1, "ports": [
            {"port": 80, "proto": "tcp", "published": [{"ip": "0.0.0.0", "port": 8080, "chosen": true}]}]}],
        "networks": [{"id": format!("{:064x}", instance / PER_HOST), "name": "bridge", "driver": "bridge", "scope": "local",
            "internal": false, "ips": [address]}]
    });
    let container = ShortId::parse(&format!("{instance:012x}")).context("twelve digits")?;
    Ok(decode(container, record.to_string().as_bytes(), interner)?)
}

fn service(instance: usize, instances: usize) -> String {
    format!("svc-{:06}", instance % (instances / REPLICAS))
}

async fn listen(shared: &Arc<Shared>) -> Result<tokio::task::JoinHandle<()>> {
    let local = Arc::new(Local { listed: true, ..Local::default() });
    shared.set_access(Arc::new(AccessList::new(&local, &Catalog::default(), &[])));
    shared.set_local(Arc::clone(&local));
    let (wanted, watched) = watch::channel(Arc::new([ADDRESS].into()));
    let (known, local) = watch::channel(local);
    let (states, mut bound) = watch::channel(Arc::default());
    let options = Options { chosen: Upstreams::None.into(), ..Options::default() };
    let forwarder = Arc::new(Forwarder::new(options, &Apex::default(), watched.clone(), local));
    let serving = serve(Arc::clone(shared), watched, forwarder, states, Relay::alone());
    let task = tokio::spawn(async move {
        let _kept = (wanted, known);
        if let Err(error) = serving.await {
            eprintln!("the server has ended: {error}");
        }
    });
    let listening = bound.wait_for(|states| matches!(states.get(&ADDRESS), Some(BindState::Bound { .. })));
    tokio::time::timeout(Duration::from_secs(10), listening).await.context("cannot listen")??;
    Ok(task)
}

/// Asks for every service once. Every answer has records.
fn ask_all(services: usize, kind: u8) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(ADDRESS)?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (mut buffer, mut open) = ([0; 2048], VecDeque::new());
    for number in 0..services + WINDOW {
        if number < services {
            let id = u16::try_from(number & 0xffff)?;
            let mut packet = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
            for label in [&*format!("svc-{number:06}"), "bench", "svc", "internal"] {
                packet.push(u8::try_from(label.len())?);
                packet.extend_from_slice(label.as_bytes());
            }
            packet.extend_from_slice(&[0, 0, kind, 0, 1]);
            socket.send(&packet)?;
            open.push_back(id);
        }
        if number >= WINDOW
            && let Some(expected) = open.pop_front()
        {
            // With several workers answers come in any order; what is counted is that all come.
            let length = socket.recv(&mut buffer).context("an answer was lost")?;
            ensure!(length > 12 && buffer[3] & 0x0f == 0 && buffer[7] > 0, "no records for question {expected}");
        }
    }
    ensure!(open.is_empty(), "{} questions were not waited for", open.len());
    Ok(())
}

/// Resident memory of this process in MiB.
fn memory() -> Result<f64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
