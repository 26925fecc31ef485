//! `portolan leave`

use std::io::{self, Write};

use clap::Args;

use super::{
    Exit, Process, flags,
    output::{Form, Output, note},
};
use crate::api::json::Left;

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
    let client = super::control(&arguments.flags, process)?;
    let body = client.post("/v1/leave").await?;
    let left: Left = super::decode(&client, &body)?;
    let mut out = io::stdout().lock();
    match arguments.output.form {
        Form::Json => writeln!(out, "{}", String::from_utf8_lossy(&body))?,
        Form::Name => writeln!(out, "{}", left.host)?,
        Form::Table => {}
    }
    note("this host has left");
    Ok(Exit::Done)
}
