//! Docker → [`Desired`](crate::model::Desired) and [`Local`](crate::model::Local): what this host publishes, and what it
//! alone knows (who asks from which address).
//!
//! **In** comes the engine's event stream, and the answers to lists and inspects. **Out** go two snapshots on `watch`
//! channels, each only when it changed, and a [`Status`](docker::Status).
//!
//! One task owns all state: [`docker::follow`]. It carries events and answers to
//! [`container::Containers`], carries out the [wishes](container::Wish) that come back, and sends what
//! [`desired`](mod@desired) and [`asker`] make of the set. A reader task only decodes and enqueues, because an engine whose
//! events are not read slows down and drops them. Inspects and lists are tasks with deadlines: a container that does not
//! answer holds nobody else. There are no locks.
//!
//! The order in which things are believed: an event that ends something acts at once; else an inspect is the truth, if
//! nothing happened since it was asked; a list only says whom to inspect, and whom it does not know is gone.
//!
//! **Failure.** An engine that cannot be reached, or that answers nonsense, freezes everything as it was: nothing is
//! withdrawn until it is proven dead. We reconnect for ever. The end of the stream, for whatever reason, an overflow of
//! our queue, a list without answer, and a list that shows what no event told are one case: connect anew and look at
//! everything. Before the first list is followed up, `listed` is false and silence means nothing. Broken labels are
//! problems of their container.
//!
//! **Absent:** writing to Docker (GET only); debouncing (the first event of a container publishes); draining on `kill`
//! and a policy on health, which belong to a later hop; TLS towards the engine.

pub mod asker;
pub mod container;
pub mod desired;
pub mod docker;
pub mod event;
pub mod facts;
pub mod host;
pub mod labels;
pub mod metadata;
pub mod replay;
