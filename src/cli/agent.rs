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
--on-term). SIGINT (Ctrl-C) and a shutdown of the system withdraw them. SIGHUP reads the
configuration anew; an invalid one is refused, and what needs a restart is named. SIGUSR2 starts the
binary anew with --takeover.

Examples:
  portolan agent                                          one host alone
  portolan agent --etcd-endpoints http://10.0.0.1:2379    one of many hosts
  portolan agent --dns 10.0.0.5:53 --allow 10.0.0.0/8     answer for the network, too
  portolan agent --config /etc/portolan/portolan.toml
  portolan agent --takeover                               a new version in place of the running one
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
    let Arguments { flags, takeover } = arguments;
    let Process { env, root, held } = process;
    let load = move || Config::load(&flags.given, &env, root, &read).map(|config| (config, unknown_variables(&env)));
    let (config, unknown) = load()?;
    let set_log = start_log(config.log_format.value, &config.log.value);
    // No error: an orchestrator may set variables of its own, such as Kubernetes for a service of our name.
    unknown.iter().for_each(|unknown| tracing::warn!("{unknown}"));
    let load = Box::new(move || load().map(|(config, _)| config));
    crate::agent::run(Start { config, held, takeover, load, set_log }).await?;
    Ok(Exit::Done)
}
