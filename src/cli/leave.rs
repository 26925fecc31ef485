//! `portolan leave`

use std::io::{self, Write};

use anyhow::Context;
use clap::Args;

use super::{
    Exit, Process, flags,
    output::{Form, Output, note},
    read, start_log,
};
use crate::{
    api::{client::Client, json::Left},
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
  portolan leave -o name            prints the id of the host that has left
  portolan leave --control /run/portolan/control.sock")]
pub(super) struct Arguments {
    #[command(flatten)]
    output: Output,
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
    let client = Client::Control(control.value);
    let body = client.post("/v1/leave").await?;
    let left: Left = serde_json::from_slice(&body).with_context(|| format!("{client} speaks no portolan"))?;
    let mut out = io::stdout().lock();
    match arguments.output.form {
        Form::Json => writeln!(out, "{}", String::from_utf8_lossy(&body))?,
        Form::Name => writeln!(out, "{}", left.host)?,
        Form::Table => {}
    }
    note("this host has left");
    Ok(Exit::Done)
}
