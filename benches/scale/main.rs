//! `make bench-scale`: an agent that starts into a large cluster, and what one change costs there.
//!
//! 100,000 instances of 10,000 services from 1,000 hosts are put into a real etcd. Then an agent is started, five times,
//! each beside a bare client that reads the same records: time from its start to its first answer, memory, and the time from
//! a put to the changed answer. The same change (one watch event through mirror, catalog and zone) is then timed in this
//! process at three sizes of catalog, with its allocations counted: it must not grow with the catalog. Once each change is
//! of another instance, far from what is in the processor's caches, and once always of the same one.
//!
//! `BENCH_BEFORE=PATH`, an older binary of this benchmark, is run in turns with the present one, `BENCH_ROUNDS` times each,
//! and figure is set beside figure (`compare.rs`).

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use portolan::{
    dns::zone::Zone,
    model::{Catalog, Desired, Host, HostId, Origin, Session, ShortId},
    registry::{
        call::{LeaseId, Op, Reply, Request, WatchEvent, next_page},
        catalog::{Own, merge},
        etcd::{Etcd, Options},
        memory::Store,
        mirror::{Effect, Input, Mirror},
        record::{Interner, Keys, decode},
    },
};
use rand::{SeedableRng, rngs::StdRng};

#[path = "../../tests/support/agent.rs"]
mod agent;
mod compare;
#[path = "../../tests/support/counting.rs"]
mod counting;
#[path = "../../tests/support/etcd.rs"]
mod etcd_fixture;
#[path = "../../tests/support/figures.rs"]
mod figures;
#[path = "../../tests/support/versions.rs"]
mod versions;

use agent::{Agent, Asker, DEADLINE, Want};
use counting::Counting;
use figures::{Figures, percentile};

const HOSTS: usize = 1_000;
const SERVICES: usize = 10_000;
const INSTANCES: usize = 100_000;
/// Starts of an agent, each beside a bare read of the same records.
const STARTS: usize = 5;
/// Pause between questions to an agent that starts: they take its processor, and a start is told in tenths of a second.
const STARTING_PAUSE: Duration = Duration::from_millis(2);
/// Records per page of the bare read; half as many took it 0.1 s more, twice as many at best 0.1 s less.
const PAGE: i64 = 10_000;
/// MiB that names and ids of all instances may take as names.
const MAX_INDEX: f64 = 12.0;
/// Changes sent through etcd to the running agent.
const CHANGES: usize = 500;
/// Changes timed in this process at each size.
const TIMED: usize = 2_000;

// What a change costs is told in allocations, too.
#[global_allocator]
static COUNTING: Counting = Counting;

fn main() -> Result<()> {
    match versions::older()? {
        Some(older) => compare::run(&older),
        None => measure(),
    }
}

fn measure() -> Result<()> {
    let etcd = etcd_fixture::Cluster::single();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = {
        let _inside = runtime.enter();
        Etcd::new(Options {
            endpoints: etcd.endpoints(),
            own_prefixes: vec![b"/portolan/".to_vec()],
            ..Options::default()
        })?
    };
    let filled = Instant::now();
    let lease = runtime.block_on(fill(&client))?;
    eprintln!("{INSTANCES} instances put into etcd in {:.1} s", filled.elapsed().as_secs_f64());

    let mut figures = Figures::new("scale");
    figures.say(&format!("{INSTANCES} instances of {SERVICES} services from {HOSTS} hosts"));
    let state = tempfile::tempdir()?;
    let (mut read, mut answered, mut resident, mut peak) = (Vec::new(), Vec::new(), Vec::new(), 0.0_f64);
    let mut running = None;
    for round in 0..STARTS {
        drop(running.take());
        let started = Instant::now();
        let keys = runtime.block_on(read_all(&client))?;
        ensure!(keys >= INSTANCES + HOSTS, "{keys} keys were read");
        read.push(started.elapsed().as_secs_f64());
        let started = agent::wall();
        let (host, docker) = (format!("bench-scale-{round}"), Some("unix:///nonexistent/docker.sock"));
        let agent = Agent::start(&host, 5393, &etcd.endpoints(), docker, state.path())?;
        let asker = Asker::pausing(&[agent.address], STARTING_PAUSE)?;
        let told = asker.await_change("svc-42.global.svc.internal", Want::Present);
        answered.push((told.recv_timeout(DEADLINE).context("no answer")?[0] - started).as_secs_f64());
        resident.push(agent.memory_kib("VmRSS")? / 1024.0);
        peak = peak.max(agent.memory_kib("VmHWM")? / 1024.0);
        running = Some(agent);
    }
    let agent = running.context("no start")?;
    let asker = Asker::of(&[agent.address])?;
    let ratio = percentile(&mut answered.clone(), 50.0) / percentile(&mut read, 50.0);
    figures.row(
        &format!("start to first answer, {STARTS} starts"),
        &[("median", percentile(&mut answered, 50.0), "s"), ("worst", percentile(&mut answered, 100.0), "s")],
    );
    figures.row(
        "all records read from etcd by a bare client",
        &[("median", percentile(&mut read, 50.0), "s"), ("start / read", ratio, "")],
    );
    let resident = percentile(&mut resident, 50.0);
    figures.row("memory when first answered", &[("median", resident, "MiB"), ("highest peak", peak, "MiB")]);

    let mut changed = Vec::new();
    for round in 0..CHANGES {
        let (phase, want) = if round.is_multiple_of(2) { ("serving", Want::Present) } else { ("paused", Want::Absent) };
        let told = asker.await_change("probe.global.svc.internal", want);
        let put = Op::Put { key: instance_key(0, 0xfff_ffff), value: record("probe", 0, phase), lease };
        let sent = agent::wall();
        runtime.block_on(client.call(Request::Txn { compare: vec![], then: vec![put], otherwise: vec![] }))?;
        let answered = told.recv_timeout(DEADLINE).context("the change was never answered")?[0];
        changed.push((answered - sent).as_secs_f64() * 1e3);
    }
    let [p50, p99] = [50.0, 99.0].map(|share| percentile(&mut changed, share));
    figures.row("put to changed answer", &[("p50", p50, "ms"), ("p99", p99, "ms")]);
    let rss = agent.memory_kib("VmRSS")? / 1024.0;
    figures.row(&format!("memory after {CHANGES} changes"), &[("now", rss, "MiB")]);
    drop(agent);

    for instances in [1_000, 10_000, INSTANCES] {
        change_in_process(instances, &mut figures)?;
    }
    let index = weigh("bench")? - weigh("global")?;
    figures.row("index of names and ids", &[("of all", index, "MiB"), ("at most", MAX_INDEX, "MiB")]);
    ensure!(index <= MAX_INDEX, "the index of {INSTANCES} instances takes {index:.1} MiB");
    figures.write()
}

/// MiB that the zone of all instances takes beside its catalog, if their containers' own namespace is this. In `global`
/// containers have no names of their own.
fn weigh(namespace: &str) -> Result<f64> {
    let mut interner = Interner::default();
    let mut hosts: BTreeMap<usize, Host> = BTreeMap::new();
    for container in 0..INSTANCES {
        let value = record(&format!("svc-{}", (container * 7) % SERVICES), container, "serving");
        let mut value: serde_json::Value = serde_json::from_slice(&value)?;
        value["namespace"] = namespace.into();
        let id = ShortId::parse(&format!("{container:012x}")).context("twelve digits")?;
        let publication = decode(id, value.to_string().as_bytes(), &mut interner)?;
        hosts.entry(container % HOSTS).or_default().publications.insert(id, Arc::new(publication));
    }
    let origin = |host| anyhow::Ok(Origin::Registry(HostId::parse(&format!("host-{host:04}"))?));
    let hosts = hosts.into_iter().map(|(host, known)| Ok((origin(host)?, Arc::new(known)))).collect::<Result<_>>()?;
    let catalog = Catalog { hosts, ..Catalog::default() };
    let before = counting::octets();
    let zone = Zone::of(&catalog);
    let octets = counting::octets() - before;
    ensure!(zone.services().count() == SERVICES, "a service is missing");
    Ok(octets as f64 / f64::from(1 << 20))
}

/// One watch event through mirror, catalog and zone, in a catalog of this size.
fn change_in_process(instances: usize, figures: &mut Figures) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(1);
    let mut store = Store::new(1);
    let Reply::Granted { lease, .. } = store.call(Duration::ZERO, &Request::Grant { ttl: 3600 })? else {
        bail!("no lease")
    };
    let hosts = instances / (INSTANCES / HOSTS);
    for container in 0..instances {
        let service = format!("svc-{}", (container * 7) % SERVICES);
        let put = Op::Put {
            key: instance_key(container % hosts, container),
            value: record(&service, container, "serving"),
            lease,
        };
        store.call(Duration::ZERO, &Request::Txn { compare: vec![], then: vec![put], otherwise: vec![] })?;
    }
    let host = HostId::parse("bench")?;
    let mut mirror = Mirror::new(Keys::new("/portolan"), host.clone());
    let (listing, _) = settle(&mut mirror, &mut store, Duration::ZERO, Input::Tick, &mut rng);
    let hosts_listed = mirror.view().hosts.len();
    ensure!(hosts_listed == hosts, "{hosts_listed} hosts were listed");
    // Late enough for a full compare, and heard just now.
    let (now, header) = (Duration::from_secs(301), store.header());
    let heard = Input::Watched(WatchEvent::Progress { header });
    let (comparing, pages) = settle(&mut mirror, &mut store, now, heard, &mut rng);
    ensure!(pages > 0, "nothing was compared");
    let compacted = Input::Watched(WatchEvent::Compacted { revision: header.revision });
    let (relisting, pages) = settle(&mut mirror, &mut store, now, compacted, &mut rng);
    ensure!(pages > 0, "nothing was listed anew");
    figures.row(
        &format!("longest step among {instances}"),
        &[
            ("of a first list", listing.as_secs_f64() * 1e3, "ms"),
            ("of a later one", relisting.as_secs_f64() * 1e3, "ms"),
            ("of a compare", comparing.as_secs_f64() * 1e3, "ms"),
        ],
    );
    let own = Own { host, session: Session::default() };
    let desired = Desired { listed: true, ..Desired::default() };
    let mut catalog =
        merge(&Catalog::default(), &own, &desired, &Desired { listed: true, ..Desired::default() }, mirror.view());
    let mut zone = Zone::default().update(&Catalog::default(), &catalog);

    for (which, step) in [("", 37), (", always the same", 0)] {
        let (mut took, mut allocations) = (Vec::with_capacity(TIMED), Vec::with_capacity(TIMED));
        for round in 0..TIMED {
            let container = round * step % instances;
            let is_paused = if step == 0 { round.is_multiple_of(2) } else { (round / instances).is_multiple_of(2) };
            let phase = if is_paused { "paused" } else { "serving" };
            let put = Op::Put {
                key: instance_key(container % hosts, container),
                value: record(&format!("svc-{}", (container * 7) % SERVICES), container, phase),
                lease,
            };
            store.call(Duration::ZERO, &Request::Txn { compare: vec![], then: vec![put], otherwise: vec![] })?;
            let changes = store.changes_since(store.revision(), &mirror.ranges())?;
            let event = WatchEvent::Changes { header: store.header(), changes };
            let (before, started) = (counting::allocations(), Instant::now());
            mirror.handle(now, Input::Watched(event), &mut rng);
            let merged =
                merge(&catalog, &own, &desired, &Desired { listed: true, ..Desired::default() }, mirror.view());
            zone = zone.update(&catalog, &merged);
            took.push(started.elapsed().as_secs_f64() * 1e6);
            allocations.push((counting::allocations() - before) as f64);
            ensure!(merged.revision == store.revision(), "the change was not taken");
            catalog = merged;
        }
        let [p50, p99] = [50.0, 99.0].map(|share| percentile(&mut took, share));
        let row = format!("one change among {instances}{which}");
        figures.row(
            &row,
            &[("p50", p50, "us"), ("p99", p99, "us"), ("allocations", percentile(&mut allocations, 50.0), "")],
        );
    }
    Ok(())
}

/// Lets a mirror do what it wants to, against a store that answers at once: how long its longest step takes, and how many
/// pages it asks for. That long everything else waits that the same task does, such as what this host publishes.
fn settle(mirror: &mut Mirror, store: &mut Store, now: Duration, input: Input, rng: &mut StdRng) -> (Duration, usize) {
    let (mut longest, mut pages, mut inputs) = (Duration::ZERO, 0, vec![input]);
    while let Some(input) = inputs.pop() {
        let started = Instant::now();
        let effects = mirror.handle(now, input, rng);
        longest = longest.max(started.elapsed());
        inputs.extend(effects.into_iter().filter_map(|effect| match effect {
            Effect::Call(request) => {
                pages += 1;
                Some(Input::Replied(store.call(now, &request)))
            }
            Effect::Watch(_) => Some(Input::Watched(WatchEvent::Created { header: store.header() })),
            Effect::Unwatch | Effect::Touched(_) => None,
        }));
        if inputs.is_empty() && mirror.is_reading() {
            inputs.push(Input::Tick);
        }
    }
    (longest, pages)
}

fn instance_key(host: usize, container: usize) -> Vec<u8> {
    format!("/portolan/v1/hosts/host-{host:04}/instances/{container:012x}").into_bytes()
}

/// A record as README.md documents it, written by hand so that the contract itself is what is measured.
fn record(service: &str, container: usize, phase: &str) -> Vec<u8> {
    let address = Ipv4Addr::from(0xac12_0000 + u32::try_from(container % 60_000).unwrap_or(0) + 2);
    serde_json::json!({
        "name": format!("{service}-{container}"), "image": "registry.example/shop/backend:1.42", "phase": phase, "health": "none", "namespace": "bench",
        "services": [{"service": service, "namespace": "global", "tags": [], "weight": 1, "ports": [
            {"port": 80, "proto": "tcp", "published": [{"ip": "0.0.0.0", "port": 8080, "chosen": true}]}]}],
        "networks": [{"id": format!("{:064x}", container % HOSTS), "name": "bridge", "driver": "bridge", "scope": "local", "internal": false, "ips": [address]}]
    })
    .to_string()
    .into_bytes()
}

/// Reads everything under the prefix, page by page at one revision, and throws it away: what a start cannot do without.
async fn read_all(client: &Etcd) -> Result<usize> {
    let (mut start, end) = (b"/portolan/v1/".to_vec(), b"/portolan/v10".to_vec());
    let (mut revision, mut keys) = (None, 0);
    loop {
        let request = Request::Range { start, end: end.clone(), limit: PAGE, revision };
        let Reply::Range { header, kvs, more } = client.call(request).await? else { bail!("no range") };
        revision = Some(header.revision);
        keys += kvs.len();
        let Some(next) = next_page(&kvs, more) else { return Ok(keys) };
        start = next;
    }
}

/// Puts every host's session and instances under one lease each; returns the first host's.
async fn fill(client: &Etcd) -> Result<LeaseId> {
    let mut first = None;
    for host in 0..HOSTS {
        let Reply::Granted { lease, .. } = client.call(Request::Grant { ttl: 3600 }).await? else { bail!("no lease") };
        first.get_or_insert(lease);
        let advertise = Ipv4Addr::from(0x0a00_0001 + u32::try_from(host)?);
        let session = serde_json::json!({"nonce": format!("{host:032x}"), "advertise": [advertise], "locality": "", "version": "0.1.0"});
        let key = format!("/portolan/v1/hosts/host-{host:04}/session").into_bytes();
        let mut then = vec![Op::Put { key, value: session.to_string().into_bytes(), lease }];
        for slot in 0..INSTANCES / HOSTS {
            let container = host * (INSTANCES / HOSTS) + slot;
            let service = format!("svc-{}", (container * 7) % SERVICES);
            then.push(Op::Put {
                key: instance_key(host, container),
                value: record(&service, container, "serving"),
                lease,
            });
        }
        client.call(Request::Txn { compare: vec![], then, otherwise: vec![] }).await?;
    }
    first.context("no host")
}
