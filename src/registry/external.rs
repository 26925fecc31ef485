//! External services: as people write them, as etcd holds them, and as what answers are made from.
//!
//! | words | mean |
//! |---|---|
//! | `redis`, `redis.shop` | the name, and its namespace; `global` without one |
//! | `cname=HOST[:PORT]` | it is found under this name |
//! | `address=IP[:PORT]` | it is found there; any number of them |
//! | `port-name=WORD` | what `_word._tcp` questions call its ports |
//! | `tag=WORD`, `weight=N` | as the labels of containers |
//! | `check=tcp`, `check=http:/PATH`, `check=https:/PATH` | how each agent finds out whether it answers |
//! | `interval=10s`, `timeout=5s`, `rise=1`, `fall=3` | of the check |
//!
//! In etcd (`<prefix>/v1/external/<namespace>/<service>`, no lease) the same as JSON:
//!
//! ```json
//! {"addresses":[{"ip":"10.0.0.9","port":6379}],"tags":["cache"],"weight":1,"check":{"kind":"tcp","interval":"10s"}}
//! {"cname":"redis.example.com","port":6379}
//! ```

use std::{
    borrow::Cow,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::http::uri::PathAndQuery;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::record::{Undecodable, within};
use crate::{
    model::{
        Ask, Check, Checks, Common, Desired, Elsewhere, External, ExternalName, ExternalTarget, Externals, Health,
        Initial, Label, Offer, Phase, Port, Problem, Proto, Publication, Security, ShortId, Unshown, fnv1a, reserved,
        unfindable,
    },
    watch::{
        check::{
            DEFAULT_FALL, DEFAULT_INTERVAL, DEFAULT_RISE, DEFAULT_TIMEOUT, MAX_IN_A_ROW, MAX_INTERVAL, MAX_PATH,
            MAX_TIMEOUT, MIN_INTERVAL, MIN_TIMEOUT, duration,
        },
        labels::{MAX_TAG, MAX_TAGS},
    },
};

/// Most addresses of one external service: four times what an answer holds.
pub const MAX_ADDRESSES: usize = 64;
/// Most external services that are answered.
pub const MAX_EXTERNALS: usize = 10_000;
/// Longest host name (RFC 1035 section 2.3.4), as text.
const MAX_HOST: usize = 253;

/// Why a text is no external service, and what would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExternalError(String);

fn wrong<T>(message: impl Into<String>) -> Result<T, ExternalError> {
    Err(ExternalError(message.into()))
}

/// `redis` or `redis.shop`, as `register` and `unregister` take it.
pub fn parse_name(text: &str) -> Result<ExternalName, ExternalError> {
    let (service, namespace) = text.split_once('.').unwrap_or((text, "global"));
    let label = |text: &str| match Label::parse(text) {
        _ if text.contains('.') => wrong(format!("{text:?}: NAME or NAME.NAMESPACE, without the zone")),
        Ok(label) => Ok(label),
        Err(error) => wrong(format!("{text:?}: {error}")),
    };
    let name = ExternalName { namespace: label(namespace)?, service: label(service)? };
    if let Some(expected) = reserved(&name.service, &name.namespace) {
        return wrong(format!("{text:?} is reserved; {expected}"));
    }
    Ok(name)
}

/// The same for a name that is only about to be used: programs must find it.
fn parse_new_name(text: &str) -> Result<ExternalName, ExternalError> {
    let name = parse_name(text)?;
    match unfindable(&name.service) {
        Some(expected) => wrong(format!("{text:?} is no name for a service; {expected}")),
        None => Ok(name),
    }
}

/// Takes the words of the table above.
pub fn parse(text: &str) -> Result<(ExternalName, External), ExternalError> {
    let mut words = text.split_whitespace();
    let Some(name) = words.next().filter(|name| !name.contains('=')) else {
        return wrong("the name comes first: redis cname=redis.example.com:6379");
    };
    let name = parse_new_name(name)?;
    let mut wire = Wire::default();
    let mut check = CheckWire::default();
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(_, value)| !value.is_empty()) else {
            return wrong(format!("{word:?} is not KEY=VALUE: cname, address, tag, weight, check, interval, …"));
        };
        let number = || value.parse().map_err(|_| ExternalError(format!("{word:?}: a number")));
        match key {
            "cname" if wire.cname.is_some() => return wrong("one cname: a name has one other name"),
            "cname" => {
                let (host, port) = host_and_port(value)?;
                (wire.cname, wire.port) = (Some(host.into()), port);
            }
            "address" => wire.addresses.push(address(value)?),
            "port-name" => wire.port_name = Some(value.into()),
            "tag" => wire.tags.push(value.into()),
            "weight" => wire.weight = value.parse().map_err(|_| ExternalError(format!("{word:?}: 0 to 65535")))?,
            "check" => {
                let (kind, path) = value.split_once(':').unwrap_or((value, ""));
                check.kind = kind.into();
                check.path = (!path.is_empty()).then(|| path.into());
            }
            "interval" => check.interval = Some(value.into()),
            "timeout" => check.timeout = Some(value.into()),
            "rise" => check.rise = Some(number()?),
            "fall" => check.fall = Some(number()?),
            _ => {
                return wrong(format!(
                    "{key:?} is unknown: cname, address, port-name, tag, weight, check, interval, timeout, rise, fall"
                ));
            }
        }
    }
    if check != CheckWire::default() {
        if check.kind.is_empty() {
            return wrong("what to ask? add check=tcp or check=http:/PATH");
        }
        wire.check = Some(check);
    }
    Ok((name, external(wire)?))
}

/// `HOST` or `HOST:PORT`
fn host_and_port(text: &str) -> Result<(String, Option<u16>), ExternalError> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port_of(text, port)?)),
        None => (text, None),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        !label.is_empty() && label.len() <= crate::model::MAX_LABEL && label.chars().all(plain)
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    // `10.0.0.256` is a slip of the finger, and no top-level domain is a number (RFC 3696 section 2).
    if host.parse::<IpAddr>().is_ok() || !last.is_empty() && last.bytes().all(|digit| digit.is_ascii_digit()) {
        return wrong(format!("{text:?} is an address, or nearly one: give it as --address"));
    }
    if host.len() > MAX_HOST || !host.contains('.') || !host.split('.').all(is_label) {
        return wrong(format!("{text:?} is no host name of two labels and more, such as redis.example.com:6379"));
    }
    Ok((host, port))
}

fn port_of(whole: &str, text: &str) -> Result<u16, ExternalError> {
    match text.parse() {
        Ok(port) if port != 0 => Ok(port),
        _ => wrong(format!("{whole:?}: a port is 1 to 65535")),
    }
}

/// `10.0.0.9`, `10.0.0.9:6379`, `2001:db8::9`, `[2001:db8::9]:6379`
fn address(text: &str) -> Result<AddressWire, ExternalError> {
    let (ip, port) = match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
        (Ok(socket), _) if socket.port() != 0 => (socket.ip(), Some(socket.port())),
        (Err(_), Ok(ip)) => (ip, None),
        _ => {
            return wrong(format!(
                "{text:?} is no address: 10.0.0.9:6379 or [2001:db8::9]:6379, the port may be left out"
            ));
        }
    };
    Ok(AddressWire { ip, port })
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    cname: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<AddressWire>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    port_name: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<Cow<'a, str>>,
    #[serde(default = "one")]
    weight: u16,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    check: Option<CheckWire<'a>>,
}

impl Default for Wire<'_> {
    fn default() -> Self {
        let (cname, port, port_name, check) = (None, None, None, None);
        Self { cname, port, addresses: Vec::new(), port_name, tags: Vec::new(), weight: one(), check }
    }
}

#[derive(Serialize, Deserialize)]
struct AddressWire {
    ip: IpAddr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
}

#[derive(Default, PartialEq, Eq, Serialize, Deserialize)]
struct CheckWire<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    interval: Option<Cow<'a, str>>,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    timeout: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rise: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fall: Option<u32>,
}

fn one() -> u16 {
    1
}

/// An external service as it is stored.
pub fn encode(external: &External) -> Vec<u8> {
    let mut wire = Wire {
        port_name: external.port_name.as_ref().map(|name| Cow::Borrowed(name.as_str())),
        tags: external.tags.iter().map(|tag| Cow::Borrowed(tag.as_ref())).collect(),
        weight: external.weight,
        check: external.check.as_ref().map(check_wire),
        ..Wire::default()
    };
    match &external.target {
        ExternalTarget::Addresses(all) => {
            wire.addresses = all.iter().map(|(ip, port)| AddressWire { ip: *ip, port: *port }).collect();
        }
        ExternalTarget::Name(host, port) => (wire.cname, wire.port) = (Some(Cow::Borrowed(host.as_ref())), *port),
    }
    serde_json::to_vec(&wire).expect("texts, numbers and addresses are always JSON")
}

fn check_wire(check: &Check) -> CheckWire<'_> {
    let time = |time: Duration| Cow::Owned(format!("{}ms", time.as_millis()));
    let path = match &check.ask {
        Ask::Http { path, .. } => Some(Cow::Borrowed(&*path.0)),
        _ => None,
    };
    CheckWire {
        kind: check.ask.kind().into(),
        path,
        interval: Some(time(check.interval)),
        timeout: Some(time(check.timeout)),
        rise: Some(check.rise),
        fall: Some(check.fall),
    }
}

/// Reads an external service.
pub fn decode(value: &[u8]) -> Result<External, Undecodable> {
    let wire: Wire<'_> = super::record::read(value)?;
    external(wire).map_err(|error| Undecodable::new(error.0))
}

/// The same rules for whoever wrote it.
fn external(wire: Wire<'_>) -> Result<External, ExternalError> {
    let limit = |what, found, most| within(what, found, most).map_err(|error| ExternalError(error.to_string()));
    limit("addresses", wire.addresses.len(), MAX_ADDRESSES)?;
    limit("tags", wire.tags.len(), MAX_TAGS)?;
    if let Some(tag) = wire.tags.iter().find(|tag| tag.len() > MAX_TAG) {
        return wrong(format!("{tag:.20?}…: tags of at most {MAX_TAG} octets"));
    }
    let target = match (wire.cname, wire.addresses.is_empty()) {
        (Some(cname), true) => {
            let (host, more) = host_and_port(&cname)?;
            ExternalTarget::Name(host.into(), wire.port.or(more))
        }
        (None, false) => {
            // An address of everybody is nobody's; P7 keeps askers from being led to themselves.
            let astray = |ip: &IpAddr| {
                let local = match ip.to_canonical() {
                    IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
                    IpAddr::V6(ip) => ip.is_unicast_link_local(),
                };
                let ip = ip.to_canonical();
                ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || local
            };
            if let Some(AddressWire { ip, .. }) = wire.addresses.iter().find(|address| astray(&address.ip)) {
                return wrong(format!("{ip} is another machine for everybody: an address that all hosts reach"));
            }
            let mut all: Vec<_> =
                wire.addresses.into_iter().map(|address| (address.ip.to_canonical(), address.port)).collect();
            all.sort_unstable();
            all.dedup();
            ExternalTarget::Addresses(all.into())
        }
        (Some(_), false) => return wrong("either a cname or addresses: a name with another name has nothing else"),
        (None, true) => return wrong("where is it? a cname, or at least one address"),
    };
    if wire.port == Some(0) {
        return wrong("a port is 1 to 65535");
    }
    let check = wire.check.map(|check| self::check(&check, &target)).transpose()?;
    let port_name = wire.port_name.map(|name| Label::parse(&name)).transpose();
    let port_name = port_name.map_err(|error| ExternalError(format!("port-name: {error}")))?;
    let tags = wire.tags.iter().map(|tag| tag.as_ref().into()).collect();
    Ok(External { target, port_name, tags, weight: wire.weight, check })
}

fn check(wire: &CheckWire<'_>, target: &ExternalTarget) -> Result<Check, ExternalError> {
    let path = || match wire.path.as_deref().unwrap_or("/") {
        path if path.starts_with('/') && path.len() <= MAX_PATH && path.parse::<PathAndQuery>().is_ok() => {
            Ok(Unshown(path.into()))
        }
        path => wrong(format!("check: {path:.80?} is no path such as /health")),
    };
    let ask = match &*wire.kind {
        "tcp" => Ask::Tcp,
        "http" => Ask::Http { security: Security::Plain, method: "GET", path: path()? },
        "https" => Ask::Http { security: Security::Tls, method: "GET", path: path()? },
        kind => return wrong(format!("check: {kind:.20?} is none of tcp, http:/PATH and https:/PATH")),
    };
    let time = |text: &Option<Cow<'_, str>>, (least, most): (Duration, Duration), default: Duration| match text {
        None => Ok(default.min(most)),
        Some(text) => match duration(text).filter(|time| (least..=most).contains(time)) {
            Some(time) => Ok(time),
            None => wrong(format!("check: {text:.20?} is no time from {least:?} to {most:?}, such as 10s")),
        },
    };
    let interval = time(&wire.interval, (MIN_INTERVAL, MAX_INTERVAL), DEFAULT_INTERVAL)?;
    let timeout = time(&wire.timeout, (MIN_TIMEOUT, interval.min(MAX_TIMEOUT)), DEFAULT_TIMEOUT)?;
    let in_a_row = |number: Option<u32>, default| match number.unwrap_or(default) {
        number @ 1..=MAX_IN_A_ROW => Ok(number),
        number => wrong(format!("check: {number} in a row, of 1 to {MAX_IN_A_ROW}")),
    };
    let ports: Vec<Option<u16>> = match target {
        ExternalTarget::Addresses(all) => all.iter().map(|(_, port)| *port).collect(),
        ExternalTarget::Name(_, port) => vec![*port],
    };
    if ports.contains(&None) {
        return wrong("check: a port is needed wherever it is asked");
    }
    // Each publication has its own: see `publications`.
    let port = None;
    let (rise, fall) = (in_a_row(wire.rise, DEFAULT_RISE)?, in_a_row(wire.fall, DEFAULT_FALL)?);
    Ok(Check { ask, port, interval, timeout, rise, fall, initial: Initial::Starting })
}

/// The words that [`parse`] takes for it.
pub fn words(name: &ExternalName, external: &External) -> String {
    let mut words = vec![match name.namespace == Label::global() {
        true => name.service.to_string(),
        false => name.to_string(),
    }];
    match &external.target {
        ExternalTarget::Name(host, None) => words.push(format!("cname={host}")),
        ExternalTarget::Name(host, Some(port)) => words.push(format!("cname={host}:{port}")),
        ExternalTarget::Addresses(all) => words.extend(all.iter().map(|(ip, port)| match port {
            None => format!("address={ip}"),
            Some(port) => format!("address={}", SocketAddr::new(*ip, *port)),
        })),
    }
    words.extend(external.port_name.iter().map(|name| format!("port-name={name}")));
    words.extend(external.tags.iter().map(|tag| format!("tag={tag}")));
    if external.weight != one() {
        words.push(format!("weight={}", external.weight));
    }
    if let Some(check) = &external.check {
        let CheckWire { kind, path, interval, timeout, rise, fall } = check_wire(check);
        words.push(format!("check={kind}{}", path.map(|path| format!(":{path}")).unwrap_or_default()));
        let texts = [("interval", interval), ("timeout", timeout)];
        words.extend(texts.iter().filter_map(|(key, text)| Some(format!("{key}={}", text.as_ref()?))));
        let numbers = [("rise", rise), ("fall", fall)];
        words.extend(numbers.iter().filter_map(|(key, number)| Some(format!("{key}={}", number.as_ref()?))));
    }
    words.join(" ")
}

/// Refuses a name that leads back into our own zone, below `apex`: nobody would ever find its end.
pub fn leads_out(external: &External, apex: &str) -> Result<(), ExternalError> {
    match &external.target {
        ExternalTarget::Name(host, _)
            if &**host == apex || host.strip_suffix(apex).is_some_and(|rest| rest.ends_with('.')) =>
        {
            wrong(format!("{host:?} lies in our own zone: a name outside of {apex}, or the addresses"))
        }
        _ => Ok(()),
    }
}

/// What is answered for external services, as a host would publish it: one publication for each address, one for a name.
/// A name that leads back into our own zone, below `apex`, is a problem.
/// `listed`: the registry has been, so these are all there are.
pub fn desired(externals: &Externals, apex: &str, listed: bool) -> Desired {
    let mut desired = Desired { listed, ..Desired::default() };
    let (mut publications, mut checks) = (OrdMap::new(), OrdMap::new());
    let mut problems = Vec::new();
    for (name, external) in externals.iter().take(MAX_EXTERNALS) {
        let forbidden = reserved(&name.service, &name.namespace).map_or(Ok(()), wrong);
        if let Err(ExternalError(expected)) = leads_out(external, apex).and(forbidden) {
            problems.push(Problem::new(format!("external service {name}"), &words(name, external), expected));
            continue;
        }
        for (publication, port) in self::publications(name, external) {
            let id = publication.container;
            if let Some(check) = &external.check {
                let all = [Check { port, ..check.clone() }].into();
                checks.insert(id, Checks { life: 0, all });
            }
            publications.insert(id, Arc::new(publication));
        }
    }
    if externals.len() > MAX_EXTERNALS {
        let found = format!("{} external services", externals.len());
        problems.push(Problem::new(
            "external services",
            &found,
            format!("at most {MAX_EXTERNALS}; the rest is left out"),
        ));
    }
    (desired.publications, desired.checks, desired.problems) = (publications, checks, problems.into());
    desired
}

/// The publications of one service, each with the port that its check asks.
fn publications(name: &ExternalName, external: &External) -> Vec<(Publication, Option<u16>)> {
    let publish = |text: &str, elsewhere, numbers: &[u16]| {
        let port = |number: &u16| Port {
            name: external.port_name.clone(),
            port: *number,
            proto: Proto::Tcp,
            published: Box::default(),
            extra: None,
        };
        let offer = Offer {
            service: name.service.clone(),
            namespace: name.namespace.clone(),
            tags: external.tags.clone(),
            weight: external.weight,
            port: None,
            ports: numbers.iter().map(port).collect(),
            when_none_ready: None,
        };
        let publication = Publication {
            container: id_of(&format!("{name} {text}")),
            name: text.into(),
            common: Arc::new(Common {
                image: "".into(),
                namespace: name.namespace.clone(),
                services: [offer].into(),
                directory: None,
                aliases: Box::default(),
            }),
            phase: Phase::Serving,
            health: Health::None,
            networks: Box::default(),
            elsewhere: Some(Box::new(elsewhere)),
        };
        (publication, numbers.first().copied())
    };
    match &external.target {
        ExternalTarget::Name(host, port) => {
            vec![publish(host, Elsewhere::Name(Arc::clone(host)), port.as_slice())]
        }
        ExternalTarget::Addresses(all) => all
            .chunk_by(|one, other| one.0 == other.0)
            .map(|same| {
                let numbers: Vec<u16> = same.iter().filter_map(|(_, port)| *port).collect();
                publish(&same[0].0.to_string(), Elsewhere::Address(same[0].0), &numbers)
            })
            .collect(),
    }
}

/// What stands for a container's id in names such as SRV targets: 48 bits, the same on every host.
fn id_of(text: &str) -> ShortId {
    ShortId::parse(&format!("{:012x}", fnv1a(text) >> 16)).expect("twelve hexadecimal digits")
}

#[cfg(test)]
mod tests;
