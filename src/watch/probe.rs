//! \[IO\] Asks containers how they are: connections, requests and programs of this host. When to ask and what a result
//! means is decided in [`health`](super::health).
//!
//! [`follow`] stands between Docker's [`Desired`] and all who take it. It is polled on the thread that follows Docker, right
//! after what Docker says has changed, and holds nothing up: the questions are asked on another runtime. At most
//! [`MAX_RUNNING`](super::health::MAX_RUNNING) are under way, each ends with its time-out.

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use http_body_util::Empty;
use hyper::{Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    process::Command,
    runtime::Handle,
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, info, warn};

use super::health::{Commands, Monitor, Outcome, Presume, Probe, Turn};
use crate::model::{Ask, Desired, Health, Security, Unshown};

mod tls;

/// How to ask.
#[derive(Debug)]
pub struct Options {
    /// The directory of the programs that checks may run; `None`: they may not.
    pub commands: Option<PathBuf>,
    /// Who is presumed healthy.
    pub presume: Presume,
    /// Where questions are asked.
    pub runtime: Handle,
    /// What came of them.
    pub counts: Arc<Counts>,
}

/// Results since the start.
#[derive(Debug, Default)]
pub struct Counts {
    passed: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    /// Passes, and failures.
    pub fn get(&self) -> (u64, u64) {
        (self.passed.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Carries Docker's snapshots on, with the health that our own checks found. Ends when nobody sends any more; a question
/// that panicked is an error.
pub async fn follow(
    options: Options,
    mut docker: watch::Receiver<Arc<Desired>>,
    desired: watch::Sender<Arc<Desired>>,
) -> Result<(), JoinError> {
    let began = Instant::now();
    let commands = if options.commands.is_some() { Commands::Allowed } else { Commands::Denied };
    let directory: Arc<PathBuf> = Arc::new(options.commands.unwrap_or_default());
    let mut monitor = Monitor::new(commands, options.presume);
    let mut running: JoinSet<(Probe, Result<(), String>)> = JoinSet::new();
    docker.mark_changed();
    loop {
        tokio::select! {
            biased;
            changed = docker.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let docker = Arc::clone(&docker.borrow_and_update());
                monitor.apply(began.elapsed(), docker, &mut rand::rng());
            }
            Some(ended) = running.join_next() => {
                let (probe, result) = ended?;
                let count = if result.is_ok() { &options.counts.passed } else { &options.counts.failed };
                count.fetch_add(1, Ordering::Relaxed);
                let outcome = if result.is_ok() { Outcome::Passed } else { Outcome::Failed };
                let turn = monitor.finish(began.elapsed(), probe.container, probe.ticket, outcome, &mut rand::rng());
                report(&probe, &result, turn);
            }
            () = until(monitor.wake_at().map(|at| began + at)) => {}
        }
        let now = began.elapsed();
        if let Some(next) = monitor.publish(now) {
            desired.send_replace(next);
        }
        for probe in monitor.due(now) {
            let directory = Arc::clone(&directory);
            let ask = async move {
                let result = ask(&probe, &directory).await;
                (probe, result)
            };
            running.spawn_on(ask, &options.runtime);
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Each turn of a check once. Reasons hold no value of a label or a variable.
fn report(probe: &Probe, result: &Result<(), String>, turn: Option<Turn>) {
    let reason = result.as_ref().err().map(String::as_str).unwrap_or_default();
    let (container, kind) = (probe.container, probe.check.ask.kind());
    match turn {
        Some(Turn { name, health: Health::Unhealthy, .. }) => warn!(%container, %name, kind, reason, "unhealthy"),
        Some(Turn { name, health, .. }) => info!(%container, %name, kind, ?health, "its check has turned"),
        None => debug!(%container, kind, reason, "checked"),
    }
}

/// Asks one question; a failure says why.
async fn ask(probe: &Probe, commands: &std::path::Path) -> Result<(), String> {
    let limit = probe.check.timeout;
    let question = async {
        let targets: Vec<SocketAddr> = match (&probe.host, probe.target) {
            (Some(host), Some(unspecified)) => look_up(host, unspecified.port()).await?,
            (_, target) => target.into_iter().collect(),
        };
        match &probe.check.ask {
            Ask::Command { program, arguments } => run(commands, program, arguments, probe, probe.target).await,
            Ask::Tcp => connect(&targets).await.map(drop),
            Ask::Http { security, method, path } => {
                let (stream, target) = connect(&targets).await?;
                let host = probe.host.as_deref();
                http(stream, (host, target), *security, method, path).await
            }
        }
    };
    timeout(limit, question).await.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")))
}

/// The addresses that this host's resolver has for a name.
async fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = lookup_host((host, port)).await.map_err(|error| format!("{host}: {error}"))?;
    Ok(found.collect())
}

/// The first of these that takes a connection.
async fn connect(targets: &[SocketAddr]) -> Result<(TcpStream, SocketAddr), String> {
    let mut failure = "no address".to_owned();
    for target in targets {
        match TcpStream::connect(target).await {
            Ok(stream) => return Ok((stream, *target)),
            Err(error) => failure = format!("{target}: {error}"),
        }
    }
    Err(failure)
}

/// `host`: the name that it was found under, which whoever answers may serve several of.
async fn http(
    stream: TcpStream,
    (host, target): (Option<&str>, SocketAddr),
    security: Security,
    method: &str,
    path: &Unshown,
) -> Result<(), String> {
    let authority = host.map_or_else(|| target.to_string(), |host| format!("{host}:{}", target.port()));
    match security {
        Security::Plain => request(stream, target, &authority, method, path).await,
        Security::Tls => {
            let stream = tls::connect(stream, host, target.ip()).await;
            let stream = stream.map_err(|error| format!("{target}: tls: {error}"))?;
            request(stream, target, &authority, method, path).await
        }
    }
}

/// One request on a connection of its own. A redirection is an answer of a living server, as it is to kubelet.
async fn request<S>(stream: S, target: SocketAddr, authority: &str, method: &str, path: &Unshown) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let wrong = |error: &dyn std::fmt::Display| format!("{target}: {error}");
    let request = Request::builder()
        .method(method)
        .uri(&*path.0)
        .header(header::HOST, authority)
        .header(header::USER_AGENT, concat!("portolan/", env!("CARGO_PKG_VERSION")))
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        // Says which part is wrong, not what it is.
        .map_err(|error| wrong(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| wrong(&error))?;
    // Gone with this question.
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let response = sender.send_request(request).await.map_err(|error| wrong(&error))?;
    let status = response.status();
    if status.is_success() || status.is_redirection() { Ok(()) } else { Err(format!("{target}: status {status}")) }
}

/// Runs a program of the operator's directory: no shell, no environment but ours, nothing to read from or write to.
async fn run(
    directory: &std::path::Path,
    program: &Unshown,
    arguments: &[Unshown],
    probe: &Probe,
    target: Option<SocketAddr>,
) -> Result<(), String> {
    let (ip, port) = target.map_or_else(Default::default, |at| (at.ip().to_string(), at.port().to_string()));
    // As Registrator fills in its scripts.
    let filled = arguments.iter().map(|word| word.0.replace("$SERVICE_IP", &ip).replace("$SERVICE_PORT", &port));
    let mut command = Command::new(directory.join(&*program.0));
    command.args(filled).env_clear().env("PORTOLAN_CONTAINER", probe.container.as_str());
    if target.is_some() {
        command.env("PORTOLAN_ADDRESS", &ip).env("PORTOLAN_PORT", &port);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir("/").process_group(0).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("the program does not start: {error}"))?;
    let mut group = Group(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw));
    let status = child.wait().await.map_err(|error| format!("the program is lost: {error}"))?;
    // It is reaped, and its number may be another's from here on.
    group.0 = None;
    if status.success() { Ok(()) } else { Err(format!("the program ended with {status}")) }
}

/// The process group of a program that has not ended: killed when nobody waits for it any more.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended this moment.
            let _gone = killpg(group, Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests;
