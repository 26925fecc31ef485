//! From what this host wants to publish to what is known of all hosts, over etcd or in this process.
//!
//! [`Desired`](crate::model::Desired) comes in from `watch/`, a [`View`](mirror::View) of all hosts goes out, and
//! [`catalog::merge`] lays our own truth over it. Two state machines do the work and know nothing of one another:
//!
//! ```text
//! Desired ─► publisher ─► (record, plan) ─► etcd | memory ─► mirror ─► View ─► catalog
//! ```
//!
//! | file | idea |
//! |---|---|
//! | [`call`] | etcd's few calls as data |
//! | [`record`] | keys and JSON values ↔ the model's types |
//! | [`plan`] | wanted keys against stored ones → the next fenced transaction |
//! | [`publisher`] | our keys, under one lease, claimed by nonce |
//! | [`mirror`] | everybody's keys: list, watch, distrust |
//! | [`catalog`] | the merge |
//! | [`round`] | who does not know of a drain yet |
//! | [`memory`] | the same calls without a server: the default, and the simulation's etcd |
//! | [`etcd`] \[IO\] | the calls over the network, each with a deadline |
//! | [`journal`] | what the log says of the registry |
//! | [`state`] \[IO\] | host id and session between two starts |
//! | [`driver`] \[IO\] | carries effects out and inputs in |
//!
//! **State** has one owner: the driver's task owns both machines; what leaves is an immutable snapshot on a channel.
//! **Time and chance** are arguments, so that `tests/sim` runs many hosts against one model of etcd with every fault we
//! know, a seed at a time.
//!
//! **Failure** never empties a view and never gives up a lease: what cannot be reached is tried again for ever, what is
//! doubtful is listed anew beside the old view, and what cannot be read is skipped and shown.
//!
//! Deliberately absent: leader election, locks, deltas on the wire, and any write outside our own host's keys.

pub mod call;
pub mod catalog;
pub mod driver;
pub mod etcd;
pub mod external;
pub mod journal;
pub mod memory;
pub mod mirror;
pub mod plan;
pub mod publisher;
pub mod record;
pub mod round;
pub mod state;
