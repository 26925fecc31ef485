//! Settings as flags, made from the table of all settings.

use std::{fmt, marker::PhantomData};

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Arity, Given, KEYS, Key};

/// Which settings a command takes as flags.
pub(super) trait Group: Send + Sync + 'static {
    /// Whether the setting of this name is among them.
    fn takes(name: &str) -> bool;

    /// Whether the help shows them below their headings: worth it for many.
    const HEADINGS: bool = false;
}

/// `portolan agent`.
#[derive(Debug)]
pub(super) struct Agent;

impl Group for Agent {
    fn takes(name: &str) -> bool {
        name != "api"
    }

    const HEADINGS: bool = true;
}

/// `portolan config`: all, to show what an agent and a client with these flags would do.
#[derive(Debug)]
pub(super) struct All;

impl Group for All {
    fn takes(_: &str) -> bool {
        true
    }

    const HEADINGS: bool = true;
}

/// Commands that ask the API.
#[derive(Debug)]
pub(super) struct Client;

impl Group for Client {
    fn takes(name: &str) -> bool {
        matches!(name, "api" | "config" | "log-format" | "log")
    }
}

/// `register` and `unregister`: etcd with the operator's credentials, else the control socket.
#[derive(Debug)]
pub(super) struct Operator;

impl Group for Operator {
    fn takes(name: &str) -> bool {
        name.starts_with("etcd-") || matches!(name, "registry" | "zone" | "control" | "config" | "log-format" | "log")
    }
}

/// Commands that use the control socket.
#[derive(Debug)]
pub(super) struct Control;

impl Group for Control {
    fn takes(name: &str) -> bool {
        matches!(name, "control" | "config" | "log-format" | "log")
    }
}

/// The settings of a group that were given as flags.
pub(super) struct Flags<G> {
    pub(super) given: Given,
    group: PhantomData<G>,
}

impl<G> fmt::Debug for Flags<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.given.fmt(f)
    }
}

fn keys<G: Group>() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| G::takes(key.name))
}

fn flag(key: &Key) -> Arg {
    let mut help = key.help.to_owned();
    if !key.default.is_empty() {
        help.push_str(&format!(" [default: {}]", key.default));
    }
    let names: Vec<String> = std::iter::once(key.env()).chain(key.foreign.iter().map(|name| (*name).into())).collect();
    help.push_str(&format!(" [env: {}]", names.join(", ")));
    let action = match key.arity {
        Arity::One => ArgAction::Set,
        Arity::Many => ArgAction::Append,
    };
    // Texts only: all values are checked together with those of the environment and the file.
    Arg::new(key.name).long(key.name).value_name(key.value).action(action).help(help)
}

impl<G: Group> Args for Flags<G> {
    fn augment_args(command: Command) -> Command {
        keys::<G>().fold(command, |command, key| match G::HEADINGS {
            true => command.arg(flag(key).help_heading(key.heading)),
            false => command.arg(flag(key)),
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<G: Group> FromArgMatches for Flags<G> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = keys::<G>().filter_map(|key| {
            let values = matches.get_many::<String>(key.name)?.cloned().collect();
            Some((key.name, values))
        });
        Ok(Self { given: given.collect(), group: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.given.extend(Self::from_arg_matches(matches)?.given);
        Ok(())
    }
}
