//! What a host publishes for one of its containers.
//!
//! There may be a million of them, so what is the same for many is held once: all replicas of a service share one
//! [`Common`], all containers of a network one [`Segment`]. Both are read as if they stood in the publication itself; the
//! registry's interner, through which records are decoded, sees to it that equal ones are the same.

use std::{net::IpAddr, ops::Deref, sync::Arc};

use super::{Driver, Elsewhere, Health, Label, NetworkId, Offer, Phase, Scope, ShortId};

/// A network as its containers are attached to it: the same for all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Segment {
    /// The network.
    pub id: NetworkId,
    /// Its name, for people.
    pub name: Arc<str>,
    /// How it connects.
    pub driver: Driver,
    /// How far its id carries.
    pub scope: Scope,
    /// Cut off from everything outside.
    pub internal: bool,
}

/// A container's place in one network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// The network.
    pub segment: Arc<Segment>,
    /// The container's addresses there: none on the host's network.
    pub ips: Ips,
}

impl Deref for Attachment {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        &self.segment
    }
}

/// Addresses of a container on one network, in Docker's order: nearly always one, which needs no allocation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ips(Held);

/// Exactly one address is always held as `One`, so that equal addresses are equal values.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Held {
    One(IpAddr),
    Others(Box<[IpAddr]>),
}

impl Deref for Ips {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        match &self.0 {
            Held::One(ip) => std::slice::from_ref(ip),
            Held::Others(ips) => ips,
        }
    }
}

impl From<Box<[IpAddr]>> for Ips {
    fn from(ips: Box<[IpAddr]>) -> Self {
        match *ips {
            [ip] => Self(Held::One(ip)),
            _ => Self(Held::Others(ips)),
        }
    }
}

impl From<&[IpAddr]> for Ips {
    fn from(ips: &[IpAddr]) -> Self {
        match ips {
            [ip] => Self(Held::One(*ip)),
            _ => Self(Held::Others(ips.into())),
        }
    }
}

impl<const N: usize> From<[IpAddr; N]> for Ips {
    fn from(ips: [IpAddr; N]) -> Self {
        Self::from(&ips[..])
    }
}

impl FromIterator<IpAddr> for Ips {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(ips: T) -> Self {
        Self::from(ips.into_iter().collect::<Box<[IpAddr]>>())
    }
}

impl Default for Ips {
    fn default() -> Self {
        Self(Held::Others(Box::default()))
    }
}

impl<'a> IntoIterator for &'a Ips {
    type Item = &'a IpAddr;
    type IntoIter = std::slice::Iter<'a, IpAddr>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::fmt::Debug for Ips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&**self).finish()
    }
}

/// What the replicas of a service have in common, on whatever hosts they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Common {
    /// The image they were started from, for people.
    pub image: Arc<str>,
    /// At least one.
    pub services: Box<[Offer]>,
    /// A digest of the directory their Compose project was started from, where their namespace is that project.
    pub directory: Option<Arc<str>>,
    /// The namespace that they ask from, and in which they have aliases; without those if it is `global`.
    pub namespace: Label,
    /// What else they are called beside name and id: see [`alias`](super::alias()). In order, at most
    /// [`MAX_ALIASES`](super::MAX_ALIASES).
    pub aliases: Box<[Arc<str>]>,
}

/// What one host publishes for one container: its services, and what is needed to know who reaches them.
/// The decoded form of one etcd record. One publication with one of its [`Offer`]s is an *instance*.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Publication {
    /// The container.
    pub container: ShortId,
    /// The container's name, without the leading slash.
    pub name: Arc<str>,
    /// Whether it takes part in answers.
    pub phase: Phase,
    /// What its health check says.
    pub health: Health,
    /// What it offers, and where that comes from.
    pub common: Arc<Common>,
    /// Ordered by network id; empty for a container without a network.
    pub networks: Box<[Attachment]>,
    /// Where it is, if no Docker host has it. Rare, so it costs the others a pointer only.
    pub elsewhere: Option<Box<Elsewhere>>,
}

impl Deref for Publication {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl Publication {
    /// Whether it shares its host's network, so that its ports are the host's own.
    pub fn is_on_host_network(&self) -> bool {
        self.networks.iter().any(|network| network.driver == Driver::Host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_addresses_are_equal_however_they_came() {
        let ip = |last| IpAddr::from([10, 0, 0, last]);
        for many in 0..4u8 {
            let ips: Vec<IpAddr> = (0..many).map(ip).collect();
            let all = [Ips::from(&ips[..]), Ips::from(ips.clone().into_boxed_slice()), ips.iter().copied().collect()];
            for one in &all {
                assert_eq!((&**one, one), (&ips[..], &all[0]));
            }
        }
        assert_eq!((Ips::from([ip(1)]), Ips::default()), (Ips::from(&[ip(1)][..]), Ips::from(&[][..])));
    }

    /// With its two counts a publication fills 80 octets, an allocation's size; an octet more would take 96.
    #[test]
    fn a_publication_stays_small() {
        assert_eq!((size_of::<Publication>(), size_of::<Attachment>()), (64, 32));
    }
}
