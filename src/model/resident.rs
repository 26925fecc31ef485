//! Containers of this host, published or not, and why not.

use std::{fmt, sync::Arc};

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
    /// The Compose service and project that its image's labels name, to which it does not belong.
    pub outsider: Option<(Arc<str>, Arc<str>)>,
    /// Its own search list (`dns_search`), which stands in the place of the host's; empty: it has none.
    pub search: Box<[Arc<str>]>,
    /// It asks for port 53 on all addresses of the host (`-p 53:53`).
    pub wants_dns_port: bool,
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
    /// It lives in the network of another container, and that one's present run has another.
    Detached(Detached),
    /// It has no name that could be given: its problems say why.
    Nameless,
    /// It was given no name, and this host publishes only what was (`--explicit on`).
    Unnamed,
    /// It has no port that Registrator would have registered (`--compat registrator`).
    Unpublished,
}

/// A container that joined the network of another one, and is in it no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detached {
    /// What became of the owner.
    pub lost: Lost,
    /// The owner's name; its id where nothing else is known.
    pub owner: Arc<str>,
    /// Names of the containers to start again, in this order; the last is the container itself.
    pub restart: Vec<Arc<str>>,
}

/// What became of the container whose network was joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Docker has not told of it yet.
    Unseen,
    /// There is none of that id or name: it was removed, or created again.
    Gone,
    /// It does not run.
    Stopped,
    /// It was started again after the joiner was, so that its network is another one now.
    Restarted,
    /// It joined another's in turn, and so on without an end.
    Endless,
}

impl fmt::Display for Detached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owner = &self.owner;
        match self.lost {
            Lost::Unseen => write!(f, "Docker has not told yet of {owner}, whose network it joined"),
            Lost::Gone => write!(f, "{owner}, whose network it joined, is gone"),
            Lost::Stopped => write!(f, "{owner}, whose network it joined, does not run"),
            Lost::Restarted => {
                write!(f, "it is still in the network of an earlier run of {owner}, which leads nowhere")
            }
            Lost::Endless => write!(f, "it joined the network of {owner}, which joined another's, and so on"),
        }
    }
}

impl Detached {
    /// What would give it a network again.
    pub fn fix(&self) -> String {
        let (them, owner) = (self.restart.join(", then "), &self.owner);
        match self.lost {
            Lost::Unseen => "ask again in a moment".to_owned(),
            Lost::Gone => format!("create {them} again: its network is that of a container by its id"),
            Lost::Stopped => format!("start {owner}, then restart {them}"),
            Lost::Restarted => format!("restart {them} (docker restart {})", self.restart.join(" ")),
            Lost::Endless => format!("create {them} with another network_mode"),
        }
    }
}
