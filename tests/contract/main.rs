//! The contract with etcd: the same scripts run against the store in memory and against a real etcd, and must come to
//! the same end (`scripts.rs`, `random.rs`, and whole stories of the publisher in `publisher.rs`). The simulation and the single-host registry rest on that store, so this
//! suite is what makes their results mean something.
//!
//! The other half holds the client to its promises: every call and every watch ends in time and says what is certain,
//! whatever happens to the cluster (`faults.rs`, `access.rs`, `size.rs`).

mod access;
mod both;
#[path = "../support/etcd.rs"]
mod etcd;
mod faults;
mod publisher;
mod random;
mod scripts;
mod size;
