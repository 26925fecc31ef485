//! `portolan agent`

use clap::Args;

use super::{Exit, Process, flags, read, start_log};
use crate::{
    agent::Start,
    config::{Config, unknown_variables},
};

/// Run the daemon
///
/// Watches this host's Docker engine, shares what runs here through the registry, and answers DNS for what runs
/// anywhere. Each flag is also an environment variable and a key of the configuration file; a flag wins over the
/// environment, the environment over the file.
#[derive(Debug, Args)]
#[command(after_help = "\
Signals: SIGTERM stops and keeps this host's names for --lease, so that a restart is invisible (see
--on-term). SIGINT (Ctrl-C) and a shutdown of the system withdraw them.

Examples:
  portolan agent                                          one host alone
  portolan agent --etcd-endpoints http://10.0.0.1:2379    one of many hosts
  portolan agent --dns 10.0.0.5:53 --allow 10.0.0.0/8     answer for the network, too
  portolan agent --config /etc/portolan/portolan.toml
  portolan agent --compat registrator -ip 10.0.0.5 etcd://10.0.0.1:2379   in place of Registrator")]
pub(super) struct Arguments {
    /// Take over from the agent that runs on this host, without losing a query: gets its sockets over --control,
    /// answers as soon as it knows everything, and only then the other one ends. Starts as usual where none runs.
    #[arg(long)]
    takeover: bool,
    #[command(flatten)]
    flags: flags::Flags<flags::Agent>,
}

pub(super) async fn run(arguments: Arguments, process: Process) -> anyhow::Result<Exit> {
    let config = Config::load(&arguments.flags.given, &process.env, process.root, &read)?;
    start_log(config.log_format.value, &config.log.value);
    // No error: an orchestrator may set variables of its own, such as Kubernetes for a service of our name.
    unknown_variables(&process.env).iter().for_each(|unknown| tracing::warn!("{unknown}"));
    let Process { held, .. } = process;
    crate::agent::run(Start { config, held, takeover: arguments.takeover }).await?;
    Ok(Exit::Done)
}
