//! The state directory: what must survive a restart of the agent. \[IO\]
//!
//! It is ours alone (0700), locked while an agent runs, and holds five small files. Each is replaced whole: written
//! beside, synced, renamed, and the directory synced, so that a crash leaves the old one or the new one.
//!
//! | file | what | made |
//! |---|---|---|
//! | `host-id` | who this host is | at the first start |
//! | `session.json` | nonces that are ours, and our lease | at every claim |
//! | `drains.json` | what the operator has drained | at every `drain` and `undrain` |
//! | `externals.json` | what the operator registered; with etcd what it last had | at every `register` and `unregister`, at every change |
//! | `names.json` | bare names that namespaces have had: see `--fallback-after` | seconds after they changed |
//! | `lock` | held while an agent runs | at every start |

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rand::RngExt;
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::publisher::SessionFile;
use crate::{model::HostId, watch::container::Drains};

const HOST_ID: &str = "host-id";
const SESSION: &str = "session.json";
const DRAINS: &str = "drains.json";
const EXTERNALS: &str = "externals.json";
const NAMES: &str = "names.json";
const LOCK: &str = "lock";
/// Largest file of ours that is read: a session file is a few hundred octets, a thousand drained containers 110,000, a thousand registered services as much.
const MAX_FILE: u64 = 4 << 20;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system said no.
    #[error("cannot {act} {}: {source}; give another --state-dir or make it writable for this user", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent runs with it.
    #[error("{} is in use by another agent: stop that one, or give this one another --state-dir", .0.display())]
    InUse(PathBuf),
    /// The directory belongs to somebody else.
    #[error("{} belongs to user {owner}, not to us: give another --state-dir or change its owner", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The host's id cannot be read.
    #[error("{} holds no host id ({found:?}): correct it, or remove it to become a new host", path.display())]
    HostId {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: String,
    },
}

/// A bare name that a namespace has had.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeptName {
    /// The name, one label.
    pub name: String,
    /// The namespace that had it.
    pub namespace: String,
    /// Until when it is not looked for in `global`, in seconds since 1970; `None`: it was there when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// The open state directory; the lock is held as long as this lives, or somebody else has a handle of it.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    lock: OwnedFd,
}

impl StateDirectory {
    /// Opens and locks the directory; makes it if it is missing.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let io = |act| move |source| StateError::Io { act, path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("make"))?;
        let found = fs::metadata(path).map_err(io("look at"))?;
        let us = nix::unistd::geteuid();
        if found.uid() != us.as_raw() && !us.is_root() {
            return Err(StateError::Foreign { path: path.to_owned(), owner: found.uid() });
        }
        if found.mode() & 0o077 != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io("close to others"))?;
        }
        let lock = path.join(LOCK);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(io("write in"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), lock: file.into() }),
            Err(Errno::WOULDBLOCK) => Err(StateError::InUse(path.to_owned())),
            Err(error) => Err(StateError::Io { act: "lock", path: lock, source: error.into() }),
        }
    }

    /// Opens the directory with the lock of the agent that has it open: it is held until both have gone.
    pub fn succeed(path: &Path, lock: OwnedFd) -> Self {
        Self { path: path.to_owned(), lock }
    }

    /// A handle of the lock, for the agent that takes over.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        self.lock.try_clone()
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// This host's id: the one given, which is not stored, else the stored one, else a new one.
    pub fn host_id(&self, given: Option<&HostId>) -> Result<HostId, StateError> {
        if let Some(given) = given {
            return Ok(given.clone());
        }
        let path = self.path.join(HOST_ID);
        if let Some(stored) = self.read(HOST_ID)? {
            let text = String::from_utf8_lossy(&stored);
            return HostId::parse(text.trim()).map_err(|error| StateError::HostId { path, found: error.0 });
        }
        let id = format!("{:016x}", rand::rng().random::<u64>());
        self.replace(HOST_ID, format!("{id}\n").as_bytes())?;
        HostId::parse(&id).map_err(|error| StateError::HostId { path, found: error.0 })
    }

    /// What the last agent knew of its session. Without it we wait, at worst, until our old lease ends.
    pub fn session(&self) -> SessionFile {
        self.kept(SESSION, "the last session cannot be read: a new one begins")
    }

    /// Keeps what we know of our session.
    pub fn save_session(&self, session: &SessionFile) -> Result<(), StateError> {
        let text = serde_json::to_vec(session).expect("texts and numbers are always JSON");
        self.replace(SESSION, &text)
    }

    /// What the operator had drained.
    pub fn drains(&self) -> Drains {
        self.kept(DRAINS, "what was drained cannot be read: nothing is drained")
    }

    /// Keeps what the operator has drained.
    pub fn save_drains(&self, drains: &Drains) -> Result<(), StateError> {
        let text = serde_json::to_vec(drains).expect("texts and numbers are always JSON");
        self.replace(DRAINS, &text)
    }

    /// What the operator had registered, as the words of `register`.
    pub fn externals(&self) -> Vec<String> {
        self.kept(EXTERNALS, "what was registered cannot be read: nothing is")
    }

    /// Keeps what the operator has registered.
    pub fn save_externals(&self, words: &[String]) -> Result<(), StateError> {
        let text = serde_json::to_vec(words).expect("texts are always JSON");
        if text.len() as u64 > MAX_FILE {
            let source = io::Error::other(format!(
                "{} octets of at most {MAX_FILE}: fewer services, or shorter tags",
                text.len()
            ));
            return Err(StateError::Io { act: "write", path: self.path.join(EXTERNALS), source });
        }
        self.replace(EXTERNALS, &text)
    }

    /// Bare names that namespaces have had.
    pub fn names(&self) -> Vec<KeptName> {
        self.kept(
            NAMES,
            "the names that namespaces have had cannot be read: they may be looked for in `global` at once",
        )
    }

    /// Keeps them.
    pub fn save_names(&self, names: &[KeptName]) -> Result<(), StateError> {
        let text = serde_json::to_vec(names).expect("texts and numbers are always JSON");
        self.replace(NAMES, &text)
    }

    /// A file that cannot be understood is as good as none, and is said so.
    fn kept<T: Default + DeserializeOwned>(&self, name: &str, otherwise: &'static str) -> T {
        let parse = |stored: Vec<u8>| serde_json::from_slice(&stored).map_err(|error| error.to_string());
        let stored = self.read(name).map_err(|error| error.to_string());
        stored.and_then(|stored| stored.map_or_else(|| Ok(T::default()), parse)).unwrap_or_else(|error| {
            tracing::warn!(path = %self.path.join(name).display(), error, "{otherwise}");
            T::default()
        })
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path.join(name);
        let read = || match fs::metadata(&path)?.len() {
            size if size > MAX_FILE => Err(io::Error::other(format!("{size} octets are no file of ours"))),
            _ => fs::read(&path),
        };
        match read() {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Io { act: "read", path, source }),
        }
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        let beside = self.path.join(format!("{name}.new"));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| StateError::Io { act: "write", path: path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_kept_is_there_after_a_restart_and_closed_to_others() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/state");
        let session = SessionFile { nonces: vec!["n1".into(), "n2".into()], lease: Some(7), former: Some(6) };
        let state = StateDirectory::open(&path).unwrap();
        let id = state.host_id(None).unwrap();
        assert_eq!(state.session(), SessionFile::default());
        state.save_session(&session).unwrap();
        drop(state);
        let state = StateDirectory::open(&path).unwrap();
        assert_eq!((state.host_id(None).unwrap(), state.session()), (id, session));
        assert_eq!((mode(&path), mode(&path.join(SESSION)), mode(&path.join(HOST_ID))), (0o700, 0o600, 0o600));
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let few = vec!["redis cname=a.example.com".to_owned()];
        state.save_externals(&few).unwrap();
        let error = state.save_externals(&vec!["x".repeat(1000); 5000]).unwrap_err().to_string();
        assert!(error.contains("fewer services"), "{error}");
        assert_eq!(state.externals(), few);
    }

    #[test]
    fn a_second_agent_is_refused_until_the_first_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path()).unwrap();
        let error = StateDirectory::open(directory.path()).unwrap_err();
        assert!(matches!(error, StateError::InUse(_)), "{error}");
        drop(first);
        StateDirectory::open(directory.path()).unwrap();
    }

    #[test]
    fn a_lock_that_was_handed_on_is_held_until_both_have_gone() {
        let directory = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(directory.path()).unwrap();
        let second = StateDirectory::succeed(directory.path(), first.lock().unwrap());
        drop(first);
        assert!(matches!(StateDirectory::open(directory.path()), Err(StateError::InUse(_))));
        drop(second);
        StateDirectory::open(directory.path()).unwrap();
    }

    #[test]
    fn a_directory_open_to_others_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        StateDirectory::open(directory.path()).unwrap();
        assert_eq!(mode(directory.path()), 0o700);
    }

    #[test]
    fn broken_files_are_named_or_survived() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        fs::write(directory.path().join(HOST_ID), "no id/at all").unwrap();
        let error = state.host_id(None).unwrap_err().to_string();
        assert!(error.contains("host-id") && error.contains("remove it"), "{error}");
        fs::write(directory.path().join(SESSION), "{\"nonces\":[").unwrap();
        assert_eq!(state.session(), SessionFile::default());
    }

    #[test]
    fn a_place_that_cannot_be_made_is_named_with_the_fix() {
        let error = StateDirectory::open(Path::new("/proc/portolan")).unwrap_err().to_string();
        assert!(error.contains("/proc/portolan") && error.contains("--state-dir"), "{error}");
    }
}
