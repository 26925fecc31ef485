//! From value to text, the way back from `values.rs`: what `config show` and errors print.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use super::values::{General, LogFormat, Octets, OnTerm, Registry, Upstreams, User};
use crate::dns::{
    forward::{PrivateAnswers, SiteNames},
    listen::Listen,
    prefer::Prefer,
    special::SingleLabels,
};
use crate::model::{Aliases, External, ExternalName, HostId, WhenNoneReady};
use crate::registry::external::words;
use crate::watch::{claim::Rule, labels::Namespaces, metadata::Precedence, registrator::Compat};

/// A value as the operator would write it.
pub(super) trait Show {
    fn show(&self) -> String;
}

impl Show for Duration {
    fn show(&self) -> String {
        match self.as_secs() {
            seconds if seconds >= 3600 && seconds % 3600 == 0 => format!("{}h", seconds / 3600),
            seconds if seconds >= 60 && seconds % 60 == 0 => format!("{}m", seconds / 60),
            seconds => format!("{seconds}s"),
        }
    }
}

impl Show for PathBuf {
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Show for User {
    fn show(&self) -> String {
        match self.password {
            Some(_) => format!("{}:***", self.name),
            None => self.name.clone(),
        }
    }
}

impl Show for Registry {
    fn show(&self) -> String {
        match self {
            Self::Memory => "memory",
            Self::Etcd => "etcd",
        }
        .to_owned()
    }
}

impl Show for OnTerm {
    fn show(&self) -> String {
        match self {
            Self::Keep => "keep",
            Self::Leave => "leave",
        }
        .to_owned()
    }
}

impl Show for LogFormat {
    fn show(&self) -> String {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
        .to_owned()
    }
}

impl Show for Namespaces {
    fn show(&self) -> String {
        match self {
            Self::On => "on",
            Self::Off => "off",
        }
        .to_owned()
    }
}

impl Show for (ExternalName, External) {
    fn show(&self) -> String {
        words(&self.0, &self.1)
    }
}

impl Show for Compat {
    fn show(&self) -> String {
        match self {
            Self::None => "none",
            Self::Registrator => "registrator",
            Self::RegistratorInternal => "registrator-internal",
        }
        .to_owned()
    }
}

impl Show for Precedence {
    fn show(&self) -> String {
        match self {
            Self::Label => "label",
            Self::Environment => "environment",
        }
        .to_owned()
    }
}

impl Show for bool {
    fn show(&self) -> String {
        if *self { "on" } else { "off" }.to_owned()
    }
}

impl Show for Listen {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Show for Upstreams {
    fn show(&self) -> String {
        let general = match &self.general {
            General::System => vec![],
            General::None => vec!["none".to_owned()],
            General::Addresses(addresses) => addresses.iter().map(Show::show).collect(),
        };
        let special = self.suffixes.iter().map(|(suffix, server)| format!("{suffix}={server}"));
        general.into_iter().chain(special).collect::<Vec<_>>().join(",")
    }
}

impl Show for PrivateAnswers {
    fn show(&self) -> String {
        match self {
            Self::Allow => "allow",
            Self::Refuse => "refuse",
        }
        .to_owned()
    }
}

impl Show for SiteNames {
    fn show(&self) -> String {
        match self {
            Self::Auto => "auto",
            Self::Answer => "answer",
            Self::Forward => "forward",
        }
        .to_owned()
    }
}

impl Show for SingleLabels {
    fn show(&self) -> String {
        match self {
            Self::Answer => "answer",
            Self::Forward => "forward",
        }
        .to_owned()
    }
}

impl Show for Octets {
    fn show(&self) -> String {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.into_iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit)) {
            Some((name, unit)) => format!("{}{name}", self.0 / unit),
            None => self.0.to_string(),
        }
    }
}

macro_rules! show_as_displayed {
    ($($kind:ty),*) => {
        $(impl Show for $kind {
            fn show(&self) -> String {
                self.to_string()
            }
        })*
    };
}

show_as_displayed!(String, u32, Aliases, Rule, Prefer, IpAddr, IpNet, SocketAddr, HostId, WhenNoneReady);

impl<T: Show> Show for Option<T> {
    fn show(&self) -> String {
        self.as_ref().map(Show::show).unwrap_or_default()
    }
}

impl<T: Show> Show for Vec<T> {
    fn show(&self) -> String {
        self.iter().map(Show::show).collect::<Vec<_>>().join(",")
    }
}
