//! `portolan leave`

use clap::Args;

use super::{Exit, Process, flags, output::note, read, start_log};
use crate::{
    api::client::Client,
    config::{ClientConfig, Errors},
};

/// Withdraw this host's names from the cluster now
///
/// Before maintenance: other hosts stop handing out this host's containers at once instead of after the lease. To
/// publish again, restart the agent.
#[derive(Debug, Args)]
#[command(after_help = "\
Goes over the agent's control socket, so run it as the agent's user.

Examples:
  portolan leave
  portolan leave --control /run/portolan/control.sock")]
pub(super) struct Arguments {
    #[command(flatten)]
    flags: flags::Flags<flags::Control>,
}

pub(super) async fn run(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    let config = ClientConfig::load(&arguments.flags.given, &process.env, process.root, &read)?;
    start_log(config.log_format.value, &config.log.value);
    let Some(control) = config.control else {
        let message = "--control: neither XDG_RUNTIME_DIR, XDG_STATE_HOME nor HOME is set; name the agent's socket";
        return Err(Errors(vec![message.to_owned()]).into());
    };
    Client::Control(control.value).post("/v1/leave").await?;
    note("this host has left");
    Ok(Exit::Done)
}
