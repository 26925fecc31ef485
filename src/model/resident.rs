//! Containers of this host, published or not, and why not.

use std::sync::Arc;

use imbl::OrdMap;

use super::{Label, Problem, ShortId};

/// All containers that Docker has told of.
pub type Residents = OrdMap<ShortId, Arc<Resident>>;

/// A container of this host as one of whom somebody asks "where is it?".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resident {
    /// The container.
    pub container: ShortId,
    /// Its name; empty while it is not known.
    pub name: Arc<str>,
    /// The namespace it asks from.
    pub namespace: Label,
    /// Why it is not published; `None`: it is.
    pub silence: Option<Silence>,
    /// What is broken in its labels.
    pub problems: Box<[Problem]>,
}

/// Why a container is not published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// It was heard of, but Docker has not told yet what it is.
    Unseen,
    /// Docker does not answer questions about it.
    Failed(Arc<str>),
    /// Created, exited, being removed.
    Stopped,
    /// Dead, with a restart ahead.
    Restarting,
    /// This label or variable says so.
    Ignored(Arc<str>),
    /// `docker compose run`: nobody is meant to find it.
    OneOff,
    /// A hook of Compose.
    Hook,
    /// It has no name that could be given: its problems say why.
    Nameless,
    /// It was given no name, and this host publishes only what was (`--explicit on`).
    Unnamed,
    /// It has no port that Registrator would have registered (`--compat registrator`).
    Unpublished,
}
