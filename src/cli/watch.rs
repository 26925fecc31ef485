//! `portolan watch`

use std::io::{self, Write};

use clap::Args;

use super::{
    Exit, Process, client, flags,
    output::{Form, Output, note},
};
use crate::api::json::WatchLine;

/// Stream changes of the catalog until interrupted
///
/// One line per container that comes, changes or goes, on any host. A reader that is too slow is shown the latest
/// state and skips what came and went in between.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan watch
  portolan watch --initial          begin with all that is known
  portolan watch -o json | jq -c 'select(.event == \"removed\") | .name'")]
pub(super) struct Arguments {
    /// Begin with everything that is known, as added
    #[arg(long)]
    initial: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::Client>,
}

pub(super) async fn run(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    let client = client(&arguments.flags, process)?;
    let target = if arguments.initial { "/v1/watch?initial=true" } else { "/v1/watch" };
    let mut out = io::stdout().lock();
    client
        .lines::<anyhow::Error>(target, |line| {
            let event: WatchLine = super::decode(&client, line)?;
            print(&mut out, arguments.output.form, line, &event)?;
            Ok(out.flush()?)
        })
        .await?;
    note("the agent ended the stream");
    Ok(Exit::Unreachable)
}

fn print(out: &mut impl Write, form: Form, line: &[u8], event: &WatchLine) -> io::Result<()> {
    if form == Form::Json {
        out.write_all(line)?;
        return out.write_all(b"\n");
    }
    match event.event.as_str() {
        "synced" => note("watching; end with Ctrl-C"),
        "stale" => note("note: the registry cannot be heard; changes on other hosts are not seen"),
        "fresh" => note("note: the registry is heard again"),
        _ => {
            let names = event.services.iter().map(|service| format!("{}.{}", service.service, service.namespace));
            if form == Form::Name {
                return names.into_iter().try_for_each(|name| writeln!(out, "{name}"));
            }
            let WatchLine { event, host, container, name, phase, .. } = event;
            let phase = if phase == "serving" { String::new() } else { format!(" ({phase})") };
            let names = names.collect::<Vec<_>>().join(",");
            // Any writer of etcd chose that name, and this is somebody's terminal.
            let name = name.escape_debug();
            writeln!(out, "{event:7}  {container}  {host}/{name}{phase}  {names}")?;
        }
    }
    Ok(())
}
