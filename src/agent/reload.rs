//! SIGHUP: reads the configuration anew, and takes over what can change while the agent runs. No socket is touched.
//!
//! Files that settings name are read with it: passwords, certificates and keys, whether or not their names have
//! changed. An invalid one is refused whole, with everything that is wrong with it, as `portolan config check` tells
//! it. What cannot change while we run is named, and stays as it was; a restart or a takeover brings it.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;
use ipnet::IpNet;
use tracing::{error, info, warn};

use super::{Agent, etcd_options, externals};
use crate::{
    config::{Config, Errors, General, Octets, OnTerm, Shown},
    dns::{
        answer::Settings, forward, listen::Listen, name::Apex, prefer::Preference, server::Limits, special::Singles,
    },
    model::{Externals, HostId},
    registry::driver::Backend,
};

/// Settings whose files hold what may change: they are read again, also where their names stay the same.
const FILES: [&str; 6] = ["etcd-ca", "etcd-cert", "etcd-key", "etcd-password-file", "tls-cert", "tls-key"];

/// Settings that change while the agent runs; all others need a restart.
const LIVE: [&str; 20] = [
    "allow",
    "etcd-ca",
    "etcd-cert",
    "etcd-key",
    "etcd-password-file",
    "etcd-user",
    "external",
    "log",
    "on-term",
    "prefer",
    "prefer-floor",
    "private-answers",
    "routed",
    "single-labels",
    "site-names",
    "tls-cert",
    "tls-key",
    "ttl",
    "upstream",
    "when-none-ready",
];

/// Of these, who we are to etcd: they change unless they are meant for another etcd, to which only a restart leads.
const CREDENTIALS: [&str; 5] = ["etcd-ca", "etcd-cert", "etcd-key", "etcd-password-file", "etcd-user"];

/// Reads the configuration from where it was read at the start: flags, environment, file.
pub type Load = Box<dyn Fn() -> Result<Config, Errors> + Send + Sync>;

/// Sets the filter of the log.
pub type SetLog = Box<dyn Fn(&str) + Send + Sync>;

/// What loops read of the configuration that may change.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Live {
    pub(super) allow: Vec<IpNet>,
    pub(super) routed: Vec<IpNet>,
    pub(super) externals: Externals,
}

impl Live {
    pub(super) fn of(config: &Config) -> Self {
        Self {
            allow: config.allow.value.clone(),
            routed: config.routed.value.clone(),
            externals: externals::configured(&config.external.value),
        }
    }
}

/// What answers are made by.
pub(super) fn settings(config: &Config, host: &HostId, listens: &[Listen]) -> Result<Settings> {
    let nameserver = |listen: &Listen| match listen {
        Listen::Address(address) if address.port() == 53 && !address.ip().is_unspecified() => Some(address.ip()),
        _ => None,
    };
    Ok(Settings {
        apex: Apex::parse(&config.zone.value)?,
        ttl: config.ttl.value,
        routed: config.routed.value.clone(),
        nameserver: listens.iter().filter_map(nameserver).collect(),
        forwarding: config.upstream.value.forward(),
        singles: singles(config),
        when_none_ready: config.when_none_ready.value,
        prefer: Preference {
            by: config.prefer.value,
            floor: usize::try_from(config.prefer_floor.value)?,
            locality: config.locality.value.as_deref().unwrap_or_default().into(),
        },
        aliases: config.aliases.value,
        host: host.as_str().into(),
        ..Settings::default()
    })
}

/// Which single labels upstreams are asked for.
fn singles(config: &Config) -> Singles {
    let suffixes = config.upstream.value.suffixes.iter().map(|(suffix, _)| suffix.as_str());
    let named = suffixes.filter(|suffix| !suffix.contains('.')).map(Box::from).collect();
    Singles { others: config.single_labels.value, named }
}

/// How much the DNS server takes on, from its start to its end.
pub(super) fn limits(config: &Config) -> Limits {
    let octets = |size: Octets| u32::try_from(size.0).unwrap_or(u32::MAX);
    Limits {
        per_source: config.rate_limit.value,
        allowance: octets(config.reply_allowance.value),
        network_allowance: octets(config.reply_allowance_network.value),
        ..Limits::default()
    }
}

/// Whom other names are asked of.
pub(super) fn upstreams(config: &Config) -> forward::Chosen {
    let general = match &config.upstream.value.general {
        General::System => forward::Upstreams::ResolvConf(config.resolv_conf.value.clone()),
        General::None => forward::Upstreams::None,
        General::Addresses(addresses) => forward::Upstreams::Fixed(addresses.clone()),
    };
    forward::Chosen {
        general,
        suffixes: config.upstream.value.by_suffix(),
        private: config.private_answers.value,
        site_names: config.site_names.value,
        single_labels: config.single_labels.value,
    }
}

/// Which settings differ.
#[derive(Debug, Default, PartialEq, Eq)]
struct Difference {
    live: Vec<&'static str>,
    fixed: Vec<&'static str>,
}

impl Difference {
    /// Whether the settings are for another registry than the one that we are at.
    fn leads_elsewhere(&self) -> bool {
        ["registry", "etcd-endpoints"].iter().any(|name| self.fixed.contains(name))
    }
}

/// What the agent runs with, and where it comes from.
pub(super) struct Reloader {
    load: Load,
    set_log: SetLog,
    /// Texts of all settings by name.
    running: BTreeMap<&'static str, String>,
    pub(super) on_term: OnTerm,
}

impl Reloader {
    pub(super) fn new(load: Load, set_log: SetLog, config: &Config) -> Self {
        Self { load, set_log, running: texts(config), on_term: config.on_term.value }
    }

    /// Reads the configuration and takes over what can be.
    pub(super) fn reload(&mut self, agent: &Agent) {
        let loaded = (self.load)().and_then(|config| {
            let difference = difference(&self.running, &texts(&config));
            let taken = settings(&with_fixed(&config, &agent.config), &agent.identity.host, &agent.listens)
                // Comes last: from here on nothing is refused.
                .and_then(|settings| Ok((settings, renew_credentials(&config, agent, &difference)?)));
            match taken {
                Ok((settings, renewed)) => Ok((config, settings, renewed, difference)),
                Err(error) => Err(Errors(vec![format!("{error:#}")])),
            }
        });
        let (config, settings, renewed, Difference { mut live, fixed }) = match loaded {
            Ok(loaded) => loaded,
            Err(Errors(errors)) => {
                for reason in &errors {
                    error!(reason, "the configuration is refused");
                }
                error!(mistakes = errors.len(), "nothing was reloaded: the agent goes on with what it had");
                return;
            }
        };
        live.extend(renewed);
        if !fixed.is_empty() {
            warn!("needs a restart or a takeover (portolan agent --takeover): {}", fixed.join(", "));
        }
        (self.set_log)(&config.log.value);
        self.on_term = config.on_term.value;
        agent.shared.set_settings(Arc::new(settings));
        agent.forwarder.choose(upstreams(&with_fixed(&config, &agent.config)));
        // Another one stands in the same file when it was renewed.
        if config.certificate.as_ref().is_some_and(|certificate| agent.shared.renew(certificate)) {
            info!("new connections over TLS get the certificate that --tls-cert holds now");
            live.push("tls-cert");
        }
        let next = Live::of(&config);
        agent.live.0.send_if_modified(|current| {
            let changed = **current != next;
            if changed {
                *current = Arc::new(next);
            }
            changed
        });
        for (name, text) in texts(&config) {
            if LIVE.contains(&name) && !fixed.contains(&name) {
                self.running.insert(name, text);
            }
        }
        live.sort_unstable();
        live.dedup();
        let what = if live.is_empty() { "nothing has changed that can be".to_owned() } else { live.join(", ") };
        match files(&config.shown()) {
            none if none.is_empty() => info!("reloaded: {what}"),
            read_again => info!(read_again, "reloaded: {what}"),
        }
    }
}

/// Takes over who we are to etcd; tells which settings say something else, or whose files do.
fn renew_credentials(config: &Config, agent: &Agent, difference: &Difference) -> Result<Vec<&'static str>> {
    match &agent.backend {
        Backend::Etcd(etcd) if !difference.leads_elsewhere() => Ok(etcd.renew(&etcd_options(config))?),
        Backend::Etcd(_) | Backend::Memory(_) => Ok(Vec::new()),
    }
}

/// The files that have been read, for people.
fn files(shown: &[Shown]) -> String {
    let files = shown.iter().filter(|row| FILES.contains(&row.name) && row.value != "-");
    files.map(|row| format!("--{} {}", row.name, row.value)).collect::<Vec<_>>().join(", ")
}

/// A configuration whose settings that cannot change are those that we run with, as far as live ones are read with
/// them.
fn with_fixed(config: &Config, running: &Config) -> Config {
    Config {
        zone: running.zone.clone(),
        locality: running.locality.clone(),
        aliases: running.aliases.clone(),
        resolv_conf: running.resolv_conf.clone(),
        ..config.clone()
    }
}

fn texts(config: &Config) -> BTreeMap<&'static str, String> {
    config.shown().into_iter().map(|row| (row.name, row.value)).collect()
}

fn difference(running: &BTreeMap<&'static str, String>, next: &BTreeMap<&'static str, String>) -> Difference {
    let mut difference = Difference::default();
    for (name, text) in next {
        // Clients' alone, and where the file is.
        let is_ours = !matches!(*name, "api" | "config");
        if is_ours && running.get(name) != Some(text) {
            let place = if LIVE.contains(name) { &mut difference.live } else { &mut difference.fixed };
            place.push(name);
        }
    }
    if difference.leads_elsewhere() {
        difference.fixed.extend(difference.live.extract_if(.., |name| CREDENTIALS.contains(name)));
        difference.fixed.sort_unstable();
    }
    difference
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Env, Given, key},
        dns::{forward::SiteNames, special::SingleLabels},
    };

    #[test]
    fn the_rate_of_the_operator_is_the_servers() {
        let rate = |given: &[&str]| {
            let given = given.iter().map(|rate| ("rate-limit", vec![(*rate).to_owned()])).collect::<Given>();
            limits(&Config::load(&given, &Env::new(), true, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap())
                .per_source
        };
        assert_eq!((rate(&["7"]), rate(&["0"]), rate(&[])), (7, 0, Limits::default().per_source));
    }

    #[test]
    fn the_allowances_of_the_operator_are_the_servers() {
        let allowances = |given: &[(&'static str, &str)]| {
            let given: Given = given.iter().map(|(key, size)| (*key, vec![(*size).to_owned()])).collect();
            let none = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
            let limits = limits(&Config::load(&given, &Env::new(), true, &none).unwrap());
            (limits.allowance, limits.network_allowance)
        };
        let default = Limits::default();
        assert_eq!(allowances(&[]), (default.allowance, default.network_allowance));
        let given = [("reply-allowance", "0"), ("reply-allowance-network", "1MiB")];
        assert_eq!(allowances(&given), (0, 1 << 20));
    }

    #[test]
    fn what_the_operator_says_of_others_names_reaches_who_answers_and_who_forwards() {
        let given =
            [("site-names", "answer"), ("single-labels", "forward"), ("upstream", "nas=10.0.0.2,corp.test=10.0.0.3")];
        let given: Given = given.into_iter().map(|(name, text)| (name, vec![text.to_owned()])).collect();
        let config = |given: &Given| {
            Config::load(given, &Env::new(), true, &|_| Err(std::io::ErrorKind::NotFound.into())).unwrap()
        };
        let chosen = upstreams(&config(&given));
        assert_eq!((chosen.site_names, chosen.single_labels), (SiteNames::Answer, SingleLabels::Forward));
        let host = HostId::parse("h1").unwrap();
        let singles = settings(&config(&given), &host, &[]).unwrap().singles;
        assert_eq!(singles, Singles { others: SingleLabels::Forward, named: vec!["nas".into()] });
        let by_default = config(&Given::new());
        assert_eq!(settings(&by_default, &host, &[]).unwrap().singles, Singles::default());
        assert_eq!(upstreams(&by_default).site_names, SiteNames::Auto);
    }

    #[test]
    fn what_can_change_is_told_from_what_needs_a_restart() {
        assert!(LIVE.iter().all(|name| key(name).is_some()), "a setting has another name");
        let running = BTreeMap::from([("ttl", "0".to_owned()), ("zone", "a".to_owned()), ("allow", "-".to_owned())]);
        let mut next = running.clone();
        assert_eq!(difference(&running, &next), Difference::default());
        next.insert("ttl", "5".to_owned());
        next.insert("zone", "b".to_owned());
        next.insert("api", "http://127.0.0.1:1".to_owned());
        assert_eq!(difference(&running, &next), Difference { live: vec!["ttl"], fixed: vec!["zone"] });
        next.insert("etcd-ca", "/ca.pem".to_owned());
        assert_eq!(difference(&running, &next), Difference { live: vec!["etcd-ca", "ttl"], fixed: vec!["zone"] });
        // The authority of another etcd.
        next.insert("etcd-endpoints", "https://10.0.0.9:2379".to_owned());
        let fixed = vec!["etcd-ca", "etcd-endpoints", "zone"];
        assert_eq!(difference(&running, &next), Difference { live: vec!["ttl"], fixed });
    }
}
