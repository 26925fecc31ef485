//! What deploy/ and `make demo` promise, done.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use tempfile::TempDir;

use super::{
    bed::{C, Host, SOON, addresses, eventually, everywhere, expect, outer, run, unique, unique_port},
    dns::Answer,
};
use hickory_proto::rr::RecordType;

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Passes on what comes, as it comes, until either side ends. (`io::copy` uses splice(2) here, and holds small pieces.)
fn pump(from: &mut impl Read, to: &mut impl Write) {
    let mut buffer = [0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

/// A host's engine as a socket on this machine: every connection is carried by `docker system dial-stdio`.
pub(crate) struct Socket {
    directory: TempDir,
}

impl Socket {
    pub(crate) fn to(host: Host) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let listener = UnixListener::bind(directory.path().join("docker.sock")).expect("a socket");
        // Ends with the test's process.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                thread::spawn(move || Self::carry(host, client));
            }
        });
        Self { directory }
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}/docker.sock", self.directory.path().display())
    }

    fn carry(host: Host, mut client: UnixStream) {
        let mut child = Command::new("docker")
            .args(["exec", "-i", host.container, "docker", "system", "dial-stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker can be run");
        let (mut input, mut output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut upwards = client.try_clone().expect("a descriptor");
        thread::spawn(move || pump(&mut upwards, &mut input));
        pump(&mut output, &mut client);
        drop(client.shutdown(std::net::Shutdown::Both));
        drop(child.kill());
        drop(child.wait());
    }
}

/// The Compose tool, whichever there is.
pub(crate) fn compose() -> Command {
    let plugin = Command::new("docker").args(["compose", "version"]).output().is_ok_and(|o| o.status.success());
    let mut command = Command::new(if plugin { "docker" } else { "docker-compose" });
    if plugin {
        command.arg("compose");
    }
    command
}

/// deploy/compose.yaml on a host's engine; taken down, and the bed's own agent back, when dropped.
struct Composed {
    host: Host,
    socket: Socket,
    project: String,
}

impl Composed {
    fn up(host: Host) -> Self {
        let composed = Self { host, socket: Socket::to(host), project: unique("composed") };
        // SIGTERM: the bed's agent keeps its lease and has the port free.
        host.docker(&["stop", "portolan-agent"]);
        composed.compose(&["up", "-d"]).unwrap_or_else(|error| panic!("compose up: {error}"));
        composed
    }

    fn compose(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = compose();
        command
            .env("DOCKER_HOST", self.socket.url())
            .env("ETCD_IMAGE", "portolan-test-etcd")
            .env("PORTOLAN_IMAGE", "portolan:dev")
            .args(["-p", &self.project, "-f"])
            .arg(repository("deploy/compose.yaml"))
            .args(arguments);
        run(&mut command)
    }
}

impl Drop for Composed {
    fn drop(&mut self) {
        let down = self.compose(&["down", "-v", "-t", "2"]);
        self.host.docker(&["start", "portolan-agent"]);
        if !thread::panicking() {
            down.unwrap_or_else(|error| panic!("compose down: {error}"));
        }
    }
}

#[test]
fn the_compose_file_runs_as_it_is_and_containers_resolve_through_it() {
    run(Command::new("bash").args([
        "-c",
        &format!("set -o pipefail; docker save portolan-test-etcd | docker exec -i {} docker load -q", C.container),
    ]))
    .expect("the image of etcd is carried over");
    let composed = Composed::up(C);
    let service = unique("composed");
    let label = format!("portolan.service={service}");
    let network = C.network(&unique("net"));
    let server = C.run(&unique("r"), &["--label", &label, "--network", &network.name]);
    let client = C.run(&unique("client"), &["--network", &network.name]);
    let address = server.address(&network.name);
    expect("a container resolves the service", &Answer::found([address]), || {
        client.ask(&format!("{service}.svc.internal"), "A")
    });
    // It went through etcd: the record is there.
    let records = composed
        .compose(&["exec", "-T", "etcd", "etcdctl", "get", "--prefix", "/portolan/v1/hosts/"])
        .expect("etcd runs");
    assert!(records.contains(&service), "{records}");
    drop(composed);

    // And the bed is whole again.
    let publish = format!("{}:80", unique_port());
    let _after = C.run(&unique("r"), &["--label", &format!("portolan.service={service}-after"), "-p", &publish]);
    everywhere(&format!("{service}-after.svc.internal"), RecordType::A, &addresses([C]));
}

#[test]
fn the_image_runs_the_agent_and_knows_its_volume() {
    let version = outer(&["run", "--rm", "--read-only", "portolan:dev", "--version"]);
    assert_eq!(version.trim(), concat!("portolan ", env!("CARGO_PKG_VERSION")));
    let format =
        "{{json .Config.Entrypoint}} {{json .Config.Cmd}} {{json .Config.Volumes}} {{json .Config.Healthcheck}}";
    assert_eq!(
        outer(&["image", "inspect", "-f", format, "portolan:dev"]).trim(),
        r#"["portolan"] ["agent"] {"/var/lib/portolan":{}} null"#
    );
}

/// Runs the demonstration and judges what it showed and what it left.
pub(crate) fn demonstration(command: &mut Command) {
    let volumes = || outer(&["volume", "ls", "-q"]).lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let before = volumes();
    let shown = run(command).expect("the demonstration succeeds");
    let asked: Vec<&str> = shown
        .lines()
        .skip_while(|line| !line.contains("getent"))
        .filter(|line| *line == "(no such name)" || line.parse::<std::net::IpAddr>().is_ok())
        .map(|line| if line.starts_with('(') { "none" } else { "address" })
        .collect();
    assert_eq!(asked, ["none", "address", "address", "address", "address", "none"], "{shown}");
    for kind in [["ps", "-aq"], ["network", "ls"]] {
        let left = outer(&[kind[0], kind[1], "--filter", "name=portolan-demo", "--format", "{{.ID}}"]);
        assert_eq!(left, "", "left behind by the demonstration");
    }
    // The image has a volume, so every container of it has one, without a name.
    assert_eq!(volumes().difference(&before).count(), 0, "volumes left behind by the demonstration");
}

#[test]
fn the_demonstration_shows_an_answer_come_and_go_and_cleans_up() {
    let mut command = Command::new("bash");
    // It builds the agent. What Cargo sets for a test looks to `ring` as if it had to be built again, and all that needs it.
    for (key, _) in std::env::vars().filter(|(key, _)| key == "CARGO_MANIFEST_DIR" || key.starts_with("CARGO_PKG_")) {
        command.env_remove(key);
    }
    demonstration(command.arg(repository("scripts/demo.sh")));
}

#[test]
fn the_demonstration_needs_the_docker_group_and_no_more() {
    let socket = fs::metadata("/var/run/docker.sock").expect("the engine's socket");
    if fs::metadata("/proc/self").expect("proc").uid() != 0 || socket.gid() == 0 {
        eprintln!("skipped: only root can become somebody else, and the socket must belong to a group");
        return;
    }
    // Somebody else cannot read the clone, nor write into it: the script is all they have, and the image is built.
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).expect("our own directory");
    fs::create_dir(directory.path().join("scripts")).expect("a directory");
    let script = directory.path().join("scripts/demo.sh");
    fs::copy(repository("scripts/demo.sh"), &script).expect("the script");
    demonstration(
        Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", &format!("--groups={}", socket.gid()), "bash"])
            .arg(&script)
            .env("HOME", directory.path())
            .env("IMAGE", "portolan:dev"),
    );
}

/// The unit's lines as they are.
fn unit() -> String {
    fs::read_to_string(repository("deploy/portolan.service")).expect("the unit is there")
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("skipped: there is no systemd-analyze on this machine");
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("portolan.service");
    // The binary lies elsewhere here, and the verifier wants to see it.
    fs::write(&path, unit().replace("/usr/local/bin/portolan", env!("CARGO_BIN_EXE_portolan"))).expect("a file");
    let socket = directory.path().join("portolan.socket");
    fs::copy(repository("deploy/portolan.socket"), &socket).expect("a file");
    let verified = Command::new("systemd-analyze").arg("verify").args([&path, &socket]).output().expect("it was there");
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    // Other units of this machine are none of our business.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("portolan")).collect();
    assert_eq!(ours, Vec::<&str>::new(), "{said}");
    assert!(verified.status.success(), "{said}");
    run(Command::new("systemd-analyze").args(["security", "--offline=true", "--threshold=30"]).arg(&path))
        .expect("exposed less than 3.0 of 10");
}

#[test]
fn the_unit_starts_before_docker_does_not_need_it_and_never_gives_up() {
    let unit = unit();
    let lines: Vec<&str> = unit.lines().collect();
    for line in ["Type=notify", "Before=docker.service", "Restart=always", "StartLimitIntervalSec=0"] {
        assert!(lines.contains(&line), "{line} is missing");
    }
    for word in ["Requires=", "BindsTo=", "PartOf="] {
        assert!(!lines.iter().any(|line| line.starts_with(word)), "{word}: the agent must outlive Docker");
    }
}

#[test]
fn only_a_shutdown_of_the_machine_leaves() {
    let unit = unit();
    let stop = unit.lines().find_map(|line| line.strip_prefix("ExecStop=-")).expect("the unit has ExecStop");
    // systemd writes `$` as `$$`; the programs are stood in for.
    let stop = stop.replace("$$", "$").replace("/usr/local/bin/portolan", "portolan");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let called = directory.path().join("called");
    let program = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    };
    // As the real one: it prints the state, and fails unless that is `running`.
    program("systemctl", "#!/bin/sh\n[ \"$*\" = is-system-running ] || exit 9\necho $STATE\n[ $STATE = running ]\n");
    program("portolan", &format!("#!/bin/sh\necho \"$*\" >{}\n", called.display()));
    let path = format!("{}:{}", directory.path().display(), std::env::var("PATH").unwrap_or_default());
    for (state, expected) in
        [("running", ""), ("degraded", ""), ("starting", ""), ("maintenance", ""), ("stopping", "leave\n")]
    {
        drop(fs::remove_file(&called));
        run(Command::new("sh").args(["-c", &stop]).env("PATH", &path).env("STATE", state))
            .unwrap_or_else(|error| panic!("{state}: {error}"));
        assert_eq!(fs::read_to_string(&called).unwrap_or_default(), expected, "{state}");
    }
}

/// The agent's own notice that it stands: `docker logs` of the bed's agents name a line to copy.
#[test]
fn an_agent_prints_a_dig_line_to_copy() {
    eventually("the agent's log has a dig line", SOON, || {
        let logs =
            run(Command::new("docker").args(["exec", C.container, "sh", "-c", "docker logs portolan-agent 2>&1"]))?;
        if logs.contains("dig @") { Ok(()) } else { Err(logs) }
    });
}
