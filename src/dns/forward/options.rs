//! What the operator may choose.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{super::special::SingleLabels, site::SiteNames, suffix::Suffix};

/// Where upstreams for all names come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upstreams {
    /// `--upstream none`: names of others are REFUSED.
    None,
    /// `--upstream ADDR`, in the order given.
    Fixed(Vec<SocketAddr>),
    /// `--resolv-conf PATH`.
    ResolvConf(PathBuf),
}

/// What an answer may say of addresses inside networks (RFC 1918 and their like).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PrivateAnswers {
    /// Anything.
    #[default]
    Allow,
    /// Nothing, unless the name lies below a domain that has upstreams of its own: such an answer is handed on empty.
    Refuse,
}

/// Whom the operator wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Where upstreams for all names come from.
    pub general: Upstreams,
    /// Domains that have upstreams of their own. The most exact one counts.
    pub suffixes: Vec<(Suffix, Vec<SocketAddr>)>,
    /// What they may say of addresses inside networks.
    pub private: PrivateAnswers,
    /// Who may be asked for the site's names.
    pub site_names: SiteNames,
    /// Whether upstreams may be asked for single labels.
    pub single_labels: SingleLabels,
}

/// No domain has upstreams of its own.
impl From<Upstreams> for Chosen {
    fn from(general: Upstreams) -> Self {
        Self {
            general,
            suffixes: Vec::new(),
            private: PrivateAnswers::Allow,
            site_names: SiteNames::default(),
            single_labels: SingleLabels::default(),
        }
    }
}

/// How to forward.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whom to ask at first.
    pub chosen: Chosen,
    /// Where systemd-resolved writes the real servers when resolv.conf names its stub alone.
    pub resolved: PathBuf,
    /// Octets that the cache may take; 0: there is none.
    pub cache: usize,
    /// Wait this long for one upstream, TCP after truncation included. Another one is asked after a quarter of it at the
    /// latest. glibc waits 5 s for the whole of us.
    pub attempt: Duration,
    /// Wait this long in all; then SERVFAIL. Two silent upstreams and half of a third fit.
    pub total: Duration,
    /// Wait this long where an older answer is at hand (RFC 8767 section 5: "client response timer", 1.8 s).
    pub patience: Duration,
    /// Read the file again this often, whatever inotify says.
    pub reread: Duration,
}

/// Octets of the cache unless `--cache-size` says otherwise: some 30,000 answers.
pub const DEFAULT_CACHE: usize = 16 * 1024 * 1024;

impl Default for Options {
    fn default() -> Self {
        Self {
            chosen: Upstreams::ResolvConf("/etc/resolv.conf".into()).into(),
            resolved: "/run/systemd/resolve/resolv.conf".into(),
            cache: DEFAULT_CACHE,
            attempt: Duration::from_secs(2),
            total: Duration::from_secs(5),
            patience: Duration::from_millis(1800),
            reread: Duration::from_secs(5),
        }
    }
}
