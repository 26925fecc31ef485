//! All that happens to the set of containers, and all that it wants to be asked of Docker.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    facts::{ContainerId, ImageFacts, Inspected, NetworkFacts, Summary},
    metadata::Metadata,
};
use crate::model::NetworkId;

/// The place of an event in the order of all events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub(super) u64);

/// The right to answer one inspect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub(super) u64);

/// What is to be asked of Docker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Inspect a container; answer with [`Event::Present`], [`Event::Absent`] or [`Event::Failed`].
    Inspect {
        /// The container.
        id: ContainerId,
        /// To be given back with the answer.
        ticket: Ticket,
        /// Who waits for it.
        cause: Cause,
    },
    /// Let time pass; answer with [`Event::Waited`], also over a new connection.
    Wait {
        /// The container.
        id: ContainerId,
        /// To be given back.
        ticket: Ticket,
        /// How long.
        time: Duration,
    },
    /// Inspect a network; answer with [`Event::NetworkPresent`], [`Event::NetworkAbsent`] or [`Event::NetworkFailed`].
    InspectNetwork {
        /// The network.
        id: NetworkId,
        /// To be given back with the answer.
        began: Moment,
    },
    /// Read an image's labels; answer with [`Event::Image`].
    InspectImage {
        /// The image.
        id: Arc<str>,
    },
}

/// Why a container is inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// An event named it: at once.
    Event,
    /// It started, and is taken for what was known of it: a moment later, when the engine is less busy.
    Confirm,
    /// It was created: what it will be is wanted before it starts.
    Prepare,
    /// It is looked at anew after we were away, or after it gave no answer: when there is room.
    Restore,
    /// A list differed from what is held, though we were there: when there is room.
    Check,
}

/// How closely a list is followed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The first one on a connection: every live container is inspected.
    Every,
    /// Only what differs from what is held, and what has a health check (a list does not show health).
    Changed,
}

/// All that happens to the set.
#[derive(Clone, Debug)]
pub enum Event {
    /// `create`, with the labels that came with it.
    Created {
        /// The container.
        id: ContainerId,
        /// Its name.
        name: Arc<str>,
        /// Its labels.
        labels: Metadata,
    },
    /// `start`.
    Started {
        /// The container.
        id: ContainerId,
        /// No event waits behind this one, which might be its end.
        newest: bool,
    },
    /// `unpause`, `rename`, `health_status`, `update`: look again.
    Changed(ContainerId),
    /// `pause`.
    Paused(ContainerId),
    /// `kill`, which is a signal of any kind.
    Killed {
        /// The container.
        id: ContainerId,
        /// Its number.
        signal: i32,
    },
    /// The time of a [`Wish::Wait`] is over.
    Waited {
        /// The container.
        id: ContainerId,
        /// Of the wish.
        ticket: Ticket,
    },
    /// `die`: everything it had is free from now on.
    Died(ContainerId),
    /// `destroy`.
    Destroyed(ContainerId),
    /// `network connect`.
    Connected {
        /// The container.
        id: ContainerId,
        /// The network.
        network: NetworkId,
    },
    /// `network disconnect`: its addresses there are free from now on.
    Disconnected {
        /// The container.
        id: ContainerId,
        /// The network.
        network: NetworkId,
    },
    /// `network create`.
    NetworkCreated(NetworkId),
    /// `network destroy`.
    NetworkDestroyed(NetworkId),
    /// An inspect found the container.
    Present {
        /// Of the question.
        ticket: Ticket,
        /// The answer.
        inspected: Box<Inspected>,
    },
    /// An inspect found no such container.
    Absent {
        /// Of the question.
        ticket: Ticket,
        /// The container.
        id: ContainerId,
    },
    /// An inspect got no answer, or one that makes no sense: what is held stays, and [`Containers::retry`](super::container::Containers::retry) asks again.
    Failed {
        /// Of the question.
        ticket: Ticket,
        /// The container.
        id: ContainerId,
        /// Why.
        error: Arc<str>,
    },
    /// The whole set, asked for at `began`.
    Listed {
        /// [`Containers::now`](super::container::Containers::now) before the question.
        began: Moment,
        /// Whom to inspect.
        depth: Depth,
        /// All containers.
        containers: Vec<Summary>,
        /// All networks.
        networks: Vec<NetworkFacts>,
    },
    /// A network's inspect.
    NetworkPresent {
        /// Of the question.
        began: Moment,
        /// The network.
        facts: Box<NetworkFacts>,
        /// Its containers' addresses.
        endpoints: Vec<(ContainerId, Box<[IpAddr]>)>,
    },
    /// There is no such network.
    NetworkAbsent(NetworkId),
    /// A network's inspect got no answer; the next list tells.
    NetworkFailed(NetworkId),
    /// An image's labels; `None`: they cannot be read.
    Image {
        /// The image.
        id: Arc<str>,
        /// What they say.
        facts: Option<ImageFacts>,
    },
    /// The connection ended. What is held stays; questions under way will not be answered.
    Lost,
}
