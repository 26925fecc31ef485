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
//! | `portolan.port` | the container port whose numbers A answers stand for |
//! | `portolan.port.<n>.name` | what `_name._tcp` questions call port `<n>` |
//! | `portolan.tags`, `portolan.weight` | comma list with `\,` for a comma; 0 to 65535 |
//! | `portolan.when-none-ready` | `draining`, `unhealthy`, both or `none`: whom to give while no instance is ready |
//! | `portolan.ignore` | `true` or `false`; decides alone, also against `SERVICE_IGNORE` |
//! | `SERVICE_NAME`, `SERVICE_<n>_NAME` | as `portolan.service` and `portolan.port.<n>.service` |
//! | `SERVICE_TAGS`, `SERVICE_<n>_TAGS` | as `portolan.tags`; those of a port beat the general ones |
//! | `SERVICE_IGNORE`, `SERVICE_<n>_IGNORE` | any value that is not empty ignores the container or the port, also `false` |
//!
//! Checks and their keys are in [`check`](super::check).
//!
//! A `portolan.*` label beats a `SERVICE_*` label, which beats a `SERVICE_*` variable (`--precedence` turns the last two
//! round). A name from a variable comes beside the derived one and never in its place: applications have variables of that
//! name for purposes of their own. Only a label replaces it; and a variable, too, with Registrator's rules and where
//! variables beat labels. A variable that
//! is no name, or empty, costs nothing. `--service-env off` reads none. After the exact prefix `SERVICE_` letter case does not matter. In place of `<n>` may stand `<n>_UDP` or a range
//! such as `8000-8099`; the key about fewest ports counts.
//!
//! Ports without a service of their own belong to the container's service. That one is left out if ports have
//! services and none is left for it, as in Registrator. A port that only a label knows is taken as TCP.
//!
//! A name that was given lands in `global` unless `portolan.namespace` says otherwise; a derived one (Compose,
//! Swarm, container name) in the project, the stack or `default`. No project or stack gets into a reserved
//! namespace by being called so: such a container offers nothing until it is given a `portolan.namespace`.
//! What `docker run` makes of an image that Compose built, or that was committed from a container of Compose's, has these
//! labels from its image and is no member of that service: [`Subject::member`].
//!
//! Compose's hook containers offer nothing, and its one-off containers only with a `portolan.service` or
//! `portolan.ignore=false`.
//!
//! With `--namespaces off` all of them land in `global`, and all containers ask from there. What else is otherwise with
//! `--compat registrator` is said in [`registrator`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    check::Field,
    claim::{Claimant, Rule, refusal},
    metadata::{
        COMPOSE_DIRECTORY, COMPOSE_HOOK, COMPOSE_KEYS, COMPOSE_ONEOFF, COMPOSE_PROJECT, COMPOSE_SERVICE, Gather, Key,
        MAX_KEYS, Metadata, Origin, Precedence, SWARM_SERVICE, SWARM_STACK, Word, port_number,
    },
    registrator::{self, Compat},
};
use crate::model::{Aliases, Check, Label, LabelError, Offer, Port, Problem, Proto, Silence, fnv1a, unfindable};

mod values;

/// Ports of one container that are published. 64 of them make a record of about 6 KiB, far below etcd's 1.5 MiB; three
/// times as much where variables add a name to the container and to each port.
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
    /// What Swarm's own DNS calls it beside the short name of its service: the full one, and `tasks.` before both.
    pub swarm: Box<[Arc<str>]>,
    /// The service and the project that its image's labels name, to which it does not belong.
    pub outsider: Option<(Arc<str>, Arc<str>)>,
}

/// How metadata is read: what the operator decided for this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether there are namespaces.
    pub namespaces: Namespaces,
    /// Who may have which global names.
    pub claims: Arc<[Rule]>,
    /// Whose names containers have.
    pub compat: Compat,
    /// `--explicit`: what was given no name has none.
    pub explicit: bool,
    /// `--tags`: of every service of this host.
    pub tags: Arc<[Arc<str>]>,
    /// Which of a label and a variable counts.
    pub precedence: Precedence,
    /// `--service-env off`: no variable is read.
    pub without_environment: bool,
    /// `--aliases`: what containers are called beside their services.
    pub aliases: Aliases,
}

impl Options {
    /// What is taken out of labels and environment.
    pub fn gather(&self) -> Gather {
        Gather {
            attributes: self.compat.is_registrators(),
            precedence: self.precedence,
            without_environment: self.without_environment,
        }
    }
}

/// A container, as far as its names hang on it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its name.
    pub name: &'a str,
    /// The image it was started from.
    pub image: &'a str,
    /// Its ports.
    pub ports: &'a BTreeSet<(u16, Proto)>,
    /// Those that others reach on the host.
    pub published: &'a BTreeSet<(u16, Proto)>,
    /// What its labels and its environment say.
    pub metadata: &'a Metadata,
    /// Whether Compose made it: else the labels of Compose that it has are its image's, and say nothing of it.
    pub member: bool,
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
    let none = BTreeSet::new();
    read(options, "", Subject { name: "", image: "", ports: &none, published: &none, metadata, member: true })
        .0
        .namespace
}

/// Reads the services of a container. `place` begins the place of every problem.
pub fn read(options: &Options, place: &str, subject: Subject<'_>) -> (Claim, Vec<Problem>) {
    let mut reader =
        Reader { options, place, metadata: subject.metadata, member: subject.member, problems: Vec::new() };
    let claim = reader.claim(subject);
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
    pub(super) options: &'a Options,
    pub(super) place: &'a str,
    pub(super) metadata: &'a Metadata,
    member: bool,
    pub(super) problems: Vec<Problem>,
}

/// The service a port belongs to.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) service: Label,
    pub(super) namespace: Label,
}

impl<'a> Reader<'a> {
    fn claim(&mut self, Subject { name, image, ports: exposed, published, .. }: Subject<'_>) -> Claim {
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
        let outsider = self.outsider();
        let swarm = self.swarm_names();
        let silent = |silence| Claim {
            offers: Vec::new(),
            namespace: namespace.clone(),
            checks: Arc::default(),
            silence: Some(silence),
            directory: None,
            swarm: Box::default(),
            outsider: outsider.clone(),
        };
        let oneoff = self.engine(COMPOSE_ONEOFF).is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if let Some(key) = self.ignored_by().filter(|_| !self.has_port_words(&Word::Ignore)) {
            return silent(Silence::Ignored(key));
        }
        if oneoff && !self.asks_to_be_found() {
            return silent(Silence::OneOff);
        }
        if self.engine(COMPOSE_HOOK).is_some() {
            return silent(Silence::Hook);
        }
        self.report_unknown();
        // In a broken namespace nothing is offered: better missing than under a name it was not given.
        if matches!(wanted, Some(Err(()))) {
            return silent(Silence::Nameless);
        }
        let given = if wanted.is_some() { namespace.clone() } else { Label::global() };

        let main_port = self.main_port();
        let candidates = match self.options.compat {
            Compat::None => exposed.clone(),
            Compat::Registrator => published.clone(),
            Compat::RegistratorInternal => exposed.union(published).copied().collect(),
        };
        let suffixed = self.is_suffixed(&candidates);
        let (candidates, ignored) = self.without_ignored(candidates);
        let ports = self.ports(&candidates, published, main_port);
        let checks = self.checks(&ports, main_port).into();
        let as_given = |service| Named { service, namespace: given.clone() };
        let (replacing, added) = self.name_of(&Key::Service);
        let general = match replacing {
            Some(Ok(service)) => Some(as_given(service)),
            Some(Err(())) => None,
            None if self.options.explicit => None,
            None => self.derived_service((name, image), derived, wanted.is_some().then_some(&namespace)),
        };
        let added = added.map(as_given);
        let mut extras = registrator::Extras::default();
        let mut groups: BTreeMap<(Label, Label), Vec<Port>> = BTreeMap::new();
        for (port, proto) in &ports {
            let (port, proto) = (*port, *proto);
            let (replacing, beside) = self.name_of(&self.metadata.of(port, proto, Word::Service));
            let mut services: Vec<Named> = match replacing {
                Some(Ok(service)) => vec![as_given(service)],
                Some(Err(())) => continue,
                None if suffixed => {
                    general.as_ref().and_then(|general| self.suffixed(general, port)).into_iter().collect()
                }
                None => general.iter().chain(&added).cloned().collect(),
            };
            services.extend(beside.map(as_given));
            if services.is_empty() {
                continue;
            }
            let name = self.label(&self.metadata.of(port, proto, Word::Name)).and_then(Result::ok);
            let extra = self.extra(port, proto, &mut extras);
            let port = Port { name, port, proto, published: Box::default(), extra };
            for Named { service, namespace } in services {
                let ports: &mut Vec<Port> = groups.entry((service, namespace)).or_default();
                // The name that a variable adds may be the one that it has anyway.
                if ports.last() != Some(&port) {
                    ports.push(port.clone());
                }
            }
        }
        if groups.is_empty()
            && ignored.is_none()
            && !self.options.compat.is_registrators()
            && !self
                .metadata
                .entries
                .iter()
                .any(|(key, entry)| matches!(key, Key::Of(_, Word::Service)) && entry.origin != Origin::Environment)
        {
            for Named { service, namespace } in general.iter().chain(&added) {
                groups.insert((service.clone(), namespace.clone()), Vec::new());
            }
        }
        groups.retain(|(service, namespace), _| self.may_have(service, namespace, &own, image));
        for (service, namespace) in groups.keys() {
            if let Some(expected) = unfindable(service) {
                let place = format!("{}, service {service}", self.place);
                self.problems.push(Problem::new(place, &format!("{service}.{namespace}"), expected));
            }
        }
        let (weight, when_none_ready) = (self.weight(), self.when_none_ready());
        if groups.is_empty() {
            return silent(match ignored {
                Some(key) => Silence::Ignored(key),
                None if self.options.compat.is_registrators() && ports.is_empty() => Silence::Unpublished,
                None if self.options.explicit && self.problems.is_empty() => Silence::Unnamed,
                None => Silence::Nameless,
            });
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
        Claim { offers, namespace, checks, silence: None, directory, swarm, outsider }
    }

    /// Whether nothing forbids the container this name; else that is a problem.
    fn may_have(&mut self, service: &Label, namespace: &Label, own: &Label, image: &str) -> bool {
        let claimant = Claimant { namespace: own, image, metadata: self.metadata };
        let Some(expected) = refusal(&self.options.claims, service, namespace, claimant) else { return true };
        let place = format!("{}, service {service}", self.place);
        self.problems.push(Problem::new(place, &format!("{service}.{namespace}"), expected));
        false
    }

    fn outsider(&self) -> Option<(Arc<str>, Arc<str>)> {
        let named = |key| self.metadata.engine(key).filter(|_| !self.member).map(Arc::from);
        named(COMPOSE_SERVICE).zip(named(COMPOSE_PROJECT))
    }

    /// A label of Compose or Swarm. Those of Compose count for what Compose made.
    fn engine(&self, key: &'static str) -> Option<&'a str> {
        let metadata: &'a Metadata = self.metadata;
        metadata.engine(key).filter(|_| self.member || !COMPOSE_KEYS.contains(&key))
    }

    /// The project, the stack or `default`; an error if the name they have cannot be a namespace.
    fn derived_namespace(&mut self) -> Result<Label, Problem> {
        for key in [COMPOSE_PROJECT, SWARM_STACK] {
            let Some(text) = self.engine(key) else { continue };
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

    /// Equal for equal directories, and not the path itself, which is this host's own affair.
    fn directory(&self) -> Option<Arc<str>> {
        self.engine(COMPOSE_PROJECT)?;
        let path = self.engine(COMPOSE_DIRECTORY).filter(|path| !path.is_empty())?;
        Some(format!("{:016x}", fnv1a(path.trim_end_matches('/'))).into())
    }

    /// `web` of `shop_web` in stack `shop`.
    fn without_stack<'t>(&self, service: &'t str) -> &'t str {
        let stack = self.engine(SWARM_STACK);
        stack.and_then(|stack| service.strip_prefix(stack)?.strip_prefix('_')).unwrap_or(service)
    }

    fn swarm_names(&self) -> Box<[Arc<str>]> {
        let Some(full) = self.engine(SWARM_SERVICE) else { return Box::default() };
        let short = self.without_stack(full);
        [full.into(), format!("tasks.{full}").into(), format!("tasks.{short}").into()].into()
    }

    fn derived_service(
        &mut self,
        (name, image): (&str, &str),
        derived: Result<Label, Problem>,
        wanted: Option<&Label>,
    ) -> Option<Named> {
        let (key, text) = match (self.engine(COMPOSE_SERVICE), self.engine(SWARM_SERVICE)) {
            _ if self.options.compat.is_registrators() => ("", registrator::name_of(image)),
            (Some(service), _) => (COMPOSE_SERVICE, service),
            (None, Some(service)) => (SWARM_SERVICE, self.without_stack(service)),
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
                let source = match (key, self.options.compat) {
                    ("", Compat::None) => "the container's name".to_owned(),
                    ("", _) => "the image's name".to_owned(),
                    _ => format!("label {key}"),
                };
                let place = format!("{}, {source}", self.place);
                let fix = format!("{}, or portolan.service", expected(&error));
                self.problems.push(Problem::new(place, text, fix));
                None
            }
        }
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
