//! The machines, their agents, and what Docker has on them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use imbl::OrdMap;
use portolan::{
    model::{Catalog, Desired, Host, HostId, Origin, Publication, Session, ShortId},
    registry::{
        call::{Header, Request, Revision},
        catalog::{self, Own},
        mirror::{self, Mirror},
        publisher::{self, Identity, Publisher, SessionFile},
        record::{self, Interner},
    },
    watch::container::Drains,
};
use rand::RngExt;

use crate::{
    drains::Ordered,
    faults::Weather,
    wires::{Caller, Watch},
    world::{Event, LEASE, World},
};

/// One machine that may run an agent.
pub(crate) struct Slot {
    pub(crate) host: HostId,
    pub(crate) file: SessionFile,
    /// Docker's truth, and how often each container was started.
    pub(crate) containers: Arc<Desired>,
    pub(crate) runs: BTreeMap<ShortId, u32>,
    /// What the state directory keeps of drains; what the operator was told; and whether an order is being kept.
    pub(crate) drains_file: Option<Vec<u8>>,
    pub(crate) ordered: Ordered,
    pub(crate) is_ordered: bool,
    /// Somebody wrote its keys by hand.
    pub(crate) is_meddled_with: bool,
    pub(crate) agent: Option<Agent>,
    /// Counts the agents that ran here; what was meant for an earlier one is lost.
    pub(crate) life: u32,
    pub(crate) paused_until: Duration,
    /// What came while it stood still.
    pub(crate) held: Vec<Event>,
    pub(crate) gone_for_good: bool,
    /// When each container was last seen not to be there.
    pub(crate) absent_at: BTreeMap<ShortId, Duration>,
    /// Since when its agent does nothing although something of it must be withdrawn.
    pub(crate) idle_since: Option<Duration>,
}

pub(crate) struct Agent {
    pub(crate) publisher: Publisher,
    pub(crate) lease_ttl: i64,
    pub(crate) mirror: Mirror,
    pub(crate) own: Own,
    pub(crate) desired: Arc<Desired>,
    pub(crate) drains: Drains,
    /// The revision to acknowledge that it answers from.
    pub(crate) answering: Revision,
    /// Of which etcd that is.
    pub(crate) answering_of: u64,
    /// The wait that it reads acknowledgements for, and what it has told.
    pub(crate) looking: Option<(usize, Header)>,
    pub(crate) catalog: Catalog,
    pub(crate) watch: Watch,
    /// Events of its watch were dropped at these revisions: perhaps only a full compare finds that.
    pub(crate) tainted: Vec<Revision>,
    /// Any were, also of sessions.
    pub(crate) has_lost_changes: bool,
    /// Of which etcd its view tells, and from which its last list or compare came.
    pub(crate) epoch: u64,
    pub(crate) listed_from: u64,
    pub(crate) catalog_epoch: u64,
    /// What was judged last of its view.
    pub(crate) judged: OrdMap<Origin, Arc<Host>>,
    relists: u64,
    /// The latest revision of its own writes.
    pub(crate) wrote: Revision,
    pub(crate) calls: BTreeMap<u8, u64>,
}

impl World {
    /// A host that stood still takes in all that has come, in order.
    pub(crate) fn resume(&mut self, slot: usize) {
        if self.slots[slot].paused_until <= self.now {
            for event in std::mem::take(&mut self.slots[slot].held) {
                self.step(event);
                self.pump();
            }
        }
    }

    pub(crate) fn is_alive(&self, slot: usize, life: u32) -> bool {
        self.slots[slot].agent.is_some() && self.slots[slot].life == life
    }

    pub(crate) fn agent(&mut self, slot: usize) -> &mut Agent {
        self.slots[slot].agent.as_mut().expect("an agent runs here")
    }

    pub(crate) fn start(&mut self, slot: usize) {
        let nonce = format!("{:016x}", self.rng.random::<u64>());
        let session = Session { nonce: nonce.into(), ..Session::default() };
        let drains = self.slots[slot].kept();
        self.slots[slot].is_ordered = false;
        let Slot { host, file, life, agent, .. } = &mut self.slots[slot];
        *life += 1;
        // Somebody changes `--lease` at times.
        let lease_ttl = match self.weather {
            Weather::Rough => LEASE,
            Weather::Wild | Weather::Gentle => LEASE + 4 * i64::from(self.rng.random_bool(0.3)),
        };
        let identity = Identity { host: host.clone(), keys: self.keys.clone(), session: session.clone(), lease_ttl };
        *agent = Some(Agent {
            publisher: Publisher::new(identity, file.clone()),
            lease_ttl,
            mirror: Mirror::new(self.keys.clone(), host.clone()).with_pages(self.pages),
            own: Own { host: host.clone(), session },
            desired: Arc::default(),
            drains: drains.clone(),
            answering: 0,
            answering_of: self.epoch,
            looking: None,
            catalog: Catalog::default(),
            watch: Watch::default(),
            tainted: Vec::new(),
            has_lost_changes: false,
            epoch: self.epoch,
            listed_from: self.epoch,
            catalog_epoch: self.epoch,
            judged: OrdMap::new(),
            relists: 0,
            wrote: 0,
            calls: BTreeMap::new(),
        });
        let life = *life;
        self.say(|| format!("slot {slot} starts its agent {life}"));
        self.publish(slot, publisher::Input::Tick);
        self.mirror(slot, mirror::Input::Tick);
        if drains.round > 0 && self.rng.random_bool(0.5) {
            // Docker lets wait for its list, so publishing begins without.
            let desired = Desired { round: drains.round, drained: drains.are_any(), ..Desired::default() };
            self.agent(slot).desired = Arc::new(desired.clone());
            self.publish(slot, publisher::Input::Desired(Arc::new(desired)));
        }
        self.later(0.0..4.0, Event::Listed { slot, life });
    }

    pub(crate) fn stop(&mut self, slot: usize) {
        self.say(|| format!("slot {slot} loses its agent"));
        self.slots[slot].agent = None;
    }

    pub(crate) fn churn(&mut self, slot: usize) {
        let mut desired = Desired::clone(&self.slots[slot].containers);
        desired.listed = true;
        for _ in 0..self.rng.random_range(1..3) {
            let container = ShortId::parse(&format!("{slot:x}{:011x}", self.rng.random_range(0..6))).unwrap();
            if !desired.publications.contains_key(&container) {
                self.slots[slot].absent_at.insert(container, self.now);
            }
            if self.rng.random_bool(0.4) {
                desired.publications.remove(&container);
                self.slots[slot].runs.remove(&container);
            } else {
                let port = self.rng.random_range(1..5000);
                desired.publications.insert(container, Arc::new(publication(container, port)));
                self.started += 1;
                self.slots[slot].runs.insert(container, self.started);
            }
            self.end_run(slot, container);
        }
        self.slots[slot].containers = Arc::new(desired);
        if self.slots[slot].agent.as_ref().is_some_and(|agent| agent.desired.listed) {
            self.desire(slot);
        }
        if self.chaos {
            self.later(0.05..8.0, Event::Churn { slot });
        }
    }

    pub(crate) fn desire(&mut self, slot: usize) {
        let mut drains = std::mem::take(&mut self.agent(slot).drains);
        self.slots[slot].runs_on(&mut drains);
        let desired = Arc::new(self.slots[slot].desired(&drains));
        self.agent(slot).drains = drains;
        self.agent(slot).desired = Arc::clone(&desired);
        self.publish(slot, publisher::Input::Desired(desired));
        self.refresh(slot);
    }

    pub(crate) fn publish(&mut self, slot: usize, input: publisher::Input) {
        let now = self.now;
        let agent = self.slots[slot].agent.as_mut().expect("an agent runs here");
        let effects = agent.publisher.handle(now, input, &mut self.rng);
        let life = self.slots[slot].life;
        for effect in effects {
            if let publisher::Effect::Wrote(revision) | publisher::Effect::Echoed(revision) = effect {
                self.agent(slot).wrote = revision;
            }
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

    pub(crate) fn mirror(&mut self, slot: usize, input: mirror::Input) {
        let now = self.now;
        let agent = self.slots[slot].agent.as_mut().expect("an agent runs here");
        let effects = agent.mirror.handle(now, input, &mut self.rng);
        if agent.mirror.status().relists != agent.relists {
            agent.relists = agent.mirror.status().relists;
            agent.epoch = agent.listed_from;
        }
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
        agent.catalog = catalog::merge(
            &before,
            &agent.own,
            &agent.desired,
            &Desired { listed: true, ..Desired::default() },
            agent.mirror.view(),
        );
        let asked = agent.mirror.view().asked;
        let is_asked = std::mem::replace(&mut agent.answering, asked) != asked;
        self.verify_catalog(slot, &before);
        self.verify_promises(slot);
        if is_asked {
            let life = self.slots[slot].life;
            self.later(0.0..0.02, Event::Answers { slot, life });
        }
    }

    pub(crate) fn wake_at(&self, slot: usize) -> Option<Duration> {
        let agent = self.slots[slot].agent.as_ref()?;
        [agent.publisher.wake_at(), agent.mirror.wake_at()].into_iter().flatten().min()
    }

    fn sleep(&mut self, slot: usize) {
        if let Some(at) = self.wake_at(slot).filter(|at| *at < Duration::MAX) {
            let life = self.slots[slot].life;
            self.at(at.max(self.now + Duration::from_millis(1)), Event::Wake { slot, life });
        }
    }
}

impl Slot {
    pub(crate) fn new(host: HostId) -> Self {
        Self {
            host,
            file: SessionFile::default(),
            containers: Arc::default(),
            runs: BTreeMap::new(),
            drains_file: None,
            ordered: Ordered::default(),
            is_ordered: false,
            is_meddled_with: false,
            agent: None,
            life: 0,
            paused_until: Duration::ZERO,
            held: Vec::new(),
            gone_for_good: false,
            absent_at: BTreeMap::new(),
            idle_since: None,
        }
    }
}

pub(crate) fn publication(container: ShortId, port: u16) -> Publication {
    let value = format!(
        r#"{{"name":"c","phase":"serving","services":[{{"service":"web","namespace":"shop","ports":[{{"port":{port}}}]}}]}}"#
    );
    record::decode(container, value.as_bytes(), &mut Interner::default()).unwrap()
}
