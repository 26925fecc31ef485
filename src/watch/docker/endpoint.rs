//! Where the engine listens, as `--docker-host` says it.

use std::{fmt, str::FromStr};

/// Where the engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `unix:///var/run/docker.sock`
    Unix(String),
    /// `tcp://127.0.0.1:2375`
    Tcp(String),
}

/// A text that is no [`Endpoint`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a Docker endpoint is unix:///PATH or tcp://HOST:PORT (ssh and TLS need a local proxy), not {0:?}")]
pub struct EndpointError(String);

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let error = || EndpointError(text.chars().take(200).collect());
        if let Some(path) = text.strip_prefix("unix://") {
            return path.starts_with('/').then(|| Self::Unix(path.into())).ok_or_else(error);
        }
        let address = text.strip_prefix("tcp://").ok_or_else(error)?.trim_end_matches('/');
        let (name, port) = address.rsplit_once(':').ok_or_else(error)?;
        let fits = !name.is_empty() && !name.contains('/') && port.parse::<u16>().is_ok_and(|port| port != 0);
        fits.then(|| Self::Tcp(address.into())).ok_or_else(error)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}
