//! Every setting once: its flag, environment names, file key, default and help.
//!
//! The flags of the command line, the known keys of the file, the built-in defaults and the rows of `config show` are
//! all made from this table, so they cannot drift apart. Defaults are texts and go through the same parsers as what
//! people write.

/// How many values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// One.
    One,
    /// Any number: the flag may be repeated, values may be separated by commas, the file may hold a list.
    Many,
}

/// One setting.
#[derive(Clone, Debug)]
pub struct Key {
    /// The flag without its dashes, and the key in the file.
    pub name: &'static str,
    /// What stands for the value in the help.
    pub value: &'static str,
    /// How many values it takes.
    pub arity: Arity,
    /// Environment names of other tools that are read after our own `PORTOLAN_…`.
    pub foreign: &'static [&'static str],
    /// The default as text; empty: none, or one that depends on the host (then `help` says which).
    pub default: &'static str,
    /// The heading it stands below in the help.
    pub heading: &'static str,
    /// One sentence.
    pub help: &'static str,
}

impl Key {
    /// Our own environment name: `PORTOLAN_ETCD_PREFIX` for `etcd-prefix`.
    pub fn env(&self) -> String {
        format!("PORTOLAN_{}", self.name.to_ascii_uppercase().replace('-', "_"))
    }
}

/// Finds a setting by its name.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// How alike two names must be, 0 to 1, for one to be suggested for the other: 0.8 takes a letter or two amiss.
const ALIKE: f64 = 0.8;

/// The setting that was probably meant; `_` for `-` is the likeliest slip of all.
pub(super) fn nearest(name: &str) -> Option<&'static Key> {
    let name = name.replace('_', "-").to_lowercase();
    let likeness = |key: &&Key| strsim::jaro_winkler(&name, key.name);
    KEYS.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|key| likeness(key) >= ALIKE)
}

const REGISTRY: &str = "Registry";
const HOST: &str = "This host";
const DNS: &str = "DNS";
const API: &str = "API";
const COMMON: &str = "Common";

/// A row without foreign environment names.
const fn row(
    name: &'static str,
    value: &'static str,
    arity: Arity,
    default: &'static str,
    heading: &'static str,
    help: &'static str,
) -> Key {
    Key { name, value, arity, foreign: &[], default, heading, help }
}

impl Key {
    const fn or_env(mut self, foreign: &'static [&'static str]) -> Self {
        self.foreign = foreign;
        self
    }
}

/// All settings in the order in which people read them.
pub const KEYS: &[Key] = &[
    // One host alone needs no server. Endpoints imply etcd, so that nobody names them for nothing.
    row("registry", "KIND", Arity::One, "memory", REGISTRY, "memory or etcd; naming endpoints implies etcd"),
    row("etcd-endpoints", "URL", Arity::Many, "", REGISTRY, "etcd's client URLs, all members of one cluster")
        .or_env(&["ETCDCTL_ENDPOINTS"]),
    row("etcd-prefix", "PREFIX", Arity::One, "/portolan", REGISTRY, "every key of ours lies below it"),
    row("etcd-ca", "FILE", Arity::One, "", REGISTRY, "PEM file of the authority that signed etcd's certificates")
        .or_env(&["ETCDCTL_CACERT"]),
    row("etcd-cert", "FILE", Arity::One, "", REGISTRY, "PEM file of our client certificate").or_env(&["ETCDCTL_CERT"]),
    row("etcd-key", "FILE", Arity::One, "", REGISTRY, "PEM file of its private key").or_env(&["ETCDCTL_KEY"]),
    row("etcd-user", "NAME", Arity::One, "", REGISTRY, "etcd user; the environment may say NAME:PASSWORD")
        .or_env(&["ETCDCTL_USER"]),
    row("etcd-password-file", "FILE", Arity::One, "", REGISTRY, "file whose first line is the etcd user's password"),
    // How long a crashed host's names stay. Shorter finds crashes sooner, longer bridges longer etcd outages: 30 s
    // renews every 10 s and survives a leader election (1 to 2 s) at any moment of it.
    row("lease", "DURATION", Arity::One, "30s", REGISTRY, "how long our names outlive a crash of this host"),
    row("docker-host", "URL", Arity::One, "unix:///var/run/docker.sock", HOST, "the Docker engine: unix:// or tcp://")
        .or_env(&["DOCKER_HOST"]),
    row("host-id", "ID", Arity::One, "", HOST, "this host's name in the registry [default: made once, kept in state]"),
    row(
        "advertise",
        "IP",
        Arity::Many,
        "",
        HOST,
        "where other hosts reach our published ports, one per family [default: the source address towards etcd, else of the default route]",
    ),
    row("locality", "PATH", Arity::One, "", HOST, "where this host stands, such as eu/a"),
    // Two projects that both have a `web` must not answer for each other.
    row("namespaces", "ON|OFF", Arity::One, "on", HOST, "off: every service of this host is global, as in Registrator"),
    row(
        "claim",
        "RULE",
        Arity::Many,
        "",
        HOST,
        "who may publish a global name: NAME [namespace=PROJECT] [image=IMAGE] [label=KEY=VALUE], * for anything",
    ),
    row(
        "compat",
        "KIND",
        Arity::One,
        "none",
        HOST,
        "names as another tool gave them: none, registrator, or registrator-internal for its -internal",
    ),
    row(
        "explicit",
        "ON|OFF",
        Arity::One,
        "off",
        HOST,
        "on: publish only what was given a name by a label or SERVICE_NAME",
    ),
    row("tags", "TAG", Arity::Many, "", HOST, "tags of every service of this host, besides its own"),
    row(
        "precedence",
        "KIND",
        Arity::One,
        "label",
        HOST,
        "label or environment: which of the two counts if both hold the same SERVICE_* key",
    ),
    row(
        "service-env",
        "ON|OFF",
        Arity::One,
        "on",
        HOST,
        "off: read no SERVICE_* key from containers' environments, only from labels",
    ),
    row(
        "crash-hold",
        "ON|OFF",
        Arity::One,
        "on",
        HOST,
        "on: while others are ready, do not give a container that its restart policy started again within 10 s",
    ),
    row(
        "aliases",
        "WHICH",
        Arity::One,
        "all",
        HOST,
        "which names of Docker's own DNS are names here, too: off, plain (those without dots), or all",
    ),
    row(
        "fallback-after",
        "TIME",
        Arity::One,
        "1h",
        HOST,
        "a bare name that its asker's namespace has lost is not looked for in `global` for this long; 0s: at once",
    ),
    row(
        "external",
        "SERVICE",
        Arity::Many,
        "",
        HOST,
        "a service outside of Docker, for this host alone: NAME cname=HOST[:PORT] or NAME address=IP[:PORT], see register",
    ),
    row("routed", "SUBNET", Arity::Many, "", HOST, "container subnets that every host can route to"),
    row(
        "state-dir",
        "DIR",
        Arity::One,
        "",
        HOST,
        "what must survive a restart [default: /var/lib/portolan for root, else $XDG_STATE_HOME/portolan]",
    ),
    // A restart must be invisible to everyone else.
    row("on-term", "ACTION", Arity::One, "keep", HOST, "keep or leave: what SIGTERM does to our names"),
    // Whoever may label a container chooses what runs with the agent's rights, so nothing does unless it is wanted.
    row(
        "check-commands",
        "DIR",
        Arity::One,
        "",
        HOST,
        "the programs that checks of containers may run on this host [default: none]",
    ),
    // `docker` where port 53 may be bound, and always 127.0.0.1:5300 for a first `dig`.
    row(
        "dns",
        "ADDR:PORT",
        Arity::Many,
        "auto",
        DNS,
        "where to answer: addresses, docker (port 53 on every bridge) or auto",
    ),
    row(
        "dns-tls",
        "ADDR[:PORT]",
        Arity::Many,
        "",
        DNS,
        "where to answer over TLS, too, on port 853 unless another is given; needs --tls-cert and --tls-key",
    ),
    row(
        "tls-cert",
        "FILE",
        Arity::One,
        "",
        DNS,
        "PEM file of the certificate for --dns-tls, and those that vouch for it",
    ),
    row("tls-key", "FILE", Arity::One, "", DNS, "PEM file of its private key"),
    row(
        "allow",
        "SUBNET",
        Arity::Many,
        "",
        DNS,
        "who may ask [default: this host, its Docker networks, the advertised addresses of known hosts]",
    ),
    // Far above what a host's resolver asks, and too little to be worth forging an address for.
    row(
        "rate-limit",
        "N",
        Arity::One,
        "1000",
        DNS,
        "queries a second over UDP that one address is answered, if it is neither this host's nor a container's of it; 0: any number",
    ),
    // A load balancer that asks every second for a full datagram takes 1 KiB of it; a forged address is sent a megabit.
    row(
        "reply-allowance",
        "SIZE",
        Arity::One,
        "128KiB",
        DNS,
        "a second over UDP for such an address, beyond three octets for one of its queries; 0: never more than those",
    ),
    row("reply-allowance-network", "SIZE", Arity::One, "512KiB", DNS, "the same for its /24, or its /56 of IPv6"),
    // `internal` is reserved for private use by ICANN; Compose's own names never end in it.
    row("zone", "DOMAIN", Arity::One, "svc.internal", DNS, "the domain we answer for"),
    // Docker gives a freed address to the very next container.
    row("ttl", "SECONDS", Arity::One, "0", DNS, "how long resolvers may keep an address"),
    // Rather somebody who may still answer than nobody; a container that only starts cannot answer yet.
    row(
        "when-none-ready",
        "WHO",
        Arity::One,
        "draining,unhealthy",
        DNS,
        "whom to give while no instance of a service is ready: draining, unhealthy, both in the order to try, or none",
    ),
    row(
        "upstream",
        "[DOMAIN=]ADDR",
        Arity::Many,
        "",
        DNS,
        "who answers all other names, or those below a domain (corp.example=10.0.0.2), or none [default: the name servers of --resolv-conf]",
    ),
    row("resolv-conf", "FILE", Arity::One, "/etc/resolv.conf", DNS, "names the upstream servers"),
    // Company networks keep addresses of their own in public zones, and would lose them without a word.
    row(
        "private-answers",
        "WHAT",
        Arity::One,
        "allow",
        DNS,
        "addresses inside networks (10.0.0.0/8 …) in the answers of upstreams that have no domain of their own: allow or refuse",
    ),
    // What the site calls its own machines says something about it, and an upstream on the internet cannot know it.
    row(
        "site-names",
        "WHO",
        Arity::One,
        "auto",
        DNS,
        "who answers names of the site (test, home.arpa, internal, private reverse zones): auto asks upstreams inside the site only; answer, forward",
    ),
    // A name without a dot is a service; what is misspelt would go to every upstream.
    row(
        "single-labels",
        "WHO",
        Arity::One,
        "answer",
        DNS,
        "names of one label that are no service: answer denies them here, forward asks the upstreams",
    ),
    // Some 30,000 answers, more than the containers of one host ask for.
    row("cache-size", "SIZE", Arity::One, "16MiB", DNS, "memory for what the upstreams say; 0 for none"),
    // Spreading over everybody is what nobody is surprised by; a host of many clients would overload its own instances.
    row("prefer", "WHAT", Arity::One, "none", DNS, "which instances are given first: none, host or locality"),
    // One is enough: who wants to spread over more says so.
    row("prefer-floor", "N", Arity::One, "1", DNS, "with fewer ready instances near than this, farther ones count too"),
    row("http", "ADDR:PORT", Arity::One, "127.0.0.1:7300", API, "read-only HTTP: health, metrics, catalog"),
    row(
        "control",
        "PATH",
        Arity::One,
        "",
        API,
        "socket for commands that change state [default: control.sock in /run/portolan for root, else in $XDG_RUNTIME_DIR/portolan]",
    ),
    row("api", "URL", Arity::One, "http://127.0.0.1:7300", API, "the agent that client commands ask"),
    row("config", "FILE", Arity::One, "", COMMON, "configuration file with the same names as the flags"),
    row("log-format", "FORMAT", Arity::One, "text", COMMON, "text or json, on stderr"),
    row(
        "log",
        "LEVEL",
        Arity::One,
        "info",
        COMMON,
        "error, warn, info, debug, trace or off, or a filter such as info,portolan::dns=debug",
    ),
];
