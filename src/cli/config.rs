//! `portolan config`

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use clap::{Args, Subcommand};

use super::{
    Exit, Process, flags,
    output::{Form, Output, count, note, table},
    read,
};
use crate::config::{Config, Shown, Source};

/// Show or check the configuration
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan config show                                       every value and where it comes from
  portolan config check --config /etc/portolan/portolan.toml")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Show(Show),
    Check(Check),
}

/// Show every setting, its value and where the value comes from
///
/// Takes the agent's flags and shows what an agent started with them would do, here and now. Passwords are never
/// shown.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan config show
  portolan config show --config /etc/portolan/portolan.toml
  portolan config show -o json | jq 'map(select(.source != \"default\"))'")]
struct Show {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::All>,
}

/// Check the configuration and tell all mistakes at once
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan config check --config /etc/portolan/portolan.toml && systemctl restart portolan")]
struct Check {
    #[command(flatten)]
    flags: flags::Flags<flags::All>,
}

pub(super) fn run(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    match &arguments.command {
        Command::Show(show) => {
            let config = Config::load(&show.flags.given, &process.env, process.root, &read)?;
            print(&config.shown(), show.output.form)?;
        }
        Command::Check(check) => {
            let config = Config::load(&check.flags.given, &process.env, process.root, &read)?;
            let given = config.shown().iter().filter(|row| row.source != Source::Default).count();
            note(format_args!("the configuration is valid: {} given, the rest are defaults", count(given, "value")));
        }
    }
    Ok(Exit::Done)
}

fn print(rows: &[Shown], form: Form) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match form {
        Form::Table => {
            let cells: Vec<_> =
                rows.iter().map(|row| [row.name.to_owned(), row.value.clone(), row.source.to_string()]).collect();
            table(&mut out, ["SETTING", "VALUE", "SOURCE"], &cells)?;
        }
        Form::Name => {
            for row in rows {
                writeln!(out, "{}", row.name)?;
            }
        }
        Form::Json => {
            let objects: Vec<BTreeMap<&str, String>> = rows
                .iter()
                .map(|row| {
                    let value = if row.value == "-" { String::new() } else { row.value.clone() };
                    [("name", row.name.to_owned()), ("value", value), ("source", row.source.to_string())].into()
                })
                .collect();
            serde_json::to_writer(&mut out, &objects).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    Ok(out.flush()?)
}
