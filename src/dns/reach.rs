//! Which address an asker gets for an instance, and on which port numbers: the five rules and the one-port rule.
//!
//! Each family stands for itself, and a container whose ways out all lack one is given that one on its own networks
//! only. The first rule that holds decides:
//!
//! 1. asker and instance share a network on which containers may talk: the instance's address there. An asker that
//!    has only internal networks stops here;
//! 2. the asker is the instance's own host: its address on a bridge, if the bridge is in the same network namespace. The instance is on its host's network: that
//!    host's address, for any asker;
//! 3. its address is routed, by the operator's word, and the asker is not on another bridge of the same host; or has a
//!    link-layer life of its own (macvlan, ipvlan) and the asker is on another host. Neither where a Docker network of
//!    the asker's host has that address in its subnet, too: it takes what is sent there;
//! 4. it is published: the host's address and the published number;
//! 5. nothing of that: left out, and the [`Obstacle`] says why.
//!
//! By rules 1 to 3 a port has its own number, by rule 4 the published one. SRV records carry the number with the
//! address. Addresses alone cannot, so those of a service are only given where *one and the same* number works
//! ([`one_port()`]), each at the binding that has the number.
//!
//! The asker of another host is never told apart from a stranger: both see published ports, routed addresses and
//! hosts. Whatever is not known to be reachable is left out (P6): better one replica fewer than one that refuses.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::{
    source::{Source, is_ours},
    zone::{Candidate, Home},
};
use crate::model::{
    Attachment, Driver, Elsewhere, GWBRIDGE, Local, Network, Origin, Port, Proto, Publication, Published, Scope,
};

pub use one_port::{Basis, Choice, Given, OnePort, one_port};

mod one_port;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `A`
    V4,
    /// `AAAA`
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Whether the address belongs to it.
    pub fn holds(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// Which families there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    fn holds(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

/// Why an asker gets an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// 1: they share a network.
    SharedNetwork,
    /// 2: the asker is the host, and a host reaches its bridges.
    HostsBridge,
    /// 2: the instance's ports are its host's own.
    HostNetwork,
    /// 3: the operator said that its subnet is routed.
    Routed,
    /// 3: it has an address in the network around its host.
    LinkLayer,
    /// 4: its port is published.
    Published,
    /// An operator registered the address: whoever may leave its networks reaches it.
    External,
}

/// Why an asker gets no address of a family: rule 5, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The asker has only internal networks, and is on none with the instance.
    Confined,
    /// No port is published off loopback in this family, and no other rule holds.
    NotPublished,
    /// The instance's host has no address of this family that the asker could use.
    NoHostAddress,
    /// Same host, another bridge, and no docker-proxy holds the published port.
    NoProxy,
    /// Same host, but the asker is on no bridge: macvlan containers cannot reach their own host.
    NoBridge,
    /// The port is published on an address that only the instance's own host has: one inside a Docker subnet.
    OtherHostsOnly,
    /// A rule holds, but no network over which the asker leaves has this family.
    AskerLacksFamily,
    /// Its engine's bridges are in another network namespace than this host's processes, and no port is published.
    BridgeApart,
    /// Its address is routed, but a Docker network of this host has it in its subnet, too, and takes what is sent there.
    Shadowed,
    /// An external service without an address of this family.
    OtherFamily,
    /// An external service that has no address of its own, but another name.
    Named,
}

/// The address an asker uses for an instance, and the rule that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The address.
    pub address: IpAddr,
    /// The rule.
    pub rule: Rule,
}

/// An asker's place, worked out once per question.
#[derive(Debug)]
pub struct Viewpoint<'a> {
    local: &'a Local,
    routed: &'a [IpNet],
    source: &'a Source,
    /// The asker's networks, docker_gwbridge among them.
    networks: Vec<&'a Network>,
    confined: bool,
    bridged: bool,
    /// The families that the asker's ways out have.
    speaks: Families,
}

impl<'a> Viewpoint<'a> {
    /// The place of `source` on the host that `local` describes; `routed` are the operator's `--routed` subnets.
    ///
    /// A container whose networks are not known to lead anywhere is confined (P7).
    pub fn new(local: &'a Local, routed: &'a [IpNet], source: &'a Source) -> Self {
        let networks: Vec<&Network> = match source {
            Source::Container(asker) => {
                asker.networks.iter().filter_map(|id| local.networks.get(id)).map(|network| &**network).collect()
            }
            Source::Host | Source::Peer | Source::Stranger | Source::Unknown => Vec::new(),
        };
        let is_container = matches!(source, Source::Container(_));
        let leads_out = |network: &&Network| !network.internal;
        // A container of an overlay network that is not internal leaves over docker_gwbridge, a bridge.
        let leads_to_host = |network: &&Network| {
            leads_out(network) && matches!(network.driver, Driver::Bridge | Driver::Overlay | Driver::Other(_))
        };
        let speaks =
            |family| !is_container || networks.iter().any(|network| leads_out(network) && has(network, family));
        Self {
            speaks: Families { v4: speaks(Family::V4), v6: speaks(Family::V6) },
            confined: matches!(source, Source::Unknown) || is_container && !networks.iter().any(leads_out),
            bridged: networks.iter().any(leads_to_host),
            local,
            routed,
            source,
            networks,
        }
    }

    /// Who asks.
    pub fn source(&self) -> &'a Source {
        self.source
    }

    /// Whether the asker may not leave its networks, so that nothing of it is forwarded either.
    pub fn is_confined(&self) -> bool {
        self.confined
    }

    /// Whether some way of the asker leads over a bridge, where it finds its host.
    pub fn is_bridged(&self) -> bool {
        self.bridged
    }

    /// The families in which the asker may leave its networks. Of hosts and strangers nobody knows better.
    pub fn speaks(&self) -> Families {
        self.speaks
    }

    /// The gateways of the asker's own networks: where it finds its host.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> {
        let bridges = self.networks.iter().filter(|network| network.driver == Driver::Bridge);
        bridges.flat_map(|network| network.gateways.iter().copied())
    }

    /// The address of one family under which the asker reaches an instance of `home`.
    pub fn way(&self, candidate: &Candidate, family: Family) -> Result<Way, Obstacle> {
        let way = self.first_rule(candidate, family)?;
        // A network that both are on has whatever family the instance has an address of there.
        if way.rule == Rule::SharedNetwork || self.speaks.holds(family) {
            Ok(way)
        } else {
            Err(Obstacle::AskerLacksFamily)
        }
    }

    /// What the first rule that holds would give to an asker with both families.
    fn first_rule(&self, candidate: &Candidate, family: Family) -> Result<Way, Obstacle> {
        let publication = &*candidate.publication;
        let own = candidate.home.origin == Origin::Own;
        let asks_from_here = matches!(self.source, Source::Container(_) | Source::Host);
        let address_on = |wanted: &dyn Fn(&Attachment, IpAddr) -> bool| {
            let networks = publication.networks.iter();
            let mut all = networks.flat_map(|network| network.ips.iter().map(move |address| (network, *address)));
            all.find(|(network, address)| family.holds(*address) && wanted(network, *address)).map(|held| held.1)
        };

        match publication.elsewhere.as_deref() {
            Some(_) if self.confined => return Err(Obstacle::Confined),
            Some(Elsewhere::Address(address)) if family.holds(*address) => {
                return Ok(Way { address: *address, rule: Rule::External });
            }
            Some(Elsewhere::Address(_)) => return Err(Obstacle::OtherFamily),
            Some(Elsewhere::Name(_)) => return Err(Obstacle::Named),
            None => {}
        }
        if let Some(address) = address_on(&|network, _| self.shares(network, publication, own)) {
            return Ok(Way { address, rule: Rule::SharedNetwork });
        }
        if self.confined {
            return Err(Obstacle::Confined);
        }
        if own
            && *self.source == Source::Host
            && let Some(address) =
                address_on(&|network, _| network.driver == Driver::Bridge && !self.local.apart.contains(&network.id))
        {
            return Ok(Way { address, rule: Rule::HostsBridge });
        }
        if publication.is_on_host_network() {
            let address = self.host_address(&candidate.home, family).ok_or(Obstacle::NoHostAddress)?;
            let crosses_host = matches!(self.source, Source::Container(_)) && self.is_here(&candidate.home, address);
            return if crosses_host && !self.is_bridged_to(address) {
                Err(Obstacle::NoBridge)
            } else {
                Ok(Way { address, rule: Rule::HostNetwork })
            };
        }
        // On one host Docker lets no packet pass from one bridge to another, wherever else a bridge is routed.
        let isolated = |network: &Attachment| {
            own && matches!(self.source, Source::Container(_)) && network.driver == Driver::Bridge
        };
        let routed = |network: &Attachment, address| {
            !network.internal && !isolated(network) && self.routed.iter().any(|subnet| subnet.contains(&address))
        };
        let is_apart = !own || !asks_from_here;
        let on_link = |network: &Attachment| {
            is_apart && !network.internal && matches!(network.driver, Driver::Macvlan | Driver::Ipvlan)
        };
        let taken = |network: &Attachment, address| !own && self.is_taken_here(network, address);
        if let Some(address) = address_on(&|network, ip| routed(network, ip) && !taken(network, ip)) {
            return Ok(Way { address, rule: Rule::Routed });
        }
        // Around this host nobody's packets come across its own networks.
        let strays = |network: &Attachment, address| taken(network, address) && self.leaves_by_host(address);
        if let Some(address) = address_on(&|network, ip| on_link(network) && !strays(network, ip)) {
            return Ok(Way { address, rule: Rule::LinkLayer });
        }
        let is_shadowed = address_on(&|network, ip| routed(network, ip) || on_link(network)).is_some();
        let is_bridge_apart = own
            && *self.source == Source::Host
            && address_on(&|network, _| self.local.apart.contains(&network.id)).is_some();
        self.published(candidate, family).map_err(|obstacle| match obstacle {
            Obstacle::NotPublished if is_bridge_apart => Obstacle::BridgeApart,
            Obstacle::NotPublished if is_shadowed => Obstacle::Shadowed,
            other => other,
        })
    }

    /// Rule 1. Ids of local networks mean something on their own host only.
    fn shares(&self, attachment: &Attachment, publication: &Publication, own: bool) -> bool {
        let Source::Container(asker) = self.source else { return false };
        let itself = own && asker.container == publication.container;
        (own || attachment.scope != Scope::Local)
            && attachment.driver != Driver::Host
            && &*attachment.name != GWBRIDGE
            && self.networks.iter().any(|network| network.id == attachment.id && (network.icc || itself))
    }

    /// Rule 4: one address per family, that of the binding which the one-port rule would choose if there were no other
    /// instance: of the port that `portolan.port` names, lasting, under its own number, the lowest.
    fn published(&self, candidate: &Candidate, family: Family) -> Result<Way, Obstacle> {
        let offer = candidate.offer();
        let mut best = None;
        let mut obstacle = Obstacle::NotPublished;
        for port in &offer.ports {
            for published in &port.published {
                match self.published_address(&candidate.home, port.proto, published, family) {
                    Ok(address) => {
                        let is_meant = offer.port.is_none_or(|meant| meant == port.port);
                        let is_itself = published.port == port.port;
                        let rank = (!is_meant, !published.chosen, !is_itself, published.port);
                        if best.is_none_or(|(held, _)| rank < held) {
                            best = Some((rank, address));
                        }
                    }
                    Err(Obstacle::NotPublished) => {}
                    Err(other) => obstacle = other,
                }
            }
        }
        best.map(|(_, address)| Way { address, rule: Rule::Published }).ok_or(obstacle)
    }

    fn published_address(
        &self,
        home: &Home,
        proto: Proto,
        published: &Published,
        family: Family,
    ) -> Result<IpAddr, Obstacle> {
        if !family.holds(published.ip) || published.ip.is_loopback() {
            return Err(Obstacle::NotPublished);
        }
        let address = if published.ip.is_unspecified() {
            self.host_address(home, family).ok_or(Obstacle::NoHostAddress)?
        } else {
            published.ip
        };
        // 172.17.0.1 is another machine on every host: good only where it is known to be this one.
        let own = home.origin == Origin::Own;
        let elsewhere = !own || matches!(self.source, Source::Peer | Source::Stranger);
        if elsewhere && !published.ip.is_unspecified() && (self.is_docker_subnet(address) || is_link_local(address)) {
            return Err(Obstacle::OtherHostsOnly);
        }
        if matches!(self.source, Source::Container(_)) && self.is_here(home, address) {
            if !self.is_bridged_to(address) {
                return Err(Obstacle::NoBridge);
            }
            if !self.local.proxied.contains(&(proto, published.port)) {
                return Err(Obstacle::NoProxy);
            }
        }
        Ok(address)
    }

    /// The host's address for this asker. Our own host is also found when it advertises none at all.
    fn host_address(&self, home: &Home, family: Family) -> Option<IpAddr> {
        let advertised = home.advertise.iter().copied().find(|address| family.holds(*address));
        if home.origin != Origin::Own || !home.advertise.is_empty() {
            return advertised;
        }
        let usable = |address: &IpAddr| family.holds(*address) && !address.is_loopback() && !is_link_local(*address);
        match self.source {
            Source::Host => self.local.addresses.iter().copied().find(usable),
            Source::Container(_) => self.gateways().find(usable),
            Source::Peer | Source::Stranger | Source::Unknown => None,
        }
    }

    /// Whether traffic of an asker of this host to `address` stays on this host. A record of the registry may be our
    /// own: before Docker was listed, and after our id was taken.
    fn is_here(&self, home: &Home, address: IpAddr) -> bool {
        home.origin == Origin::Own || self.local.addresses.contains(&address)
    }

    /// Whether the asker's way to this address of its own host is a bridge. Where a macvlan or ipvlan of its own has the
    /// address in its subnet, that is the nearer route, and nothing that goes over it reaches the host.
    fn is_bridged_to(&self, address: IpAddr) -> bool {
        let holds_it = |network: &&Network| {
            let on_link = matches!(network.driver, Driver::Macvlan | Driver::Ipvlan);
            on_link && network.subnets.iter().any(|subnet| subnet.contains(&address))
        };
        self.bridged && !self.networks.iter().any(holds_it)
    }

    /// Whether packets to `address` pass this host's own routes on their way out.
    fn leaves_by_host(&self, address: IpAddr) -> bool {
        match self.source {
            Source::Host => true,
            Source::Container(_) => self.is_bridged_to(address),
            Source::Peer | Source::Stranger | Source::Unknown => false,
        }
    }

    /// Whether a Docker network of this host has another host's container address in its own subnet. Equal subnets are the
    /// usual case, every engine having the same pools. One that spans hosts is one and the same here and there.
    fn is_taken_here(&self, attachment: &Attachment, address: IpAddr) -> bool {
        let is_it = |network: &Network| network.id == attachment.id && attachment.scope != Scope::Local;
        let covers = |network: &Network| network.subnets.iter().any(|subnet| subnet.contains(&address));
        self.local.networks.values().any(|network| is_ours(network) && covers(network) && !is_it(network))
    }

    fn is_docker_subnet(&self, address: IpAddr) -> bool {
        let covers = |subnet: &IpNet| subnet.contains(&address);
        self.local.networks.values().any(|network| is_ours(network) && network.subnets.iter().any(covers))
    }

    /// The numbers under which a port answers on that way.
    fn numbers<'s>(&'s self, candidate: &'s Candidate, way: Way, port: &'s Port) -> impl Iterator<Item = Number> + 's {
        let published: &[Published] = if way.rule == Rule::Published { &port.published } else { &[] };
        let own = (way.rule != Rule::Published).then_some(Number { number: port.port, lasting: true });
        let family = if way.address.is_ipv4() { Family::V4 } else { Family::V6 };
        let leads_there = move |published: &&Published| {
            self.published_address(&candidate.home, port.proto, published, family) == Ok(way.address)
        };
        let numbered = |published: &Published| Number { number: published.port, lasting: published.chosen };
        own.into_iter().chain(published.iter().filter(leads_there).map(numbered))
    }

    /// The number an SRV record gives for a port on that way: the operator's choice before Docker's, the lower of two.
    pub fn number(&self, candidate: &Candidate, way: Way, port: &Port) -> Option<u16> {
        let numbers = self.numbers(candidate, way, port);
        numbers.min_by_key(|held| (!held.lasting, held.number)).map(|held| held.number)
    }

    /// The addresses of the one instance, for its own name and for the SRV records that point to it.
    ///
    /// One number must hold for both families, because an SRV record has one number and its target has addresses of
    /// both. Docker may publish a port under different numbers for IPv4 and IPv6: then IPv6 is left out.
    pub fn ways(&self, candidate: &Candidate) -> Ways {
        let v4 = self.way(candidate, Family::V4).ok();
        let v6 = self.way(candidate, Family::V6).ok();
        let v6 = v6.filter(|v6| {
            v4.is_none_or(|v4| {
                let agrees = |port| self.number(candidate, v4, port) == self.number(candidate, *v6, port);
                candidate.offer().ports.iter().all(agrees)
            })
        });
        Ways { v4, v6 }
    }
}

/// A port's number on a way; `lasting` unless Docker chose it and will choose another one at the next start.
#[derive(Clone, Copy)]
struct Number {
    number: u16,
    lasting: bool,
}

/// How an asker reaches one instance, agreeing in port numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Over IPv4.
    pub v4: Option<Way>,
    /// Over IPv6.
    pub v6: Option<Way>,
}

impl Ways {
    /// Those there are.
    pub fn iter(self) -> impl Iterator<Item = Way> {
        self.v4.into_iter().chain(self.v6)
    }
}

/// Whether whoever leaves over this network does so with addresses of this family, as far as is known: a driver with an
/// address management of its own may name no subnets.
fn has(network: &Network, family: Family) -> bool {
    match network.driver {
        // The way out is docker_gwbridge, and that is one of the asker's networks itself, if it has IPv6.
        Driver::Overlay => family == Family::V4,
        _ => network.subnets.is_empty() || network.subnets.iter().any(|subnet| family.holds(subnet.addr())),
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => Ipv6Addr::is_unicast_link_local(&address),
    }
}

#[cfg(test)]
mod numbers;
#[cfg(test)]
pub(super) mod oracle;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;
