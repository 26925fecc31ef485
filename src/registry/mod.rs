//! Not written yet.

pub mod call;
pub mod catalog;
pub mod driver;
pub mod etcd;
pub mod memory;
pub mod mirror;
pub mod plan;
pub mod publisher;
pub mod record;
pub mod state;
