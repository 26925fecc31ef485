//! End to end, on the test bed: four real engines of two versions, a real etcd of three members, an agent on each host, real
//! containers that ask through their own resolvers. `make bed-up` brings it up; `make test` does all of it.
//!
//! Every test makes things with names of its own and takes them away again. None sleeps: each waits for a condition with
//! a deadline, and says what it saw last when that passes. One test runs at a time (`.config/nextest.toml`).

mod aliases;
mod askers;
mod badinput;
mod bare;
mod bed;
mod claims;
mod cross_host;
mod deploy;
mod dns;
mod dockercoins;
mod drain;
mod engines;
mod external;
mod families;
mod faults;
#[path = "../support/hostile.rs"]
mod hostile;
mod joined;
mod lifecycle;
mod members;
mod networks;
mod others;
mod ports;
mod prober;
mod projects;
mod smoke;
mod swarm;
