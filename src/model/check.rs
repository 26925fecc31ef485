//! What a check of a container asks, how often, and how many answers in a row decide. Read from labels by
//! `watch/check.rs`, judged by `watch/health.rs`, asked by `watch/probe.rs`; not published.

use std::{fmt, sync::Arc, time::Duration};

/// One question that is asked of a container again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The question.
    pub ask: Ask,
    /// The container port that is asked; `None` only for a command of a container without ports.
    pub port: Option<u16>,
    /// From one question to the next.
    pub interval: Duration,
    /// How long an answer may take; at most `interval`.
    pub timeout: Duration,
    /// Passes in a row that make it healthy.
    pub rise: u32,
    /// Failures in a row that make it unhealthy.
    pub fall: u32,
    /// What a container that has just started counts as.
    pub initial: Initial,
}

/// What a check asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The port takes a connection.
    Tcp,
    /// A request that gets a status from 200 to 399.
    Http {
        /// Through TLS, whoever signed the certificate: the container is known by its address.
        security: Security,
        /// `GET`, `HEAD`, …
        method: &'static str,
        /// Path and query; plain visible characters only.
        path: Unshown,
    },
    /// A program of the host ends with status 0.
    Command {
        /// Its file name within the directory of the operator's choice.
        program: Unshown,
        /// Its arguments.
        arguments: Box<[Unshown]>,
    },
}

impl Ask {
    /// What kind it is, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http { security: Security::Plain, .. } => "http",
            Self::Http { security: Security::Tls, .. } => "https",
            Self::Command { .. } => "cmd",
        }
    }
}

/// How a request is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// In the clear.
    Plain,
    /// TLS.
    Tls,
}

/// What a container counts as before its checks have decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// Never given.
    Starting,
    /// Given at once.
    Healthy,
}

/// A text that may be from an environment, and so is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Unshown(pub Arc<str>);

impl fmt::Debug for Unshown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// All checks of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Which of the container's lives is meant: another number after each of its ends.
    pub life: u64,
    /// At least one. The worst result counts.
    pub all: Arc<[Check]>,
}
