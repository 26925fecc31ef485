//! Labels and `SERVICE_*` environment → the services a container offers, and the namespace it asks from.
//!
//! Only the keys named here are ever held ([`Metadata::gather`] is called at the edge), so that a foreign secret
//! in an environment cannot leak: it never gets in.
//!
//! | key | means |
//! |---|---|
//! | `portolan.service` | the name of the container's service: one name, no list |
//! | `portolan.port.<n>.service` | port `<n>` belongs to this service instead: several services in one container |
//! | `portolan.namespace` | the namespace of all its services, and the one it asks from; `global` and `default` may be asked for |
//! | `portolan.port` | the port that A answers stand for |
//! | `portolan.port.<n>.name` | what `_name._tcp` questions call port `<n>` |
//! | `portolan.tags`, `portolan.weight` | comma list with `\,` for a comma; 0 to 65535 |
//! | `portolan.when-none-ready` | `draining`, `unhealthy`, both or `none`: whom to give while no instance is ready |
//! | `portolan.ignore` | `true` or `false`; decides alone, also against `SERVICE_IGNORE` |
//! | `SERVICE_NAME`, `SERVICE_<n>_NAME` | as `portolan.service` and `portolan.port.<n>.service` |
//! | `SERVICE_TAGS`, `SERVICE_<n>_TAGS` | as `portolan.tags`; those of a port beat the general ones |
//! | `SERVICE_IGNORE` | any value that is not empty ignores, also `false` |
//!
//! Checks and their keys are in [`check`](super::check).
//!
//! A `portolan.*` label beats a `SERVICE_*` label, which beats a `SERVICE_*` variable. After the exact prefix
//! `SERVICE_` letter case does not matter; other `SERVICE_*` keys are Registrator's attributes and are skipped.
//!
//! Ports without a service of their own belong to the container's service. That one is left out if ports have
//! services and none is left for it, as in Registrator. A port that only a label knows is taken as TCP.
//!
//! A name that was given lands in `global` unless `portolan.namespace` says otherwise; a derived one (Compose,
//! Swarm, container name) in the project, the stack or `default`. No project or stack gets into a reserved
//! namespace by being called so: such a container offers nothing until it is given a `portolan.namespace`.
//! Compose's one-off and hook containers offer nothing.
//!
//! With `--namespaces off` all of them land in `global`, and all containers ask from there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    check::Field,
    claim::{Claimant, Rule, refusal},
    metadata::{
        COMPOSE_DIRECTORY, COMPOSE_HOOK, COMPOSE_ONEOFF, COMPOSE_PROJECT, COMPOSE_SERVICE, Entry, Key, MAX_KEYS,
        MAX_VALUE, Metadata, Origin, SWARM_SERVICE, SWARM_STACK, Value, port_number,
    },
};
use crate::model::{Check, Label, LabelError, Offer, Port, Problem, Proto, Silence, WhenNoneReady};

/// Ports of one container that are published. 64 of them make a record of about 6 KiB, far below etcd's 1.5 MiB.
pub const MAX_PORTS: usize = 64;
/// Tags of one service.
pub const MAX_TAGS: usize = 32;
/// Longest tag in octets: one character-string of a TXT record (RFC 1035 section 3.3).
pub const MAX_TAG: usize = 255;
/// Problems reported for one container; more of them say nothing new.
pub const MAX_PROBLEMS: usize = 16;
const KNOWN_KEYS: [&str; 9] = [
    "portolan.service",
    "portolan.namespace",
    "portolan.port",
    "portolan.port.<n>.name",
    "portolan.port.<n>.service",
    "portolan.tags",
    "portolan.weight",
    "portolan.ignore",
    "portolan.when-none-ready",
];

const NAME_EXPECTED: &str = "a name of 1 to 63 letters, digits, '-' and '_'";

/// What a container's metadata says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its services, ordered by name. Their ports are not published anywhere yet: `desired.rs` knows that.
    pub offers: Vec<Offer>,
    /// The namespace it asks from.
    pub namespace: Label,
    /// How its health is found out, besides what Docker says of it.
    pub checks: Arc<[Check]>,
    /// Why there is no offer.
    pub silence: Option<Silence>,
    /// A digest of its project's directory, if its namespace is the Compose project.
    pub directory: Option<Arc<str>>,
}

/// How metadata is read: what the operator decided for this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether there are namespaces.
    pub namespaces: Namespaces,
    /// Who may have which global names.
    pub claims: Arc<[Rule]>,
}

/// `--namespaces`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Namespaces {
    /// Each service has one.
    #[default]
    On,
    /// Everything is `global`, as in Registrator: projects, stacks and `portolan.namespace` play no part.
    Off,
}

/// The namespace a container asks from; needs no more than the labels of its create event.
pub fn namespace(options: &Options, metadata: &Metadata) -> Label {
    read(options, "", metadata, "", "", &BTreeSet::new()).0.namespace
}

/// Reads the services of a container called `name`, made from `image`, with these `ports`. `place` begins the place of every problem.
pub fn read(
    options: &Options,
    place: &str,
    metadata: &Metadata,
    name: &str,
    image: &str,
    ports: &BTreeSet<(u16, Proto)>,
) -> (Claim, Vec<Problem>) {
    let mut reader = Reader { options, place, metadata, problems: Vec::new() };
    let claim = reader.claim(name, image, ports);
    let mut problems = reader.problems;
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    if more > 0 {
        problems.truncate(MAX_PROBLEMS);
        problems.push(Problem::new(place, &format!("{more} more problems"), "the ones above mended first"));
    }
    (claim, problems)
}

/// Reads a container's metadata, and notes what is wrong with it.
pub(super) struct Reader<'a> {
    options: &'a Options,
    pub(super) place: &'a str,
    pub(super) metadata: &'a Metadata,
    pub(super) problems: Vec<Problem>,
}

/// The service a port belongs to.
#[derive(Clone)]
struct Named {
    service: Label,
    namespace: Label,
}

impl Reader<'_> {
    fn claim(&mut self, name: &str, image: &str, exposed: &BTreeSet<(u16, Proto)>) -> Claim {
        let project = self.derived_namespace();
        let own = project.as_ref().map_or_else(|_| Label::default_namespace(), Label::clone);
        let (derived, wanted) = match self.options.namespaces {
            Namespaces::On => (project, self.label(&Key::Namespace)),
            Namespaces::Off => (Ok(Label::global()), None),
        };
        let namespace = match (&wanted, &derived) {
            (Some(Ok(label)), _) | (_, Ok(label)) => label.clone(),
            _ => Label::default_namespace(),
        };
        let silent = |silence| Claim {
            offers: Vec::new(),
            namespace: namespace.clone(),
            checks: Arc::default(),
            silence: Some(silence),
            directory: None,
        };
        let oneoff = self.metadata.engine(COMPOSE_ONEOFF).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if self.is_ignored() {
            let key = self.metadata.entries.get(&Key::Ignore).map(|entry| Arc::clone(&entry.key));
            return silent(Silence::Ignored(key.unwrap_or_default()));
        }
        if oneoff {
            return silent(Silence::OneOff);
        }
        if self.metadata.engine(COMPOSE_HOOK).is_some() {
            return silent(Silence::Hook);
        }
        self.report_unknown();
        // In a broken namespace nothing is offered: better missing than under a name it was not given.
        if matches!(wanted, Some(Err(()))) {
            return silent(Silence::Nameless);
        }
        let given = if wanted.is_some() { namespace.clone() } else { Label::global() };

        let main_port = self.main_port();
        let ports = self.ports(exposed, main_port);
        let checks = self.checks(&ports, main_port).into();
        let general = match self.label(&Key::Service) {
            Some(Ok(service)) => Some(Named { service, namespace: given.clone() }),
            Some(Err(())) => None,
            None => self.derived_service(name, derived, wanted.is_some().then_some(&namespace)),
        };
        let mut groups: BTreeMap<(Label, Label), Vec<Port>> = BTreeMap::new();
        for (port, proto) in ports {
            let own = match self.label(&Key::PortService(port)) {
                Some(Ok(service)) => Some(Named { service, namespace: given.clone() }),
                Some(Err(())) => continue,
                None => general.clone(),
            };
            let Some(Named { service, namespace }) = own else { continue };
            let name = self.label(&Key::PortName(port)).and_then(Result::ok);
            groups.entry((service, namespace)).or_default().push(Port { name, port, proto, published: Box::default() });
        }
        if let Some(Named { service, namespace }) = general
            && groups.is_empty()
            && !self.metadata.entries.keys().any(|key| matches!(key, Key::PortService(_)))
        {
            groups.insert((service, namespace), Vec::new());
        }
        groups.retain(|(service, namespace), _| self.may_have(service, namespace, &own, image));
        let (weight, when_none_ready) = (self.weight(), self.when_none_ready());
        if groups.is_empty() {
            return silent(Silence::Nameless);
        }
        let offers = groups.into_iter().map(|((service, namespace), ports)| Offer {
            tags: self.tags(&ports),
            port: main_port.filter(|main| ports.iter().any(|port| port.port == *main)),
            ports: ports.into(),
            when_none_ready,
            service,
            namespace,
            weight,
        });
        let offers = offers.collect();
        let is_project = self.options.namespaces == Namespaces::On && wanted.is_none();
        let directory = is_project.then(|| self.directory()).flatten();
        Claim { offers, namespace, checks, silence: None, directory }
    }

    /// Whether nothing forbids the container this name; else that is a problem.
    fn may_have(&mut self, service: &Label, namespace: &Label, own: &Label, image: &str) -> bool {
        let claimant = Claimant { namespace: own, image, metadata: self.metadata };
        let Some(expected) = refusal(&self.options.claims, service, namespace, claimant) else { return true };
        let place = format!("{}, service {service}", self.place);
        self.problems.push(Problem::new(place, &format!("{service}.{namespace}"), expected));
        false
    }

    /// The project, the stack or `default`; an error if the name they have cannot be a namespace.
    fn derived_namespace(&mut self) -> Result<Label, Problem> {
        for key in [COMPOSE_PROJECT, SWARM_STACK] {
            let Some(text) = self.metadata.engine(key) else { continue };
            let place = format!("{}, label {key}", self.place);
            let label = Label::parse(text).map_err(|error| Problem::new(place.as_str(), text, expected(&error)))?;
            if label == Label::global() || label == Label::default_namespace() {
                let fix = "another name, or portolan.namespace: 'global' and 'default' are reserved";
                return Err(Problem::new(place, text, fix));
            }
            return Ok(label);
        }
        Ok(Label::default_namespace())
    }

    /// Equal for equal directories, and not the path itself, which is this host's own affair: FNV-1a, 64 bits. Nobody
    /// gains by making two of them equal.
    fn directory(&self) -> Option<Arc<str>> {
        self.metadata.engine(COMPOSE_PROJECT)?;
        let path = self.metadata.engine(COMPOSE_DIRECTORY).filter(|path| !path.is_empty())?;
        let step = |hash: u64, octet: u8| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3);
        let digest = path.trim_end_matches('/').bytes().fold(0xcbf2_9ce4_8422_2325, step);
        Some(format!("{digest:016x}").into())
    }

    fn derived_service(
        &mut self,
        name: &str,
        derived: Result<Label, Problem>,
        wanted: Option<&Label>,
    ) -> Option<Named> {
        let (key, text) = match (self.metadata.engine(COMPOSE_SERVICE), self.metadata.engine(SWARM_SERVICE)) {
            (Some(service), _) => (COMPOSE_SERVICE, service),
            (None, Some(service)) => {
                let stack = self.metadata.engine(SWARM_STACK);
                let own = stack.and_then(|stack| service.strip_prefix(stack)?.strip_prefix('_'));
                (SWARM_SERVICE, own.unwrap_or(service))
            }
            (None, None) => ("", name),
        };
        let namespace = match (wanted, derived) {
            (Some(wanted), _) => wanted.clone(),
            (None, Ok(derived)) => derived,
            (None, Err(problem)) => {
                self.problems.push(problem);
                return None;
            }
        };
        match Label::parse(text) {
            Ok(service) => Some(Named { service, namespace }),
            Err(error) => {
                let source = if key.is_empty() { "the container's name".to_owned() } else { format!("label {key}") };
                let place = format!("{}, {source}", self.place);
                let fix = format!("{}, or portolan.service", expected(&error));
                self.problems.push(Problem::new(place, text, fix));
                None
            }
        }
    }

    /// A value that was found, with its place; one that is too long is a problem and `Err`.
    pub(super) fn text(&mut self, key: &Key) -> Option<Result<(Arc<str>, Entry), ()>> {
        let entry = self.metadata.entries.get(key)?;
        match &entry.value {
            Value::Text(text) => Some(Ok((text.clone(), entry.clone()))),
            Value::TooLong(length) => {
                let problem = self.problem(entry, &format!("{length} octets"), format!("at most {MAX_VALUE} octets"));
                // Several ports ask for the same general key: say it once.
                if !self.problems.contains(&problem) {
                    self.problems.push(problem);
                }
                Some(Err(()))
            }
        }
    }

    /// A problem with an entry. `found` is only ever shown for labels, and so is anything made from it.
    fn problem(&self, entry: &Entry, found: &str, expected: impl Into<String>) -> Problem {
        let key: String = entry.key.chars().take(crate::model::MAX_QUOTED).flat_map(char::escape_debug).collect();
        match entry.origin {
            Origin::Environment => {
                let place = format!("{}, environment {key}", self.place);
                Problem::new(place, "a value that is not shown, as it is from an environment", expected)
            }
            Origin::Label | Origin::ServiceLabel => {
                Problem::new(format!("{}, label {key}", self.place), found, expected)
            }
        }
    }

    pub(super) fn complain(&mut self, entry: &Entry, found: &str, expected: impl Into<String>) {
        let problem = self.problem(entry, found, expected);
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn label(&mut self, key: &Key) -> Option<Result<Label, ()>> {
        let (text, entry) = match self.text(key)? {
            Ok(found) => found,
            Err(()) => return Some(Err(())),
        };
        match Label::parse(&text) {
            Ok(label) => Some(Ok(label)),
            Err(error) => {
                let fix = match (&error, key) {
                    // The error names a character of the value.
                    _ if entry.origin == Origin::Environment => NAME_EXPECTED.to_owned(),
                    (LabelError::Character(','), Key::Service) => {
                        "one name; several services are named by portolan.port.<n>.service".to_owned()
                    }
                    _ => expected(&error),
                };
                self.complain(&entry, &text, fix);
                Some(Err(()))
            }
        }
    }

    fn is_ignored(&mut self) -> bool {
        match self.text(&Key::Ignore) {
            None => false,
            Some(Err(())) => true,
            Some(Ok((text, entry))) if entry.origin == Origin::Label => {
                match text.trim().to_ascii_lowercase().as_str() {
                    "true" | "1" | "yes" | "" => true,
                    "false" | "0" | "no" => false,
                    _ => {
                        self.complain(&entry, &text, "'true' or 'false'; taken for 'true'");
                        true
                    }
                }
            }
            Some(Ok((text, _))) => !text.is_empty(),
        }
    }

    fn main_port(&mut self) -> Option<u16> {
        let (text, entry) = self.text(&Key::MainPort)?.ok()?;
        let port = port_number(text.trim());
        if port.is_none() {
            self.complain(&entry, &text, "a container port, 1 to 65535");
        }
        port
    }

    fn weight(&mut self) -> u16 {
        let Some(Ok((text, entry))) = self.text(&Key::Weight) else { return 1 };
        text.trim().parse().unwrap_or_else(|_| {
            self.complain(&entry, &text, "a number from 0 to 65535; taken for 1");
            1
        })
    }

    fn when_none_ready(&mut self) -> Option<WhenNoneReady> {
        let (text, entry) = self.text(&Key::WhenNoneReady)?.ok()?;
        match WhenNoneReady::parse(&text) {
            Ok(policy) => Some(policy),
            Err(expected) => {
                self.complain(&entry, &text, format!("{expected}; until then the operator's --when-none-ready"));
                None
            }
        }
    }

    /// All ports of the container: those that labels name first, then by number, at most [`MAX_PORTS`].
    fn ports(&mut self, exposed: &BTreeSet<(u16, Proto)>, main: Option<u16>) -> BTreeSet<(u16, Proto)> {
        let mut named: BTreeSet<u16> = main.into_iter().collect();
        named.extend(self.metadata.entries.keys().filter_map(|key| match key {
            Key::PortService(port) | Key::PortName(port) => Some(*port),
            _ => None,
        }));
        let (labelled, others): (Vec<_>, Vec<_>) = exposed.iter().partition(|(port, _)| named.contains(port));
        let only_named = named.iter().filter(|port| !exposed.iter().any(|(exposed, _)| exposed == *port));
        let all: Vec<(u16, Proto)> = only_named.map(|port| (*port, Proto::Tcp)).chain(labelled).chain(others).collect();
        if all.len() > MAX_PORTS {
            let found = format!("{} ports", all.len());
            let fix = format!("at most {MAX_PORTS}; the rest is left out, those named by labels last");
            self.problems.push(Problem::new(self.place, &found, fix));
        }
        all.into_iter().take(MAX_PORTS).collect()
    }

    /// The tags of a service: those of its ports, and the general ones unless every port has its own.
    fn tags(&mut self, ports: &[Port]) -> Box<[Arc<str>]> {
        let own: BTreeSet<u16> = ports
            .iter()
            .map(|port| port.port)
            .filter(|port| self.metadata.entries.contains_key(&Key::PortTags(*port)))
            .collect();
        let mut keys: Vec<Key> = own.iter().map(|port| Key::PortTags(*port)).collect();
        if ports.is_empty() || ports.iter().any(|port| !own.contains(&port.port)) {
            keys.insert(0, Key::Tags);
        }
        let mut tags: Vec<Arc<str>> = Vec::new();
        for key in keys {
            let Some(Ok((text, entry))) = self.text(&key) else { continue };
            for tag in split_list(&text) {
                if tag.len() > MAX_TAG {
                    self.complain(&entry, &tag, format!("tags of at most {MAX_TAG} octets"));
                } else if tags.iter().any(|held| **held == *tag) {
                } else if tags.len() == MAX_TAGS {
                    self.complain(&entry, "more tags", format!("at most {MAX_TAGS} tags"));
                    break;
                } else {
                    tags.push(tag.into());
                }
            }
        }
        tags.into()
    }

    fn report_unknown(&mut self) {
        let metadata = self.metadata;
        for (key, entry) in &metadata.entries {
            let Key::Unknown(key) = key else { continue };
            self.complain(entry, key, did_you_mean(key));
        }
        if metadata.dropped > 0 {
            let found = format!("{} more labels and variables", metadata.dropped);
            self.problems.push(Problem::new(self.place, &found, format!("at most {MAX_KEYS} that concern Portolan")));
        }
    }
}

fn expected(error: &LabelError) -> String {
    format!("{NAME_EXPECTED}: {error}")
}

/// Splits at commas that no backslash precedes; empty items and spaces around them are dropped.
fn split_list(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&',') => {
                characters.next();
                if let Some(item) = items.last_mut() {
                    item.push(',');
                }
            }
            ',' => items.push(String::new()),
            other => {
                if let Some(item) = items.last_mut() {
                    item.push(other);
                }
            }
        }
    }
    items.iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

/// The known label nearest to a mistyped one.
fn did_you_mean(key: &str) -> String {
    // Longer keys are no typing mistakes, and the distance is quadratic.
    if key.len() <= 64 {
        // A port's number is not a mistake: compare with `<n>` in its place.
        let shape: String = key
            .split('.')
            .map(|part| if port_number(part).is_some() { "<n>" } else { part })
            .collect::<Vec<_>>()
            .join(".");
        let known = KNOWN_KEYS.iter().map(|key| (*key).to_owned()).chain(Field::labels());
        let nearest = known.min_by_key(|known| strsim::osa_distance(known, &shape));
        if let Some(nearest) = nearest.filter(|known| strsim::osa_distance(known, &shape) <= 3) {
            return format!("a known label; did you mean {nearest}?");
        }
    }
    format!("one of {}, portolan.check.…", KNOWN_KEYS.join(", "))
}

#[cfg(test)]
mod tests;
