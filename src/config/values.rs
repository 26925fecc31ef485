//! From text to value, one small parser per kind of value. Errors say what is wrong and what to write instead; who
//! wrote it is added by the reader.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;

use super::show::Show;
use crate::{
    dns::{
        forward::{PrivateAnswers, SiteNames, Suffix},
        listen::{DNS_PORT, Listen},
        prefer::Prefer,
        special::SingleLabels,
        tls::TLS_PORT,
    },
    model::{Aliases, AliasesError, EXTERNAL, External, ExternalName, HostId, WhenNoneReady},
    registry::external,
    watch::{
        claim::Rule,
        labels::{MAX_TAG, Namespaces},
        metadata::Precedence,
        registrator::Compat,
    },
};

/// Shortest lease. It is renewed every third (1.7 s); one call may be lost (2 s deadline) and its repeat may meet a
/// leader election (1 s): 4.7 s. etcd itself grants nothing below 2 s.
pub const MIN_LEASE: Duration = Duration::from_secs(5);

/// Longest lease: a crashed host's dead addresses are handed out for that long.
pub const MAX_LEASE: Duration = Duration::from_secs(600);

/// Longest hold of a lost name: a week's holiday of its containers. What is gone for longer has moved.
pub const MAX_FALLBACK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Longest TTL in seconds. Docker reuses an address at once, so an hour is surely a slip.
pub const MAX_TTL: u32 = 3600;

/// Longest zone in octets, so that every name below it fits into the 253 of RFC 1035 section 2.3.4: `_name._tcp.` is
/// at most 64 + 5, `service.` and `namespace.` 64 each, and 253 - 197 = 56.
pub const MAX_ZONE: usize = 56;

/// Longest etcd prefix in bytes; keys repeat it in every record of every host.
pub const MAX_PREFIX: usize = 200;

/// Longest locality in bytes; every session record carries it.
pub const MAX_LOCALITY: usize = 100;

/// Highest `--prefer-floor`: an A answer holds 16 addresses, so more neighbours than a few of those change nothing.
pub const MAX_FLOOR: u32 = 1000;

/// Highest `--rate-limit` but for none: more than a thread answers, so it would limit nothing.
pub const MAX_RATE: u32 = 1_000_000;

/// Highest `--reply-allowance`: more than a line of ten gigabits carries.
pub const MAX_ALLOWANCE: usize = 1 << 30;

/// Smallest cache of what upstreams say, other than none: some hundred answers.
pub const MIN_CACHE: usize = 256 << 10;

/// Largest: two million answers, which no host's containers ask for.
pub const MAX_CACHE: usize = 1 << 30;

/// Longest path of a unix socket in bytes: 108 in `sockaddr_un` (unix(7)) with the final zero; 8 more are kept for
/// the name it has while it is being made.
pub const MAX_SOCKET_PATH: usize = 99;

/// Most values of one repeatable setting; each is a socket, a connection or a subnet to compare with.
pub const MAX_VALUES: usize = 64;

/// Single-label zones that nobody can register: `internal` is reserved by ICANN (2024), `test` by RFC 6761.
const PRIVATE_LABELS: [&str; 2] = ["internal", "test"];

/// Names with a meaning of their own: multicast DNS (RFC 6762), loopback (RFC 6761), addresses and the root's helpers.
const TAKEN_DOMAINS: [&str; 5] = ["local", "localhost", "arpa", "onion", "invalid"];

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where the cluster's state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registry {
    /// In the agent itself: one host alone.
    Memory,
    /// In etcd: many hosts.
    Etcd,
}

/// What SIGTERM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTerm {
    /// The names stay until the lease ends: a restart is invisible.
    Keep,
    /// The names are withdrawn at once.
    Leave,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object per line.
    Json,
}

/// Who answers the names that are not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams {
    /// Those that no suffix covers.
    pub general: General,
    /// Those below a domain, in the order given: several of one domain stand one after the other.
    pub suffixes: Vec<(Suffix, SocketAddr)>,
}

/// Who answers names that no suffix covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum General {
    /// The name servers of `--resolv-conf`.
    System,
    /// Nobody: such names are refused.
    None,
    /// These, in order.
    Addresses(Vec<SocketAddr>),
}

impl Upstreams {
    /// Whether any name is forwarded.
    pub fn forward(&self) -> bool {
        self.general != General::None || !self.suffixes.is_empty()
    }

    /// The servers of each domain, in the order given.
    pub fn by_suffix(&self) -> Vec<(Suffix, Vec<SocketAddr>)> {
        let mut all: Vec<(Suffix, Vec<SocketAddr>)> = Vec::new();
        for (suffix, server) in &self.suffixes {
            match all.iter_mut().find(|(other, _)| other == suffix) {
                Some((_, servers)) => servers.push(*server),
                None => all.push((suffix.clone(), vec![*server])),
            }
        }
        all
    }
}

/// One value of `--upstream`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Upstream {
    None,
    General(SocketAddr),
    Of(Suffix, SocketAddr),
}

/// A number of octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Octets(pub usize);

/// An etcd user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The name.
    pub name: String,
    /// From `NAME:PASSWORD` in the environment, else from `--etcd-password-file`.
    pub password: Option<Secret>,
}

fn fail<T>(message: impl Into<String>) -> Result<T, String> {
    Err(message.into())
}

pub(super) fn registry(text: &str) -> Result<Registry, String> {
    match text {
        "memory" => Ok(Registry::Memory),
        "etcd" => Ok(Registry::Etcd),
        _ => fail("no such registry; use memory or etcd"),
    }
}

pub(super) fn on_term(text: &str) -> Result<OnTerm, String> {
    match text {
        "keep" => Ok(OnTerm::Keep),
        "leave" => Ok(OnTerm::Leave),
        _ => fail("no such action; use keep or leave"),
    }
}

pub(super) fn namespaces(text: &str) -> Result<Namespaces, String> {
    match text {
        "on" => Ok(Namespaces::On),
        "off" => Ok(Namespaces::Off),
        _ => fail("use on or off"),
    }
}

pub(super) fn external(text: &str) -> Result<(ExternalName, External), String> {
    external::parse(text).map_err(|error| error.to_string())
}

pub(super) fn compat(text: &str) -> Result<Compat, String> {
    match text {
        "none" => Ok(Compat::None),
        "registrator" => Ok(Compat::Registrator),
        "registrator-internal" => Ok(Compat::RegistratorInternal),
        _ => fail("names are known of registrator and registrator-internal; or use none"),
    }
}

pub(super) fn precedence(text: &str) -> Result<Precedence, String> {
    match text {
        "label" => Ok(Precedence::Label),
        "environment" => Ok(Precedence::Environment),
        _ => fail("use label or environment"),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => fail("use on or off"),
    }
}

pub(super) fn tag(text: &str) -> Result<String, String> {
    if text.len() > MAX_TAG { fail(format!("longer than {MAX_TAG} octets")) } else { Ok(text.to_owned()) }
}

pub(super) fn prefer(text: &str) -> Result<Prefer, String> {
    Prefer::parse(text).ok_or_else(|| "nothing to prefer; use none, host or locality".to_owned())
}

pub(super) fn prefer_floor(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(floor) if (1..=MAX_FLOOR).contains(&floor) => Ok(floor),
        _ => fail(format!("use a number of instances from 1 to {MAX_FLOOR}")),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => fail("no such format; use text or json"),
    }
}

pub(super) fn log(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let expected = "use error, warn, info, debug, trace or off, or a filter such as info,portolan::dns=debug";
    // A filter takes any lone word for the name of a module, so a misspelt level would silence everything.
    for part in text.split(',').map(str::trim) {
        if !part.contains('=') && !LEVELS.contains(&part) {
            return fail(format!("{part:?} is no level; {expected}"));
        }
    }
    match tracing_subscriber::EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => fail(expected),
    }
}

/// `30s`, `2m`, `1h`: a whole number and its unit.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = "a duration is a whole number and a unit: 30s, 2m, 1h";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return fail(expected),
    };
    let number: u64 = digits.parse().map_err(|_| expected)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| expected.to_owned())
}

pub(super) fn lease(text: &str) -> Result<Duration, String> {
    let lease = parse_duration(text)?;
    if lease < MIN_LEASE {
        return fail(format!("shorter than a lost call and a leader election take; use at least {}", MIN_LEASE.show()));
    }
    if lease > MAX_LEASE {
        return fail(format!("a crashed host would be handed out for that long; use at most {}", MAX_LEASE.show()));
    }
    Ok(lease)
}

pub(super) fn aliases(text: &str) -> Result<Aliases, String> {
    text.parse().map_err(|error: AliasesError| format!("write {error}"))
}

/// `0s` is never.
pub(super) fn fallback_after(text: &str) -> Result<Duration, String> {
    let after = parse_duration(text)?;
    if after > MAX_FALLBACK {
        return fail(format!(
            "a name that has moved to `global` for good would be missed; use at most {}",
            MAX_FALLBACK.show()
        ));
    }
    Ok(after)
}

/// Seconds, with or without a unit: `0`, `5`, `5s`, `1m`.
pub(super) fn ttl(text: &str) -> Result<u32, String> {
    let plain = text.parse().ok();
    let seconds = match plain {
        Some(seconds) => seconds,
        None => parse_duration(text).map_err(|_| "a ttl is a number of seconds: 0, 5, 60".to_owned())?.as_secs(),
    };
    match u32::try_from(seconds) {
        Ok(ttl) if ttl <= MAX_TTL => Ok(ttl),
        _ => fail(format!("addresses are reused at once; use at most {MAX_TTL} seconds")),
    }
}

pub(super) fn when_none_ready(text: &str) -> Result<WhenNoneReady, String> {
    WhenNoneReady::parse(text).map_err(|expected| format!("write {expected}"))
}

/// An etcd client URL. A scheme that is left out is added later, when it is known whether there is TLS.
pub(super) fn etcd_endpoint(text: &str) -> Result<String, String> {
    let expected = "an endpoint is a URL such as http://10.0.0.1:2379";
    let rest = match text.split_once("://") {
        Some(("http" | "https", rest)) => rest,
        Some((scheme, _)) => return fail(format!("{scheme:?} is no scheme of etcd's; use http or https")),
        None => text,
    };
    if rest.contains('@') {
        return fail("a password does not belong into an endpoint; use --etcd-user and --etcd-password-file");
    }
    authority(rest.strip_suffix('/').unwrap_or(rest)).map_err(|error| format!("{error}; {expected}"))?;
    Ok(text.trim_end_matches('/').to_owned())
}

/// `HOST:PORT`, the host a name or an address.
pub(super) fn authority(text: &str) -> Result<(), String> {
    if text.contains('@') {
        return fail("no user and no password belongs here");
    }
    let Some((host, port)) = text.rsplit_once(':') else { return fail("the port is missing") };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return fail(format!("{port:?} is no port"));
    }
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let fits = match bracketed {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
    };
    if fits { Ok(()) } else { fail(format!("{host:?} is no host")) }
}

pub(super) fn etcd_prefix(text: &str) -> Result<String, String> {
    let expected = "use a path such as /portolan";
    if !text.starts_with('/') || text.len() == 1 {
        return fail(format!("the prefix begins with a slash and names something; {expected}"));
    }
    if text.ends_with('/') || text.contains("//") {
        return fail(format!("a slash too many; {expected}"));
    }
    if text.len() > MAX_PREFIX {
        return fail(format!("longer than {MAX_PREFIX} bytes; {expected}"));
    }
    if !text.chars().all(|c| c.is_ascii_graphic()) {
        return fail(format!("blanks and other unusual characters do not fit into a key; {expected}"));
    }
    Ok(text.to_owned())
}

/// `NAME` or `NAME:PASSWORD`.
pub(super) fn user(text: &str) -> Result<User, String> {
    let (name, password) = match text.split_once(':') {
        Some((name, password)) => (name, Some(Secret::new(password))),
        None => (text, None),
    };
    if name.is_empty() { fail("the user's name is missing") } else { Ok(User { name: name.to_owned(), password }) }
}

pub(super) fn docker_host(text: &str) -> Result<String, String> {
    let expected = "use unix:///var/run/docker.sock or tcp://10.0.0.1:2375";
    match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') && path.len() > 1 => Ok(text.to_owned()),
        Some(("tcp", rest)) => {
            authority(rest).map_err(|error| format!("{error}; {expected}"))?;
            Ok(text.to_owned())
        }
        Some(("ssh", _)) => fail(format!("ssh is not spoken here; forward the socket or {expected}")),
        _ => fail(expected),
    }
}

pub(super) fn host_id(text: &str) -> Result<HostId, String> {
    if text == EXTERNAL {
        return fail("external services stand under it; choose another id");
    }
    HostId::parse(text).map_err(|error| error.to_string())
}

pub(super) fn advertise(text: &str) -> Result<IpAddr, String> {
    let Ok(address) = text.parse::<IpAddr>() else { return fail("no IP address; write one such as 10.0.0.5") };
    let wrong = if address.to_canonical().is_loopback() {
        "a loopback address leads every other host to itself"
    } else if address.is_unspecified() {
        "stands for all addresses and leads nowhere"
    } else if address.is_multicast() || address == IpAddr::from([255, 255, 255, 255]) {
        "belongs to no single host"
    } else if matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
        "a link-local address means something else on every link"
    } else {
        return Ok(address.to_canonical());
    };
    fail(format!("{wrong}; name the address under which other hosts reach this one, such as 10.0.0.5"))
}

pub(super) fn locality(text: &str) -> Result<String, String> {
    let fits = |part: &str| {
        !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    };
    if text.len() > MAX_LOCALITY || !text.split('/').all(fits) {
        return fail(format!("use words with slashes between them, such as eu/a, at most {MAX_LOCALITY} bytes"));
    }
    Ok(text.to_owned())
}

pub(super) fn dns(text: &str) -> Result<Listen, String> {
    text.parse().or_else(|_| fail("use docker, auto, or an address with its port such as 10.0.0.5:53 or [fd00::5]:53"))
}

/// An address of this host, with port 853 unless said otherwise.
pub(super) fn dns_tls(text: &str) -> Result<SocketAddr, String> {
    let expected = "use an address such as 10.0.0.5, 10.0.0.5:853 or [fd00::5]:853";
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = match (bare.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(ip), _) => SocketAddr::new(ip, TLS_PORT),
        (_, Ok(address)) => address,
        _ => return fail(expected),
    };
    match SocketAddr::new(address.ip().to_canonical(), address.port()).to_string().parse() {
        _ if address.port() == DNS_PORT => {
            fail("port 53 is never encrypted (RFC 7858 section 3.1); leave the port out")
        }
        Ok(Listen::Address(address)) => Ok(address),
        _ => fail(format!("nobody can be asked there; {expected}")),
    }
}

/// A subnet, or a single address; bits beyond the prefix are dropped.
pub(super) fn claim(text: &str) -> Result<Rule, String> {
    Rule::parse(text).map_err(|error| error.to_string())
}

pub(super) fn subnet(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    match text.parse::<IpNet>() {
        Ok(subnet) => Ok(subnet.trunc()),
        Err(_) => fail("no subnet; write one such as 10.0.0.0/8 or fd00::/8"),
    }
}

pub(super) fn allow(text: &str) -> Result<IpNet, String> {
    let subnet = subnet(text)?;
    if subnet.prefix_len() == 0 {
        return fail("everyone could use this host to attack others (an open resolver); name the subnets that may ask");
    }
    Ok(subnet)
}

pub(super) fn private_answers(text: &str) -> Result<PrivateAnswers, String> {
    match text {
        "allow" => Ok(PrivateAnswers::Allow),
        "refuse" => Ok(PrivateAnswers::Refuse),
        _ => fail("use allow, or refuse for answers without such addresses"),
    }
}

pub(super) fn site_names(text: &str) -> Result<SiteNames, String> {
    match text {
        "auto" => Ok(SiteNames::Auto),
        "answer" => Ok(SiteNames::Answer),
        "forward" => Ok(SiteNames::Forward),
        _ => fail("use auto, answer to deny them here, or forward to ask every upstream"),
    }
}

pub(super) fn single_labels(text: &str) -> Result<SingleLabels, String> {
    match text {
        "answer" => Ok(SingleLabels::Answer),
        "forward" => Ok(SingleLabels::Forward),
        _ => fail("use answer, or forward to ask the upstreams for what is no service"),
    }
}

pub(super) fn rate_limit(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(rate) if rate <= MAX_RATE => Ok(rate),
        _ => fail(format!("use a number of queries per second up to {MAX_RATE}, or 0 for any number")),
    }
}

pub(super) fn zone(text: &str) -> Result<String, String> {
    let expected = "use a domain of your own, or one below internal, such as svc.internal";
    let zone = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let labels: Vec<&str> = zone.split('.').collect();
    for label in &labels {
        let fits = (1..=crate::model::MAX_LABEL).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-');
        if !fits {
            return fail(format!("{label:?} is no label of a domain; {expected}"));
        }
    }
    if zone.len() > MAX_ZONE {
        return fail(format!("longer than {MAX_ZONE} octets, so that names below it may not fit; {expected}"));
    }
    let last = labels.last().copied().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return fail(format!("a domain does not end in a number; {expected}"));
    }
    if TAKEN_DOMAINS.contains(&last) {
        return fail(format!("names below {last} have a meaning of their own; {expected}"));
    }
    if labels.len() == 1 && !PRIVATE_LABELS.contains(&last) {
        return fail(format!("a whole top-level domain would be taken from its owner; {expected}"));
    }
    Ok(zone)
}

/// `none`, a name server, or a domain and its name server.
pub(super) fn upstream(text: &str) -> Result<Upstream, String> {
    match text.split_once('=') {
        _ if text == "none" => Ok(Upstream::None),
        None => name_server(text).map(Upstream::General),
        Some((domain, server)) => {
            let suffix = domain.trim().parse::<Suffix>().map_err(|error| error.to_string())?;
            name_server(server.trim()).map(|server| Upstream::Of(suffix, server))
        }
    }
}

/// A name server: an address, with port 53 unless said otherwise.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    let address = match text.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, 53),
        Err(_) => match text.parse::<SocketAddr>() {
            Ok(address) => address,
            Err(_) => {
                return fail(
                    "no name server; write its address such as 9.9.9.9 or 10.0.0.2:5353, corp.example=10.0.0.2 for one \
                     domain, or none",
                );
            }
        },
    };
    if address.ip().is_unspecified() || address.ip().is_multicast() || address.port() == 0 {
        return fail("nobody answers there; write a name server's address such as 9.9.9.9");
    }
    Ok(address)
}

pub(super) fn cache_size(text: &str) -> Result<Octets, String> {
    match size(text, "no cache")? {
        Octets(1..MIN_CACHE) => {
            fail(format!("too small to hold what is used; use at least {}, or 0", Octets(MIN_CACHE).show()))
        }
        octets if octets.0 > MAX_CACHE => fail(format!("use at most {}", Octets(MAX_CACHE).show())),
        octets => Ok(octets),
    }
}

pub(super) fn allowance(text: &str) -> Result<Octets, String> {
    match size(text, "none")? {
        octets if octets.0 > MAX_ALLOWANCE => fail(format!("use at most {}", Octets(MAX_ALLOWANCE).show())),
        octets => Ok(octets),
    }
}

/// `0`, or a whole number and its unit: `512KiB`, `16MiB`, `1GiB`.
fn size(text: &str, nothing: &str) -> Result<Octets, String> {
    let expected = format!("a size is a whole number and a unit: 512KiB, 16MiB, 1GiB; or 0 for {nothing}");
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: usize = match &text[digits.len()..] {
        "" if digits == "0" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return fail(expected),
    };
    digits.parse::<usize>().ok().and_then(|number| number.checked_mul(unit)).map(Octets).ok_or(expected)
}

pub(super) fn http(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an address with its port such as 127.0.0.1:7300 or [::1]:7300".to_owned())
}

pub(super) fn control(text: &str) -> Result<PathBuf, String> {
    if text.len() > MAX_SOCKET_PATH {
        return fail(format!(
            "longer than {MAX_SOCKET_PATH} bytes, the most a socket's path may have; choose a shorter one"
        ));
    }
    path(text)
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.contains('\0') { fail("no path holds a zero byte") } else { Ok(PathBuf::from(text)) }
}

/// A directory named in full: what may run must not depend on where the agent was started.
pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    if !text.starts_with('/') {
        return fail("name a directory by its whole path, such as /etc/portolan/checks");
    }
    path(text)
}

pub(super) fn api(text: &str) -> Result<String, String> {
    let expected = "use a URL such as http://127.0.0.1:7300";
    let Some(rest) = text.strip_prefix("http://") else { return fail(expected) };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    authority(rest).map_err(|error| format!("{error}; {expected}"))?;
    Ok(format!("http://{rest}"))
}
