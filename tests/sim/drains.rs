//! The operator: drains and undrains, waits until everybody knows, and holds the hosts to what they said.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use portolan::{
    model::{Desired, Origin, Phase, Publication, ShortId},
    registry::{
        call::{CallError, Reply, Request, Revision},
        record::{self, Interner},
        round::{self, Acks, Standing},
    },
    watch::container::{Command, Drains, Target},
};
use rand::{RngExt, seq::IndexedRandom};

use crate::{
    faults::Weather,
    hosts::Slot,
    wires::Caller,
    world::{Event, World},
};

/// A `drain --wait` that has not been told that it is done.
pub(crate) struct Wait {
    slot: usize,
    round: u64,
    /// The containers it is about, each with the run that was meant.
    runs: Vec<(ShortId, String)>,
    since: Duration,
    is_over: bool,
}

/// What the operator takes to be drained: every command that was answered, and the runs that have ended since. Kept apart
/// from what the agents make of it.
#[derive(Clone, Default)]
pub(crate) struct Ordered {
    host: bool,
    containers: BTreeSet<ShortId>,
}

impl Ordered {
    /// What a copy of the machine keeps of it, which has no containers yet.
    pub(crate) fn copied(&self) -> Self {
        Self { host: self.host, containers: BTreeSet::new() }
    }

    pub(crate) fn cover(&self, container: ShortId) -> bool {
        self.host || self.containers.contains(&container)
    }

    fn answer(&mut self, command: &Command, runs: &[(ShortId, String)]) {
        match command {
            Command::Drain(Target::Host) => self.host = true,
            Command::Undrain(Target::Host) => *self = Self::default(),
            Command::Drain(Target::Named(_)) => self.containers.extend(runs.iter().map(|(container, _)| *container)),
            Command::Undrain(Target::Named(_)) => {
                self.containers.retain(|held| runs.iter().all(|(container, _)| container != held));
            }
        }
    }
}

/// What a wait was told: nobody is sent to this container any more.
pub(crate) struct Promise {
    slot: usize,
    container: ShortId,
    epoch: u64,
    /// Whoever answers from this revision or a later one knows.
    revision: Revision,
}

impl Slot {
    /// When the container started, as Docker would say it.
    fn run_of(&self, container: ShortId) -> Option<String> {
        self.runs.get(&container).map(|run| format!("run {run}"))
    }

    /// What the agent makes of Docker's truth.
    pub(crate) fn desired(&self, drains: &Drains) -> Desired {
        let is_drained = |id: ShortId| drains.cover(id.as_str(), self.run_of(id).as_deref());
        Desired { listed: true, round: drains.round, drained: drains.are_any(), ..self.with(is_drained) }
    }

    /// What Docker has here, some of it drained.
    pub(crate) fn with(&self, is_drained: impl Fn(ShortId) -> bool) -> Desired {
        let mut desired = Desired::clone(&self.containers);
        for (container, publication) in &self.containers.publications {
            if is_drained(*container) {
                let publication = Publication { phase: Phase::Draining, ..Publication::clone(publication) };
                desired.publications.insert(*container, Arc::new(publication));
            }
        }
        desired
    }

    /// A drain ends with the run of the container that it was meant for.
    pub(crate) fn runs_on(&self, drains: &mut Drains) {
        drains.containers.retain(|id, run| {
            ShortId::parse(id).and_then(|container| self.run_of(container)).is_some_and(|found| found == *run)
        });
    }

    /// What its state directory says.
    pub(crate) fn kept(&self) -> Drains {
        self.drains_file.as_ref().map(|file| serde_json::from_slice(file).expect("our own file")).unwrap_or_default()
    }
}

impl World {
    /// Two machines with one host id publish over one another: nobody can promise anything there.
    fn is_cloned(&self, slot: usize) -> bool {
        self.slots.iter().filter(|other| other.host == self.slots[slot].host).count() > 1
    }

    pub(crate) fn order(&mut self, slot: usize) {
        if self.chaos {
            self.later(1.0..20.0, Event::Order { slot });
        }
        let names: Vec<ShortId> = self.slots[slot].containers.publications.keys().copied().collect();
        let Some(name) = names.choose(&mut self.rng).copied() else { return };
        let command = match self.rng.random_range(0..100) {
            0..50 => Command::Drain(Target::Named(name.to_string())),
            50..65 => Command::Drain(Target::Host),
            _ if self.slots[slot].ordered.host => Command::Undrain(Target::Host),
            _ => Command::Undrain(Target::Named(name.to_string())),
        };
        let may_be_ordered = self.slots[slot].agent.as_ref().is_some_and(|agent| agent.desired.listed);
        if may_be_ordered && !self.slots[slot].is_ordered && !self.is_cloned(slot) {
            self.carry_out(slot, &command);
        }
    }

    /// At the end everything of this host is to be given to clients again.
    pub(crate) fn take_back(&mut self, slot: usize) {
        let may_be_ordered = self.slots[slot].agent.as_ref().is_some_and(|agent| agent.desired.listed);
        if self.is_cloned(slot) {
        } else if may_be_ordered && !self.slots[slot].is_ordered {
            self.carry_out(slot, &Command::Undrain(Target::Host));
        } else {
            self.later(0.5..1.0, Event::TakeBack { slot });
        }
    }

    fn carry_out(&mut self, slot: usize, command: &Command) {
        let Slot { containers, life, .. } = &self.slots[slot];
        let life = *life;
        let meant: Vec<ShortId> = match command {
            Command::Drain(Target::Named(name)) | Command::Undrain(Target::Named(name)) => {
                ShortId::parse(name).into_iter().collect()
            }
            _ => containers.publications.keys().copied().collect(),
        };
        let runs: Vec<(ShortId, String)> =
            meant.into_iter().filter_map(|id| Some((id, self.slots[slot].run_of(id)?))).collect();
        let mut drains = self.agent(slot).drains.clone();
        let named = runs.iter().map(|(id, run)| (id.as_str(), Some(run.as_str())));
        if drains.carry_out(command, named).is_err() {
            return;
        }
        self.say(|| format!("slot {slot} is told: {command:?}, round {}", drains.round));
        if let Command::Undrain(_) = command {
            self.promises.retain(|kept| kept.slot != slot || runs.iter().all(|(id, _)| *id != kept.container));
        }
        self.agent(slot).drains = drains.clone();
        self.slots[slot].is_ordered = true;
        self.desire(slot);
        let command = command.clone();
        self.later(0.0..0.05, Event::Kept { slot, life, drains, command, runs });
    }

    /// The order will survive a restart: whoever gave it is answered, and may wait.
    pub(crate) fn take_kept(&mut self, slot: usize, drains: &Drains, command: &Command, runs: Vec<(ShortId, String)>) {
        let round = drains.round;
        let Slot { drains_file, is_ordered, .. } = &mut self.slots[slot];
        *drains_file = Some(serde_json::to_vec(drains).expect("texts and numbers"));
        *is_ordered = false;
        // Some may have ended meanwhile.
        let run_on = |(id, run): &(ShortId, String)| self.slots[slot].run_of(*id).is_some_and(|found| found == *run);
        let runs: Vec<_> = runs.into_iter().filter(run_on).collect();
        self.slots[slot].ordered.answer(command, &runs);
        let is_drain = matches!(command, Command::Drain(_));
        if is_drain && !runs.is_empty() && !self.is_cloned(slot) && self.rng.random_bool(0.8) {
            self.waits.push(Wait { slot, round, runs, since: self.now, is_over: false });
            self.later(0.0..0.2, Event::Look { wait: self.waits.len() - 1 });
        }
    }

    /// Asks the agent how far it is, as `portolan drain --wait` does over and over.
    pub(crate) fn look(&mut self, wait: usize) {
        let Wait { slot, round, is_over, .. } = self.waits[wait];
        if is_over {
            return;
        }
        self.later(0.2..1.2, Event::Look { wait });
        if self.slots[slot].paused_until > self.now {
            return;
        }
        let Some(agent) = &mut self.slots[slot].agent else { return };
        match round::standing(round, &agent.desired, &agent.publisher.status()) {
            Standing::Behind(_) => {}
            Standing::Over => self.waits[wait].is_over = true,
            Standing::Told(told) if !agent.calls.contains_key(&(Caller::Waiter as u8)) => {
                agent.looking = Some((wait, told));
                let range = self.keys.acks_range();
                let request = Request::Range { start: range.start, end: range.end, limit: 0, revision: None };
                self.call(slot, Caller::Waiter, request);
            }
            Standing::Told(_) => {}
        }
    }

    /// The acknowledgements, on which the agent decides.
    pub(crate) fn looked(&mut self, slot: usize, outcome: Result<Reply, CallError>) {
        let Some((wait, told)) = self.agent(slot).looking.take() else { return };
        let Ok(Reply::Range { header, kvs, .. }) = outcome else { return };
        let now = self.store.header();
        if header.cluster != now.cluster || header.revision > now.revision {
            // Replaced or restored since they were read: whatever is said now is about an etcd that is no more.
            return;
        }
        let mut acks = Acks::default();
        acks.take(&self.keys, header, &kvs);
        let host = self.slots[slot].host.clone();
        let behind = round::behind(told, &host, self.agent(slot).mirror.view(), &acks);
        if behind.is_empty() && !self.waits[wait].is_over {
            self.waits[wait].is_over = true;
            self.say(|| {
                format!("slot {slot} says that all know of round {}, told at {told:?}", self.waits[wait].round)
            });
            self.promise(wait, told.revision);
        }
    }

    fn promise(&mut self, wait: usize, revision: Revision) {
        let Wait { slot, round, .. } = self.waits[wait];
        let epoch = self.epoch;
        let session = self.keys.session(&self.slots[slot].host);
        let told = self.history.get(&(epoch, revision)).and_then(|held| held.get(&session));
        assert!(
            told.is_some() || self.store.revision() >= revision,
            "round {round} of slot {slot} is known at revision {revision}, which etcd has not reached"
        );
        let told = told.and_then(|value| record::decode_session(value, &mut Interner::default()).ok());
        if told.is_none_or(|told| told.waits < Some(round)) {
            // etcd was restored from a backup in the dark, and has overtaken what this host knows: nobody can tell.
            return assert!(epoch > 0, "round {round} of slot {slot} was not told at revision {revision}");
        }
        let runs = std::mem::take(&mut self.waits[wait].runs);
        let drained = |(container, run): &(ShortId, String)| {
            // Another command is under way, which may take it back.
            let is_ordered = self.slots[slot].ordered.cover(*container) && !self.slots[slot].is_ordered;
            let is_found = self.slots[slot].run_of(*container).is_some_and(|found| found == *run);
            (is_found && is_ordered).then_some(*container)
        };
        let drained: Vec<ShortId> = runs.iter().filter_map(drained).collect();
        // A watch that lost a host's session knows nothing of that host until the next compare.
        let hears_all = !self.agent(slot).has_lost_changes;
        for other in 0..self.slots.len() {
            if other == slot || hears_all && self.is_waited_for(other, revision) {
                for container in &drained {
                    self.verify_drained(other, slot, *container);
                }
            }
        }
        self.promises.extend(drained.into_iter().map(|container| Promise { slot, container, epoch, revision }));
    }

    /// Whether an agent has lived since that revision as far as etcd can tell, and has been told everything.
    fn is_waited_for(&mut self, slot: usize, revision: Revision) -> bool {
        let key = self.keys.session(&self.slots[slot].host);
        let Some(agent) = &self.slots[slot].agent else { return false };
        if !agent.tainted.is_empty() || agent.epoch != self.epoch || self.slots[slot].is_meddled_with {
            return false;
        }
        let nonce = Arc::clone(&agent.own.session.nonce);
        let request = Request::Range { start: key, end: Vec::new(), limit: 0, revision: None };
        let Ok(Reply::Range { kvs, .. }) = self.store.call(self.now, &request) else { return false };
        kvs.first().is_some_and(|kv| {
            let session = record::decode_session(&kv.value, &mut Interner::default());
            kv.create_revision <= revision && session.is_ok_and(|session| session.nonce == nonce)
        })
    }

    fn verify_drained(&self, at: usize, of: usize, container: ShortId) {
        let Some(agent) = &self.slots[at].agent else { return };
        let origin = if at == of { Origin::Own } else { Origin::Registry(self.slots[of].host.clone()) };
        let Some(found) = agent.catalog.hosts.get(&origin).and_then(|host| host.publications.get(&container)) else {
            return;
        };
        assert!(
            found.phase != Phase::Serving,
            "slot {at} answers {container} of slot {of} as serving, though a drain was told to be done (catalog at {}, {:?})",
            agent.catalog.revision,
            agent.mirror.status()
        );
    }

    /// What was promised holds until it is taken back or the container's run ends.
    pub(crate) fn verify_promises(&self, slot: usize) {
        let Some(agent) = &self.slots[slot].agent else { return };
        for promise in &self.promises {
            let knows = agent.epoch == promise.epoch
                && agent.tainted.is_empty()
                && agent.mirror.view().listed
                && agent.mirror.view().revision >= promise.revision;
            let is_own = slot == promise.slot && agent.desired.listed;
            if is_own || slot != promise.slot && knows {
                self.verify_drained(slot, promise.slot, promise.container);
            }
        }
    }

    /// The container runs no more, or anew.
    pub(crate) fn end_run(&mut self, slot: usize, container: ShortId) {
        self.promises.retain(|promise| (promise.slot, promise.container) != (slot, container));
        self.slots[slot].ordered.containers.remove(&container);
    }

    pub(crate) fn give_up_waits(&mut self, slot: usize) {
        self.promises.retain(|promise| promise.slot != slot);
        self.waits.iter_mut().filter(|wait| wait.slot == slot).for_each(|wait| wait.is_over = true);
    }

    /// Once all agree nobody waits any more.
    pub(crate) fn verify_waits(&self) {
        if let Some(Wait { slot, round, since, .. }) = self.waits.iter().find(|wait| !wait.is_over) {
            let agent = self.slots[*slot].agent.as_ref().expect("all agents run");
            panic!(
                "slot {slot} waits for round {round} since {since:?}: {:?}",
                round::standing(*round, &agent.desired, &agent.publisher.status())
            );
        }
    }

    /// Whether this weather has an operator.
    pub(crate) fn drains(&self) -> bool {
        self.weather != Weather::Rough
    }
}
