//! Which labels and variables are held, and nothing else: a foreign secret in an environment cannot leak, because it
//! never gets in. What they mean is said in [`labels`](super::labels).

use std::{collections::BTreeMap, sync::Arc};

use super::{
    check::{Field, MAX_CHECKS},
    claim::digest,
};
use crate::model::Proto;

/// Longest value that is read, in octets. 32 tags of 120 octets fit; a name needs 63.
pub const MAX_VALUE: usize = 4 << 10;
/// Keys held for one container: three for each of 64 ports, eight for each check, and those that exist once, are
/// attributes or are mistyped.
pub const MAX_KEYS: usize = 3 * super::labels::MAX_PORTS + 8 * MAX_CHECKS + 64;

/// Labels of one container that rules may ask for. An image and Compose give some dozen.
const MAX_DIGESTS: usize = 512;

pub(super) const COMPOSE_PROJECT: &str = "com.docker.compose.project";
pub(super) const COMPOSE_DIRECTORY: &str = "com.docker.compose.project.working_dir";
pub(super) const COMPOSE_SERVICE: &str = "com.docker.compose.service";
pub(super) const COMPOSE_ONEOFF: &str = "com.docker.compose.oneoff";
pub(super) const COMPOSE_HOOK: &str = "com.docker.compose.hook";
/// A digest of the service's configuration, which Compose gives every container that it makes and no image that it builds.
pub(super) const COMPOSE_HASH: &str = "com.docker.compose.config-hash";
pub(super) const SWARM_SERVICE: &str = "com.docker.swarm.service.name";
pub(super) const SWARM_STACK: &str = "com.docker.stack.namespace";
pub(super) const COMPOSE_KEYS: [&str; 6] =
    [COMPOSE_PROJECT, COMPOSE_DIRECTORY, COMPOSE_SERVICE, COMPOSE_ONEOFF, COMPOSE_HOOK, COMPOSE_HASH];
pub(super) const ENGINE_KEYS: [&str; 8] = [
    COMPOSE_PROJECT,
    COMPOSE_DIRECTORY,
    COMPOSE_SERVICE,
    COMPOSE_ONEOFF,
    COMPOSE_HOOK,
    COMPOSE_HASH,
    SWARM_SERVICE,
    SWARM_STACK,
];

/// What a recognised key is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Service,
    Namespace,
    MainPort,
    Tags,
    Weight,
    Ignore,
    WhenNoneReady,
    /// Of the general check.
    Check(Field),
    /// Registrator's id of an instance, and its attributes.
    Id,
    Attribute(Arc<str>),
    /// Of some ports only.
    Of(Ports, Word),
    Engine(&'static str),
    /// Begins with `portolan.` and means nothing.
    Unknown(Arc<str>),
}

/// What a key says of its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Word {
    Service,
    Name,
    Tags,
    Ignore,
    Check(Field),
    Id,
    Attribute(Arc<str>),
}

/// The container ports that a key is about: one, or a range; of one transport, or of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ports {
    first: u16,
    last: u16,
    proto: Option<Proto>,
}

impl Ports {
    pub(super) fn one(port: u16) -> Self {
        Self { first: port, last: port, proto: None }
    }

    /// `80`, `8000-8099`
    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port_number(first)?, port_number(last)?);
        (first <= last).then_some(Self { first, last, proto: None })
    }

    pub(super) fn hold(self, port: u16, proto: Proto) -> bool {
        (self.first..=self.last).contains(&port) && self.proto.is_none_or(|own| own == proto)
    }

    /// The port, if it is a single one.
    pub(super) fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }

    /// The less, the more a key about them is meant.
    pub(super) fn breadth(self) -> (u32, bool) {
        (u32::from(self.last - self.first), self.proto.is_none())
    }
}

/// Where a value was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    Label,
    ServiceLabel,
    Environment,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Value {
    Text(Arc<str>),
    TooLong(usize),
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) origin: Origin,
    pub(super) key: Arc<str>,
    pub(super) value: Value,
}

/// What is taken out of labels and environment besides our own keys, and which of two counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gather {
    /// All `SERVICE_*` keys, as Registrator's ids and attributes.
    pub attributes: bool,
    /// `--precedence`
    pub precedence: Precedence,
    /// `--service-env off`: nothing of the environment.
    pub without_environment: bool,
}

/// `--precedence`: which of a `SERVICE_*` label and a variable of the same key counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precedence {
    /// The label, as in Registrator.
    #[default]
    Label,
    /// The variable, as in dnsdock.
    Environment,
}

impl Precedence {
    /// The lower one beats the higher one.
    fn rank(self, origin: Origin) -> u8 {
        match (origin, self) {
            (Origin::Label, _) => 0,
            (Origin::ServiceLabel, Self::Label) | (Origin::Environment, Self::Environment) => 1,
            (Origin::ServiceLabel, Self::Environment) | (Origin::Environment, Self::Label) => 2,
        }
    }
}

/// What is kept of a container's labels and environment: recognised keys, values within [`MAX_VALUE`].
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    pub(super) entries: BTreeMap<Key, Entry>,
    /// Keys beyond [`MAX_KEYS`].
    pub(super) dropped: usize,
    /// All labels as digests, for rules that ask for one: sorted, at most [`MAX_DIGESTS`].
    labels: Box<[u64]>,
}

/// Shows keys only: values may come from an environment.
impl std::fmt::Debug for Metadata {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.entries.values().map(|entry| &entry.key)).finish()
    }
}

impl Metadata {
    /// As [`with`](Self::with), only our own keys.
    pub fn gather<'a>(
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        environment: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        Self::with(Gather::default(), labels, environment)
    }

    /// Takes what concerns us out of labels and of `KEY=value` environment entries, and drops the rest.
    pub fn with<'a>(
        wanted: Gather,
        labels: impl IntoIterator<Item = (&'a str, &'a str)>,
        environment: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut metadata = Self::default();
        // Sorted, because the engine's labels have no order and two spellings of one key must not take turns.
        let labels: BTreeMap<_, _> = labels.into_iter().collect();
        for (key, value) in &labels {
            if let Some(known) = label_key(wanted, key) {
                let origin = if key.starts_with("SERVICE_") { Origin::ServiceLabel } else { Origin::Label };
                metadata.keep(wanted.precedence, known, origin, key, value);
            }
        }
        metadata.labels = labels.iter().take(MAX_DIGESTS).map(|(key, value)| digest(key, value)).collect();
        metadata.labels.sort_unstable();
        for variable in environment.into_iter().filter(|_| !wanted.without_environment) {
            let Some((key, value)) = variable.split_once('=') else { continue };
            if let Some(known) = service_key(wanted, key) {
                metadata.keep(wanted.precedence, known, Origin::Environment, key, value);
            }
        }
        metadata
    }

    /// Whether there is a label with this [`digest`].
    pub(super) fn has_label(&self, digest: u64) -> bool {
        self.labels.binary_search(&digest).is_ok()
    }

    /// The key that says this of a port: of several the one about fewest ports. The plain one if there is none.
    pub(super) fn of(&self, port: u16, proto: Proto, word: Word) -> Key {
        let about = |key: &&Key| matches!(key, Key::Of(ports, held) if *held == word && ports.hold(port, proto));
        let breadth = |key: &&Key| match key {
            Key::Of(ports, _) => ports.breadth(),
            _ => (0, false),
        };
        let best = self.entries.keys().filter(about).min_by_key(breadth).cloned();
        best.unwrap_or(Key::Of(Ports::one(port), word))
    }

    fn keep(&mut self, precedence: Precedence, known: Key, origin: Origin, key: &str, value: &str) {
        let rank = |origin| precedence.rank(origin);
        if self.entries.get(&known).is_some_and(|held| rank(held.origin) < rank(origin)) {
            return;
        }
        if self.entries.len() >= MAX_KEYS && !self.entries.contains_key(&known) {
            self.dropped += 1;
            return;
        }
        let value = if value.len() > MAX_VALUE { Value::TooLong(value.len()) } else { Value::Text(value.into()) };
        self.entries.insert(known, Entry { origin, key: key.into(), value });
    }

    /// A label of Compose or Swarm; one that is too long is as good as empty.
    pub(super) fn engine(&self, key: &'static str) -> Option<&str> {
        match &self.entries.get(&Key::Engine(key))?.value {
            Value::Text(text) => Some(text),
            Value::TooLong(_) => Some(""),
        }
    }
}

fn label_key(wanted: Gather, key: &str) -> Option<Key> {
    if let Some(engine) = ENGINE_KEYS.iter().find(|known| **known == key) {
        return Some(Key::Engine(engine));
    }
    let Some(ours) = key.strip_prefix("portolan.") else { return service_key(wanted, key) };
    let known = match ours {
        "service" => Some(Key::Service),
        "namespace" => Some(Key::Namespace),
        "port" => Some(Key::MainPort),
        "tags" => Some(Key::Tags),
        "weight" => Some(Key::Weight),
        "ignore" => Some(Key::Ignore),
        "when-none-ready" => Some(Key::WhenNoneReady),
        other if other.starts_with("check.") => Field::of_label(&other[6..]).map(Key::Check),
        other => other.strip_prefix("port.").and_then(|rest| rest.split_once('.')).and_then(|(port, field)| {
            let port = Ports::one(port_number(port)?);
            let word = match field {
                "name" => Word::Name,
                "service" => Word::Service,
                _ => Word::Check(field.strip_prefix("check.").and_then(Field::of_label).filter(|f| *f != Field::Port)?),
            };
            Some(Key::Of(port, word))
        }),
    };
    Some(known.unwrap_or_else(|| Key::Unknown(key.chars().take(MAX_VALUE).collect::<String>().into())))
}

/// `SERVICE_NAME`, `SERVICE_80_NAME`; and as fayrus/registrator has them `SERVICE_53_UDP_NAME`, `SERVICE_8000-8099_NAME`.
fn service_key(wanted: Gather, key: &str) -> Option<Key> {
    let rest = key.strip_prefix("SERVICE_")?;
    let attribute = |name: &str| (wanted.attributes && !name.is_empty()).then(|| name.to_ascii_lowercase().into());
    let ports = |(text, rest): (&str, &'_ str)| Some((Ports::parse(text)?, rest.len()));
    let Some((mut ports, length)) = rest.split_once('_').and_then(ports) else {
        return match &*rest.to_ascii_uppercase() {
            "NAME" => Some(Key::Service),
            "TAGS" => Some(Key::Tags),
            "IGNORE" => Some(Key::Ignore),
            "ID" if wanted.attributes => Some(Key::Id),
            _ => Field::of_service(rest).map(Key::Check).or_else(|| attribute(rest).map(Key::Attribute)),
        };
    };
    let mut field = &rest[rest.len() - length..];
    if let Some((proto, rest)) = field.split_once('_')
        && let Some(proto) = Proto::parse(&proto.to_ascii_lowercase())
    {
        (ports.proto, field) = (Some(proto), rest);
    }
    let word = match &*field.to_ascii_uppercase() {
        "NAME" => Word::Service,
        "TAGS" => Word::Tags,
        "IGNORE" => Word::Ignore,
        "ID" if wanted.attributes => Word::Id,
        _ => Field::of_service(field).map(Word::Check).or_else(|| attribute(field).map(Word::Attribute))?,
    };
    Some(Key::Of(ports, word))
}

/// A port number as people write it: digits only, 1 to 65535.
pub(super) fn port_number(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port != 0)
}
