//! The hosts, the wires between them and etcd, and the clock.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use portolan::{
    model::{Catalog, Desired, HostId, Publication, Session, ShortId},
    registry::{
        call::{CallError, Change, Reply, Request, Revision, WatchEvent},
        catalog::{self, Own},
        memory::Store,
        mirror::{self, Mirror},
        publisher::{self, Identity, Publisher, SessionFile},
        record::{self, Interner, Keys},
    },
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::faults::Fault;

/// Seconds a lease lives here: short, so that a run sees many end.
pub(crate) const LEASE: i64 = 10;
/// How long faults go on.
const CHAOS: Duration = Duration::from_secs(90);
/// How long all may take to agree once the faults are over: a lease, a conflict's next look, and a few pauses.
const SETTLE: Duration = Duration::from_secs(45);
/// The same when only a full compare can find what was done: those are up to 300 s apart, then two of them.
const SETTLE_BY_COMPARE: Duration = Duration::from_secs(350);
/// The end of a run, in which nothing may be written any more.
const QUIET: Duration = Duration::from_secs(15);
/// A caller waits this long for a reply.
const DEADLINE: Duration = Duration::from_secs(2);
/// More steps within one virtual second than this are a loop.
const MAX_STEPS_PER_SECOND: u32 = 5_000;

/// Who asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Caller {
    Publisher,
    Renewal,
    Mirror,
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A request reaches etcd; the reply comes back unless it is to be lost.
    Arrive {
        slot: usize,
        life: u32,
        nonce: Arc<str>,
        cluster: u64,
        caller: Caller,
        call: u64,
        request: Request,
        reply: bool,
    },
    /// A reply, or its absence, reaches the host.
    Reply {
        slot: usize,
        life: u32,
        caller: Caller,
        call: u64,
        outcome: Result<Reply, CallError>,
    },
    Watch {
        slot: usize,
        life: u32,
        watch: u64,
        from: Revision,
    },
    Watched {
        slot: usize,
        life: u32,
        watch: u64,
        event: WatchEvent,
    },
    /// etcd's answer to a request for progress, which comes also on a watch that lost its events.
    Progress {
        slot: usize,
        life: u32,
        watch: u64,
    },
    Saved {
        slot: usize,
        life: u32,
        file: SessionFile,
    },
    Wake {
        slot: usize,
        life: u32,
    },
    Churn {
        slot: usize,
    },
    Listed {
        slot: usize,
        life: u32,
    },
    Fault,
    Start {
        slot: usize,
    },
    Resume {
        slot: usize,
    },
    OutageEnds,
    SpaceReturns,
    CheckExpiry,
}

/// One machine that may run an agent.
pub(crate) struct Slot {
    pub(crate) host: HostId,
    pub(crate) file: SessionFile,
    /// Docker's truth.
    pub(crate) containers: Arc<Desired>,
    pub(crate) agent: Option<Agent>,
    /// Counts the agents that ran here; what was meant for an earlier one is lost.
    pub(crate) life: u32,
    pub(crate) paused_until: Duration,
    /// What came while it stood still.
    pub(crate) held: Vec<Event>,
    pub(crate) gone_for_good: bool,
}

pub(crate) struct Agent {
    pub(crate) publisher: Publisher,
    pub(crate) mirror: Mirror,
    pub(crate) own: Own,
    pub(crate) desired: Arc<Desired>,
    pub(crate) catalog: Catalog,
    pub(crate) watch: Watch,
    /// Events of its watch were dropped at these revisions: perhaps only a full compare finds that.
    pub(crate) tainted: Vec<Revision>,
    calls: BTreeMap<u8, u64>,
}

/// etcd's side of a watch.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) id: u64,
    pub(crate) next: Option<Revision>,
    pub(crate) delivered_at: Duration,
    pub(crate) stalled: bool,
    pub(crate) drop_next: bool,
}

/// What etcd held at each revision: key → value.
pub(crate) type Held = imbl::OrdMap<Vec<u8>, Vec<u8>>;

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) rng: SmallRng,
    pub(crate) store: Store,
    pub(crate) keys: Keys,
    pub(crate) slots: Vec<Slot>,
    pub(crate) outage: bool,
    /// Share of requests or replies that get lost.
    pub(crate) loss: f64,
    pub(crate) chaos: bool,
    pub(crate) needs_compare: bool,
    pub(crate) history: BTreeMap<(u64, Revision), Held>,
    recorded: (u64, Revision),
    pub(crate) last_write: Duration,
    /// The latest call of each agent that wrote, by its nonce.
    pub(crate) latest_calls: BTreeMap<String, u64>,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    serial: u64,
    second: (u64, u32),
    verbose: bool,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let hosts = rng.random_range(1..=4);
        let cluster = rng.random();
        let slot = |number: usize| Slot::new(HostId::parse(&format!("host{number}")).unwrap());
        let loss = [0.0, 0.02, 0.1][rng.random_range(0..3)];
        Self {
            now: Duration::ZERO,
            store: Store::new(cluster),
            keys: Keys::new("/portolan"),
            slots: (0..hosts).map(slot).collect(),
            outage: false,
            loss,
            chaos: true,
            needs_compare: false,
            history: BTreeMap::from([((cluster, 1), Held::new())]),
            recorded: (cluster, 1),
            last_write: Duration::ZERO,
            latest_calls: BTreeMap::new(),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            serial: 0,
            second: (0, 0),
            verbose: std::env::var_os("PORTOLAN_SIM_SEED").is_some(),
            rng,
        }
    }

    pub(crate) fn run(mut self) {
        for slot in 0..self.slots.len() {
            self.later(0.0..3.0, Event::Start { slot });
            self.later(0.0..3.0, Event::Churn { slot });
        }
        self.later(0.0..5.0, Event::Fault);
        self.until(CHAOS);
        self.calm();
        let settle = if self.needs_compare { SETTLE_BY_COMPARE } else { SETTLE };
        self.until(CHAOS + settle);
        let settled = self.now;
        self.verify_agreement();
        self.until(CHAOS + settle + QUIET);
        assert!(
            self.last_write <= settled,
            "I8: something was written at {:?}, long after all had agreed",
            self.last_write
        );
        self.verify_agreement();
    }

    /// No more faults: everything that was broken by hand is whole again.
    fn calm(&mut self) {
        self.say(|| "the faults are over".into());
        self.chaos = false;
        self.loss = 0.0;
        self.end_outage();
        self.store.set_space(portolan::registry::memory::Space::Enough);
        self.retire_clones();
        for slot in 0..self.slots.len() {
            self.slots[slot].paused_until = self.now;
            self.resume(slot);
            // The quiet begins with watches that are not what they seem.
            if self.rng.random_bool(0.3)
                && let Some(agent) = &mut self.slots[slot].agent
            {
                agent.watch.stalled = true;
            }
            if self.slots[slot].agent.is_none() && !self.slots[slot].gone_for_good {
                self.start(slot);
            }
        }
    }

    fn until(&mut self, end: Duration) {
        while let Some(Reverse((at, serial))) = self.queue.peek().copied()
            && at <= end
        {
            self.queue.pop();
            let event = self.events.remove(&serial).unwrap();
            self.now = at;
            self.count_step();
            self.store.expire(self.now);
            self.pump();
            self.step(event);
            self.pump();
        }
        self.now = end;
        self.store.expire(self.now);
        self.pump();
    }

    fn count_step(&mut self) {
        let second = self.now.as_secs();
        self.second = if self.second.0 == second { (second, self.second.1 + 1) } else { (second, 1) };
        assert!(self.second.1 < MAX_STEPS_PER_SECOND, "somebody spins in second {second}");
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{:>10.4} {}", self.now.as_secs_f64(), what());
        }
    }

    pub(crate) fn at(&mut self, at: Duration, event: Event) {
        self.serial += 1;
        self.queue.push(Reverse((at.max(self.now), self.serial)));
        self.events.insert(self.serial, event);
    }

    pub(crate) fn later(&mut self, seconds: std::ops::Range<f64>, event: Event) {
        let pause = Duration::from_secs_f64(self.rng.random_range(seconds));
        self.at(self.now + pause, event);
    }

    /// How long a message travels: mostly a millisecond, at times half a second.
    fn travel(&mut self) -> Duration {
        let is_slow = self.chaos && self.rng.random_bool(0.05);
        let longest = if is_slow { 500.0 } else { 3.0 };
        Duration::from_secs_f64(self.rng.random_range(0.2..longest) / 1000.0)
    }

    fn step(&mut self, event: Event) {
        if let Some(slot) = event.reaches_host()
            && self.slots[slot].paused_until > self.now
        {
            return self.slots[slot].held.push(event);
        }
        match event {
            Event::Arrive { slot, life, nonce, cluster, caller, call, request, reply } => {
                // Connections do not outlive their cluster.
                if self.outage || cluster != self.store.header().cluster {
                    return;
                }
                let outcome = self.arrive(slot, &nonce, call, &request);
                if reply {
                    let travel = self.travel();
                    self.at(self.now + travel, Event::Reply { slot, life, caller, call, outcome });
                }
            }
            Event::Reply { slot, life, caller, call, outcome } => {
                if self.is_alive(slot, life) && self.agent(slot).calls.get(&(caller as u8)) == Some(&call) {
                    self.agent(slot).calls.remove(&(caller as u8));
                    match caller {
                        Caller::Publisher => self.publish(slot, publisher::Input::Replied(outcome)),
                        Caller::Renewal => self.publish(slot, publisher::Input::Renewed(outcome)),
                        Caller::Mirror => self.mirror(slot, mirror::Input::Replied(outcome)),
                    }
                }
            }
            Event::Watch { slot, life, watch, from } => {
                if self.is_alive(slot, life) && self.agent(slot).watch.id == watch {
                    self.open_watch(slot, from);
                }
            }
            Event::Watched { slot, life, watch, event } => {
                if self.is_alive(slot, life) && self.agent(slot).watch.id == watch {
                    self.mirror(slot, mirror::Input::Watched(event));
                }
            }
            Event::Progress { slot, life, watch } => {
                if self.is_alive(slot, life)
                    && self.agent(slot).watch.id == watch
                    && self.agent(slot).watch.next.is_some()
                {
                    if !self.outage {
                        let header = self.store.header();
                        self.tell(slot, WatchEvent::Progress { header });
                    }
                    self.at(self.now + Duration::from_secs(3), Event::Progress { slot, life, watch });
                }
            }
            Event::Saved { slot, life, file } => {
                if self.is_alive(slot, life) {
                    self.slots[slot].file = file;
                    self.publish(slot, publisher::Input::Saved(Ok(())));
                }
            }
            Event::Wake { slot, life } => {
                if self.is_alive(slot, life) && self.wake_at(slot).is_some_and(|at| at <= self.now) {
                    self.publish(slot, publisher::Input::Tick);
                    self.mirror(slot, mirror::Input::Tick);
                }
            }
            Event::Churn { slot } => self.churn(slot),
            Event::Listed { slot, life } => {
                if self.is_alive(slot, life) {
                    self.desire(slot);
                }
            }
            Event::Fault => {
                if self.chaos {
                    let fault = Fault::any(&mut self.rng);
                    self.inflict(fault);
                    self.later(0.2..6.0, Event::Fault);
                }
            }
            Event::Start { slot } => {
                if self.slots[slot].agent.is_none() && !self.slots[slot].gone_for_good {
                    self.start(slot);
                }
            }
            Event::Resume { slot } => self.resume(slot),
            Event::OutageEnds => self.end_outage(),
            Event::SpaceReturns => self.store.set_space(portolan::registry::memory::Space::Enough),
            Event::CheckExpiry => {}
        }
    }

    /// A host that stood still takes in all that has come, in order.
    fn resume(&mut self, slot: usize) {
        if self.slots[slot].paused_until <= self.now {
            for event in std::mem::take(&mut self.slots[slot].held) {
                self.step(event);
                self.pump();
            }
        }
    }

    fn is_alive(&self, slot: usize, life: u32) -> bool {
        self.slots[slot].agent.is_some() && self.slots[slot].life == life
    }

    pub(crate) fn agent(&mut self, slot: usize) -> &mut Agent {
        self.slots[slot].agent.as_mut().expect("an agent runs here")
    }

    pub(crate) fn start(&mut self, slot: usize) {
        let nonce = format!("{:016x}", self.rng.random::<u64>());
        let session = Session { nonce: nonce.into(), ..Session::default() };
        let Slot { host, file, life, agent, .. } = &mut self.slots[slot];
        *life += 1;
        let identity =
            Identity { host: host.clone(), keys: self.keys.clone(), session: session.clone(), lease_ttl: LEASE };
        *agent = Some(Agent {
            publisher: Publisher::new(identity, file.clone()),
            mirror: Mirror::new(self.keys.clone(), host.clone()),
            own: Own { host: host.clone(), session },
            desired: Arc::default(),
            catalog: Catalog::default(),
            watch: Watch::default(),
            tainted: Vec::new(),
            calls: BTreeMap::new(),
        });
        let life = *life;
        self.say(|| format!("slot {slot} starts its agent {life}"));
        self.publish(slot, publisher::Input::Tick);
        self.mirror(slot, mirror::Input::Tick);
        self.later(0.0..4.0, Event::Listed { slot, life });
    }

    pub(crate) fn stop(&mut self, slot: usize) {
        self.say(|| format!("slot {slot} loses its agent"));
        self.slots[slot].agent = None;
    }

    fn churn(&mut self, slot: usize) {
        let mut desired = Desired::clone(&self.slots[slot].containers);
        desired.listed = true;
        for _ in 0..self.rng.random_range(1..3) {
            let container = ShortId::parse(&format!("{slot:x}{:011x}", self.rng.random_range(0..6))).unwrap();
            if self.rng.random_bool(0.4) {
                desired.publications.remove(&container);
            } else {
                let port = self.rng.random_range(1..5000);
                desired.publications.insert(container, Arc::new(publication(container, port)));
            }
        }
        self.slots[slot].containers = Arc::new(desired);
        if self.slots[slot].agent.as_ref().is_some_and(|agent| agent.desired.listed) {
            self.desire(slot);
        }
        if self.chaos {
            self.later(0.05..8.0, Event::Churn { slot });
        }
    }

    fn desire(&mut self, slot: usize) {
        let mut desired = Desired::clone(&self.slots[slot].containers);
        desired.listed = true;
        let desired = Arc::new(desired);
        self.agent(slot).desired = Arc::clone(&desired);
        self.publish(slot, publisher::Input::Desired(desired));
        self.refresh(slot);
    }

    fn publish(&mut self, slot: usize, input: publisher::Input) {
        let now = self.now;
        let agent = self.slots[slot].agent.as_mut().expect("an agent runs here");
        let effects = agent.publisher.handle(now, input, &mut self.rng);
        let life = self.slots[slot].life;
        for effect in effects {
            match effect {
                publisher::Effect::Save(file) => self.later(0.0..0.05, Event::Saved { slot, life, file }),
                publisher::Effect::Call(request) => self.call(slot, Caller::Publisher, request),
                publisher::Effect::Renew(lease) => self.call(slot, Caller::Renewal, Request::KeepAlive { lease }),
                publisher::Effect::Wrote(revision) => self.mirror(slot, mirror::Input::Wrote(revision)),
                publisher::Effect::Echoed(revision) => self.mirror(slot, mirror::Input::Echoed(revision)),
                publisher::Effect::Left => {}
            }
        }
        self.sleep(slot);
    }

    fn mirror(&mut self, slot: usize, input: mirror::Input) {
        let now = self.now;
        let agent = self.slots[slot].agent.as_mut().expect("an agent runs here");
        let effects = agent.mirror.handle(now, input, &mut self.rng);
        let life = self.slots[slot].life;
        self.refresh(slot);
        for effect in effects {
            match effect {
                mirror::Effect::Call(request) => self.call(slot, Caller::Mirror, request),
                mirror::Effect::Watch(from) => {
                    let id = self.agent(slot).watch.id + 1;
                    self.agent(slot).watch = Watch { id, ..Watch::default() };
                    let travel = self.travel();
                    self.at(now + travel, Event::Watch { slot, life, watch: id, from });
                }
                mirror::Effect::Unwatch => {
                    let id = self.agent(slot).watch.id + 1;
                    self.agent(slot).watch = Watch { id, ..Watch::default() };
                }
                mirror::Effect::Touched(revision) => self.publish(slot, publisher::Input::Touched(revision)),
            }
        }
        self.sleep(slot);
    }

    fn refresh(&mut self, slot: usize) {
        let agent = self.agent(slot);
        let before = std::mem::take(&mut agent.catalog);
        agent.catalog = catalog::merge(&before, &agent.own, &agent.desired, agent.mirror.view());
        self.verify_catalog(slot, &before);
    }

    fn wake_at(&self, slot: usize) -> Option<Duration> {
        let agent = self.slots[slot].agent.as_ref()?;
        [agent.publisher.wake_at(), agent.mirror.wake_at()].into_iter().flatten().min()
    }

    fn sleep(&mut self, slot: usize) {
        if let Some(at) = self.wake_at(slot).filter(|at| *at < Duration::MAX) {
            let life = self.slots[slot].life;
            self.at(at.max(self.now + Duration::from_millis(1)), Event::Wake { slot, life });
        }
    }

    fn call(&mut self, slot: usize, caller: Caller, request: Request) {
        self.serial += 1;
        let (call, life, now) = (self.serial, self.slots[slot].life, self.now);
        let before = self.agent(slot).calls.insert(caller as u8, call);
        assert_eq!(before, None, "slot {slot}: {caller:?} has two calls in flight");
        self.verify_request(slot, &request);
        if self.outage && self.rng.random_bool(0.5) {
            let outcome = Err(CallError::Unreachable("outage".into()));
            let travel = self.travel();
            return self.at(now + travel, Event::Reply { slot, life, caller, call, outcome });
        }
        let outcome = Err(CallError::Unknown("no reply in time".into()));
        self.at(now + DEADLINE, Event::Reply { slot, life, caller, call, outcome });
        let (is_lost, is_late) = (self.rng.random_bool(self.loss), self.rng.random_bool(self.loss / 2.0));
        if is_lost && self.rng.random_bool(0.5) {
            return;
        }
        let travel = if is_late { Duration::from_secs_f64(self.rng.random_range(1.0..8.0)) } else { self.travel() };
        let cluster = self.store.header().cluster;
        let nonce = Arc::clone(&self.agent(slot).own.session.nonce);
        self.at(now + travel, Event::Arrive { slot, life, nonce, cluster, caller, call, request, reply: !is_lost });
    }

    fn arrive(&mut self, slot: usize, nonce: &str, call: u64, request: &Request) -> Result<Reply, CallError> {
        let before = self.store.revision();
        let outcome = self.store.call(self.now, request);
        self.say(|| match request {
            Request::KeepAlive { .. } | Request::Range { .. } => format!("slot {slot} ({nonce}) {}", brief(request)),
            _ => format!("slot {slot} ({nonce}) {} -> {outcome:?}", brief(request)),
        });
        self.verify_written(slot, nonce, call, before, request, &outcome);
        if let Some(at) = self.store.next_expiry() {
            self.at(at, Event::CheckExpiry);
        }
        outcome
    }

    fn open_watch(&mut self, slot: usize, from: Revision) {
        let header = self.store.header();
        if self.outage {
            return self.tell(slot, WatchEvent::Broken("outage".into()));
        }
        if from < self.store.compacted() {
            return self.tell(slot, WatchEvent::Compacted { revision: self.store.compacted() });
        }
        self.tell(slot, WatchEvent::Created { header });
        self.agent(slot).watch.next = Some(from);
        let (life, watch) = (self.slots[slot].life, self.agent(slot).watch.id);
        self.at(self.now + Duration::from_secs(3), Event::Progress { slot, life, watch });
    }

    /// Sends an event to a host, behind all those before it.
    pub(crate) fn tell(&mut self, slot: usize, event: WatchEvent) {
        let travel = self.travel();
        let (now, life) = (self.now, self.slots[slot].life);
        let watch = &mut self.agent(slot).watch;
        watch.delivered_at = watch.delivered_at.max(now + travel);
        if matches!(event, WatchEvent::Broken(_) | WatchEvent::Compacted { .. }) {
            watch.next = None;
        }
        let (at, watch) = (watch.delivered_at, watch.id);
        self.at(at, Event::Watched { slot, life, watch, event });
    }

    /// Records what etcd did and tells the watches.
    pub(crate) fn pump(&mut self) {
        self.record();
        let header = self.store.header();
        if self.outage {
            return;
        }
        for slot in 0..self.slots.len() {
            let Some(agent) = &mut self.slots[slot].agent else { continue };
            let Some(next) = agent.watch.next.filter(|next| *next <= header.revision) else { continue };
            let ranges = agent.mirror.ranges();
            let Ok(mut changes) = self.store.changes_since(next, &ranges) else {
                self.tell(slot, WatchEvent::Compacted { revision: self.store.compacted() });
                continue;
            };
            agent.watch.next = Some(header.revision + 1);
            if agent.watch.stalled || changes.is_empty() {
                continue;
            }
            if agent.watch.drop_next {
                agent.watch.drop_next = false;
                let dropped = self.rng.random_range(0..changes.len());
                let dropped = changes.remove(dropped);
                agent.tainted.push(dropped.mod_revision());
                self.say(|| format!("slot {slot}'s watch loses {}", dropped.key().escape_ascii()));
                if changes.is_empty() {
                    continue;
                }
            }
            self.tell(slot, WatchEvent::Changes { header, changes });
        }
    }

    fn record(&mut self) {
        let header = self.store.header();
        if self.recorded.0 != header.cluster {
            self.recorded = (header.cluster, 1);
            self.history.insert(self.recorded, Held::new());
        }
        if self.recorded.1 == header.revision {
            return;
        }
        let all = vec![self.keys.hosts_range()];
        let mut held = self.history[&self.recorded].clone();
        let changes = self.store.changes_since(self.recorded.1 + 1, &all).expect("recorded before it is compacted");
        let mut changes = changes.into_iter().peekable();
        for revision in self.recorded.1 + 1..=header.revision {
            while let Some(change) = changes.next_if(|change| change.mod_revision() == revision) {
                match change {
                    Change::Put(kv) => held.insert(kv.key, kv.value),
                    Change::Delete { key, .. } => held.remove(&key),
                };
            }
            self.history.insert((header.cluster, revision), held.clone());
        }
        self.recorded.1 = header.revision;
    }
}

impl Slot {
    pub(crate) fn new(host: HostId) -> Self {
        Self {
            host,
            file: SessionFile::default(),
            containers: Arc::default(),
            agent: None,
            life: 0,
            paused_until: Duration::ZERO,
            held: Vec::new(),
            gone_for_good: false,
        }
    }
}

impl Event {
    /// The host whose agent must run to take it in.
    fn reaches_host(&self) -> Option<usize> {
        match self {
            Self::Reply { slot, .. }
            | Self::Watched { slot, .. }
            | Self::Saved { slot, .. }
            | Self::Wake { slot, .. } => Some(*slot),
            Self::Churn { slot } | Self::Listed { slot, .. } => Some(*slot),
            _ => None,
        }
    }
}

fn brief(request: &Request) -> String {
    match request {
        Request::Txn { compare, then, .. } => format!("txn if {compare:?} then {} ops", then.len()),
        Request::Range { revision, .. } => format!("range at {revision:?}"),
        other => format!("{other:?}"),
    }
}

pub(crate) fn publication(container: ShortId, port: u16) -> Publication {
    let value = format!(
        r#"{{"name":"c","phase":"serving","services":[{{"service":"web","namespace":"shop","ports":[{{"port":{port}}}]}}]}}"#
    );
    record::decode(container, value.as_bytes(), &mut Interner::default()).unwrap()
}
