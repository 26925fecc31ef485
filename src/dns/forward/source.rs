//! Whom to ask: what the options, resolv.conf and our own listeners say together. \[IO\]
//!
//! Files are followed by inotify: the folder they lie in, because editors and DHCP clients put a new file in the place of
//! the old one; the folder that a symbolic link leads to; and the file itself, which Docker mounts over a container's own
//! and writes in place. Where inotify fails, and for what it does not see, the files are read again every few seconds
//! anyway.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

use super::{
    super::special::SingleLabels,
    Chosen, Upstreams,
    probe::Way,
    resolv::{self, Own},
    site::SiteNames,
    suffix::Suffix,
};
use crate::model::Problem;

/// A resolv.conf is a few lines; more than this is none.
const MAX_FILE: u64 = 64 * 1024;

/// Whom to ask, and what is wrong with that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Current {
    /// For all names that no suffix covers.
    pub(super) general: Arc<[SocketAddr]>,
    /// Those of them that may be asked for the site's names.
    pub(super) of_the_site: Arc<[SocketAddr]>,
    /// Most exact first.
    pub(super) suffixes: Vec<(Suffix, Arc<[SocketAddr]>)>,
    pub(super) site_names: SiteNames,
    pub(super) single_labels: SingleLabels,
    pub(super) problems: Arc<[Problem]>,
}

impl Current {
    /// Whom to ask for a name, given as its labels, that a domain covers which has upstreams of its own.
    pub(super) fn special(&self, labels: &[&[u8]]) -> Option<&Arc<[SocketAddr]>> {
        let covers = |suffix: &Suffix| suffix.covers_labels(labels.iter().rev().copied());
        self.suffixes.iter().find(|(suffix, _)| covers(suffix)).map(|(_, upstreams)| upstreams)
    }

    /// Everybody, each with the domain that it is asked about.
    pub(super) fn ways(&self) -> impl Iterator<Item = Way> {
        let general = self.general.iter().map(|upstream| (None, *upstream));
        let special = self.suffixes.iter().flat_map(|(suffix, upstreams)| {
            upstreams.iter().map(|upstream| (Some(suffix.as_str().to_owned()), *upstream))
        });
        general.chain(special)
    }

    /// Without those that lead back to us.
    pub(super) fn without(mut self, looping: &BTreeSet<Way>) -> Self {
        let mut problems = self.problems.to_vec();
        for (domain, upstream) in looping {
            let place = match domain {
                Some(domain) => format!("upstream {domain}={upstream}"),
                None => format!("upstream {upstream}"),
            };
            let expected = "a DNS server that does not ask this agent in turn; it is not asked, but tried again";
            problems.push(Problem::new(place, "what it is asked it asks us", expected));
        }
        let keep = |domain: Option<&str>, upstreams: &Arc<[SocketAddr]>| -> Arc<[SocketAddr]> {
            let loops = |upstream: &SocketAddr| looping.iter().any(|(d, u)| d.as_deref() == domain && u == upstream);
            upstreams.iter().filter(|upstream| !loops(upstream)).copied().collect()
        };
        if !looping.is_empty() {
            self.general = keep(None, &self.general);
            for (suffix, upstreams) in &mut self.suffixes {
                *upstreams = keep(Some(suffix.as_str()), upstreams);
            }
            self.sort_out();
        }
        self.problems = problems.into();
        self
    }
}

/// What was chosen means right now. `previous` stays where a file cannot be read.
pub(super) fn read(chosen: &Chosen, resolved: &Path, own: &Own, previous: &Current) -> Current {
    let mut problems = Vec::new();
    let (servers, place) = match &chosen.general {
        Upstreams::None => (Some(Vec::new()), None),
        Upstreams::Fixed(servers) => (Some(servers.clone()), Some("--upstream".to_owned())),
        Upstreams::ResolvConf(path) => {
            let place = path.display().to_string();
            match name_servers(path, resolved) {
                Ok((_, servers)) => (Some(servers), Some(place)),
                Err(error) => {
                    let expected = "a readable file; the upstreams known before stay in use";
                    problems.push(Problem::new(place, &error.to_string(), expected));
                    (None, None)
                }
            }
        }
    };
    let general = match servers {
        None => Arc::clone(&previous.general),
        Some(servers) => usable(&servers, own, place, &mut problems),
    };
    let mut suffixes: Vec<(Suffix, Arc<[SocketAddr]>)> = chosen
        .suffixes
        .iter()
        .map(|(suffix, servers)| {
            (suffix.clone(), usable(servers, own, Some(format!("--upstream {suffix}=")), &mut problems))
        })
        .collect();
    suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.labels()));
    let (site_names, single_labels) = (chosen.site_names, chosen.single_labels);
    let mut current =
        Current { general, suffixes, site_names, single_labels, problems: problems.into(), ..Current::default() };
    current.sort_out();
    current
}

/// Those that are not ourselves. `place` says where they come from; without one nobody is missed.
fn usable(servers: &[SocketAddr], own: &Own, place: Option<String>, problems: &mut Vec<Problem>) -> Arc<[SocketAddr]> {
    let usable = resolv::usable(servers.iter().copied(), own);
    if let (true, Some(place)) = (usable.is_empty(), place) {
        let found = match servers.len() {
            0 => "no nameserver".to_owned(),
            _ => format!("only ourselves: {servers:?}"),
        };
        let expected = "a DNS server that is not this agent (or --upstream none); names outside of our zone are REFUSED until then";
        problems.push(Problem::new(place, &found, expected));
    }
    usable.into()
}

/// The servers of a resolv.conf, or of systemd-resolved's own one where only its stub is named, as Docker does, too; and
/// which of the two files names them.
pub fn name_servers<'a>(path: &'a Path, resolved: &'a Path) -> io::Result<(&'a Path, Vec<SocketAddr>)> {
    let (mut file, mut servers) = (path, resolv::nameservers(&read_text(path)?));
    if resolv::is_only_resolved(&servers) {
        // Without its file the stub itself is what there is.
        if let Ok(text) = read_text(resolved) {
            (file, servers) = (resolved, resolv::nameservers(&text));
        }
    }
    Ok((file, resolv::at_dns_port(servers).collect()))
}

/// The search list that Docker gives to containers without one of their own: that of the file which names the servers.
pub fn search_list(path: &Path, resolved: &Path) -> io::Result<Vec<String>> {
    let (file, _) = name_servers(path, resolved)?;
    Ok(resolv::search(&read_text(file)?))
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Tells when one of some files may have changed.
pub(super) struct Watch {
    inotify: AsyncFd<Readable>,
    files: Vec<PathBuf>,
}

struct Readable(Inotify);

impl AsRawFd for Readable {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Needs a runtime. An error says that inotify cannot be had (`fs.inotify.max_user_instances`).
    #[expect(
        deprecated,
        reason = "its successor is unsafe; this descriptor is private to a type that never changes it"
    )]
    pub(super) fn new(files: Vec<PathBuf>) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let watch = Self { inotify: AsyncFd::new(Readable(inotify))?, files };
        watch.arm();
        Ok(watch)
    }

    /// Watches everything that is there; what is watched already stays so.
    fn arm(&self) {
        let Readable(inotify) = self.inotify.get_ref();
        let in_folder = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_ONLYDIR;
        let in_file = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MODIFY;
        for file in &self.files {
            let target = std::fs::canonicalize(file).unwrap_or_else(|_| file.clone());
            for path in [file, &target] {
                // What is not there is found when its folder changes, or when it is read the next time.
                if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                    let _ = inotify.add_watch(folder, in_folder);
                }
            }
            let _ = inotify.add_watch(&target, in_file);
        }
    }

    /// Waits until one of the files may have changed.
    pub(super) async fn changed(&mut self) {
        loop {
            let Ok(mut ready) = self.inotify.readable().await else { return std::future::pending().await };
            let mut is_ours = false;
            // An error is that nothing is there any more.
            while let Ok(events) = ready.get_inner().0.read_events() {
                is_ours |= events.iter().any(|event| match &event.name {
                    None => true,
                    Some(name) => self.files.iter().any(|file| {
                        let target = std::fs::canonicalize(file);
                        file.file_name() == Some(name) || target.is_ok_and(|target| target.file_name() == Some(name))
                    }),
                });
            }
            ready.clear_ready();
            drop(ready);
            if is_ours {
                self.arm();
                return;
            }
        }
    }
}
