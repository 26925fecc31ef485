//! `portolan services`

use std::{
    collections::BTreeSet,
    io::{self, Write},
};

use clap::Args;

use super::{
    Exit, Process, client, flags,
    output::{Form, Output, count, note, table},
};
use crate::api::{
    client::escape,
    json::{ListedPort, ListedService, Listing},
};

/// Ports shown per service; `-o json` shows all.
const SHOWN_PORTS: usize = 4;

/// List the services that are known
///
/// Services of every host in the cluster, one per line, ordered by namespace.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan services                 all
  portolan services shop            those of namespace shop
  portolan services -o name         one full name per line
  portolan services -o json | jq '.services[].instances[] | .host + \" \" + .name'")]
pub(super) struct Arguments {
    /// Only services of this namespace
    namespace: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::Client>,
}

pub(super) async fn run(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    let client = client(&arguments.flags, process)?;
    let filter = arguments.namespace.as_deref().map(|namespace| format!("?namespace={}", escape(namespace)));
    let body = client.get(&format!("/v1/services{}", filter.unwrap_or_default())).await?;
    let listing: Listing = super::decode(&client, &body)?;

    let mut out = io::BufWriter::new(io::stdout().lock());
    match arguments.output.form {
        Form::Json => out.write_all(&body)?,
        Form::Name => {
            for ListedService { service, namespace, .. } in &listing.services {
                writeln!(out, "{service}.{namespace}")?;
            }
        }
        Form::Table if listing.services.is_empty() => {}
        Form::Table => {
            let rows: Vec<_> = listing.services.iter().map(row).collect();
            table(&mut out, ["SERVICE", "NAMESPACE", "INSTANCES", "READY", "ANSWERS", "HOSTS", "PORTS"], &rows)?;
        }
    }
    out.flush()?;

    if !listing.complete {
        note("note: docker or the registry has not been listed yet; there may be more");
    } else if listing.stale {
        note("note: the registry cannot be heard; other hosts' services are those last seen");
    }
    if listing.problems > 0 {
        note(format_args!("{}: see {client}/v1/problems", count(listing.problems, "problem")));
    }
    if listing.services.is_empty() {
        let place = arguments.namespace.as_deref().map(|namespace| format!(" in namespace {namespace}"));
        note(format_args!("no services{}", place.unwrap_or_default()));
        return Ok(Exit::NotFound);
    }
    Ok(Exit::Done)
}

fn row(service: &ListedService) -> [String; 7] {
    let hosts: BTreeSet<&str> = service.instances.iter().map(|instance| instance.host.as_str()).collect();
    let ports: BTreeSet<&ListedPort> = service.instances.iter().flat_map(|instance| &instance.ports).collect();
    let mut shown: Vec<String> =
        ports.iter().take(SHOWN_PORTS).map(|port| format!("{}/{}", port.port, port.proto.as_str())).collect();
    if ports.len() > SHOWN_PORTS {
        shown.push(format!("+{}", ports.len() - SHOWN_PORTS));
    }
    [
        service.service.clone(),
        service.namespace.clone(),
        service.instances.len().to_string(),
        service.ready.to_string(),
        service.answers.clone(),
        hosts.len().to_string(),
        if shown.is_empty() { "-".to_owned() } else { shown.join(",") },
    ]
}
