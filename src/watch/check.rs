//! Labels and `SERVICE_*` → the checks of a container. Part of reading [`labels`](super::labels).
//!
//! | key | means |
//! |---|---|
//! | `portolan.check.http`, `.https` | this path answers with a status from 200 to 399 |
//! | `portolan.check.tcp` | `true`: the port takes a connection |
//! | `portolan.check.cmd` | this program of the host ends with 0 (only where the operator allows it) |
//! | `portolan.check.port` | the container port that is asked; else that of `portolan.port`, else the lowest |
//! | `portolan.check.method` | of the request: `GET`, `HEAD`, `POST`, `PUT` or `OPTIONS` |
//! | `portolan.check.interval`, `.timeout` | `10s`; `5s`, at most the interval |
//! | `portolan.check.rise`, `.fall` | passes in a row for healthy (1), failures for unhealthy (3) |
//! | `portolan.check.initial` | `starting`, or `healthy`: given before the first answer |
//! | `portolan.port.<n>.check.…` | the same for port `<n>`; what it does not say, the general keys do |
//! | `SERVICE_CHECK_…`, `SERVICE_<n>_CHECK_…` | Registrator's: `HTTP`, `HTTPS`, `HTTP_METHOD`, `SCRIPT` (as `cmd`), `TCP`, `INTERVAL`, `TIMEOUT`, `INITIAL_STATUS` |
//!
//! One check for a port: of several kinds the first of http, https, cmd, script, ttl, tcp, grpc counts, as in
//! Registrator; those of `portolan.*` before those of `SERVICE_*`. What cannot be asked from outside is a problem that
//! names the way out: Registrator's `CMD` would run inside the container, and we only ever read from Docker; nobody
//! reports to us for a `TTL`; for `GRPC` the port is asked for a connection instead.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hyper::http::uri::PathAndQuery;

use super::{
    labels::Reader,
    metadata::{Entry, Key, Origin, Word, port_number},
};
use crate::model::{Ask, Check, Initial, Proto, Security, Unshown};

/// Checks of one container; each is a connection per interval.
pub const MAX_CHECKS: usize = 8;
/// Shortest interval: as often as a health that changed may be published.
pub const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// Longest interval. What is asked less often says little of now.
pub const MAX_INTERVAL: Duration = Duration::from_secs(3600);
/// Shortest time-out: a busy host takes some milliseconds to answer itself.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(10);
/// Longest time-out. A probe keeps one of the few places for as long.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// Most results in a row that may be asked for: an hour at three minutes each.
pub const MAX_IN_A_ROW: u32 = 20;
/// Longest path; servers take 8 KiB for a whole request's head.
pub const MAX_PATH: usize = 2048;
/// Most words of a command.
pub const MAX_WORDS: usize = 64;

pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const DEFAULT_RISE: u32 = 1;
pub(crate) const DEFAULT_FALL: u32 = 3;
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PUT", "OPTIONS"];
const DURATION: &str = "a number and its unit: 500ms, 10s, 1m";

/// One field of a check; the kinds of checks first, in the order in which they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Http,
    Https,
    Command,
    Script,
    Ttl,
    Tcp,
    Grpc,
    Port,
    Method,
    Interval,
    Timeout,
    Rise,
    Fall,
    Initial,
    Deregister,
}

const KINDS: [Field; 7] =
    [Field::Http, Field::Https, Field::Command, Field::Script, Field::Ttl, Field::Tcp, Field::Grpc];

/// Labels of a check without `portolan.check.`; those of one port are the same without `port`.
const FIELDS: [(&str, Field); 11] = [
    ("http", Field::Http),
    ("https", Field::Https),
    ("tcp", Field::Tcp),
    ("cmd", Field::Command),
    ("port", Field::Port),
    ("method", Field::Method),
    ("interval", Field::Interval),
    ("timeout", Field::Timeout),
    ("rise", Field::Rise),
    ("fall", Field::Fall),
    ("initial", Field::Initial),
];

/// Registrator's, without `SERVICE_CHECK_`.
const SERVICE_FIELDS: [(&str, Field); 12] = [
    ("HTTP", Field::Http),
    ("HTTPS", Field::Https),
    ("HTTP_METHOD", Field::Method),
    ("HTTPS_METHOD", Field::Method),
    ("TCP", Field::Tcp),
    ("CMD", Field::Command),
    ("SCRIPT", Field::Script),
    ("GRPC", Field::Grpc),
    ("TTL", Field::Ttl),
    ("INTERVAL", Field::Interval),
    ("TIMEOUT", Field::Timeout),
    ("INITIAL_STATUS", Field::Initial),
];

impl Field {
    /// The field of `portolan.check.<text>`.
    pub(super) fn of_label(text: &str) -> Option<Self> {
        FIELDS.iter().find(|(name, _)| *name == text).map(|(_, field)| *field)
    }

    /// The field of `SERVICE_<text>`.
    pub(super) fn of_service(text: &str) -> Option<Self> {
        let start = text.get(..6).filter(|start| start.eq_ignore_ascii_case("CHECK_"))?;
        let rest = &text[start.len()..];
        if rest.eq_ignore_ascii_case("DEREGISTER_AFTER") {
            return Some(Self::Deregister);
        }
        SERVICE_FIELDS.iter().find(|(name, _)| rest.eq_ignore_ascii_case(name)).map(|(_, field)| *field)
    }

    /// All labels there are, for "did you mean".
    pub(super) fn labels() -> impl Iterator<Item = String> {
        let general = FIELDS.iter().map(|(name, _)| format!("portolan.check.{name}"));
        let of_ports = FIELDS.iter().filter(|(_, field)| *field != Self::Port);
        general.chain(of_ports.map(|(name, _)| format!("portolan.port.<n>.check.{name}")))
    }
}

impl Reader<'_> {
    /// The checks of a container with these ports.
    pub(super) fn checks(&mut self, ports: &BTreeSet<(u16, Proto)>, main: Option<u16>) -> Vec<Check> {
        let metadata = self.metadata;
        let keys = || metadata.entries.iter();
        for (key, entry) in keys() {
            if let Key::Check(Field::Deregister) | Key::Of(_, Word::Check(Field::Deregister)) = key {
                let fix = "nothing: a failing container leaves the answers, and its name with it when it is removed";
                self.complain(entry, "a time", fix);
            }
        }
        let own: BTreeSet<u16> = keys()
            .flat_map(|(key, _)| match key {
                Key::Of(of, Word::Check(field)) if KINDS.contains(field) => {
                    let among = ports.iter().filter(|(port, proto)| of.hold(*port, *proto)).map(|(port, _)| *port);
                    among.chain(of.single()).collect()
                }
                _ => Vec::new(),
            })
            .collect();
        let mut checks: Vec<Check> = own.iter().filter_map(|port| self.check(Some(*port), Some(*port))).collect();
        let lowest = || ports.iter().find(|(_, proto)| *proto == Proto::Tcp).map(|(port, _)| *port);
        let general = self.check_port().or(main).or_else(lowest);
        if general.is_none_or(|port| !own.contains(&port)) {
            checks.extend(self.check(None, general));
        }
        let field = |key: &Key| match key {
            Key::Check(field) | Key::Of(_, Word::Check(field)) => Some(*field),
            _ => None,
        };
        let lonely = keys().find(|(key, _)| field(key).is_some_and(|field| field != Field::Deregister));
        let asks = |key: &Key| field(key).is_some_and(|field| KINDS.contains(&field));
        if let Some((_, entry)) = lonely.filter(|_| !keys().any(|(key, _)| asks(key))) {
            self.complain(entry, "no check", "also what to ask, such as portolan.check.http=/health");
        }
        if checks.len() > MAX_CHECKS {
            self.problems.push(crate::model::Problem::new(
                self.place,
                &format!("{} checks", checks.len()),
                format!("at most {MAX_CHECKS}; the rest is left out"),
            ));
            checks.truncate(MAX_CHECKS);
        }
        checks
    }

    /// The key of one port's check, which is asked over TCP, or of the general one.
    fn key(&self, scope: Option<u16>, field: Field) -> Key {
        match scope {
            Some(port) => self.metadata.of(port, Proto::Tcp, Word::Check(field)),
            None => Key::Check(field),
        }
    }

    fn check_port(&mut self) -> Option<u16> {
        let (text, entry) = self.text(&Key::Check(Field::Port))?.ok()?;
        let port = port_number(text.trim());
        if port.is_none() {
            self.complain(&entry, &text, "a container port, 1 to 65535");
        }
        port
    }

    /// The check of one port, or the general one, which asks `port`.
    fn check(&mut self, scope: Option<u16>, port: Option<u16>) -> Option<Check> {
        let mut kinds: Vec<(Origin, Field)> = KINDS
            .iter()
            .filter_map(|field| Some((self.metadata.entries.get(&self.key(scope, *field))?.origin, *field)))
            .collect();
        // Registrator takes label and variable for one.
        kinds.sort_by_key(|(origin, field)| (*origin != Origin::Label, *field));
        let (ask, entry) = kinds.into_iter().find_map(|(_, field)| {
            let (text, entry) = self.text(&self.key(scope, field))?.ok()?;
            Some((self.ask(scope, field, text.trim(), &entry)?, entry))
        })?;
        if port.is_none() && !matches!(ask, Ask::Command { .. }) {
            self.complain(&entry, "no port", "portolan.check.port, for the container has none");
            return None;
        }
        let interval = self.time(scope, Field::Interval, (MIN_INTERVAL, MAX_INTERVAL), DEFAULT_INTERVAL);
        let longest = interval.min(MAX_TIMEOUT);
        let timeout = self.time(scope, Field::Timeout, (MIN_TIMEOUT, longest), DEFAULT_TIMEOUT.min(longest));
        Some(Check {
            ask,
            port,
            interval,
            timeout,
            rise: self.in_a_row(scope, Field::Rise, DEFAULT_RISE),
            fall: self.in_a_row(scope, Field::Fall, DEFAULT_FALL),
            initial: self.initial(scope),
        })
    }

    /// `None`: it asks nothing, which is a problem unless it says so itself.
    fn ask(&mut self, scope: Option<u16>, field: Field, text: &str, entry: &Entry) -> Option<Ask> {
        let is_ours = entry.origin == Origin::Label;
        match field {
            _ if text.is_empty() => None,
            Field::Http | Field::Https => {
                let is_plain = text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'#');
                let fits = is_plain && text.starts_with('/') && text.parse::<PathAndQuery>().is_ok();
                if !fits || text.len() > MAX_PATH {
                    self.complain(entry, text, format!("a path such as /health, at most {MAX_PATH} plain characters"));
                    return None;
                }
                let security = if field == Field::Https { Security::Tls } else { Security::Plain };
                Some(Ask::Http { security, method: self.method(scope), path: Unshown(text.into()) })
            }
            Field::Tcp => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" => Some(Ask::Tcp),
                "false" | "0" | "no" => None,
                _ => {
                    self.complain(entry, text, "'true' or 'false'; the port is a key of its own");
                    None
                }
            },
            Field::Grpc => {
                let fix = "portolan.check.tcp=true: gRPC is not spoken, so the port is only asked for a connection";
                self.complain(entry, text, fix);
                Some(Ask::Tcp)
            }
            Field::Ttl => {
                let fix = "portolan.check.http or .tcp: nobody reports to us, we ask";
                self.complain(entry, text, fix);
                None
            }
            Field::Command if !is_ours => {
                let fix =
                    "a HEALTHCHECK of the image, or portolan.check.http or .tcp: nothing is run inside containers";
                self.complain(entry, text, fix);
                None
            }
            _ => {
                let mut words = text.split_ascii_whitespace().map(|word| Unshown(word.into()));
                let program = words.next()?;
                let arguments: Box<[Unshown]> = words.collect();
                let is_name = !program.0.contains(['/', '\0']) && !program.0.starts_with('.');
                if !is_name || text.contains('\0') || arguments.len() >= MAX_WORDS {
                    let fix = "a program's file name in the directory of --check-commands, and its arguments";
                    self.complain(entry, text, format!("{fix}, at most {MAX_WORDS} words"));
                    return None;
                }
                Some(Ask::Command { program, arguments })
            }
        }
    }

    /// A field of the port's check, else of the general one.
    fn field(&mut self, scope: Option<u16>, field: Field) -> Option<(Arc<str>, Entry)> {
        let own = scope.and_then(|_| self.text(&self.key(scope, field)));
        own.or_else(|| self.text(&Key::Check(field)))?.ok()
    }

    fn method(&mut self, scope: Option<u16>) -> &'static str {
        let Some((text, entry)) = self.field(scope, Field::Method) else { return METHODS[0] };
        let known = METHODS.into_iter().find(|method| text.trim().eq_ignore_ascii_case(method));
        known.unwrap_or_else(|| {
            self.complain(&entry, &text, format!("one of {}; taken for {}", METHODS.join(", "), METHODS[0]));
            METHODS[0]
        })
    }

    fn time(
        &mut self,
        scope: Option<u16>,
        field: Field,
        (least, most): (Duration, Duration),
        default: Duration,
    ) -> Duration {
        let Some((text, entry)) = self.field(scope, field) else { return default };
        duration(&text).filter(|time| (least..=most).contains(time)).unwrap_or_else(|| {
            let fix = format!("{DURATION}, from {least:?} to {most:?}; taken for {default:?}");
            self.complain(&entry, &text, fix);
            default
        })
    }

    fn in_a_row(&mut self, scope: Option<u16>, field: Field, default: u32) -> u32 {
        let Some((text, entry)) = self.field(scope, field) else { return default };
        text.trim().parse().ok().filter(|number| (1..=MAX_IN_A_ROW).contains(number)).unwrap_or_else(|| {
            self.complain(&entry, &text, format!("a number from 1 to {MAX_IN_A_ROW}; taken for {default}"));
            default
        })
    }

    fn initial(&mut self, scope: Option<u16>) -> Initial {
        let Some((text, entry)) = self.field(scope, Field::Initial) else { return Initial::Starting };
        match (text.trim().to_ascii_lowercase().as_str(), entry.origin) {
            ("starting", _) => Initial::Starting,
            ("healthy", _) => Initial::Healthy,
            // Consul's words, which Registrator hands on.
            ("passing" | "warning", Origin::ServiceLabel | Origin::Environment) => Initial::Healthy,
            ("critical", Origin::ServiceLabel | Origin::Environment) => Initial::Starting,
            _ => {
                self.complain(&entry, &text, "'starting' or 'healthy'; taken for 'starting'");
                Initial::Starting
            }
        }
    }
}

/// `500ms`, `10s`, `1m30s`, `1h`: whole numbers with their units, as Go writes them.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let part = match &after[..unit] {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = &after[unit..];
    }
    Some(total)
}

#[cfg(test)]
mod tests;
