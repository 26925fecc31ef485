//! The README's first commands on a machine that has Docker, Rust, git, make and a C compiler, and where `make setup`
//! never ran: a container with the root file system of such a machine and the engine's socket.
//!
//! Cargo's registry and the compiled dependencies of this build are mounted to save time: the test compiles our own
//! crate only, and without optimising it, which would be half of its time.

use std::{env, path::Path, process::Command};

use super::{
    bed::{outer, run},
    deploy::{demonstration, repository},
};

/// The root file system.
const IMAGE: &str = "portolan-test-bare";
/// The repository, as something to clone.
const ORIGIN: &str = "/srv/portolan.git";

/// What a command printed, without its last line break; a failure fails the test.
fn said_by(command: &mut Command) -> String {
    run(command).unwrap_or_else(|error| panic!("{command:?}: {error}")).trim().to_owned()
}

/// A script of the README: the first one below this headline.
fn readme(headline: &str) -> String {
    let readme = include_str!("../../README.md");
    let below = readme.split_once(headline).unwrap_or_else(|| panic!("no {headline}")).1;
    let script = below.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    script.unwrap_or_else(|| panic!("no script below {headline}")).to_owned()
}

/// Such a machine.
struct Machine {
    directory: tempfile::TempDir,
    sysroot: String,
}

impl Machine {
    /// With the repository as it is in this folder, also with what is not committed yet.
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let git = |arguments: &[&str]| {
            let mut command = Command::new("git");
            command.current_dir(repository("")).args(arguments);
            // What is staged here stays as it is.
            command.env("GIT_INDEX_FILE", directory.path().join("index"));
            for role in ["AUTHOR", "COMMITTER"] {
                command.env(format!("GIT_{role}_NAME"), "test").env(format!("GIT_{role}_EMAIL"), "test@localhost");
            }
            said_by(&mut command)
        };
        let origin = directory.path().join("portolan.git");
        let origin = origin.to_str().expect("a path of plain characters");
        git(&["init", "-q", "--bare", "-b", "main", origin]);
        // The folder may be a shallow clone.
        git(&["-C", origin, "config", "receive.shallowUpdate", "true"]);
        git(&["read-tree", "HEAD"]);
        git(&["add", "--all"]);
        let commit = git(&["commit-tree", "-m", "As it is", "-p", "HEAD", &git(&["write-tree"])]);
        git(&["push", "-q", origin, &format!("{commit}:refs/heads/main")]);
        Self { directory, sysroot: said_by(Command::new("rustc").args(["--print", "sysroot"])) }
    }

    /// `docker run` for a script there, with further options.
    fn run(&self, options: &[&str], script: &str) -> Command {
        let origin = format!("{}/portolan.git:{ORIGIN}:ro", self.directory.path().display());
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--label", "portolan-test=bare", "-v", &origin]);
        command.args(["-v", &format!("{0}:{0}:ro", self.sysroot)]);
        command.args(["-v", "/var/run/docker.sock:/var/run/docker.sock", "--workdir", "/root"]);
        command.args(["-e", &format!("PATH={}/bin:/usr/local/bin:/usr/bin:/bin", self.sysroot)]);
        // The repository belongs to the user who runs the test, and git asks for consent to read another user's.
        let script = format!("git config --global --add safe.directory '*'\n{script}");
        command.args(options).args([IMAGE, "bash", "-euc", &script]);
        command
    }
}

#[test]
fn the_first_commands_of_the_readme_work_where_nothing_was_set_up() {
    let machine = Machine::new();
    let cargo_home = env::var("CARGO_HOME").unwrap_or_else(|_| format!("{}/.cargo", env::var("HOME").expect("a home")));
    // Where this very test was compiled.
    let compiled = Path::new(env!("CARGO_BIN_EXE_portolan")).parent().expect("a folder").display();
    let (registry, seed) =
        (format!("{0}/registry:{0}/registry:ro", cargo_home), format!("{compiled}:/srv/compiled:ro"));
    let home = format!("CARGO_HOME={cargo_home}");
    let options =
        ["-v", &registry, "-v", &seed, "-e", &home, "-v", "/srv/target", "-e", "CARGO_TARGET_DIR=/srv/target"];
    // Without what was compiled of the repository itself.
    let seed = "mkdir -p /srv/target/debug\ncd /srv/compiled\n\
                tar -c --exclude='portolan-*' --exclude='libportolan-*' --exclude='e2e-*' --exclude='it-*' --exclude='sim-*' \
                --exclude='contract-*' --exclude='*.d' deps build .fingerprint | tar -x -C /srv/target/debug\ncd /root\n\
                printf '[profile.dev.package.portolan]\\nopt-level = 0\\ndebug = false\\n' >$CARGO_HOME/config.toml\n";
    let commands = readme("## Quick start").replace("URL", ORIGIN);
    assert!(commands.contains("git clone") && commands.contains("make demo"), "{commands}");
    demonstration(&mut machine.run(&options, &format!("{seed}{commands}")));
    assert_eq!(outer(&["image", "ls", "-q", "portolan-demo"]), "", "an image is left");
}

#[test]
fn what_is_missing_for_the_demonstration_is_named_with_the_line_that_brings_it() {
    let machine = Machine::new();
    let clone = format!("git clone -q {ORIGIN} /tmp/portolan\ncd /tmp/portolan\nmake demo");
    let without_rust = format!("export PATH=/usr/local/bin:/usr/bin:/bin\n{clone}");
    let as_user: &[&str] = &["--user", "65534:65534", "-e", "HOME=/tmp"];
    let install = "sudo apt-get update && sudo apt-get install --no-install-recommends";
    for (options, script, expected) in [
        (as_user, &clone, &*format!("{install} protobuf-compiler libprotobuf-dev")),
        (as_user, &without_rust, install),
        (&["-e", "DOCKER_HOST=unix:///nonexistent.sock"], &clone, "the Docker engine does not answer"),
        (&[], &without_rust, "https://rustup.rs"),
    ] {
        let error = run(&mut machine.run(options, script)).expect_err("something is missing");
        assert!(error.contains(expected), "{options:?} {script}: {expected} is not in: {error}");
    }
}
