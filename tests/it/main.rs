//! Black-box tests on the library and the binary: one integration binary, one module per folder of `src/`.

mod agent;
mod cli;
mod dns_server;
mod docker;
#[path = "../support/docker.rs"]
mod engine;
mod engines;
#[path = "../support/etcd.rs"]
mod etcd;
mod forward;
#[path = "../support/queries.rs"]
mod queries;
mod readme;
mod repository;
mod setup;
#[path = "../support/systemd.rs"]
mod systemd;
mod times;
