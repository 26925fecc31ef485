//! The set of containers and networks of this host, kept true by events and by answers to our own questions.
//!
//! Events say *which* container to look at, and what certainly ended; the answer to an inspect is the truth. An
//! answer may be overtaken by events, so each question has an order in time:
//!
//! * An inspect is asked with a [`Ticket`]. Every later event of that container voids the ticket and asks anew, so
//!   an answer is taken only if nothing happened to its container since it was asked. (What its creation asked for tells
//!   its configuration only, which a connect does not change.)
//! * A list, and a network's inspect, carry the [`Moment`] they were asked at. They say nothing about a container
//!   (on that network) which had an event since. A list never changes a container: where it differs from what is held,
//!   the container is inspected. It only removes containers which it does not know.
//!
//! A start is the one event that brings something before an answer: what is known of the container by then, see
//! `presume.rs`. `die`, `destroy` and `disconnect` take effect before any question is answered, because the next container is given
//! the freed address. Nothing here knows time or Docker's API: [`Containers::apply`] returns [`Wish`]es, and
//! `docker.rs` carries them out.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use super::labels::{self, Claim};
pub use super::{
    event::{Cause, Depth, Event, Moment, Ticket, Wish},
    facts::{
        Binding, ContainerId, Endpoint, ImageFacts, Inspected, NetworkFacts, NetworkMode, Requested, State, Summary,
    },
};
use crate::model::{Driver, GWBRIDGE, Health, Label, NetworkId, Problem, ShortId, Silence};

mod bridges;
mod crash;
mod drain;
mod image;
mod networks;
mod presume;

pub use bridges::Bridge;
use crash::Runs;
use drain::Stopping;
pub use drain::{Command, Drains, NotDone, Outcome, Target};
use image::{Image, config_of};

/// Addresses of a container on one network. Without addresses: it left at `moved`.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) ips: Box<[IpAddr]>,
    /// The last connect or disconnect.
    pub(super) moved: Moment,
}

/// Who a container is to the asker table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) name: Arc<str>,
    pub(super) namespace: Label,
}

/// One container.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: ContainerId,
    /// Unknown until a create event, a list or an inspect has told it.
    pub(super) identity: Option<Identity>,
    /// The last inspect, less what events have ended since.
    pub(super) inspected: Option<Inspected>,
    /// What its labels say, as of the last inspect.
    pub(super) claim: Claim,
    pub(super) problems: Vec<Problem>,
    /// Why the last inspect brought nothing.
    pub(super) failure: Option<Arc<str>>,
    pub(super) places: BTreeMap<NetworkId, Place>,
    /// The last event.
    touched: Moment,
    /// The last `die`.
    pub(super) ended: Moment,
    /// The last inspect that was taken.
    seen: Moment,
    /// The inspect under way, and why it was asked.
    awaiting: Option<(Ticket, Cause)>,
    /// The inspect under way that its creation asked for.
    preparing: Option<Ticket>,
    /// To be asked again.
    failed: bool,
    /// A stop signal was sent to it.
    pub(super) stopping: Option<Stopping>,
    /// Its runs, as far as crashes are concerned.
    pub(super) runs: Runs,
}

impl Entry {
    fn new(id: ContainerId) -> Self {
        let claim = Claim {
            offers: Vec::new(),
            namespace: Label::default_namespace(),
            checks: Arc::default(),
            silence: Some(Silence::Unseen),
            directory: None,
            swarm: Box::default(),
            outsider: None,
        };
        Self {
            id,
            identity: None,
            inspected: None,
            claim,
            problems: Vec::new(),
            failure: None,
            places: BTreeMap::new(),
            touched: Moment::default(),
            ended: Moment::default(),
            seen: Moment::default(),
            awaiting: None,
            preparing: None,
            failed: false,
            stopping: None,
            runs: Runs::default(),
        }
    }

    fn is_alive(&self) -> bool {
        self.inspected.as_ref().is_some_and(|inspected| inspected.state.is_alive())
    }

    /// Its addresses are gone, at once.
    fn end(&mut self, now: Moment) {
        self.ended = now;
        self.stopping = None;
        self.places.clear();
        if let Some(inspected) = &mut self.inspected {
            inspected.end();
        }
    }

    fn differs_from(&self, summary: &Summary) -> bool {
        let Some(inspected) = &self.inspected else { return summary.state.is_alive() };
        let placed = |endpoints: &[Endpoint]| -> BTreeSet<(NetworkId, Box<[IpAddr]>)> {
            endpoints.iter().map(|endpoint| (endpoint.network.clone(), endpoint.ips.clone())).collect()
        };
        inspected.name != summary.name
            || inspected.state.is_alive() != summary.state.is_alive()
            || (summary.state.is_alive() && inspected.state != summary.state)
            || (summary.state.is_alive() && placed(&inspected.endpoints) != placed(&summary.endpoints))
    }
}

/// What changed since it was last taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Containers whose publication may differ.
    pub containers: BTreeSet<ShortId>,
    /// The asker table may differ.
    pub askers: bool,
    /// Published ports may differ.
    pub bindings: bool,
    /// All that happened is that a container started and was taken for what is known of it.
    pub presumed: bool,
    /// The host's networks differ.
    pub networks: bool,
    /// Something was drained or undrained by command.
    pub drains: bool,
    /// What a list found on a living connection though no event told it, then or a while later.
    pub unheard: u32,
}

impl Changes {
    fn touch(&mut self, id: ShortId) {
        self.containers.insert(id);
        self.askers = true;
        self.presumed = false;
    }
}

/// All containers and networks of this host.
#[derive(Debug, Default)]
pub struct Containers {
    /// How labels are read.
    pub(super) options: labels::Options,
    pub(super) entries: BTreeMap<ShortId, Entry>,
    pub(super) networks: BTreeMap<NetworkId, NetworkFacts>,
    now: Moment,
    tickets: u64,
    /// Networks being inspected; `true`: once more after that.
    looking: BTreeMap<NetworkId, bool>,
    /// Networks destroyed since the last list, which may not know it yet.
    destroyed: BTreeMap<NetworkId, Moment>,
    /// Live containers of the first list that are not inspected yet; `None` before that list.
    unsettled: Option<BTreeSet<ShortId>>,
    /// There was a list since the connection was made, so that events are heard and new.
    following: bool,
    /// What a list showed though no event had told it. Its event may only be slower; `true`: it has had its time.
    suspects: BTreeMap<ShortId, bool>,
    /// Images of containers with labels of Compose, by their ids.
    images: BTreeMap<Arc<str>, Image>,
    /// `--crash-hold off`
    without_hold: bool,
    /// The engine's clock at its last event, in nanoseconds since 1970.
    engine_time: u64,
    /// The engine runs without a root's rights.
    rootless: bool,
    /// Bridges that were found not to be in our network namespace.
    apart: Arc<BTreeSet<NetworkId>>,
    /// Networks whose containers were seen to publish ports, each with where those appear that name no address.
    publishing: BTreeMap<NetworkId, Box<[IpAddr]>>,
    pub(super) drains: Drains,
    changes: Changes,
}

impl Containers {
    /// None yet, and how their labels will be read.
    pub fn new(options: labels::Options) -> Self {
        Self { options, ..Self::default() }
    }

    /// The moment to stamp a list with before it is asked for.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Docker has been listed, and each live container of that first list was inspected (or would not answer).
    pub fn is_listed(&self) -> bool {
        self.unsettled.as_ref().is_some_and(BTreeSet::is_empty)
    }

    /// What changed since the last call.
    pub fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// All ports published on this host.
    pub fn bindings(&self) -> impl Iterator<Item = &Binding> {
        self.entries.values().filter_map(|entry| entry.inspected.as_ref()).flat_map(|inspected| &inspected.bindings)
    }

    /// Whether the last answer to an inspect of this container was none, and what is held of it may be old.
    pub fn is_failing(&self, id: ShortId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.failure.is_some())
    }

    /// Whether an answer to this question would still be taken.
    pub fn is_wanted(&self, id: &ContainerId, ticket: Ticket) -> bool {
        let prepares = self.entries.get(&id.short()).is_some_and(|entry| entry.preparing == Some(ticket));
        prepares || self.is_awaited(id, ticket)
    }

    fn is_awaited(&self, id: &ContainerId, ticket: Ticket) -> bool {
        let awaiting = self.entries.get(&id.short()).and_then(|entry| entry.awaiting);
        awaiting.is_some_and(|(own, _)| own == ticket)
    }

    /// Asks again for all containers whose inspect failed, and gives up on events that should have come between the last
    /// two calls.
    pub fn retry(&mut self) -> Vec<Wish> {
        for due in self.suspects.values() {
            self.changes.unheard += u32::from(*due);
        }
        self.suspects.retain(|_, due| !std::mem::replace(due, true));
        let failed: Vec<_> = self.entries.values().filter(|entry| entry.failed).map(|entry| entry.id.clone()).collect();
        failed.into_iter().map(|id| self.ask(&id, Cause::Restore)).collect()
    }

    /// Takes note of one event, and says what must be asked now.
    pub fn apply(&mut self, event: Event) -> Vec<Wish> {
        match event {
            Event::Created { id, name, labels } => {
                let namespace = labels::namespace(&self.options, &labels);
                self.touch(&id).identity = Some(Identity { name, namespace });
                vec![self.prepare(&id)]
            }
            Event::Started { id, newest } => {
                // An inspect under way was asked for a reason: what is held may be of before that.
                let in_doubt =
                    self.entries.get(&id.short()).is_some_and(|entry| entry.awaiting.is_some() || entry.failed);
                let is_alone = self.changes == Changes::default();
                let time = self.engine_time;
                self.touch(&id).runs.begin(time);
                let presumed = newest && !in_doubt && !self.may_be_held(id.short()) && self.presume(id.short());
                self.changes.presumed = presumed && is_alone;
                vec![self.ask(&id, if presumed { Cause::Confirm } else { Cause::Event })]
            }
            Event::Changed(id) => {
                self.touch(&id);
                vec![self.ask(&id, Cause::Event)]
            }
            Event::Killed { id, signal } => self.killed(&id, signal),
            Event::Waited { id, ticket } => {
                self.waited(id.short(), ticket);
                self.lived(id.short(), ticket);
                Vec::new()
            }
            Event::Paused(id) => {
                if let Some(inspected) = &mut self.touch(&id).inspected
                    && inspected.state == State::Running
                {
                    inspected.state = State::Paused;
                }
                vec![self.ask(&id, Cause::Event)]
            }
            Event::Died(id) => {
                self.settle(id.short());
                self.suspects.remove(&id.short());
                self.end_drain(&id);
                if self.entries.contains_key(&id.short()) {
                    let now = self.next();
                    self.changes.bindings = true;
                    let time = self.engine_time;
                    let entry = self.touch(&id);
                    entry.runs.end(time);
                    entry.end(now);
                    entry.awaiting = None;
                    entry.failed = false;
                    entry.failure = None;
                }
                Vec::new()
            }
            Event::Destroyed(id) => {
                self.next();
                self.suspects.remove(&id.short());
                self.remove(id.short());
                Vec::new()
            }
            Event::Connected { id, network } => self.connected(&id, network),
            Event::Disconnected { id, network } => self.disconnected(&id, network),
            Event::NetworkCreated(id) => self.look(id).into_iter().collect(),
            Event::NetworkDestroyed(id) => {
                let now = self.next();
                self.destroyed.insert(id.clone(), now);
                self.remove_network(&id);
                Vec::new()
            }
            Event::Present { ticket, inspected } => self.present(ticket, *inspected),
            Event::Absent { ticket, id } => {
                if self.is_awaited(&id, ticket) {
                    self.remove(id.short());
                }
                Vec::new()
            }
            Event::Failed { ticket, id, error } => {
                self.failed(ticket, &id, &error);
                Vec::new()
            }
            Event::Listed { began, depth, containers, networks } => self.listed(began, depth, containers, networks),
            Event::NetworkPresent { began, facts, endpoints } => self.network_present(began, *facts, endpoints),
            Event::NetworkAbsent(id) => {
                self.remove_network(&id);
                self.looked(id)
            }
            Event::NetworkFailed(id) => self.looked(id),
            Event::Image { id, facts } => {
                self.image_read(&id, facts);
                Vec::new()
            }
            Event::Lost => {
                self.looking.clear();
                self.forget_images();
                self.following = false;
                self.suspects.clear();
                // The engine may come back with another configuration.
                self.publishing.clear();
                for entry in self.entries.values_mut() {
                    entry.runs.forget();
                    entry.preparing = None;
                    entry.failed |= entry.awaiting.take().is_some();
                }
                Vec::new()
            }
        }
    }

    fn next(&mut self) -> Moment {
        self.now.0 += 1;
        self.now
    }

    fn touch(&mut self, id: &ContainerId) -> &mut Entry {
        let now = self.next();
        self.changes.touch(id.short());
        self.suspects.remove(&id.short());
        let entry = self.entries.entry(id.short()).or_insert_with(|| Entry::new(id.clone()));
        entry.touched = now;
        entry
    }

    fn ticket(&mut self) -> Ticket {
        self.tickets += 1;
        Ticket(self.tickets)
    }

    /// Asks for a container. An older question about it loses its right to answer.
    fn ask(&mut self, id: &ContainerId, cause: Cause) -> Wish {
        let ticket = self.ticket();
        let changes = &mut self.changes;
        let entry = self.entries.entry(id.short()).or_insert_with(|| {
            changes.containers.insert(id.short());
            Entry::new(id.clone())
        });
        entry.awaiting = Some((ticket, cause));
        entry.preparing = None;
        entry.failed = false;
        Wish::Inspect { id: id.clone(), ticket, cause }
    }

    fn settle_unless_waiting(&mut self, id: ShortId) {
        if !self.waits_for_image(id) {
            self.settle(id);
        }
    }

    fn settle(&mut self, id: ShortId) {
        if let Some(unsettled) = &mut self.unsettled
            && unsettled.remove(&id)
        {
            // The last one makes the set listed.
            self.changes.askers = true;
        }
    }

    fn remove(&mut self, id: ShortId) {
        self.settle(id);
        if let Some(entry) = self.entries.remove(&id) {
            self.forget_drain(&entry.id);
            self.changes.touch(id);
            self.changes.bindings = true;
        }
    }

    fn connected(&mut self, id: &ContainerId, network: NetworkId) -> Vec<Wish> {
        let now = self.next();
        let entry = self.touch(id);
        let alive = entry.is_alive();
        let place = entry.places.entry(network.clone()).or_default();
        place.moved = now;
        if !alive {
            // Whatever it had there is of another life, whose end was not told.
            place.ips = Box::default();
        }
        // An inspect of a container that is only starting blocks until it has started: its start event asks.
        let ask = entry.is_alive() || entry.awaiting.is_some() || entry.identity.is_none();
        let mut wishes: Vec<Wish> = self.look(network).into_iter().collect();
        if ask {
            wishes.push(self.ask(id, Cause::Event));
        }
        wishes
    }

    fn disconnected(&mut self, id: &ContainerId, network: NetworkId) -> Vec<Wish> {
        if !self.entries.contains_key(&id.short()) {
            return Vec::new();
        }
        let now = self.next();
        self.changes.bindings = true;
        let entry = self.touch(id);
        if let Some(inspected) = &mut entry.inspected {
            inspected.endpoints.retain(|endpoint| endpoint.network != network);
            // Its last network carried its published ports.
            if inspected.endpoints.iter().all(|endpoint| endpoint.ips.is_empty()) {
                inspected.bindings.clear();
            }
        }
        entry.places.insert(network, Place { ips: Box::default(), moved: now });
        let ask = entry.is_alive() || entry.awaiting.is_some();
        if ask { vec![self.ask(id, Cause::Event)] } else { Vec::new() }
    }

    fn present(&mut self, ticket: Ticket, mut inspected: Inspected) -> Vec<Wish> {
        let id = inspected.id.short();
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        if entry.preparing == Some(ticket) {
            let image = self.look_at_image(&inspected);
            self.prepared(inspected);
            return image.into_iter().collect();
        }
        let cause = match entry.awaiting {
            Some((own, cause)) if own == ticket => cause,
            _ => return Vec::new(),
        };
        entry.awaiting = None;
        entry.seen = self.now;
        if entry.failure.take().is_some() {
            self.changes.containers.insert(id);
        }
        let image = self.look_at_image(&inspected);
        let member = self.is_member(&inspected);
        self.learn(&inspected);
        self.judge_drains(&inspected);
        let gateway = self.gateway_bridge();
        let Some(entry) = self.entries.get_mut(&id) else { return Vec::new() };
        if let Some(known) = &entry.inspected {
            inspected.keep_verdict(known);
        }
        if entry.inspected.as_ref() == Some(&inspected) {
            self.settle_unless_waiting(id);
            return self.look_for_place(id).into_iter().chain(image).collect();
        }
        if cause == Cause::Check {
            self.suspects.entry(id).or_default();
        }
        config_of(&self.options, entry, &inspected, member);
        // docker_gwbridge is not in an inspect: its place is known from its own list only.
        let alive = inspected.state.is_alive();
        entry.places.retain(|network, place| Some(network) == gateway.as_ref() && alive && !place.ips.is_empty());
        for endpoint in inspected.endpoints.iter().filter(|endpoint| !endpoint.ips.is_empty()) {
            entry.places.insert(endpoint.network.clone(), Place { ips: endpoint.ips.clone(), moved: entry.touched });
        }
        entry.inspected = Some(inspected);
        self.changes.touch(id);
        self.changes.bindings = true;
        self.settle_unless_waiting(id);
        let wait = self.hold(id);
        self.look_for_place(id).into_iter().chain(wait).chain(image).collect()
    }

    /// Asks for docker_gwbridge if the container must have a place there, and none is known.
    fn look_for_place(&mut self, id: ShortId) -> Option<Wish> {
        let gateway = self.gateway_bridge();
        let entry = self.entries.get(&id)?;
        let inspected = entry.inspected.as_ref().filter(|inspected| inspected.state.is_alive())?;
        let overlay = inspected.endpoints.iter().any(|endpoint| {
            self.networks.get(&endpoint.network).is_some_and(|network| network.driver == Driver::Overlay)
        });
        let placed = gateway.is_some_and(|gateway| entry.places.contains_key(&gateway));
        if overlay && !placed { self.look_at_gateway() } else { None }
    }

    fn failed(&mut self, ticket: Ticket, id: &ContainerId, error: &str) {
        let Some(entry) = self.entries.get_mut(&id.short()) else { return };
        if entry.awaiting.is_none_or(|(own, _)| own != ticket) {
            return;
        }
        entry.awaiting = None;
        entry.failed = true;
        if entry.failure.as_deref() != Some(error) {
            entry.failure = Some(error.into());
            self.changes.containers.insert(id.short());
        }
        self.settle(id.short());
    }

    fn listed(
        &mut self,
        began: Moment,
        depth: Depth,
        containers: Vec<Summary>,
        networks: Vec<NetworkFacts>,
    ) -> Vec<Wish> {
        let known: BTreeSet<NetworkId> = networks.iter().map(|network| network.id.clone()).collect();
        let gone: Vec<_> = self.networks.keys().filter(|id| !known.contains(*id)).cloned().collect();
        let mut wishes: Vec<Wish> = gone.into_iter().filter_map(|id| self.look(id)).collect();
        for network in networks {
            if self.is_destroyed_since(&network.id, began) {
                continue;
            }
            // Only an inspect shows docker_gwbridge's containers, and no event announces them.
            if &*network.name == GWBRIDGE || depth == Depth::Every {
                wishes.extend(self.look(network.id.clone()));
            }
            self.hold_network(network);
        }
        self.destroyed.retain(|_, moment| *moment > began);
        let present: BTreeSet<ShortId> = containers.iter().map(|summary| summary.id.short()).collect();
        let absent = |(id, entry): (&ShortId, &Entry)| (!present.contains(id) && entry.touched <= began).then_some(*id);
        let gone: Vec<_> = self.entries.iter().filter_map(absent).collect();
        for id in gone {
            self.remove(id);
            if depth == Depth::Changed {
                self.suspects.entry(id).or_default();
            }
        }
        self.drop_images();
        self.forget_drains_but_of(&present);
        let mut look = Vec::new();
        for summary in containers {
            let short = summary.id.short();
            let entry = self.entries.entry(short).or_insert_with(|| Entry::new(summary.id.clone()));
            if entry.identity.is_none() {
                let namespace = labels::namespace(&self.options, &summary.labels);
                entry.identity = Some(Identity { name: summary.name.clone(), namespace });
                self.changes.touch(short);
            }
            let alive = summary.state.is_alive();
            let checked = entry.inspected.as_ref().is_some_and(|inspected| inspected.health != Health::None);
            let due = entry.differs_from(&summary) || (alive && (depth == Depth::Every || checked));
            if due && entry.touched <= began && entry.awaiting.is_none() {
                look.push(summary.id);
            }
        }
        let cause = if depth == Depth::Every { Cause::Restore } else { Cause::Check };
        wishes.extend(look.iter().map(|id| self.ask(id, cause)));
        if self.unsettled.is_none() {
            let awaited =
                self.entries.iter().filter(|(_, entry)| entry.awaiting.is_some() && entry.inspected.is_none());
            self.unsettled = Some(awaited.map(|(id, _)| *id).collect());
        }
        self.following = true;
        self.changes.askers = true;
        wishes
    }
}

#[cfg(test)]
pub(crate) mod tests;
