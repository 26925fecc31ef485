//! The command line: what was typed → one command → an exit code. Data goes to stdout, everything else to stderr.
//!
//! One small file per command lies in `cli/`. Flags that are settings are not written down here: `flags.rs` makes
//! them from the table in `config.rs`, so that flag, environment, file and help always agree. Client commands ask a
//! running agent over its API and know nothing themselves.

mod agent;
mod cache;
mod config;
mod drain;
mod explain;
mod flags;
mod leave;
mod output;
mod register;
mod registrator;
mod resolve;
mod services;
mod watch;
mod zone;

use std::{
    io::{self, IsTerminal, Read},
    os::fd::OwnedFd,
    path::Path,
    process::ExitCode,
};

use anyhow::Context;
use clap::{Parser, Subcommand};

use self::output::note;
use crate::{
    agent::SetLog,
    api::client::{Client, ClientError, escape},
    config::{ClientConfig, Env, Errors, LogFormat, MAX_FILE},
};

pub use registrator::translate;

/// What the process tells its parent. A contract (design, "Command line").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// It went wrong.
    Failure = 1,
    /// The command line or the configuration is wrong: trying again does not help.
    Usage = 2,
    /// There is no such thing, or nothing at all.
    NotFound = 3,
    /// No agent answers.
    Unreachable = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Docker containers to cluster-wide DNS answers that are live and reachable for the one who asks.
#[derive(Debug, Parser)]
#[command(name = "portolan", version, max_term_width = 100, arg_required_else_help = true)]
#[command(after_help = "\
Exit codes: 0 done, 1 failure, 2 usage or configuration, 3 not found or empty, 4 no agent answers.

Examples:
  portolan agent                       one host, no other server needed
  dig @127.0.0.1 -p 5300 web.shop.svc.internal
  portolan services                    what is known, anywhere in the cluster
  portolan explain web.shop            why an instance is in the answer, or is not")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Agent(agent::Arguments),
    Services(services::Arguments),
    Resolve(resolve::Arguments),
    Explain(explain::Arguments),
    Watch(watch::Arguments),
    Drain(drain::Arguments),
    Undrain(drain::UndrainArguments),
    Register(register::Arguments),
    Unregister(register::UnregisterArguments),
    Leave(leave::Arguments),
    Zone(zone::Arguments),
    Cache(cache::Arguments),
    Config(config::Arguments),
}

/// What a command may know of the process it runs in.
#[derive(Debug)]
pub struct Process {
    /// The environment.
    pub env: Env,
    /// Whether it runs as root.
    pub root: bool,
    /// Sockets that systemd holds for it.
    pub held: Vec<OwnedFd>,
}

/// Tells what was said about the command line before it was read; with errors it is not read at all.
pub fn tell_translation(told: &Result<(Vec<std::ffi::OsString>, Vec<String>), Errors>) {
    match told {
        Ok((_, notes)) => notes.iter().for_each(|line| note(format_args!("note: {line}"))),
        Err(Errors(errors)) => errors.iter().for_each(|error| note(format_args!("error: {error}"))),
    }
}

/// Runs the command that was typed. Nothing it meets escapes: errors are told on stderr.
pub async fn run(cli: Cli, process: Process) -> Exit {
    let outcome = match cli.command {
        Command::Agent(arguments) => agent::run(arguments, process).await,
        Command::Services(arguments) => services::run(&arguments, &process).await,
        Command::Resolve(arguments) => resolve::run(&arguments, &process).await,
        Command::Explain(arguments) => explain::run(&arguments, &process).await,
        Command::Watch(arguments) => watch::run(&arguments, &process).await,
        Command::Drain(arguments) => drain::drain(&arguments, &process).await,
        Command::Undrain(arguments) => drain::undrain(&arguments, &process).await,
        Command::Register(arguments) => register::register(&arguments, &process).await,
        Command::Unregister(arguments) => register::unregister(&arguments, &process).await,
        Command::Leave(arguments) => leave::run(&arguments, &process).await,
        Command::Zone(arguments) => zone::run(&arguments, &process).await,
        Command::Cache(arguments) => cache::run(&arguments, &process).await,
        Command::Config(arguments) => config::run(&arguments, &process),
    };
    outcome.unwrap_or_else(|error| tell(&error))
}

/// Tells an error, and finds the exit code it stands for.
fn tell(error: &anyhow::Error) -> Exit {
    if let Some(Errors(errors)) = error.downcast_ref() {
        errors.iter().for_each(|error| note(format_args!("error: {error}")));
        return Exit::Usage;
    }
    // `portolan services | head -1` has what it wanted.
    if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        return Exit::Done;
    }
    note(format_args!("error: {error:#}"));
    match error.downcast_ref() {
        Some(ClientError::Unreachable { .. }) => Exit::Unreachable,
        Some(ClientError::Refused { status, .. }) => match status.as_u16() {
            400 => Exit::Usage,
            404 => Exit::NotFound,
            _ => Exit::Failure,
        },
        _ => Exit::Failure,
    }
}

/// Reads a small text file: configuration, password, certificate.
fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
    }
    Ok(text)
}

/// `--as`.
#[derive(Debug, clap::Args)]
struct AskAs {
    /// Ask as this container of the agent's host (name or id), or as whoever has this address
    #[arg(long = "as", value_name = "CONTAINER|IP")]
    asker: Option<String>,
}

impl AskAs {
    /// What it adds to a query of the API.
    fn query(&self) -> String {
        self.asker.as_deref().map(|asker| format!("&as={}", escape(asker))).unwrap_or_default()
    }
}

/// What every command does first that reads from the agent: configuration, log, and the way to the API.
fn client(flags: &flags::Flags<flags::Client>, process: &Process) -> anyhow::Result<Client> {
    let config = ClientConfig::load(&flags.given, &process.env, process.root, &read)?;
    let _unchanged = start_log(config.log_format.value, &config.log.value);
    Ok(Client::of_url(&config.api.value))
}

/// An answer of the agent; what is none comes from something else.
fn decode<T: serde::de::DeserializeOwned>(client: &Client, body: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(body).with_context(|| format!("{client} speaks no portolan"))
}

/// What every command does first that changes state: configuration, log, and the way to the control socket.
fn control(flags: &flags::Flags<flags::Control>, process: &Process) -> anyhow::Result<Client> {
    let config = ClientConfig::load(&flags.given, &process.env, process.root, &read)?;
    let _unchanged = start_log(config.log_format.value, &config.log.value);
    let Some(control) = config.control else {
        let message = "--control: neither XDG_RUNTIME_DIR, XDG_STATE_HOME nor HOME is set; name the agent's socket";
        return Err(Errors(vec![message.to_owned()]).into());
    };
    Ok(Client::Control(control.value))
}

/// Log lines go to stderr. The filter has been checked with the configuration. Gives what changes it.
fn start_log(format: LogFormat, filter: &str) -> SetLog {
    use tracing_subscriber::EnvFilter;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    // A second call in one process keeps the first log, and then there is nothing to change.
    match format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |filter| drop(handle.reload(EnvFilter::new(filter))))
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            let _ = builder.try_init();
            Box::new(move |filter| drop(handle.reload(EnvFilter::new(filter))))
        }
    }
}
