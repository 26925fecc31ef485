//! `portolan zone`

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::{AskAs, Exit, Process, client, flags};
use crate::api::client::escape;

/// Write what is served as a zone file
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan zone dump > svc.internal.zone                     as this host sees it")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dump(Dump),
}

/// Write a zone as a zone file that other servers load
///
/// It holds what DNS answers at this moment to the asker you name, because which addresses there are depends on who
/// asks. Where an answer is a sample the file holds everything. Without a ZONE it is the one of `--zone`; each network
/// of this host has a reverse zone besides.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan zone dump > svc.internal.zone                     as this host sees it
  portolan zone dump --as shop-frontend-1                    as that container sees it
  portolan zone dump 18.172.in-addr.arpa                     the names of 172.18.0.0/16's addresses
  portolan zone dump | nsd-checkzone svc.internal /dev/stdin")]
struct Dump {
    /// The zone: the apex of --zone, or the reverse zone of a Docker network
    zone: Option<String>,
    #[command(flatten)]
    ask_as: AskAs,
    #[command(flatten)]
    flags: flags::Flags<flags::Client>,
}

pub(super) async fn run(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    let Command::Dump(dump) = &arguments.command;
    let client = client(&dump.flags, process)?;
    let zone = dump.zone.as_deref().map(|zone| format!("zone={}", escape(zone))).unwrap_or_default();
    let body = client.get(&format!("/v1/zone?{zone}{}", dump.ask_as.query())).await?;
    let mut out = io::stdout().lock();
    out.write_all(&body)?;
    out.flush()?;
    Ok(Exit::Done)
}
