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
use crate::config::{Config, Errors, Shown, Source, unknown_variables};

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
///
/// Mistakes go to stderr. `-o name` prints the settings that were given, `-o json` these and the mistakes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan config check --config /etc/portolan/portolan.toml && systemctl restart portolan
  portolan config check -o json | jq -r '.errors[]'")]
struct Check {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::All>,
}

pub(super) fn run(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    match &arguments.command {
        Command::Show(show) => {
            let config = Config::load(&show.flags.given, &process.env, process.root, &read)?;
            print(&config.shown(), show.output.form)?;
            unknown_variables(&process.env).iter().for_each(|unknown| note(format_args!("warning: {unknown}")));
        }
        Command::Check(check) => {
            let loaded = Config::load(&check.flags.given, &process.env, process.root, &read);
            let (mut given, mut errors) = match loaded {
                Ok(config) => (config.shown(), Vec::new()),
                Err(Errors(errors)) => (Vec::new(), errors),
            };
            given.retain(|row| row.source != Source::Default);
            errors.extend(unknown_variables(&process.env));
            match check.output.form {
                Form::Json => verdict(&given, &errors)?,
                Form::Name => print(&given, Form::Name)?,
                Form::Table => {}
            }
            if !errors.is_empty() {
                return Err(Errors(errors).into());
            }
            let given = count(given.len(), "value");
            note(format_args!("the configuration is valid: {given} given, the rest are defaults"));
        }
    }
    Ok(Exit::Done)
}

/// What a check found, for programs: the settings that were given, and everything that is wrong.
fn verdict(given: &[Shown], errors: &[String]) -> anyhow::Result<()> {
    let verdict = serde_json::json!({ "valid": errors.is_empty(), "given": objects(given), "errors": errors });
    Ok(writeln!(io::stdout().lock(), "{verdict}")?)
}

/// A row as `-o json` shows it.
fn objects(rows: &[Shown]) -> Vec<BTreeMap<&'static str, String>> {
    let object = |row: &Shown| {
        let value = if row.value == "-" { String::new() } else { row.value.clone() };
        [("name", row.name.to_owned()), ("value", value), ("source", row.source.to_string())].into()
    };
    rows.iter().map(object).collect()
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
            serde_json::to_writer(&mut out, &objects(rows)).map_err(io::Error::from)?;
            writeln!(out)?;
        }
    }
    Ok(out.flush()?)
}
