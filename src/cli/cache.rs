//! `portolan cache flush` and `portolan cache stats`

use std::io::{self, Write};

use clap::{Args, Subcommand};

use super::{
    Exit, Process, flags,
    output::{Form, Output, count, note, table},
};
use crate::api::{CacheFacts, client::escape, json::Flushed};

/// What the upstreams have said: look at it, or forget it
#[derive(Debug, Args)]
#[command(after_help = "\
Names of others are asked of the upstreams and kept for as long as their answers say, and a day longer for when no
upstream answers. --cache-size of the agent says how much memory that may take.

Examples:
  portolan cache stats                     what is held, and how the upstreams stand
  portolan cache flush example.com         forget a name and everything below it")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Flush(FlushArguments),
    Stats(StatsArguments),
}

/// Forget what the upstreams have said
///
/// Of one name and everything below it, or of all. The next question is asked anew. Names of our own zone are never in
/// there; but a bare name that a namespace has lost, and that --fallback-after keeps from being looked for in `global`, is
/// looked for there from now on.
#[derive(Debug, Args)]
#[command(after_help = "\
Goes over the agent's control socket, so run it as the agent's user.

Examples:
  portolan cache flush                     everything
  portolan cache flush example.com         example.com, www.example.com, …
  portolan cache flush db                  let `db` mean the one of `global`, where a namespace has lost its own")]
struct FlushArguments {
    /// The name; without it: all
    name: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::Control>,
}

/// Show what is held, how often it helped, and how the upstreams stand
#[derive(Debug, Args)]
#[command(after_help = "\
An upstream is up, down (it replies to nothing; it is asked again when it does), or a loop (what it is asked it asks
this agent).

Examples:
  portolan cache stats
  portolan cache stats -o json             the same for programs
  portolan cache stats -o name             the upstreams' addresses")]
struct StatsArguments {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::Client>,
}

pub(super) async fn run(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    match &arguments.command {
        Command::Flush(arguments) => flush(arguments, process).await,
        Command::Stats(arguments) => stats(arguments, process).await,
    }
}

async fn flush(arguments: &FlushArguments, process: &Process) -> anyhow::Result<Exit> {
    let client = super::control(&arguments.flags, process)?;
    let query = arguments.name.as_deref().map(|name| format!("?name={}", escape(name))).unwrap_or_default();
    let body = client.post(&format!("/v1/cache/flush{query}")).await?;
    let Flushed { flushed, freed } = super::decode(&client, &body)?;
    if arguments.output.form == Form::Json {
        writeln!(io::stdout().lock(), "{}", String::from_utf8_lossy(&body))?;
    }
    note(format_args!("{} forgotten", count(flushed, "answer")));
    if freed > 0 {
        note(format_args!("{} had lost the name: `global` is asked from now on", count(freed, "namespace")));
    }
    Ok(Exit::Done)
}

async fn stats(arguments: &StatsArguments, process: &Process) -> anyhow::Result<Exit> {
    let client = super::client(&arguments.flags, process)?;
    let body = client.get("/v1/cache").await?;
    let facts: CacheFacts = super::decode(&client, &body)?;
    let mut out = io::stdout().lock();
    match arguments.output.form {
        Form::Json => writeln!(out, "{}", String::from_utf8_lossy(&body))?,
        Form::Name => facts.upstreams.iter().try_for_each(|upstream| writeln!(out, "{}", upstream.address))?,
        Form::Table => {
            let numbers = [facts.entries, facts.octets, facts.limit, facts.hits, facts.misses, facts.stale];
            let row = numbers.map(|number| number.to_string());
            table(&mut out, ["ANSWERS", "OCTETS", "LIMIT", "HITS", "MISSES", "STALE"], &[row])?;
            writeln!(out)?;
            let rows: Vec<[String; 4]> = facts
                .upstreams
                .into_iter()
                .map(|upstream| {
                    let rtt = upstream.rtt_ms.map_or_else(|| "-".to_owned(), |rtt| format!("{rtt:.1} ms"));
                    let domain = upstream.domain.unwrap_or_else(|| "all others".to_owned());
                    [domain, upstream.address.to_string(), upstream.state, rtt]
                })
                .collect();
            table(&mut out, ["DOMAIN", "UPSTREAM", "STATE", "RTT"], &rows)?;
        }
    }
    Ok(Exit::Done)
}
