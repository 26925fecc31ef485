//! `portolan drain` and `portolan undrain`

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::bail;
use clap::Args;
use tokio::time::{Instant, sleep};

use super::{
    Exit, Process, flags,
    output::{Form, Output, note, table},
};
use crate::{
    api::{
        client::{Client, ClientError, escape},
        drain::{Drained, Progress},
    },
    config::parse_duration,
};

/// How often it is looked whether everybody knows: a tenth of what a person notices.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whom it is about.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Whom {
    /// A container of this host by name or id, else the containers of this host that offer this service (web, web.shop)
    #[arg(value_name = "CONTAINER|SERVICE")]
    name: Option<String>,
    /// Everything on this host, also what is started later
    #[arg(long)]
    host: bool,
}

impl Whom {
    fn query(&self) -> String {
        self.name.as_ref().map_or_else(|| "host=true".to_owned(), |name| format!("target={}", escape(name)))
    }

    fn words(&self) -> String {
        self.name.clone().unwrap_or_else(|| "--host".to_owned())
    }
}

/// Take containers of this host out of the answers before they are stopped
///
/// A drained container is answered only where no instance of its service is ready. It stays drained over restarts of the
/// agent, until it is undrained or starts anew.
#[derive(Debug, Args)]
#[command(after_help = "\
With --wait it ends when every live host answers without it and resolvers have forgotten older answers, so that

  portolan drain shop-web-1 --wait && docker stop shop-web-1

costs no request that is resolved anew. Goes over the agent's control socket, so run it as the agent's user.

Examples:
  portolan drain shop-web-1 --wait     one container
  portolan drain web.shop              what this host offers of a service
  portolan drain --host --wait         everything here, before maintenance
  portolan undrain --host")]
pub(super) struct Arguments {
    #[command(flatten)]
    whom: Whom,
    /// End only when every live host answers accordingly
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::Control>,
}

/// Give drained containers to clients again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan undrain shop-web-1
  portolan undrain --host              everything that was drained here")]
pub(super) struct UndrainArguments {
    #[command(flatten)]
    whom: Whom,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::Control>,
}

pub(super) async fn drain(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    let client = super::control(&arguments.flags, process)?;
    let drained = order(&client, "drain", &arguments.whom, &arguments.output).await?;
    if !arguments.wait {
        return Ok(Exit::Done);
    }
    let deadline = Instant::now() + arguments.timeout;
    let mut waits_for = vec!["the agent".to_owned()];
    loop {
        // An agent that is restarted meanwhile goes on with what it was told.
        match client.get(&format!("/v1/drain?round={}", drained.round)).await {
            Ok(body) => {
                let progress: Progress = super::decode(&client, &body)?;
                if progress.known {
                    sleep(Duration::from_secs(progress.ttl.into())).await;
                    note(format_args!("every live host answers without {}", arguments.whom.words()));
                    return Ok(Exit::Done);
                }
                waits_for = progress.waits_for;
            }
            Err(ClientError::Unreachable { .. }) => waits_for = vec!["the agent".to_owned()],
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= deadline {
            bail!(
                "not everybody knows after {:.0?}: waiting for {}; it stays drained, `portolan undrain {}` takes it back",
                arguments.timeout,
                waits_for.join(", "),
                arguments.whom.words()
            );
        }
        sleep(LOOK_EVERY).await;
    }
}

pub(super) async fn undrain(arguments: &UndrainArguments, process: &Process) -> anyhow::Result<Exit> {
    let client = super::control(&arguments.flags, process)?;
    order(&client, "undrain", &arguments.whom, &arguments.output).await?;
    Ok(Exit::Done)
}

async fn order(client: &Client, verb: &str, whom: &Whom, output: &Output) -> anyhow::Result<Drained> {
    let body = client.post(&format!("/v1/{verb}?{}", whom.query())).await?;
    let drained: Drained = super::decode(client, &body)?;
    let mut out = io::stdout().lock();
    match output.form {
        Form::Json => writeln!(out, "{}", String::from_utf8_lossy(&body))?,
        Form::Name => drained.containers.iter().try_for_each(|held| writeln!(out, "{}", held.name))?,
        Form::Table => {
            let rows: Vec<[String; 2]> =
                drained.containers.iter().map(|held| [held.container.clone(), held.name.clone()]).collect();
            table(&mut out, ["CONTAINER", "NAME"], &rows)?;
        }
    }
    Ok(drained)
}
