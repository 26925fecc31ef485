//! What a question's name means, from its text alone.
//!
//! Names below the apex are read from the right: one label is a service, two are service and namespace, three add
//! the instance. Words in front of that keep their meaning at every length: `_port._proto` for SRV questions, and
//! `all` for instances that are not ready too. Where two readings collide, these win, and always the same way:
//!
//! | name below the apex | is |
//! |---|---|
//! | `all.web` | service `all` of namespace `web`: two labels are service and namespace |
//! | `all.web.shop` | all instances of `web` in `shop`, never the instance of a container named `all` |
//! | `_http._tcp.web` | port `http` of `web`, never an instance `_http` of a service `_tcp` |
//! | `_tcp.web` | the empty non-terminal above the former, never a service `_tcp` |
//! | `web.on.h1.host` | the instances of `web` near the asker on host `h1` |
//!
//! Two labels that are no service and namespace have a [second reading](second).
//!
//! Whether a thing so named exists is not decided here. Case plays no part in the meaning (RFC 4343); the reply
//! keeps the question's own letters because `wire.rs` uses the name as it came.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hickory_proto::rr::Name;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::model::{Label, LabelError, Offer, Proto, ShortId};

/// Longest apex in octets on the wire, so that every instance has a name:
/// 255 for a whole name (RFC 1035 section 2.3.4) - 13 for the container - 2 x 64 for service and namespace.
pub const MAX_APEX: usize = 255 - 13 - 2 * 64;

/// The apex unless `--zone` says otherwise. `internal` is reserved for private use by ICANN.
pub const DEFAULT_APEX: &str = "svc.internal";

/// The name our zone hangs on: lower case, at least one label, no trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apex {
    text: String,
    name: Name,
}

/// Why a text is no [`Apex`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApexError {
    /// Nothing, or only a dot: the root is not ours.
    #[error("a zone needs at least one label, such as {DEFAULT_APEX}")]
    Empty,
    /// An element that is no label.
    #[error("zone {zone:?} has a bad label {label:?}: {cause}")]
    Label {
        /// The whole text.
        zone: String,
        /// The element.
        label: String,
        /// What is wrong with it.
        cause: LabelError,
    },
    /// Instance names would not fit into a DNS name.
    #[error("zone {0:?} is too long: choose one of at most {limit} characters", limit = MAX_APEX - 2)]
    TooLong(String),
    /// Reverse names live there.
    #[error("zone {0:?} lies in arpa, where addresses have their names: choose one such as {DEFAULT_APEX}")]
    Arpa(String),
}

impl Apex {
    /// Takes the value of `--zone`, with or without a trailing dot.
    pub fn parse(text: &str) -> Result<Self, ApexError> {
        let relative = text.strip_suffix('.').unwrap_or(text);
        if relative.is_empty() {
            return Err(ApexError::Empty);
        }
        let mut labels = Vec::new();
        for label in relative.split('.') {
            labels.push(Label::parse(label).map_err(|cause| ApexError::Label {
                zone: text.to_owned(),
                label: label.to_owned(),
                cause,
            })?);
        }
        // Each label costs its length octet, the root one more.
        if relative.len() + 2 > MAX_APEX {
            return Err(ApexError::TooLong(text.to_owned()));
        }
        if labels.last().is_some_and(|label| label.as_str() == "arpa") {
            return Err(ApexError::Arpa(text.to_owned()));
        }
        let name = Name::from_labels(labels.iter().map(|label| label.as_str().as_bytes()))
            .map_err(|_| ApexError::TooLong(text.to_owned()))?;
        Ok(Self { text: relative.to_ascii_lowercase(), name })
    }

    /// The apex as text, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The apex as a DNS name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// `<container12>.<service>.<namespace>.<apex>`: the one name of an instance, which SRV and PTR point to.
    pub fn instance(&self, container: ShortId, offer: &Offer) -> Name {
        let own = [container.as_str(), offer.service.as_str(), offer.namespace.as_str()];
        Name::from_labels(own.iter().map(|label| label.as_bytes()).chain(self.name.iter()))
            .expect("labels are at most 63 octets and the apex at most MAX_APEX")
    }
}

impl Default for Apex {
    fn default() -> Self {
        Self::parse(DEFAULT_APEX).expect("the default apex is an apex")
    }
}

impl std::str::FromStr for Apex {
    type Err = ApexError;

    fn from_str(text: &str) -> Result<Self, ApexError> {
        Self::parse(text)
    }
}

impl fmt::Display for Apex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A service as a question names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'t> {
    /// The service.
    pub service: &'t str,
    /// Its namespace; without one it is the asker's own, else `global`.
    pub namespace: Option<&'t str>,
}

/// What a name means. Borrows from the [`fold`]ed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'t> {
    /// The apex itself.
    Apex,
    /// A single label at the root: a service near the asker. Never leaves this host, known or not.
    Bare(&'t str),
    /// A service, and with one label perhaps a namespace as an empty non-terminal.
    Service(Named<'t>),
    /// One instance, by the container's short id or name; its service always has a namespace.
    Instance(&'t str, Named<'t>),
    /// All instances of a service, ready or not.
    All(Named<'t>),
    /// A named port: `_http._tcp.web`.
    Port(&'t str, Proto, Named<'t>),
    /// The empty non-terminal above named ports: `_tcp.web`.
    Transport(Proto, Named<'t>),
    /// The instances of a service near the asker that run on a host: `web.on.h1.host`.
    On(Named<'t>, &'t str),
    /// A host: the second reading of `h1.host`.
    Host(&'t str),
    /// Below the apex, where nothing can be.
    Nothing,
    /// A reverse name: a whole address, or a shorter prefix above addresses.
    Reverse(IpNet),
    /// Below the reverse name of that prefix, where nothing can be.
    BelowReverse(IpNet),
    /// Read as if the root were our zone, if the service is there near the asker: `all.web.`, `_http._tcp.web.`. Otherwise it
    /// is a name of others.
    Loose(Loose<'t>),
    /// A name of somebody else, the root among them.
    Outside,
}

/// Words in front of a bare name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loose<'t> {
    /// `all.web.`
    All(&'t str),
    /// `_http._tcp.web.`
    Port(&'t str, Proto, &'t str),
    /// `_tcp.web.`
    Transport(Proto, &'t str),
}

impl<'t> Loose<'t> {
    /// The service that is meant.
    pub fn named(self) -> Named<'t> {
        let (Self::All(service) | Self::Port(_, _, service) | Self::Transport(_, service)) = self;
        Named { service, namespace: None }
    }
}

/// The container that `0123456789ab.web.svc.internal` means, read near the asker as `web.svc.internal` is, and the
/// like: what two labels below the apex say if they are no service in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second<'t> {
    /// `all.web`: all instances of `web` near the asker.
    All(Named<'t>),
    /// `0123456789ab.web`: an instance of it.
    Instance(&'t str, Named<'t>),
    /// `h1.host`: a host.
    Host(&'t str),
}

/// The second reading of a service that is none.
pub fn second<'t>(named: Named<'t>) -> Option<Second<'t>> {
    let namespace = named.namespace?;
    let near = Named { service: namespace, namespace: None };
    let first = named.service;
    match () {
        () if namespace == HOST => Some(Second::Host(first)),
        () if first == ALL => Some(Second::All(near)),
        () if ShortId::parse(first).is_some_and(|id| id.as_str() == first) => Some(Second::Instance(first, near)),
        () => None,
    }
}

/// Below this label hosts have their names.
pub const HOST: &str = "host";
/// In front of a service: all of its instances.
pub const ALL: &str = "all";

/// A name's text in lower case with dots between its labels. An octet that no name of ours holds becomes `?`, a dot
/// inside a label too, so that such a name equals none of ours.
pub fn fold(name: &Name) -> String {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if !text.is_empty() {
            text.push('.');
        }
        for &octet in label {
            text.push(match octet {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => octet as char,
                b'A'..=b'Z' => octet.to_ascii_lowercase() as char,
                _ => '?',
            });
        }
    }
    text
}

/// Reads a folded name.
pub fn classify<'t>(text: &'t str, apex: &Apex) -> Subject<'t> {
    if text == apex.as_str() {
        return Subject::Apex;
    }
    if let Some(relative) = below(text, apex.as_str()) {
        return ours(relative);
    }
    if let Some(octets) = below(text, "in-addr.arpa") {
        return reverse(octets, v4_prefix);
    }
    if let Some(nibbles) = below(text, "ip6.arpa") {
        return reverse(nibbles, v6_prefix);
    }
    match text.contains('.') {
        _ if text.is_empty() => Subject::Outside,
        false => Subject::Bare(text),
        true => loose(text).map_or(Subject::Outside, Subject::Loose),
    }
}

/// `web.shop` of `web.shop.svc.internal` and `svc.internal`.
fn below<'t>(text: &'t str, parent: &str) -> Option<&'t str> {
    text.strip_suffix(parent)?.strip_suffix('.').filter(|rest| !rest.is_empty())
}

fn ours(relative: &str) -> Subject<'_> {
    // Five labels mean nothing, so reading stops there however many there are.
    let mut labels = [""; 5];
    let mut count = 0;
    for label in relative.split('.').take(labels.len()) {
        labels[count] = label;
        count += 1;
    }
    let near = |service| Named { service, namespace: None };
    let within = |service, namespace| Named { service, namespace: Some(namespace) };
    match labels[..count] {
        [service] => Subject::Service(near(service)),
        [first, second] => match transport(first) {
            Some(proto) => Subject::Transport(proto, near(second)),
            None => Subject::Service(within(first, second)),
        },
        [first, second, third] => match (first.strip_prefix('_'), transport(second), transport(first)) {
            (Some(port), Some(proto), _) => Subject::Port(port, proto, near(third)),
            (_, _, Some(proto)) => Subject::Transport(proto, within(second, third)),
            _ if first == ALL => Subject::All(within(second, third)),
            _ => Subject::Instance(first, within(second, third)),
        },
        [first, second, third, fourth] => match (first.strip_prefix('_'), transport(second)) {
            (Some(port), Some(proto)) => Subject::Port(port, proto, within(third, fourth)),
            _ if (second, fourth) == ("on", HOST) => Subject::On(near(first), third),
            _ => Subject::Nothing,
        },
        _ => Subject::Nothing,
    }
}

fn loose(text: &str) -> Option<Loose<'_>> {
    let (first, rest) = text.split_once('.')?;
    match rest.split_once('.') {
        None if first == ALL => Some(Loose::All(rest)),
        None => Some(Loose::Transport(transport(first)?, rest)),
        Some((second, service)) if !service.contains('.') => {
            Some(Loose::Port(first.strip_prefix('_')?, transport(second)?, service))
        }
        Some(_) => None,
    }
}

fn transport(label: &str) -> Option<Proto> {
    match label {
        "_tcp" => Some(Proto::Tcp),
        "_udp" => Some(Proto::Udp),
        "_sctp" => Some(Proto::Sctp),
        _ => None,
    }
}

/// Reads labels from the right for as long as they make a prefix.
fn reverse<'t>(labels: &'t str, prefix: fn(&[&str]) -> Option<IpNet>) -> Subject<'t> {
    let mut read: Vec<&str> = Vec::new();
    let mut found = None;
    for label in labels.rsplit('.') {
        read.push(label);
        match (prefix(&read), found) {
            (Some(longer), _) => found = Some(longer),
            (None, Some(shorter)) => return Subject::BelowReverse(shorter),
            (None, None) => return Subject::Outside,
        }
    }
    found.map_or(Subject::Outside, Subject::Reverse)
}

/// `["172", "18"]` is 172.18.0.0/16. Numbers as RFC 1035 section 3.5 writes them: decimal, no leading zero.
fn v4_prefix(labels: &[&str]) -> Option<IpNet> {
    let mut octets = [0; 4];
    for (octet, label) in octets.iter_mut().zip(labels) {
        if label.len() > 1 && label.starts_with('0') || label.starts_with('+') {
            return None;
        }
        *octet = label.parse().ok()?;
    }
    let length = u8::try_from(labels.len() * 8).ok()?;
    Some(Ipv4Net::new(Ipv4Addr::from(octets), length).ok()?.into())
}

/// One hexadecimal digit a label, the highest first (RFC 3596 section 2.5).
fn v6_prefix(labels: &[&str]) -> Option<IpNet> {
    let mut bits = 0;
    for (place, label) in labels.iter().enumerate().take(32) {
        let [digit] = label.as_bytes() else { return None };
        let digit = (*digit as char).to_digit(16)?;
        bits |= u128::from(digit) << (124 - 4 * place);
    }
    let length = u8::try_from(labels.len() * 4).ok()?;
    Some(Ipv6Net::new(Ipv6Addr::from(bits), length).ok()?.into())
}

/// The reverse name of a prefix of whole octets or nibbles: where the zone of a subnet begins.
pub fn reverse_name(prefix: IpNet) -> Name {
    let mut labels: Vec<String> = match prefix.network() {
        IpAddr::V4(address) => {
            address.octets().iter().take(usize::from(prefix.prefix_len() / 8)).map(u8::to_string).collect()
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            (0..u32::from(prefix.prefix_len() / 4))
                .map(|place| format!("{:x}", bits >> (124 - 4 * place) & 15))
                .collect()
        }
    };
    labels.reverse();
    let parent: &[&str] = if prefix.addr().is_ipv4() { &["in-addr", "arpa"] } else { &["ip6", "arpa"] };
    Name::from_labels(labels.iter().map(String::as_bytes).chain(parent.iter().map(|label| label.as_bytes())))
        .expect("34 short labels are a name")
}

#[cfg(test)]
mod tests;
