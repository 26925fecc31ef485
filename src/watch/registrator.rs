//! `--compat registrator`: the names that Registrator gave (gliderlabs/registrator, "Service Object"), for those who
//! move from it without touching a container.
//!
//! | Registrator | here |
//! |---|---|
//! | a service for each published port; with `-internal` for each exposed one | the same: `registrator`, `registrator-internal` |
//! | called after the last element of the image's name | the same; Compose's and Swarm's names play no part |
//! | `-<port>` behind it where there are several ports, also behind `SERVICE_NAME`, not behind `SERVICE_<n>_NAME` | the same; a `portolan.service` is taken as it is |
//! | flat names | `--namespaces off`, unless it is given |
//! | `SERVICE_ID`, all other `SERVICE_*` keys as attributes | `id` and `attributes` of the port in its record |
//! | tag `udp` of UDP ports | the same |
//!
//! All else stays as it is: health, several networks, and which address the asker gets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    labels::{Named, Reader},
    metadata::{Key, Origin, Word},
};
use crate::model::{Extra, Label, Problem, Proto};

/// The tag of UDP ports.
pub(super) const UDP: &str = "udp";
/// Longest id in octets: twice a host's name, a container's and a port.
pub const MAX_ID: usize = 255;
/// Longest value of an attribute in octets: one character-string of a TXT record (RFC 1035 section 3.3).
pub const MAX_ATTRIBUTE: usize = 255;
/// Octets of all attributes of one container, so that its record stays far below etcd's 1.5 MiB.
pub const MAX_ATTRIBUTES: usize = 32 << 10;

/// `--compat`: whose names containers have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compat {
    /// Our own.
    #[default]
    None,
    /// Registrator's: published ports are services.
    Registrator,
    /// Registrator's with `-internal`: exposed ports are services.
    RegistratorInternal,
}

impl Compat {
    /// Whether Registrator's rules hold, which ports they ever take.
    pub fn is_registrators(self) -> bool {
        self != Self::None
    }
}

/// What the ports of one container have together.
#[derive(Debug, Default)]
pub(super) struct Extras {
    octets: usize,
    /// Ports mostly have the same.
    last: Option<Arc<Extra>>,
}

/// The last element of an image's name, without tag and digest.
pub(super) fn name_of(image: &str) -> &str {
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split([':', '@']).next().unwrap_or_default()
}

impl Reader<'_> {
    /// Whether names get their port behind them.
    pub(super) fn is_suffixed(&self, ports: &BTreeSet<(u16, Proto)>) -> bool {
        let ours = || self.metadata.entries.get(&Key::Service).is_some_and(|entry| entry.origin == Origin::Label);
        self.options.compat.is_registrators() && ports.len() > 1 && !ours()
    }

    /// The name of one of several ports.
    pub(super) fn suffixed(&mut self, general: &Named, port: u16) -> Option<Named> {
        let text = format!("{}-{port}", general.service);
        match Label::parse(&text) {
            Ok(service) => Some(Named { service, namespace: general.namespace.clone() }),
            Err(error) => {
                let expected = format!("{error}; SERVICE_{port}_NAME gives the port a name of its own");
                self.problems.push(Problem::new(self.place, &text, expected));
                None
            }
        }
    }

    /// The id and the attributes of a port: what is said of the port itself beats what is said of all.
    pub(super) fn extra(&mut self, port: u16, proto: Proto, extras: &mut Extras) -> Option<Arc<Extra>> {
        if !self.options.compat.is_registrators() {
            return None;
        }
        let metadata = self.metadata;
        let own = self.text(&metadata.of(port, proto, Word::Id));
        let id = own.or_else(|| self.text(&Key::Id)).and_then(Result::ok);
        let id = id.and_then(|(text, entry)| {
            if text.len() > MAX_ID {
                self.complain(&entry, &text, format!("an id of at most {MAX_ID} octets"));
                return None;
            }
            Some(text).filter(|text| !text.is_empty())
        });
        // One pass: an enemy may have hundreds of attributes for each of dozens of ports.
        let mut nearest: BTreeMap<&Arc<str>, ((u32, bool), &Key)> = BTreeMap::new();
        for key in metadata.entries.keys() {
            let (name, breadth) = match key {
                Key::Attribute(name) => (name, (u32::MAX, true)),
                Key::Of(ports, Word::Attribute(name)) if ports.hold(port, proto) => (name, ports.breadth()),
                _ => continue,
            };
            if nearest.get(name).is_none_or(|(held, _)| breadth < *held) {
                nearest.insert(name, (breadth, key));
            }
        }
        let mut attributes = BTreeMap::new();
        for (name, (_, key)) in nearest {
            let Some(Ok((text, entry))) = self.text(key) else { continue };
            if name.len() > MAX_ATTRIBUTE || text.len() > MAX_ATTRIBUTE {
                self.complain(&entry, &text, format!("an attribute of at most {MAX_ATTRIBUTE} octets"));
                continue;
            }
            attributes.insert(Arc::clone(name), text);
        }
        let extra = Extra { id, attributes };
        if extra == Extra::default() {
            return None;
        }
        extras.octets += extra.attributes.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if extras.octets > MAX_ATTRIBUTES {
            let expected = format!("at most {MAX_ATTRIBUTES} octets of attributes for all ports; the rest is left out");
            self.note(Problem::new(self.place, "more attributes", expected));
            return extra.id.map(|id| Arc::new(Extra { id: Some(id), attributes: BTreeMap::new() }));
        }
        if let Some(last) = extras.last.as_ref().filter(|last| ***last == extra) {
            return Some(Arc::clone(last));
        }
        let extra = Arc::new(extra);
        extras.last = Some(Arc::clone(&extra));
        Some(extra)
    }
}

#[cfg(test)]
mod tests;
