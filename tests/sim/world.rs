//! The clock and the queue of what happens, from the first start to the quiet at the end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use portolan::{
    model::{HostId, ShortId},
    registry::{
        call::{CallError, Reply, Request, Revision, WatchEvent},
        memory::{Space, Store},
        mirror::{self, PageSizes},
        publisher,
        publisher::SessionFile,
        record::Keys,
    },
    watch::container::{Command, Drains},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use crate::{
    drains::{Promise, Wait},
    faults::{Fault, Weather},
    hosts::Slot,
    wires::Caller,
};

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
/// More steps within one virtual second than this are a loop.
const MAX_STEPS_PER_SECOND: u32 = 5_000;

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A request reaches etcd; the reply comes back unless it is to be lost.
    Arrive {
        slot: usize,
        life: u32,
        nonce: Arc<str>,
        epoch: u64,
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
    /// The operator has something to say.
    Order {
        slot: usize,
    },
    TakeBack {
        slot: usize,
    },
    /// What is drained is on disk.
    Kept {
        slot: usize,
        life: u32,
        drains: Drains,
        command: Command,
        runs: Vec<(ShortId, String)>,
    },
    Look {
        wait: usize,
    },
    /// The host answers from its latest view, and the publisher is told who waits for that.
    Answers {
        slot: usize,
        life: u32,
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

/// What etcd held at each revision: key → value.
pub(crate) type Held = imbl::OrdMap<Vec<u8>, Vec<u8>>;

pub(crate) struct World {
    pub(crate) now: Duration,
    pub(crate) rng: SmallRng,
    pub(crate) store: Store,
    pub(crate) keys: Keys,
    pub(crate) slots: Vec<Slot>,
    pub(crate) weather: Weather,
    /// How agents list.
    pub(crate) pages: PageSizes,
    pub(crate) outage: bool,
    /// Share of requests or replies that get lost.
    pub(crate) loss: f64,
    pub(crate) chaos: bool,
    pub(crate) needs_compare: bool,
    /// Counts the etcds there were: wiped, or restored from a backup.
    pub(crate) epoch: u64,
    pub(crate) backup: Option<(Store, u64)>,
    /// By epoch and revision.
    pub(crate) history: BTreeMap<(u64, Revision), Held>,
    pub(crate) recorded: (u64, Revision),
    pub(crate) last_write: Duration,
    /// The latest call of each agent that wrote, by its nonce.
    pub(crate) latest_calls: BTreeMap<String, u64>,
    pub(crate) waits: Vec<Wait>,
    pub(crate) promises: Vec<Promise>,
    /// Counts the starts of containers.
    pub(crate) started: u32,
    queue: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    pub(crate) serial: u64,
    second: (u64, u32),
    verbose: bool,
}

impl World {
    pub(crate) fn new(seed: u64, weather: Weather, pages: PageSizes) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let hosts = rng.random_range(1..=4);
        let cluster = rng.random();
        let slot = |number: usize| Slot::new(HostId::parse(&format!("host{number}")).unwrap());
        let loss = match weather {
            Weather::Wild | Weather::Rough => [0.0, 0.02, 0.1][rng.random_range(0..3)],
            Weather::Gentle => 0.0,
        };
        Self {
            now: Duration::ZERO,
            store: Store::new(cluster),
            keys: Keys::new("/portolan"),
            slots: (0..hosts).map(slot).collect(),
            weather,
            pages,
            outage: false,
            loss,
            chaos: true,
            needs_compare: false,
            epoch: 0,
            backup: None,
            history: BTreeMap::from([((0, 1), Held::new())]),
            recorded: (0, 1),
            last_write: Duration::ZERO,
            latest_calls: BTreeMap::new(),
            waits: Vec::new(),
            promises: Vec::new(),
            started: 0,
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
            if self.drains() {
                self.later(2.0..20.0, Event::Order { slot });
            }
        }
        self.later(0.0..5.0, Event::Fault);
        self.until(CHAOS);
        self.calm();
        let settle = if self.needs_compare { SETTLE_BY_COMPARE } else { SETTLE };
        self.until(CHAOS + settle);
        let settled = self.now;
        self.verify_agreement();
        self.verify_waits();
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
        self.store.set_space(Space::Enough);
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
            if self.drains() && self.rng.random_bool(0.5) {
                self.later(0.0..10.0, Event::TakeBack { slot });
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
            self.verify_withdrawals();
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

    pub(crate) fn step(&mut self, event: Event) {
        if let Some(slot) = event.reaches_host()
            && self.slots[slot].paused_until > self.now
        {
            return self.slots[slot].held.push(event);
        }
        match event {
            Event::Arrive { slot, life, nonce, epoch, caller, call, request, reply } => {
                // Connections do not outlive their etcd.
                if self.outage || epoch != self.epoch {
                    return;
                }
                if caller == Caller::Mirror && self.is_alive(slot, life) {
                    self.agent(slot).listed_from = epoch;
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
                        Caller::Waiter => self.looked(slot, outcome),
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
            Event::Order { slot } => self.order(slot),
            Event::TakeBack { slot } => self.take_back(slot),
            Event::Kept { slot, life, drains, command, runs } => {
                if self.is_alive(slot, life) {
                    self.take_kept(slot, &drains, &command, runs);
                }
            }
            Event::Look { wait } => self.look(wait),
            Event::Answers { slot, life } => {
                if self.is_alive(slot, life) {
                    let agent = self.agent(slot);
                    agent.answering_of = agent.epoch;
                    let answering = agent.answering;
                    self.publish(slot, publisher::Input::Asked(answering));
                }
            }
            Event::Listed { slot, life } => {
                if self.is_alive(slot, life) {
                    self.desire(slot);
                }
            }
            Event::Fault => {
                if self.chaos {
                    let fault = Fault::any(self.weather, &mut self.rng);
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
            Event::SpaceReturns => self.store.set_space(Space::Enough),
            Event::CheckExpiry => {}
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
            | Self::Kept { slot, .. }
            | Self::Answers { slot, .. }
            | Self::Wake { slot, .. } => Some(*slot),
            Self::Churn { slot } | Self::Listed { slot, .. } => Some(*slot),
            Self::Order { slot } | Self::TakeBack { slot } => Some(*slot),
            _ => None,
        }
    }
}
