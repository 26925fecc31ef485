//! Credentials for etcd that change while agents run: passwords, tokens, users, roles, authentication itself, and
//! certificates. What starts on one host afterwards is known on another within [`KNOWN_WITHIN`], no agent is started
//! again, and the log tells the story.

use std::{
    cell::Cell,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use super::{
    bed::{Agent, Home, eventually},
    secured::{FAR, grant},
};
use crate::{
    engines::fake::Fake,
    etcd::{self, Cluster, Security},
};

// `etcdctl user passwd` takes what it reads up to the first space.
const ROOT: &str = "open-sesame";
const OLD: &str = "close-simsim";
const NEW: &str = "close-barley";

/// How soon a host knows what starts on another one once the credentials are good.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);

/// An etcd, an engine on the near host and none on the far one.
struct Stage {
    cluster: Cluster,
    engine: Fake,
    started: Cell<u8>,
    /// What the agents read: files that a test replaces.
    files: tempfile::TempDir,
    _runtime: Runtime,
}

impl Stage {
    fn new(security: Security, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).chain(["--bcrypt-cost=4".into()]);
        let cluster = Cluster::start(&etcd::Options { security, arguments: arguments.collect(), ..Default::default() });
        let runtime = Runtime::new().expect("a runtime");
        let engine = {
            let _inside = runtime.enter();
            Fake::start("26.1")
        };
        let files = tempfile::tempdir().expect("a directory");
        Self { cluster, engine, started: Cell::new(0), files, _runtime: runtime }
    }

    /// An etcd with a user for each host, whose password is the old one, as is the file's.
    fn with_passwords(arguments: &[&str]) -> Self {
        let stage = Self::new(Security::Plain, arguments);
        for host in ["near", "far"] {
            grant(&stage.cluster, host, Some(OLD));
        }
        stage.cluster.enable_auth(ROOT);
        stage.write("password", OLD);
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("text").to_owned()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("a file");
    }

    /// Both agents, each with these arguments and its own user.
    fn homes(&self, arguments: impl Fn(&str) -> Vec<String>) -> (Home, Home) {
        let engine = format!("unix://{}", self.engine.path.display());
        let home = |host: &str, docker: &[&str]| {
            let (endpoint, more) = (self.cluster.endpoint(0), arguments(host));
            let more: Vec<&str> = more.iter().map(String::as_str).collect();
            Home::new(&[&["--host-id", host, "--etcd-endpoints", &endpoint], docker, &more[..]].concat())
        };
        (home("near", &["--docker-host", &engine]), home("far", &FAR))
    }

    fn homes_with_passwords(&self) -> (Home, Home) {
        self.homes(|host| {
            ["--etcd-user", host, "--etcd-password-file", &self.text("password")].map(str::to_owned).into()
        })
    }

    /// As root, while authentication is on.
    fn root(&self, arguments: &[&str]) {
        self.cluster.ctl(&[&[&*format!("--user=root:{ROOT}")], arguments].concat());
    }

    fn change_passwords(&self, password: &str) {
        for host in ["near", "far"] {
            self.cluster.change_password(ROOT, host, password);
        }
    }

    /// Starts one more container on the near host.
    fn start_one(&self) -> (String, String) {
        self.started.set(self.started.get() + 1);
        let (service, address) = self.engine.start_another(self.started.get());
        (format!("{service}.shop"), address)
    }

    /// A container that starts now on the near host is soon known on the far one.
    #[track_caller]
    fn is_known(&self, far: &Home) {
        let (name, address) = self.start_one();
        let began = Instant::now();
        far.until_address(&name, &address);
        assert!(began.elapsed() < KNOWN_WITHIN, "{name} is known after {:?}", began.elapsed());
    }
}

/// Waits for the warning that the registry takes nothing, or is not there, and for the problem that stands while it
/// lasts.
#[track_caller]
fn until_warned(home: &Home, texts: &[&str]) {
    let says = |line: &String| texts.iter().all(|text| line.contains(text));
    let line = eventually(format_args!("a warning that says {texts:?}"), || {
        home.log_line(" WARN ").filter(|line| line.contains("the registry")).filter(says)
    });
    assert!(line.contains("the registry"), "{line}");
    until_problem(home, texts);
}

#[track_caller]
fn until_problem(home: &Home, texts: &[&str]) {
    let says = |problem: &String| texts.iter().all(|text| problem.contains(text));
    eventually(format_args!("a problem that says {texts:?}"), || home.problems().into_iter().find(says));
}

/// Waits until it is told that all is well again.
#[track_caller]
fn until_well(home: &Home) {
    let ends = ["the registry takes writes of this host again", "the registry is back"];
    eventually("its end is told", || ends.iter().find_map(|end| home.log_line(end)));
    eventually("the problem ends", || {
        home.problems().iter().all(|problem| !problem.starts_with("--etcd")).then_some(())
    });
}

#[track_caller]
fn tells_no_secret(home: &Home) {
    for secret in [ROOT, OLD, NEW, "PRIVATE KEY"] {
        assert_eq!(home.logged(secret), 0, "{secret} is in the log");
    }
}

#[test]
fn a_password_that_etcd_has_first_is_read_from_the_file_when_a_login_is_refused() {
    let stage = Stage::with_passwords(&[]);
    let (near, far) = stage.homes_with_passwords();
    let (_near, _far) = (near.start(), far.start());
    stage.is_known(&far);
    stage.change_passwords(NEW);
    let (name, address) = stage.start_one();
    let file = stage.text("password");
    for home in [&near, &far] {
        until_warned(home, &["invalid user ID or password", &file]);
    }
    stage.write("password", NEW);
    let began = Instant::now();
    far.until_address(&name, &address);
    assert!(began.elapsed() < KNOWN_WITHIN, "{:?}", began.elapsed());
    stage.is_known(&far);
    for home in [&near, &far] {
        until_well(home);
        let told = home.log_line("etcd takes the password").filter(|line| line.contains(" INFO ")).expect("a line");
        assert!(told.contains(&file), "{told}");
        tells_no_secret(home);
    }
}

#[test]
fn a_password_that_the_file_has_first_leaves_no_gap() {
    let mut stage = Stage::with_passwords(&[]);
    let (near, far) = stage.homes_with_passwords();
    let agents = (near.start(), far.start());
    stage.is_known(&far);
    stage.write("password", NEW);
    hang_up(&[&agents.0, &agents.1]);
    for home in [&near, &far] {
        let line = eventually("it says what it has read", || home.log_line("reloaded"));
        assert!(line.contains(" INFO ") && line.contains("etcd-password-file"), "{line}");
    }
    // Tokens live in etcd's memory only: both have to log in again, and etcd still wants the old one.
    stage.cluster.restart(0);
    stage.cluster.wait_healthy(0);
    stage.is_known(&far);
    stage.change_passwords(NEW);
    stage.is_known(&far);
    for home in [&near, &far] {
        assert_eq!(home.logged("takes no writes"), 0, "no gap");
        tells_no_secret(home);
    }
}

#[test]
fn sighup_reads_the_password_file_and_says_so() {
    let stage = Stage::with_passwords(&[]);
    let (near, far) = stage.homes_with_passwords();
    let agents = (near.start(), far.start());
    stage.is_known(&far);
    hang_up(&[&agents.0, &agents.1]);
    for home in [&near, &far] {
        let line = eventually("it says what it has read", || home.log_line("reloaded"));
        assert!(line.contains("nothing has changed") && line.contains(&stage.text("password")), "{line}");
    }
    stage.change_passwords(NEW);
    stage.write("password", NEW);
    hang_up(&[&agents.0, &agents.1]);
    stage.is_known(&far);
    for home in [&near, &far] {
        let told = || home.log_line("reloaded").filter(|line| line.contains("reloaded: etcd-password-file"));
        eventually("it says what has changed", told);
    }

    // What cannot be used is refused whole, and nothing is lost by it.
    stage.write("password", "");
    hang_up(&[&agents.0]);
    eventually("it is refused", || near.log_line("is refused").filter(|line| line.contains("its first line is empty")));
    stage.is_known(&far);
}

#[test]
fn a_password_file_that_cannot_be_read_leaves_the_password_as_it_is_and_is_a_problem_meanwhile() {
    let mut stage = Stage::with_passwords(&[]);
    let (near, far) = stage.homes_with_passwords();
    let _agents = (near.start(), far.start());
    stage.is_known(&far);
    fs::remove_file(stage.path("password")).expect("a file");
    // etcd has another password for a moment and no tokens, so that a login is refused and the file is read.
    stage.change_passwords(NEW);
    stage.cluster.restart(0);
    stage.cluster.wait_healthy(0);
    let file = stage.text("password");
    let problem = eventually("a problem", || {
        near.problems().into_iter().find(|problem| problem.starts_with("--etcd-password-file"))
    });
    assert!(problem.contains(&file) && problem.contains("cannot be read"), "{problem}");
    let line = near.log_line("cannot be used").expect("a line");
    assert!(line.contains(" WARN ") && line.contains(&file), "{line}");
    stage.change_passwords(OLD);
    stage.is_known(&far);
    stage.write("password", OLD);
    stage.change_passwords(NEW);
    stage.write("password", NEW);
    stage.is_known(&far);
    until_well(&near);
    tells_no_secret(&near);
}

#[test]
fn roles_and_users_that_change_while_agents_run_are_found_as_they_are() {
    let stage = Stage::with_passwords(&[]);
    let (near, far) = stage.homes_with_passwords();
    let _agents = (near.start(), far.start());
    stage.is_known(&far);

    stage.root(&["user", "revoke-role", "near", "near"]);
    let (name, address) = stage.start_one();
    until_warned(&near, &["permission denied", "user near"]);
    stage.root(&["user", "grant-role", "near", "near"]);
    let began = Instant::now();
    far.until_address(&name, &address);
    assert!(began.elapsed() < KNOWN_WITHIN, "{:?}", began.elapsed());
    until_well(&near);

    for host in ["near", "far"] {
        stage.root(&["user", "delete", host]);
    }
    stage.start_one();
    until_warned(&near, &["invalid user ID or password", "user near", &stage.text("password")]);
    for host in ["near", "far"] {
        stage.root(&["user", "add", &format!("{host}:{OLD}")]);
        stage.root(&["user", "grant-role", host, host]);
    }
    stage.is_known(&far);
    until_well(&near);
    assert_eq!(near.metric("portolan_registry_lease_losses_total"), 0.0);
}

#[test]
fn authentication_is_switched_off_and_on_while_agents_run() {
    let stage = Stage::with_passwords(&[]);
    let (near, far) = stage.homes_with_passwords();
    let _agents = (near.start(), far.start());
    stage.is_known(&far);
    for _ in 0..2 {
        stage.root(&["auth", "disable"]);
        stage.is_known(&far);
        stage.cluster.ctl(&["auth", "enable"]);
        stage.is_known(&far);
    }
    // Both have logged in, and each follows with a user.
    for home in [&near, &far] {
        tells_no_secret(home);
        assert_eq!(home.logged("takes no writes"), 0);
    }
}

#[test]
fn tokens_that_expire_are_renewed_also_signed_ones() {
    let keys = tempfile::tempdir().expect("a directory");
    let [private, public] = ["token.key", "token.pub"].map(|name| keys.path().join(name).display().to_string());
    etcd::openssl(keys.path(), &format!("genrsa -out {private} 2048"));
    etcd::openssl(keys.path(), &format!("rsa -in {private} -pubout -out {public}"));
    let signed = format!("--auth-token=jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=2s");
    for arguments in [&["--auth-token-ttl=1"][..], &[&signed]] {
        let stage = Stage::with_passwords(arguments);
        let (near, far) = stage.homes_with_passwords();
        let _agents = (near.start(), far.start());
        stage.is_known(&far);
        // An agent that has nothing to tell writes its echo every 10 s: by then its token has expired.
        let first = stage.cluster.logins("OK");
        eventually("both log in again", || (stage.cluster.logins("OK") >= first + 2).then_some(()));
        stage.is_known(&far);
        // Any change of users makes signed tokens old.
        stage.root(&["user", "add", "another:another"]);
        stage.is_known(&far);
        stage.change_passwords(NEW);
        stage.write("password", NEW);
        stage.is_known(&far);
    }
}

/// Sends SIGHUP.
fn hang_up(agents: &[&Agent<'_>]) {
    agents.iter().for_each(|agent| agent.signal(Signal::SIGHUP));
}

/// The names of what an agent reads for TLS.
const TLS: [(&str, &str); 3] = [("--etcd-ca", "ca.pem"), ("--etcd-cert", "agent.pem"), ("--etcd-key", "agent.key")];

impl Stage {
    fn with_certificates() -> Self {
        let stage = Self::new(Security::ClientCertificates, &[]);
        stage.issue("agent");
        stage
    }

    /// Gives the agents a certificate with this common name, and the authority as it is now.
    fn issue(&self, name: &str) {
        let etcd::Certificates { ca, cert, key } = self.cluster.certificate_of(name);
        for (from, (_, to)) in [ca, cert, key].iter().zip(TLS) {
            self.write(to, fs::read(from).expect("a file"));
        }
    }

    fn homes_with_certificates(&self) -> (Home, Home) {
        self.homes(|_| TLS.iter().flat_map(|(flag, name)| [(*flag).to_owned(), self.text(name)]).collect())
    }

    fn restart(&mut self) {
        self.cluster.restart(0);
        self.cluster.wait_healthy(0);
    }
}

/// Half of a file, as one that is being written.
fn half(path: &Path) -> Vec<u8> {
    let content = fs::read(path).expect("a file");
    content[..content.len() / 2].to_vec()
}

#[test]
fn another_authority_and_the_certificates_that_it_signed_are_read_without_a_restart() {
    let mut stage = Stage::with_certificates();
    let (near, far) = stage.homes_with_certificates();
    let _agents = (near.start(), far.start());
    stage.is_known(&far);
    stage.cluster.replace_certificates();
    stage.restart();
    for home in [&near, &far] {
        until_warned(home, &["invalid peer certificate", &stage.text("ca.pem")]);
    }
    // The authority alone: now it is etcd that does not trust the agents.
    stage.write("ca.pem", fs::read(stage.cluster.directory().join("ca.pem")).expect("a file"));
    for home in [&near, &far] {
        // Older ones say BadCertificate, newer ones UnknownCA.
        until_problem(home, &["received fatal alert: ", &stage.text("agent.pem")]);
    }
    stage.issue("agent");
    stage.is_known(&far);
    for home in [&near, &far] {
        until_well(home);
        tells_no_secret(home);
    }
}

#[test]
fn files_that_are_half_written_leave_the_certificates_as_they_are_and_are_a_problem_meanwhile() {
    let mut stage = Stage::with_certificates();
    let (near, far) = stage.homes_with_certificates();
    let (first, _far) = (near.start(), far.start());
    stage.is_known(&far);
    for (flag, name) in TLS {
        let whole = fs::read(stage.path(name)).expect("a file");
        stage.write(name, half(&stage.path(name)));
        hang_up(&[&first]);
        eventually("it is refused", || {
            near.log_line("is refused").filter(|line| line.contains(flag) && line.contains(&stage.text(name)))
        });
        stage.restart();
        let problem = eventually(format_args!("a problem of {name}"), || {
            near.problems().into_iter().find(|problem| problem.starts_with(&format!("{flag} ")))
        });
        assert!(problem.contains(&stage.text(name)), "{problem}");
        stage.is_known(&far);
        stage.write(name, whole);
        stage.restart();
        stage.is_known(&far);
        until_well(&near);
    }
    tells_no_secret(&near);
}

#[test]
fn sighup_makes_connections_with_the_certificates_that_are_there_now() {
    let stage = Stage::with_certificates();
    for host in ["near", "far"] {
        grant(&stage.cluster, host, None);
    }
    // The common name is the user, and this one is of both hosts.
    for user in ["agent", "renewed"] {
        stage.cluster.ctl(&["user", "add", "--no-password", user]);
        for host in ["near", "far"] {
            stage.cluster.ctl(&["user", "grant-role", user, host]);
        }
    }
    stage.cluster.enable_auth(ROOT);
    let (near, far) = stage.homes_with_certificates();
    let agents = (near.start(), far.start());
    stage.is_known(&far);
    stage.issue("renewed");
    hang_up(&[&agents.0, &agents.1]);
    for home in [&near, &far] {
        let line = eventually("it says what it has read", || home.log_line("reloaded"));
        assert!(line.contains("etcd-cert") && line.contains("etcd-key"), "{line}");
    }
    stage.root(&["user", "delete", "agent"]);
    stage.is_known(&far);
    for home in [&near, &far] {
        assert_eq!(home.logged("takes no writes"), 0);
        assert_eq!(home.logged(" WARN the registry"), 0);
        tells_no_secret(home);
    }
}
