//! A real engine for one test: containers and networks that clean up after themselves, a follower, and a socket between
//! the two that can be cut.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use nix::fcntl::{Flock, FlockArg};
use portolan::{
    model::{Asker, Desired, Label, Local, Publication},
    watch::docker::{self, Options, Outputs, Status},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};

/// busybox from the distribution, as an image: there is no registry.
const IMAGE: &str = "portolan-test-busybox:watch";
/// How long a condition may take: an engine that is busy with other tests starts a container in a second or two.
const DEADLINE: Duration = Duration::from_secs(20);
const SOCKET: &str = "/var/run/docker.sock";

/// Runs the Docker client and gives what it printed; a failure fails the test with what it said.
#[track_caller]
pub(super) fn docker(arguments: &[&str]) -> String {
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
pub(super) struct Bed {
    prefix: String,
    containers: Mutex<Vec<String>>,
    networks: Mutex<Vec<String>>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        let remove = |command: &[&str], names: &Mutex<Vec<String>>| {
            for name in names.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..) {
                let _ = Command::new("docker").args(command).arg(name).output();
            }
        };
        remove(&["rm", "-f"], &self.containers);
        remove(&["network", "rm"], &self.networks);
    }
}

impl Bed {
    pub(super) fn new(test: &str) -> Self {
        make_image();
        let prefix = format!("watch-{test}-{}", std::process::id());
        Self { prefix, containers: Mutex::default(), networks: Mutex::default() }
    }

    /// A name on the engine that is this test's own.
    pub(super) fn name(&self, short: &str) -> String {
        format!("{}-{short}", self.prefix)
    }

    /// Starts a container and gives its full id.
    #[track_caller]
    pub(super) fn run(&self, short: &str, options: &[&str], command: &[&str]) -> String {
        let name = self.name(short);
        self.containers.lock().expect("no test panics with the lock held").push(name.clone());
        let mut arguments = vec!["run", "-d", "--init", "--label", "portolan-test=watch", "--name", &name];
        arguments.extend(options);
        arguments.push(IMAGE);
        arguments.extend(command);
        docker(&arguments)
    }

    /// Starts a container that sleeps, on a service of its own name.
    #[track_caller]
    pub(super) fn sleeper(&self, short: &str, options: &[&str]) -> String {
        self.run(short, options, &["sleep", "1000"])
    }

    /// Waits until a container has printed a word.
    pub(super) async fn says(&self, short: &str, word: &str) {
        let spoken = async {
            while !docker(&["logs", &self.name(short)]).contains(word) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, spoken).await.expect("the container speaks");
    }

    #[track_caller]
    pub(super) fn network(&self, short: &str, options: &[&str]) -> String {
        let name = self.name(short);
        self.networks.lock().expect("no test panics with the lock held").push(name.clone());
        let mut arguments = vec!["network", "create", "--label", "portolan-test=watch"];
        arguments.extend(options);
        arguments.push(&name);
        docker(&arguments);
        name
    }

    /// Removes the container on drop under its new name, too.
    pub(super) fn rename(&self, from: &str, to: &str) {
        self.containers.lock().expect("no test panics with the lock held").push(self.name(to));
        docker(&["rename", &self.name(from), &self.name(to)]);
    }
}

/// A follower of the engine, with the ends of its channels.
pub(super) struct Follower {
    pub(super) desired: watch::Receiver<Arc<Desired>>,
    pub(super) local: watch::Receiver<Arc<Local>>,
    pub(super) status: watch::Receiver<Status>,
    _task: JoinSet<()>,
}

impl Follower {
    /// Follows the engine itself, and waits for its first list.
    pub(super) async fn listed() -> Self {
        let mut follower = Self::start(SOCKET, Options::default());
        follower.desired("the first list", |desired| desired.listed).await;
        follower
    }

    pub(super) fn start(socket: impl AsRef<Path>, mut options: Options) -> Self {
        let (desired, desired_end) = watch::channel(Arc::default());
        let (local, local_end) = watch::channel(Arc::default());
        let (status, status_end) = watch::channel(Status::default());
        options.endpoint = format!("unix://{}", socket.as_ref().display()).parse().expect("an endpoint");
        let mut task = JoinSet::new();
        task.spawn(docker::follow(options, Outputs { desired, local, status }));
        Self { desired: desired_end, local: local_end, status: status_end, _task: task }
    }

    /// Waits until what is published meets a condition.
    pub(super) async fn desired(&mut self, what: &str, mut condition: impl FnMut(&Desired) -> bool) {
        wait(&mut self.desired, what, |desired| condition(desired)).await;
    }

    /// Waits until the publication of a container meets a condition.
    pub(super) async fn publishes(&mut self, name: &str, mut condition: impl FnMut(&Publication) -> bool) {
        self.desired(&format!("{name} is published as expected"), |desired| {
            find(desired, name).is_some_and(|publication| condition(publication))
        })
        .await;
    }

    /// Waits until a container is not published.
    pub(super) async fn withdraws(&mut self, name: &str) {
        self.desired(&format!("{name} is withdrawn"), |desired| find(desired, name).is_none()).await;
    }

    pub(super) fn publication(&self, name: &str) -> Option<Arc<Publication>> {
        find(&self.desired.borrow(), name).cloned()
    }

    pub(super) async fn local(&mut self, what: &str, mut condition: impl FnMut(&Local) -> bool) {
        wait(&mut self.local, what, |local| condition(local)).await;
    }

    pub(super) async fn status(&mut self, what: &str, condition: impl FnMut(&Status) -> bool) {
        wait(&mut self.status, what, condition).await;
    }
}

fn find<'a>(desired: &'a Desired, name: &str) -> Option<&'a Arc<Publication>> {
    desired.publications.values().find(|publication| &*publication.name == name)
}

/// All entries of the asker table for a container.
pub(super) fn askers<'a>(local: &'a Local, name: &str) -> Vec<&'a Asker> {
    local.askers.values().map(|asker| &**asker).filter(|asker| &*asker.name == name).collect()
}

pub(super) fn label(text: &str) -> Label {
    Label::parse(text).expect("a label")
}

async fn wait<T>(receiver: &mut watch::Receiver<T>, what: &str, mut condition: impl FnMut(&T) -> bool) {
    let met = tokio::time::timeout(DEADLINE, receiver.wait_for(|value| condition(value))).await;
    let met = met.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"));
    drop(met.expect("the follower lives"));
}

/// What the socket between does to requests whose first line contains a text.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// Takes it and never answers.
    Stall(String),
    /// Answers it with nonsense.
    Garbage(String),
}

/// A socket between the follower and the engine.
pub(super) struct Between {
    pub(super) path: PathBuf,
    faults: Arc<Mutex<Vec<Fault>>>,
    tasks: Option<JoinSet<()>>,
    _directory: tempfile::TempDir,
}

impl Between {
    /// There is no socket before [`Between::restore`].
    pub(super) fn absent() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("docker.sock");
        Self { path, faults: Arc::default(), tasks: None, _directory: directory }
    }

    pub(super) fn set(&self, faults: &[Fault]) {
        *self.faults.lock().expect("no test panics with the lock held") = faults.to_vec();
    }

    /// Ends all connections and removes the socket.
    pub(super) fn cut(&mut self) {
        self.tasks = None;
        let _ = std::fs::remove_file(&self.path);
    }

    /// Makes a new socket.
    pub(super) fn restore(&mut self) {
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
