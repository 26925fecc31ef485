//! A real Docker engine for one test: containers and networks that clean up after themselves, and a socket to it that can
//! be cut.
//!
//! Included with `#[path]` by the test binaries that need it.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    task::JoinSet,
};

/// busybox from the distribution, as an image: there is no registry.
pub(crate) const IMAGE: &str = "portolan-test-busybox:watch";
/// How long a condition may take: an engine that is busy with other tests starts a container in a second or two.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// Where the engine listens.
pub(crate) const SOCKET: &str = "/var/run/docker.sock";

/// Runs the Docker client and gives what it printed; a failure fails the test with what it said.
#[track_caller]
pub(crate) fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the `docker` client must be installed: these tests need a Docker engine (see `make setup`)");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "docker {}: {error}(these tests need a Docker engine)", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn make_image() {
    // Each test is a process of its own: without a lock two of them would import, and leave an image without a name.
    let busybox = std::fs::File::open("/bin/busybox").expect("/bin/busybox of busybox-static (see `make setup`)");
    let _lock = Flock::lock(busybox, FlockArg::LockExclusive).map_err(|(_, error)| error).expect("a lock");
    if !docker(&["image", "ls", "-q", IMAGE]).is_empty() {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (root, archive) = (directory.path().join("root"), directory.path().join("image.tar"));
    std::fs::create_dir_all(root.join("bin")).expect("bin/");
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("a copy");
    for applet in ["sh", "sleep", "true"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    let tar = Command::new("tar").arg("cfC").arg(&archive).arg(&root).arg(".").status().expect("tar");
    assert!(tar.success(), "tar: {tar}");
    let archive = archive.to_str().expect("a path of plain characters");
    docker(&["import", "--change", "LABEL portolan-test=watch", archive, IMAGE]);
}

/// What one test makes on the engine; gone with it, however it ends.
pub(crate) struct Bed {
    label: String,
    prefix: String,
    containers: Mutex<Vec<String>>,
    networks: Mutex<Vec<String>>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        // One command for all: the client removes them at the same time, and goes on where one is gone.
        let remove = |command: &[&str], names: &Mutex<Vec<String>>| {
            let names = std::mem::take(&mut *names.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            if !names.is_empty() {
                let _ = Command::new("docker").args(command).args(names).output();
            }
        };
        remove(&["rm", "-f"], &self.containers);
        remove(&["network", "rm"], &self.networks);
    }
}

impl Bed {
    /// `family` is the label `portolan-test` of all that is made, and begins its names.
    pub(crate) fn new(family: &str, test: &str) -> Self {
        make_image();
        let (label, prefix) = (format!("portolan-test={family}"), format!("{family}-{test}-{}", std::process::id()));
        Self { label, prefix, containers: Mutex::default(), networks: Mutex::default() }
    }

    /// A name on the engine that is this test's own.
    pub(crate) fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix)
    }

    /// Removes a container of this name on drop, too, whoever makes it.
    pub(crate) fn adopt(&self, short: &str) -> String {
        let name = self.name(short);
        self.containers.lock().expect("no test panics with the lock held").push(name.clone());
        name
    }

    /// Starts a container and gives its full id.
    #[track_caller]
    pub(crate) fn run(&self, short: &str, options: &[&str], command: &[&str]) -> String {
        self.run_image(IMAGE, short, options, command)
    }

    /// As [`Bed::run`], from another image.
    #[track_caller]
    pub(crate) fn run_image(&self, image: &str, short: &str, options: &[&str], command: &[&str]) -> String {
        let name = self.adopt(short);
        let mut arguments = vec!["run", "-d", "--init", "--label", &self.label, "--name", &name];
        arguments.extend(options);
        arguments.push(image);
        arguments.extend(command);
        docker(&arguments)
    }

    /// Starts a container that sleeps, on a service of its own name.
    #[track_caller]
    pub(crate) fn sleeper(&self, short: &str, options: &[&str]) -> String {
        self.run(short, options, &["sleep", "1000"])
    }

    /// Waits until a container has printed a word.
    pub(crate) async fn says(&self, short: &str, word: &str) {
        let spoken = async {
            while !docker(&["logs", &self.name(short)]).contains(word) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, spoken).await.expect("the container speaks");
    }

    #[track_caller]
    pub(crate) fn network(&self, short: &str, options: &[&str]) -> String {
        let name = self.name(short);
        self.networks.lock().expect("no test panics with the lock held").push(name.clone());
        let mut arguments = vec!["network", "create", "--label", &self.label];
        arguments.extend(options);
        arguments.push(&name);
        docker(&arguments);
        name
    }

    /// Removes the container on drop under its new name, too.
    pub(crate) fn rename(&self, from: &str, to: &str) {
        docker(&["rename", &self.name(from), &self.adopt(to)]);
    }
}

/// What the socket between does to requests whose first line contains a text.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Takes it and never answers.
    Stall(String),
    /// Answers it with nonsense.
    Garbage(String),
}

/// A socket between the follower and the engine.
pub(crate) struct Between {
    pub(crate) path: PathBuf,
    faults: Arc<Mutex<Vec<Fault>>>,
    tasks: Option<JoinSet<()>>,
    _directory: tempfile::TempDir,
}

impl Between {
    /// There is no socket before [`Between::restore`].
    pub(crate) fn absent() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("docker.sock");
        Self { path, faults: Arc::default(), tasks: None, _directory: directory }
    }

    pub(crate) fn set(&self, faults: &[Fault]) {
        *self.faults.lock().expect("no test panics with the lock held") = faults.to_vec();
    }

    /// Ends all connections and removes the socket.
    pub(crate) fn cut(&mut self) {
        self.tasks = None;
        let _ = std::fs::remove_file(&self.path);
    }

    /// Makes a new socket.
    pub(crate) fn restore(&mut self) {
        let listener = UnixListener::bind(&self.path).expect("a socket");
        let faults = self.faults.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // Connections end with this task, that is with the socket.
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                let faults = faults.lock().expect("no test panics with the lock held").clone();
                connections.spawn(carry(client, faults));
            }
        });
        self.tasks = Some(tasks);
    }
}

async fn carry(mut client: UnixStream, faults: Vec<Fault>) {
    // One request comes on each connection, and its head in one piece.
    let mut head = vec![0; 16 << 10];
    let Ok(length) = client.read(&mut head).await else { return };
    let line = String::from_utf8_lossy(&head[..length]).lines().next().unwrap_or_default().to_owned();
    for fault in faults {
        match fault {
            Fault::Stall(text) if line.contains(&text) => std::future::pending().await,
            Fault::Garbage(text) if line.contains(&text) => {
                let _ = client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"Id\":7}").await;
                return;
            }
            Fault::Stall(_) | Fault::Garbage(_) => {}
        }
    }
    let Ok(mut engine) = UnixStream::connect(SOCKET).await else { return };
    if engine.write_all(&head[..length]).await.is_ok() {
        let _ = copy_bidirectional(&mut client, &mut engine).await;
    }
}
