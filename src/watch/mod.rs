//! Docker → [`Desired`](crate::model::Desired) and [`Local`](crate::model::Local): what this host publishes, and what it
//! alone knows (who asks from which address).
//!
//! **In** comes the engine's event stream, and the answers to lists and inspects. **Out** go two snapshots on `watch`
//! channels, each only when it changed, a [`Status`](docker::Status), and a [table](resident) of all containers that is
//! read when somebody asks why one is not published.
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
//! What Docker says then passes [`probe::follow`], which lays the health over it that the containers' own checks
//! ([`check`]) have found: [`health::Monitor`] decides whom to ask when, what results come to and when a change is told;
//! `probe.rs` asks. It runs on the same thread right behind the follower, and asks on other threads.
//!
//! **Failure.** An engine that cannot be reached, or that answers nonsense, freezes everything as it was: nothing is
//! withdrawn until it is proven dead. We reconnect for ever. The end of the stream, for whatever reason, an overflow of
//! our queue, a list without answer, and a list that shows what no event told are one case: connect anew and look at
//! everything. Before the first list is followed up, `listed` is false and silence means nothing. Broken labels are
//! problems of their container.
//!
//! **Absent:** writing to Docker (GET only), so nothing is run inside containers; debouncing (the first event of a
//! container publishes; only a health that gets better waits); a policy on who is given when nobody is ready, which
//! belongs to `dns/`; TLS towards the engine.

pub mod asker;
pub mod check;
pub mod claim;
pub mod container;
pub mod desired;
pub mod docker;
pub mod event;
pub mod facts;
pub mod health;
pub mod host;
pub mod labels;
pub mod metadata;
pub mod probe;
pub mod registrator;
pub mod replay;
pub mod resident;
