//! Who we are to etcd and whom we trust: taken from files, and from the same files again. \[IO\]
//!
//! Files are read where they are needed, so that one that changes is found without a restart: those of certificates for
//! each connection, that of the password when a login is refused, and all of them on SIGHUP ([`Credentials::renew`]).
//!
//! - **What cannot be used changes nothing.** A file that is missing, half-written or of another kind leaves what it
//!   held before in use. It is told once, and is a problem until it can be used ([`Credentials::problems`]).
//! - **A password comes with its predecessor.** Of the file's password and the last one that etcd took, the first is
//!   tried first. So an operator may write the file first and change etcd's afterwards, and no host is ever without
//!   either.
//! - **A password that was refused is left alone for a while** ([`REFUSED_FOR`]), whatever asks for a login.
//!
//! Deliberately absent: watching the files, and any memory of passwords beyond this process.

use std::{
    collections::BTreeMap,
    fmt::Write,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_rustls::rustls::ClientConfig;
use tonic::transport::ClientTlsConfig;

use super::{
    Options, OptionsError, Tls, Unusable,
    certificates::{CA, CERT, KEY, Material, read, read_ca, read_identity},
    convert,
};
use crate::model::Problem;

#[cfg(test)]
mod tests;

/// How long a refused password is not sent again. A login costs etcd 60 ms of a processor (bcrypt at its default cost),
/// and 1,000 hosts with an outdated password ask for 333 logins a second. It cannot be much longer: a user that is made
/// again has the same password, and the publisher, which tries every 5 s, must have written within 10 s.
const REFUSED_FOR: Duration = Duration::from_secs(3);

/// How soon the password's file is read again while every password that we know is refused.
const READ_EVERY: Duration = Duration::from_secs(1);

/// How soon a file that cannot be used is read again for no other reason than to end its problem.
const LOOK_EVERY: Duration = Duration::from_secs(5);

const USER: &str = "etcd-user";
const PASSWORD_FILE: &str = "etcd-password-file";

/// The password in the text of its file: the first line, which must not be empty.
pub fn password_in(text: &str) -> Option<&str> {
    text.lines().next().map(str::trim_end).filter(|line| !line.is_empty())
}

/// A user and a password to try now.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// What [`Credentials::renew`] found.
pub(super) struct Renewed {
    /// The settings that say something else now, or whose files do.
    pub(super) settings: Vec<&'static str>,
    /// Connections that stand are those of another user, or were made with other certificates.
    pub(super) outdates_connections: bool,
}

/// The credentials of one cluster.
pub(super) struct Credentials(Mutex<State>);

#[derive(Default)]
struct State {
    user: Option<String>,
    password_file: Option<PathBuf>,
    tls: Option<Tls>,
    /// The newest first, then the last that etcd took, if that is another one.
    passwords: Vec<Password>,
    /// etcd has taken a password of this user.
    has_logged_in: bool,
    password_read_at: Option<Instant>,
    material: Material,
    /// Files that could not be used when they were last read, by their setting.
    unusable: BTreeMap<&'static str, Unusable>,
    looked_at: Option<Instant>,
}

struct Password {
    text: String,
    /// etcd took it.
    is_accepted: bool,
    /// When and why it was last refused, and not taken since.
    refused: Option<(Instant, String)>,
}

impl Credentials {
    /// Those of these options; every file must be usable.
    pub(super) fn new(options: &Options) -> Result<Self, OptionsError> {
        let credentials = Self(Mutex::default());
        credentials.renew(options)?;
        Ok(credentials)
    }

    /// Takes over the user, the password and the certificates of these options; changes nothing unless every file can
    /// be used.
    pub(super) fn renew(&self, options: &Options) -> Result<Renewed, OptionsError> {
        let material = Material::read(options.tls.as_ref())?;
        let mut state = self.state();
        let (user, password) = options.user.clone().unzip();
        let mut settings = Vec::new();
        let is_other_user = state.user != user;
        if is_other_user {
            settings.push(USER);
            state.passwords.clear();
            state.has_logged_in = false;
        }
        state.user = user;
        state.password_file.clone_from(&options.password_file);
        let is_other_password = password.is_some_and(|password| state.take_password(password));
        if is_other_password && state.password_file.is_some() {
            settings.push(PASSWORD_FILE);
        }
        // The operator may have changed etcd, too: everything may be tried at once.
        state.passwords.iter_mut().for_each(|password| password.refused = None);
        let before = std::mem::replace(&mut state.material, material);
        settings.extend(before.differing(&state.material));
        state.tls.clone_from(&options.tls);
        [CA, CERT, KEY, PASSWORD_FILE].iter().for_each(|setting| state.note_usable(setting));
        let outdates_connections = is_other_user || before != state.material;
        Ok(Renewed { settings, outdates_connections })
    }

    /// Whether there is a user to log in.
    pub(super) fn has_user(&self) -> bool {
        self.state().user.is_some()
    }

    /// What a connection is made with, as the files say it now.
    pub(super) fn tls(&self) -> ClientTlsConfig {
        let mut state = self.state();
        let changed = state.read_certificates();
        if !changed.is_empty() {
            let settings = flags(&changed);
            tracing::info!(settings, "connections to etcd are made with what these files hold now");
        }
        state.material.config()
    }

    /// A handshake as that of the last connection; `None` where the system's authorities are trusted.
    pub(super) fn handshake(&self) -> Option<Arc<ClientConfig>> {
        self.state().material.handshake().map(Arc::new)
    }

    /// The next password to try; the reason of the last refusal where there is none to be tried now.
    pub(super) fn next_login(&self) -> Result<Login, String> {
        let now = Instant::now();
        let mut state = self.state();
        if state.eligible(now).is_none() {
            state.read_password(now);
        }
        let user = state.user.clone().unwrap_or_default();
        match state.eligible(now) {
            Some(password) => Ok(Login { user, password: password.text.clone() }),
            None => {
                let refused = state.passwords.first().and_then(|password| password.refused.as_ref());
                Err(refused.map_or_else(|| "there is no password".to_owned(), |(_, reason)| reason.clone()))
            }
        }
    }

    /// etcd took this password.
    pub(super) fn accept(&self, login: &Login) {
        let mut state = self.state();
        let Some(place) = state.place_of(login) else { return };
        let is_first_login = !std::mem::replace(&mut state.has_logged_in, true);
        let password = &mut state.passwords[place];
        password.refused = None;
        if std::mem::replace(&mut password.is_accepted, true) {
            return;
        }
        state.passwords.truncate(place + 1);
        state.passwords.drain(..place).for_each(drop);
        if let Some(file) = state.password_file.as_ref().filter(|_| !is_first_login) {
            let file = file.display();
            tracing::info!(user = login.user, %file, "etcd takes the password that --{PASSWORD_FILE} holds now");
        }
    }

    /// etcd refused this password: looks at once whether the file holds another one by now.
    pub(super) fn refuse(&self, login: &Login, reason: &str) {
        let now = Instant::now();
        let mut state = self.state();
        match state.place_of(login) {
            Some(0) => {
                let is_new = state.passwords[0].refused.is_none();
                state.passwords[0].refused = Some((now, reason.to_owned()));
                if is_new && let Some(problem) = state.untaken() {
                    tracing::warn!(
                        place = problem.place,
                        reason,
                        "etcd does not take this password yet: {}",
                        problem.expected
                    );
                }
            }
            // The predecessor has had its day: etcd has another one now, most likely the newest.
            Some(place) => {
                state.passwords.remove(place);
                state.passwords[0].refused = None;
            }
            None => {}
        }
        state.read_password(now);
    }

    /// A reason with what an operator can do about it, where it is one of credentials.
    pub(super) fn explain(&self, reason: &str) -> String {
        match self.state().advice(reason) {
            Some(advice) => format!("{reason} ({advice})"),
            None => reason.to_owned(),
        }
    }

    /// Files that cannot be used, and a password that etcd does not take yet.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut state = self.state();
        let now = Instant::now();
        if !state.unusable.is_empty() && is_due(state.looked_at, LOOK_EVERY, now) {
            state.looked_at = Some(now);
            if state.unusable.contains_key(PASSWORD_FILE) {
                state.read_password(now);
            }
            state.read_certificates();
        }
        state.unusable.values().map(Unusable::problem).chain(state.untaken()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A password that may be sent now.
    fn eligible(&self, now: Instant) -> Option<&Password> {
        let may_be_sent = |password: &&Password| {
            let refused_at = password.refused.as_ref().map(|(at, _)| *at);
            is_due(refused_at, REFUSED_FOR, now)
        };
        self.passwords.iter().find(may_be_sent)
    }

    fn place_of(&self, login: &Login) -> Option<usize> {
        let is_meant = self.user.as_ref() == Some(&login.user);
        self.passwords.iter().position(|password| is_meant && password.text == login.password)
    }

    /// This is the password now; `false`: it was already. The one that etcd still takes is kept behind it.
    fn take_password(&mut self, text: String) -> bool {
        if self.passwords.first().is_some_and(|newest| newest.text == text) {
            return false;
        }
        let known = std::mem::take(&mut self.passwords);
        let (same, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|password| password.text == text);
        let newest = same.into_iter().next().unwrap_or(Password { text, is_accepted: false, refused: None });
        let accepted = others.into_iter().find(|password| password.is_accepted && password.refused.is_none());
        self.passwords = [Some(newest), accepted].into_iter().flatten().collect();
        true
    }

    /// Reads the password's file, unless that was a moment ago.
    fn read_password(&mut self, now: Instant) {
        let Some(path) = self.password_file.clone() else { return };
        if !is_due(self.password_read_at, READ_EVERY, now) {
            return;
        }
        self.password_read_at = Some(now);
        let wrong = |reason: String| Unusable { setting: PASSWORD_FILE, path: path.clone(), reason };
        let found = read(PASSWORD_FILE, &path).and_then(|content| {
            let text = String::from_utf8(content).map_err(|_| wrong("holds no text".into()))?;
            password_in(&text).map(str::to_owned).ok_or_else(|| wrong("has an empty first line".into()))
        });
        match found {
            Ok(password) => {
                self.note_usable(PASSWORD_FILE);
                self.take_password(password);
            }
            Err(unusable) => self.note_unusable(unusable),
        }
    }

    /// Takes what the files of certificates hold, as far as it can be used; tells what is another than before.
    fn read_certificates(&mut self) -> Vec<&'static str> {
        let mut material = self.material.clone();
        let tls = self.tls.clone().unwrap_or_default();
        match read_ca(&tls) {
            Ok(ca) => {
                self.note_usable(CA);
                material.ca = ca;
            }
            Err(unusable) => self.note_unusable(unusable),
        }
        match read_identity(&tls) {
            Ok(identity) => {
                [CERT, KEY].iter().for_each(|setting| self.note_usable(setting));
                material.identity = identity;
            }
            // Which of the two files is to blame may be another one than before.
            Err(unusable) => {
                let other = if unusable.setting == CERT { KEY } else { CERT };
                self.unusable.remove(other);
                self.note_unusable(unusable);
            }
        }
        let before = std::mem::replace(&mut self.material, material);
        before.differing(&self.material)
    }

    fn note_unusable(&mut self, unusable: Unusable) {
        if self.unusable.get(unusable.setting) != Some(&unusable) {
            let Unusable { setting, path, reason } = &unusable;
            tracing::warn!(file = %path.display(), reason, "--{setting} cannot be used: what it held before stays in use");
        }
        self.unusable.insert(unusable.setting, unusable);
    }

    fn note_usable(&mut self, setting: &str) {
        if let Some(Unusable { setting, path, .. }) = self.unusable.remove(setting) {
            tracing::info!(file = %path.display(), "--{setting} can be used again");
        }
    }

    /// The file is ahead of etcd.
    fn untaken(&self) -> Option<Problem> {
        let (Some(path), [newest, _]) = (&self.password_file, &self.passwords[..]) else { return None };
        let (_, reason) = newest.refused.as_ref()?;
        let user = self.user.as_deref().unwrap_or_default();
        let expected = format!(
            "the password of etcd's user {user}: `etcdctl user passwd {user}` gives it this one; until then the one \
             before it is used, which a restart forgets"
        );
        Some(Problem::of_error(format!("--{PASSWORD_FILE} {}", path.display()), reason, expected))
    }

    fn advice(&self, reason: &str) -> Option<String> {
        let says = |text: &str| reason.contains(text);
        let mut advice = String::new();
        let tls = self.tls.clone().unwrap_or_default();
        let written = if says("authentication failed") {
            let user = self.user.as_deref().unwrap_or_default();
            match &self.password_file {
                Some(path) => write!(
                    advice,
                    "user {user}: --{PASSWORD_FILE} {} does not hold the password that etcd has for it, or etcd has no \
                     such user; the file is read again",
                    path.display()
                ),
                None => {
                    write!(advice, "user {user}: etcd has no such user, or another password for it: --{PASSWORD_FILE}")
                }
            }
        } else if says("permission denied") {
            match (&self.user, &tls.cert) {
                (Some(user), _) => write!(advice, "user {user}: its role in etcd does not allow it"),
                (None, Some(cert)) => {
                    write!(advice, "the role of the user that --{CERT} {} names does not allow it", cert.display())
                }
                (None, None) => return None,
            }
        } else if says("user name is empty") && self.user.is_none() {
            write!(advice, "etcd wants to know who we are: --{USER} with --{PASSWORD_FILE}")
        } else if says("invalid peer certificate") {
            match &tls.ca {
                Some(ca) => write!(
                    advice,
                    "--{CA} {} does not hold the authority of etcd's certificate, or that one is not valid now; the file \
                     is read again",
                    ca.display()
                ),
                None => write!(advice, "no authority of this system signed it: --{CA}"),
            }
        } else if convert::is_of_certificates(reason) {
            match &tls.cert {
                Some(cert) => write!(
                    advice,
                    "etcd does not take --{CERT} {}: another authority's, or out of date? The file is read again",
                    cert.display()
                ),
                None => write!(advice, "does etcd ask for a certificate? --{CERT} with --{KEY}"),
            }
        } else {
            return None;
        };
        written.ok().map(|()| advice)
    }
}

fn flags(settings: &[&str]) -> String {
    settings.iter().map(|setting| format!("--{setting}")).collect::<Vec<_>>().join(", ")
}

/// Whether something that was last done then may be done now.
fn is_due(last: Option<Instant>, pause: Duration, now: Instant) -> bool {
    last.is_none_or(|last| now >= last + pause)
}
