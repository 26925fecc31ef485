//! What the operator decided, where each decision came from, and every limit with its reason.
//!
//! Four layers are laid over each other: flag over environment over file over built-in default. Each value keeps its
//! [`Source`], so that `config show` and every error can name it. An empty value anywhere means "not given": Compose
//! passes unset variables as empty ones.
//!
//! Nothing here reads the environment or a file: both come in as arguments ([`Given`], a map, a function that reads a
//! path), so all of it is tested without a process. All mistakes are collected and told at once. The password never
//! leaves [`Secret`].
//!
//! - `keys.rs`: the table of all settings: names, defaults, help;
//! - `values.rs`: one parser per kind of value, and the limits; `show.rs`: the way back;
//! - `settle.rs`: what several settings decide together;
//! - `file.rs`: the TOML file with its line numbers; `env.rs`: variables that only look like ours.

mod env;
mod file;
mod keys;
mod settle;
mod show;
#[cfg(test)]
mod tests;
mod values;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

pub use self::{
    env::unknown_variables,
    keys::{Arity, KEYS, Key, key},
    values::{
        General, LogFormat, MAX_ALLOWANCE, MAX_CACHE, MAX_FALLBACK, MAX_FLOOR, MAX_LEASE, MAX_LOCALITY, MAX_PREFIX,
        MAX_RATE, MAX_SOCKET_PATH, MAX_TTL, MAX_VALUES, MAX_ZONE, MIN_CACHE, MIN_LEASE, Octets, OnTerm, Registry,
        Secret, Upstreams, User, parse_duration,
    },
};
use self::{show::Show, values::Upstream};
use crate::{
    dns::{
        forward::{PrivateAnswers, SiteNames},
        listen::Listen,
        prefer::Prefer,
        special::SingleLabels,
        tls::Certificate,
    },
    model::{Aliases, External, ExternalName, HostId, WhenNoneReady},
    watch::{claim::Rule, labels::Namespaces, metadata::Precedence, registrator::Compat},
};

/// Largest file that is read for configuration or a password: far beyond any real one, far below what hurts.
pub const MAX_FILE: u64 = 1 << 20;

/// The values of the flags that were given, by the setting's name.
pub type Given = BTreeMap<&'static str, Vec<String>>;

/// The environment.
pub type Env = BTreeMap<String, String>;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// This environment variable.
    Env(String),
    /// This file and line.
    File(Arc<Path>, usize),
    /// Nobody gave it.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Env(name) => f.write_str(name),
            Self::File(path, line) => write!(f, "{} line {line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Where it came from.
    pub source: Source,
}

/// One row of `config show`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The setting.
    pub name: &'static str,
    /// Its effective value as it would be written; secrets are `***`, nothing is empty.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

/// Everything that is wrong, one sentence each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<String>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Errors {}

/// The whole configuration, checked. Fields are named after the flags; `keys.rs` explains each.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "every field is a row of KEYS, which explains it once for flag, file and help")]
pub struct Config {
    pub registry: Setting<Registry>,
    pub etcd_endpoints: Setting<Vec<String>>,
    pub etcd_prefix: Setting<String>,
    pub etcd_ca: Setting<Option<PathBuf>>,
    pub etcd_cert: Setting<Option<PathBuf>>,
    pub etcd_key: Setting<Option<PathBuf>>,
    /// With the password, wherever it came from.
    pub etcd_user: Setting<Option<User>>,
    pub etcd_password_file: Setting<Option<PathBuf>>,
    pub lease: Setting<Duration>,
    /// `unix:///path` or `tcp://host:port`.
    pub docker_host: Setting<String>,
    pub host_id: Setting<Option<HostId>>,
    /// At most one per family; empty: find out.
    pub advertise: Setting<Vec<IpAddr>>,
    pub locality: Setting<Option<String>>,
    pub namespaces: Setting<Namespaces>,
    /// Who may publish which global names.
    pub claim: Setting<Vec<Rule>>,
    pub external: Setting<Vec<(ExternalName, External)>>,
    pub compat: Setting<Compat>,
    pub explicit: Setting<bool>,
    pub tags: Setting<Vec<String>>,
    pub precedence: Setting<Precedence>,
    pub service_env: Setting<bool>,
    pub crash_hold: Setting<bool>,
    pub aliases: Setting<Aliases>,
    pub fallback_after: Setting<Duration>,
    pub routed: Setting<Vec<IpNet>>,
    pub state_dir: Setting<PathBuf>,
    pub on_term: Setting<OnTerm>,
    pub check_commands: Setting<Option<PathBuf>>,
    pub dns: Setting<Vec<Listen>>,
    pub dns_tls: Setting<Vec<SocketAddr>>,
    pub tls_cert: Setting<Option<PathBuf>>,
    pub tls_key: Setting<Option<PathBuf>>,
    /// What these two files hold, where `dns_tls` names an address.
    pub certificate: Option<Certificate>,
    /// Empty: the default list of design D16.
    pub allow: Setting<Vec<IpNet>>,
    /// Queries per second; 0: any number.
    pub rate_limit: Setting<u32>,
    /// Octets per second.
    pub reply_allowance: Setting<Octets>,
    pub reply_allowance_network: Setting<Octets>,
    /// Lower case, without the final dot.
    pub zone: Setting<String>,
    /// Seconds.
    pub ttl: Setting<u32>,
    pub when_none_ready: Setting<WhenNoneReady>,
    pub upstream: Setting<Upstreams>,
    pub resolv_conf: Setting<PathBuf>,
    pub private_answers: Setting<PrivateAnswers>,
    pub site_names: Setting<SiteNames>,
    pub single_labels: Setting<SingleLabels>,
    /// 0: none.
    pub cache_size: Setting<Octets>,
    pub prefer: Setting<Prefer>,
    pub prefer_floor: Setting<u32>,
    pub http: Setting<SocketAddr>,
    pub control: Setting<PathBuf>,
    /// `http://host:port`.
    pub api: Setting<String>,
    /// The file that was read.
    pub config: Setting<Option<PathBuf>>,
    pub log_format: Setting<LogFormat>,
    /// A level or a filter.
    pub log: Setting<String>,
}

/// What a layer says of one setting, unparsed.
#[derive(Clone, Debug)]
struct Raw {
    values: Vec<String>,
    source: Source,
}

impl Config {
    /// Lays flags over environment over file over defaults. `root`: whether the process runs as root, which decides
    /// the default directories. `read` reads a small text file; it is asked for the configuration, password and
    /// certificate files that are named.
    pub fn load(
        flags: &Given,
        env: &Env,
        root: bool,
        read: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, Errors> {
        let (mut reader, config) = Reader::open(flags, env, read);
        let config = reader.build(root, config, read);
        if reader.errors.is_empty() { Ok(config) } else { Err(Errors(reader.errors)) }
    }

    /// Every setting in the order of [`KEYS`] with its effective value and source.
    pub fn shown(&self) -> Vec<Shown> {
        let mut rows = Vec::with_capacity(KEYS.len());
        macro_rules! show {
            ($($field:ident)*) => {$(
                let name = stringify!($field).replace('_', "-");
                rows.extend(key(&name).map(|key| Shown {
                    name: key.name,
                    value: Some(self.$field.value.show()).filter(|v| !v.is_empty()).unwrap_or_else(|| "-".to_owned()),
                    source: self.$field.source.clone(),
                }));
            )*};
        }
        show!(registry etcd_endpoints etcd_prefix etcd_ca etcd_cert etcd_key etcd_user etcd_password_file lease);
        show!(docker_host host_id advertise locality namespaces claim compat explicit tags precedence service_env crash_hold aliases fallback_after external routed state_dir on_term check_commands);
        show!(dns dns_tls tls_cert tls_key allow rate_limit reply_allowance reply_allowance_network zone ttl when_none_ready upstream resolv_conf private_answers site_names single_labels cache_size prefer prefer_floor);
        show!(http control api config log_format log);
        rows
    }
}

/// What the client commands need, and no more: an agent's password file that the caller may not read is none of
/// their business.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The agent's URL: `http://host:port`.
    pub api: Setting<String>,
    /// The agent's control socket; `None` where not even a default can be guessed.
    pub control: Option<Setting<PathBuf>>,
    /// How log lines look.
    pub log_format: Setting<LogFormat>,
    /// A level or a filter.
    pub log: Setting<String>,
}

impl ClientConfig {
    /// As [`Config::load`]; the file is read and must be well formed, its other values are not looked at.
    pub fn load(
        flags: &Given,
        env: &Env,
        root: bool,
        read: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, Errors> {
        let (mut reader, _) = Reader::open(flags, env, read);
        let state_dir = reader.state_dir(root);
        let client = Self {
            api: reader.one("api", values::api),
            control: reader.control(root, state_dir.as_ref().map(|setting| setting.value.as_path())),
            log_format: reader.one("log-format", values::log_format),
            log: reader.one("log", values::log),
        };
        if reader.errors.is_empty() { Ok(client) } else { Err(Errors(reader.errors)) }
    }
}

/// Finds, parses and collects.
struct Reader<'a> {
    flags: &'a Given,
    env: &'a Env,
    file: BTreeMap<&'static str, Raw>,
    errors: Vec<String>,
}

impl<'a> Reader<'a> {
    /// A reader that has the configuration file, if one is named.
    fn open(
        flags: &'a Given,
        env: &'a Env,
        read: &dyn Fn(&Path) -> io::Result<String>,
    ) -> (Self, Setting<Option<PathBuf>>) {
        let mut reader = Self { flags, env, file: BTreeMap::new(), errors: Vec::new() };
        let config = reader.optional("config", values::path);
        if let Some(path) = &config.value {
            match read(path) {
                Ok(text) => (reader.file, reader.errors) = file::parse(path, &text),
                Err(error) => reader.wrong("config", &path.show(), &config.source, &unreadable(&error)),
            }
        }
        (reader, config)
    }

    /// What the highest layer that has something says; a default is not a layer here.
    fn given(&self, name: &str) -> Option<Raw> {
        let key = key(name)?;
        let full = |raw: &Raw| !raw.values.is_empty();
        let flag = self.flags.get(name).map(|values| split(key, values, Source::Flag)).filter(full);
        let from_env = || {
            std::iter::once(key.env()).chain(key.foreign.iter().map(|name| (*name).to_owned())).find_map(|variable| {
                let value = self.env.get(&variable)?;
                Some(split(key, std::slice::from_ref(value), Source::Env(variable))).filter(full)
            })
        };
        let from_file = || self.file.get(name).map(|raw| split(key, &raw.values, raw.source.clone())).filter(full);
        flag.or_else(from_env).or_else(from_file)
    }

    /// Notes what is wrong with a value, without the password it may hold.
    fn wrong(&mut self, name: &str, value: &str, source: &Source, message: &str) {
        let value = match (name, value.split_once("://"), value.rsplit_once('@')) {
            ("etcd-user", ..) => value.split(':').next().unwrap_or_default().to_owned(),
            (_, Some((scheme, _)), Some((_, host))) => format!("{scheme}://***@{host}"),
            (_, None, Some((_, host))) => format!("***@{host}"),
            _ => value.to_owned(),
        };
        self.errors.push(format!("--{name} {value:?} ({source}): {message}"));
    }

    fn many<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Setting<Vec<T>> {
        let default = || Raw {
            values: key(name)
                .map(|key| key.default)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
                .into_iter()
                .collect(),
            source: Source::Default,
        };
        let raw = self.given(name).unwrap_or_else(default);
        if raw.values.len() > MAX_VALUES {
            let message = format!("{} values; use at most {MAX_VALUES}", raw.values.len());
            self.wrong(name, "…", &raw.source, &message);
        }
        let mut value = Vec::new();
        for text in raw.values.iter().take(MAX_VALUES) {
            match parse(text) {
                Ok(parsed) => value.push(parsed),
                Err(message) => self.wrong(name, text, &raw.source, &message),
            }
        }
        Setting { value, source: raw.source }
    }

    fn optional<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Setting<Option<T>> {
        let Setting { value, source } = self.many(name, parse);
        Setting { value: value.into_iter().next(), source }
    }

    fn one<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Setting<T> {
        let Setting { value, source } = self.optional(name, &parse);
        // A wrong value has been noted, so the default stands in for it only until the notes are told.
        let default = || key(name).and_then(|key| parse(key.default).ok());
        Setting { value: value.or_else(default).expect("a test parses every built-in default"), source }
    }

    /// Reads every setting, then settles what several of them decide together.
    fn build(
        &mut self,
        root: bool,
        config: Setting<Option<PathBuf>>,
        read: &dyn Fn(&Path) -> io::Result<String>,
    ) -> Config {
        let state_dir = self.state_dir(root).unwrap_or_else(|| {
            self.errors.push("--state-dir: neither XDG_STATE_HOME nor HOME is set; name a directory".to_owned());
            Setting { value: PathBuf::new(), source: Source::Default }
        });
        let control = self.control(root, Some(&state_dir.value));
        let mut config = Config {
            registry: self.one("registry", values::registry),
            etcd_endpoints: self.many("etcd-endpoints", values::etcd_endpoint),
            etcd_prefix: self.one("etcd-prefix", values::etcd_prefix),
            etcd_ca: self.optional("etcd-ca", values::path),
            etcd_cert: self.optional("etcd-cert", values::path),
            etcd_key: self.optional("etcd-key", values::path),
            etcd_user: self.optional("etcd-user", values::user),
            etcd_password_file: self.optional("etcd-password-file", values::path),
            lease: self.one("lease", values::lease),
            docker_host: self.one("docker-host", values::docker_host),
            host_id: self.optional("host-id", values::host_id),
            advertise: self.many("advertise", values::advertise),
            locality: self.optional("locality", values::locality),
            namespaces: self.one("namespaces", values::namespaces),
            claim: self.many("claim", values::claim),
            external: self.many("external", values::external),
            compat: self.one("compat", values::compat),
            explicit: self.one("explicit", values::switch),
            tags: self.many("tags", values::tag),
            precedence: self.one("precedence", values::precedence),
            service_env: self.one("service-env", values::switch),
            crash_hold: self.one("crash-hold", values::switch),
            aliases: self.one("aliases", values::aliases),
            fallback_after: self.one("fallback-after", values::fallback_after),
            routed: self.many("routed", values::subnet),
            on_term: self.one("on-term", values::on_term),
            check_commands: self.optional("check-commands", values::directory),
            dns: self.many("dns", values::dns),
            dns_tls: self.many("dns-tls", values::dns_tls),
            tls_cert: self.optional("tls-cert", values::path),
            tls_key: self.optional("tls-key", values::path),
            certificate: None,
            allow: self.many("allow", values::allow),
            rate_limit: self.one("rate-limit", values::rate_limit),
            reply_allowance: self.one("reply-allowance", values::allowance),
            reply_allowance_network: self.one("reply-allowance-network", values::allowance),
            zone: self.one("zone", values::zone),
            ttl: self.one("ttl", values::ttl),
            when_none_ready: self.one("when-none-ready", values::when_none_ready),
            upstream: self.upstream(),
            resolv_conf: self.one("resolv-conf", values::path),
            private_answers: self.one("private-answers", values::private_answers),
            site_names: self.one("site-names", values::site_names),
            single_labels: self.one("single-labels", values::single_labels),
            cache_size: self.one("cache-size", values::cache_size),
            prefer: self.one("prefer", values::prefer),
            prefer_floor: self.one("prefer-floor", values::prefer_floor),
            http: self.one("http", values::http),
            control: control.expect("the state directory is always a way out"),
            state_dir,
            api: self.one("api", values::api),
            config,
            log_format: self.one("log-format", values::log_format),
            log: self.one("log", values::log),
        };
        self.settle_registry(&mut config);
        self.settle_tls(&mut config, read);
        self.settle_dns_tls(&mut config, read);
        self.settle_user(&mut config, read);
        self.settle_advertise(&config);
        self.settle_prefer(&config);
        self.settle_external(&config);
        self.settle_upstream(&config);
        // Registrator's names have no namespace, so those who want them want flat ones.
        if config.compat.value.is_registrators() && config.namespaces.source == Source::Default {
            config.namespaces = Setting { value: Namespaces::Off, source: config.compat.source.clone() };
        }
        config
    }

    /// Root's state lies where systemd puts it; others follow the XDG base directories.
    fn state_dir(&mut self, root: bool) -> Option<Setting<PathBuf>> {
        if let Setting { value: Some(value), source } = self.optional("state-dir", values::path) {
            return Some(Setting { value, source });
        }
        let below =
            |name: &str, rest: &str| self.env.get(name).filter(|d| !d.is_empty()).map(|d| Path::new(d).join(rest));
        let found = if root {
            Some(PathBuf::from("/var/lib/portolan"))
        } else {
            below("XDG_STATE_HOME", "portolan").or_else(|| below("HOME", ".local/state/portolan"))
        };
        found.map(|value| Setting { value, source: Source::Default })
    }

    /// Without a runtime directory of one's own, the state directory is the other place only its owner may enter.
    fn control(&mut self, root: bool, state_dir: Option<&Path>) -> Option<Setting<PathBuf>> {
        if let Setting { value: Some(value), source } = self.optional("control", values::control) {
            return Some(Setting { value, source });
        }
        let runtime = self.env.get("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
        let directory = match (root, runtime) {
            (true, _) => PathBuf::from("/run/portolan"),
            (false, Some(runtime)) => Path::new(runtime).join("portolan"),
            (false, None) => state_dir?.to_owned(),
        };
        let value = directory.join("control.sock");
        if let Err(message) = values::control(&value.show()) {
            self.wrong("control", &value.show(), &Source::Default, &message);
        }
        Some(Setting { value, source: Source::Default })
    }

    fn upstream(&mut self) -> Setting<Upstreams> {
        let Setting { value, source } = self.many("upstream", values::upstream);
        let mut upstreams = Upstreams { general: General::System, suffixes: Vec::new() };
        let (mut addresses, mut none) = (Vec::new(), false);
        for one in value {
            match one {
                Upstream::None => none = true,
                Upstream::General(address) => addresses.push(address),
                Upstream::Of(suffix, server) => upstreams.suffixes.push((suffix, server)),
            }
        }
        match (none, addresses.is_empty()) {
            (false, true) => {}
            (true, true) => upstreams.general = General::None,
            (false, false) => upstreams.general = General::Addresses(addresses),
            (true, false) => {
                let message = "contradicts the addresses beside it; leave one of the two out";
                self.wrong("upstream", "none", &source, message);
            }
        }
        Setting { value: upstreams, source }
    }
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

/// Takes a layer's texts apart; what is empty was not given.
fn split(key: &Key, texts: &[String], source: Source) -> Raw {
    let parts = texts.iter().flat_map(|text| match key.arity {
        Arity::One => vec![text.trim()],
        Arity::Many => text.split(',').map(str::trim).collect(),
    });
    Raw { values: parts.filter(|part| !part.is_empty()).map(str::to_owned).collect(), source }
}
