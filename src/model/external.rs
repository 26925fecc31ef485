//! Services that do not run in Docker, as the operator registered them.

use std::{fmt, net::IpAddr, sync::Arc};

use imbl::OrdMap;

use super::{Check, Label};

/// What an external service is called. Ordered as its key in etcd: namespace, service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExternalName {
    /// Its namespace; `global` where none was given.
    pub namespace: Label,
    /// Its name.
    pub service: Label,
}

impl fmt::Display for ExternalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.service, self.namespace)
    }
}

/// An external service. While it is registered it stands in the place of all containers of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Where it is.
    pub target: ExternalTarget,
    /// What `_name._tcp` questions call its ports.
    pub port_name: Option<Label>,
    /// Free words for the application's own use.
    pub tags: Box<[Arc<str>]>,
    /// Relative share of each of its addresses.
    pub weight: u16,
    /// How each agent finds out whether it answers; `None`: it is always given.
    pub check: Option<Check>,
}

/// Where an external service is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalTarget {
    /// At these addresses; a port is what SRV answers carry.
    Addresses(Box<[(IpAddr, Option<u16>)]>),
    /// Under another name, lower case without the final dot, that is looked up whenever somebody asks.
    Name(Arc<str>, Option<u16>),
}

/// All of them.
pub type Externals = OrdMap<ExternalName, Arc<External>>;

/// Where a publication is that no Docker host has: one address or the name of an external service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Elsewhere {
    /// This address, from everywhere.
    Address(IpAddr),
    /// Under this name.
    Name(Arc<str>),
}
