//! What people are told: one sentence for each rule, each reason, and where there is one the fix.

use crate::{
    dns::{
        explain::Out,
        find::{Found, Missing},
        name::{Apex, Loose, Named, Subject},
        reach::{Basis, Choice, Obstacle, Rule, Way},
        source::Source,
        special::{self, Special},
        zone::Candidate,
    },
    model::{Label, Silence, Standing},
};

pub mod held;
pub mod others;

/// A short word for programs, a sentence for people, and what would change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// `not-published`
    pub code: &'static str,
    /// What is so.
    pub sentence: String,
    /// What to do, where something can be done.
    pub fix: Option<String>,
}

fn reason(code: &'static str, sentence: impl Into<String>, fix: &str) -> Reason {
    Reason { code, sentence: sentence.into(), fix: (!fix.is_empty()).then(|| fix.to_owned()) }
}

/// How a name was read.
pub(super) fn reading(subject: &Subject<'_>, text: &str, apex: &Apex) -> String {
    // A reverse name may lie in a network of Docker's, and a single label may be a service.
    let special = special::find_text(text).filter(|found| match (subject, found.special) {
        (Subject::Outside, _) => true,
        (Subject::Bare(_), special) => special == Special::Loopback,
        _ => false,
    });
    if let Some(found) = special {
        return others::special(found);
    }
    let whose = |named: &Named<'_>| match named.namespace {
        Some(namespace) => format!("service {} of namespace {namespace}", named.service),
        None => format!("service {} of the asker's own namespace, else of global", named.service),
    };
    let near = |service| Named { service, namespace: None };
    match subject {
        Subject::Apex => "the zone itself".to_owned(),
        Subject::Bare(service) => {
            format!("a bare name: service {service} of the asker's own namespace, else of global")
        }
        Subject::Service(named) => whose(named),
        Subject::Instance(instance, named) => {
            format!("instance {instance} (a container's id or name) of {}, ready or not", whose(named))
        }
        Subject::All(named) => format!("all instances, ready or not, of {}", whose(named)),
        Subject::Port(port, proto, named) => format!("port {port}/{} of {}, for SRV", proto.as_str(), whose(named)),
        Subject::Transport(proto, named) => {
            format!("the name above the {} ports of {}: it has no records", proto.as_str(), whose(named))
        }
        Subject::Host(host) => format!("host {host}, by its id or its host name"),
        Subject::On(named, host) => format!("the instances on host {host} of {}", whose(named)),
        Subject::Loose(Loose::All(service)) => {
            format!("a bare name: all instances, ready or not, of {}", whose(&near(service)))
        }
        Subject::Loose(Loose::Port(port, proto, service)) => {
            format!("a bare name: port {port}/{} of {}, for SRV", proto.as_str(), whose(&near(service)))
        }
        Subject::Loose(Loose::Transport(proto, service)) => {
            format!("a bare name above the {} ports of {}: it has no records", proto.as_str(), whose(&near(service)))
        }
        Subject::Nothing => format!("a name below {apex} that nothing can have: it has too many parts"),
        Subject::Reverse(prefix) => format!("the reverse name of {prefix}"),
        Subject::BelowReverse(prefix) => format!("a name below the reverse name of {prefix}, where nothing is"),
        Subject::Outside => "a name of others".to_owned(),
    }
}

/// That no service was found, but containers that Docker's own DNS calls so.
pub(super) fn by_alias(reading: &str, found: &Found<'_>) -> String {
    format!(
        "{reading}; there is none, and Docker's own DNS calls {} so in namespace {}",
        containers(found),
        found.namespace
    )
}

/// Why nothing was found, where there is more to say than that there is none.
pub(super) fn missing(reading: &str, missing: Missing, own: &Label) -> String {
    match missing {
        Missing::Nothing => reading.to_owned(),
        Missing::Lost(_) => format!(
            "{reading}; namespace {own} has had it and has it no more, so that it is not looked for in global for the time of \
             --fallback-after: `portolan cache flush NAME` ends that"
        ),
        Missing::NotYet => {
            format!("{reading}; it is not looked for in global before Docker and the registry are known")
        }
    }
}

/// A container's alias stands before a name of others.
pub(super) fn shadowing(found: &Found<'_>) -> String {
    format!(
        "an alias of {} in namespace {}, which stands before the name of that kind outside: A and AAAA are the \
         container's, all else is forwarded",
        containers(found),
        found.namespace
    )
}

/// At most three of them, for people.
fn containers(found: &Found<'_>) -> String {
    let mut names: Vec<&str> = found.candidates.iter().map(|candidate| &*candidate.publication.name).collect();
    names.dedup();
    let more = names.len().saturating_sub(3);
    names.truncate(3);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("container {}{rest}", names.join(", "))
}

/// Who asks.
pub fn asker(source: &Source) -> String {
    match source {
        Source::Container(asker) => format!("container {} (namespace {})", asker.name, asker.namespace),
        Source::Host => "host".to_owned(),
        Source::Peer => "another host, or a container of it".to_owned(),
        Source::Stranger => "stranger".to_owned(),
        Source::Unknown => "unknown container".to_owned(),
    }
}

/// Why there is a way.
pub fn rule(way: Way, candidate: &Candidate) -> Reason {
    let holds = |network: &&crate::model::Attachment| network.ips.contains(&way.address);
    let network = candidate.publication.networks.iter().find(holds).map_or("", |network| &network.name);
    match way.rule {
        Rule::SharedNetwork => {
            reason("shared-network", format!("rule 1: it shares network {network} with the asker"), "")
        }
        Rule::HostsBridge => {
            reason("hosts-bridge", format!("rule 2: this host reaches its own bridge network {network}"), "")
        }
        Rule::HostNetwork => {
            reason("host-network", "rule 2: it is on its host's network, so its ports are the host's own", "")
        }
        Rule::Routed => reason("routed", format!("rule 3: its address on {network} lies in a subnet of --routed"), ""),
        Rule::LinkLayer => {
            reason("link-layer", format!("rule 3: {network} gives it an address in the network around its host"), "")
        }
        Rule::Published => reason("published", "rule 4: its port is published on its host", ""),
        Rule::External => reason("external", "an operator registered its address as an external service", ""),
    }
}

/// Why there is no way.
pub fn obstacle(obstacle: Obstacle) -> Reason {
    match obstacle {
        Obstacle::Confined => reason(
            "confined",
            "the asker has only internal networks (or none that is known), and is on none with it",
            "connect both to one network",
        ),
        Obstacle::NotPublished => reason(
            "not-published",
            "rule 5: it shares no network with the asker, and publishes no port in this family off loopback",
            "publish its port (-p 8080:80), or connect both to one network",
        ),
        Obstacle::NoHostAddress => {
            reason("no-host-address", "its host advertises no address of this family", "set --advertise on its host")
        }
        Obstacle::NoProxy => reason(
            "no-proxy",
            "its published port is not held by docker-proxy, so Docker drops what comes from other bridges of its host",
            "connect both to one network; or start dockerd with its userland proxy, and the agent with pid: host",
        ),
        Obstacle::NoBridge => reason(
            "no-bridge",
            "the asker's way to its own host is a macvlan or ipvlan network, over which no container reaches it",
            "ask from a bridge, or connect both to one network",
        ),
        Obstacle::OtherHostsOnly => reason(
            "its-host-only",
            "its port is published on an address that means something on its own host only",
            "publish it on an address that other hosts reach",
        ),
        Obstacle::AskerLacksFamily => reason(
            "asker-lacks-family",
            "none of the networks over which the asker leaves has this family",
            "give one of its networks a subnet of this family (docker network create --ipv6 for IPv6)",
        ),
        Obstacle::BridgeApart => reason(
            "bridge-apart",
            "its engine has a network namespace of its own (rootless, or nested), so that this host does not reach its \
             bridges, and it publishes no port in this family off loopback",
            "publish its port (-p 8080:80)",
        ),
        Obstacle::Shadowed => reason(
            "shadowed",
            "rule 3: its address lies in a Docker network of this host, too, which takes what is sent there",
            "give the Docker networks of different hosts different subnets, or publish its port (-p 8080:80)",
        ),
        Obstacle::OtherFamily => {
            reason("other-family", "it was registered with addresses of the other family only", "")
        }
        Obstacle::Named => {
            reason("named", "it was registered with another name, whose addresses are looked up for each question", "")
        }
    }
}

/// Why an instance is left out, given the one number that addresses stand for.
pub fn out(out: &Out, number: Option<u16>) -> Reason {
    match out {
        Out::Other => reason("other", "it is not what this name is about", ""),
        Out::SrvOnly => reason("srv-only", "addresses do not belong to this name", "ask for SRV"),
        Out::Unready(standing) => {
            let why = match standing {
                Standing::Ready => "it is ready",
                Standing::Draining => "it was asked to stop, and others are better",
                Standing::Unhealthy => "its health check fails, and others are better",
                Standing::Held => {
                    "its restart policy started it again after less than ten seconds, and it has not lived longer since"
                }
                Standing::Starting => "its health check has not decided yet",
                Standing::Paused => "it is paused",
            };
            reason("not-ready", why, "the names `all.SERVICE.NAMESPACE` hold it")
        }
        Out::Unreached(held) => obstacle(*held),
        Out::Number { port, here } => {
            let others: Vec<String> = here.iter().map(u16::to_string).collect();
            let of = port.map(|port| format!("container port {port} (portolan.port)"));
            let here = match (others.as_slice(), &of) {
                ([], None) => "it has no lasting number here (Docker chose it, or there is no port)".to_owned(),
                ([], Some(of)) => format!("its {of} has no lasting number here"),
                (others, None) => format!("it answers on {} here", others.join(", ")),
                (others, Some(of)) => format!("its {of} answers on {} here", others.join(", ")),
            };
            match number {
                Some(number) => reason(
                    "other-number",
                    format!("addresses of this service stand for port {number}, and {here}"),
                    &format!("ask for SRV; or publish its port as {number}"),
                ),
                None => reason(
                    "no-number",
                    format!("addresses cannot carry a port, and {here}"),
                    "ask for SRV; or publish its port under a number of your own (-p 8080:80)",
                ),
            }
        }
        Out::Differs => reason(
            "numbers-differ",
            "Docker published its ports under other numbers in IPv6 than in IPv4",
            "publish them under numbers of your own",
        ),
        Out::Replaced => reason(
            "replaced",
            "the service is registered as an external one, which stands in the place of all containers of this name",
            "portolan unregister the service to answer with containers again",
        ),
        Out::Far => reason("far", "enough others are nearer (--prefer)", "SRV holds it, at a higher priority"),
    }
}

/// Which number addresses stand for, and why it is that one.
pub fn number(choice: &Choice) -> String {
    let Choice { number, basis, port, disputed, offering, of } = choice;
    let who = match (offering, of) {
        (1, 1) => "its only instance".to_owned(),
        (offering, of) => format!("{offering} of {of} instances"),
    };
    let told = match (basis, number) {
        (Basis::Itself, Some(number)) => {
            let offer = if *offering == 1 { "offers" } else { "offer" };
            format!("{number}, a container port under its own number: {who} {offer} it")
        }
        (Basis::Published, Some(number)) => {
            format!("{number}, a published number of {who}: no container port has its own number here")
        }
        _ => "none: no instance has a port, or none under a lasting number here; SRV may have some".to_owned(),
    };
    let named = match (port, disputed) {
        (None, _) => String::new(),
        (Some(port), false) => format!(" (only container port {port} counts: portolan.port)"),
        (Some(port), true) => {
            format!(" (only container port {port} counts: most instances name it as portolan.port, others another)")
        }
    };
    told + &named
}

/// Why a container is not published.
pub fn silence(silence: &Silence) -> Reason {
    match silence {
        Silence::Unseen => reason("not-inspected", "Docker has not told yet what it is", "ask again in a moment"),
        Silence::Failed(error) => {
            reason("inspect-failed", format!("Docker does not answer questions about it: {error}"), "docker inspect it")
        }
        Silence::Stopped => reason("not-running", "it does not run", "docker start it"),
        Silence::Restarting => reason("restarting", "it has ended, and Docker will start it again", "docker logs it"),
        Silence::Ignored(key) => reason(
            "ignored",
            format!("{key} says that it is to be ignored"),
            "remove that, or set the label portolan.ignore=false",
        ),
        Silence::OneOff => reason(
            "one-off",
            "`docker compose run` made it (com.docker.compose.oneoff): nobody is meant to find it",
            "docker compose up starts the service itself; docker compose run -l portolan.ignore=false publishes it",
        ),
        Silence::Detached(detached) => reason("detached", detached.to_string(), &detached.fix()),
        Silence::Hook => reason("hook", "it is a hook of Compose (com.docker.compose.hook)", ""),
        Silence::Nameless => reason(
            "no-name",
            "its labels give it no name that it could have",
            "mend the labels below, or set portolan.service",
        ),
        Silence::Unnamed => reason(
            "not-named",
            "nothing gives it a name, and this host publishes only what was given one (--explicit on)",
            "set the label portolan.service",
        ),
        Silence::Unpublished => reason(
            "no-port",
            "no port of it is published, so Registrator would not register it either (--compat registrator)",
            "publish a port, or run the agent with --compat registrator-internal, which takes exposed ports",
        ),
    }
}
