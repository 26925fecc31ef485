//! Portolan: from a container's start to a DNS answer, in modules ordered as the data flows.

pub mod model;
pub mod scheduler;

pub mod watch;

pub mod registry;

pub mod dns;

pub mod api;

pub mod config;

pub mod cli;

pub mod agent;

#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
