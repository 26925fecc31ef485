//! `portolan register` and `portolan unregister`
//!
//! Everybody's services are written into etcd by the operator, with the operator's credentials: an agent may write only
//! below its own host. Without etcd the one agent there is keeps them.

use std::io::{self, Write};

use anyhow::{Context, bail};
use clap::Args;

use super::{
    Exit, Process, flags,
    output::{Form, Output, note},
    read, start_log,
};
use crate::{
    api::{
        client::{Client, escape},
        external::Registered,
    },
    config::{Config, Errors, Registry},
    model::{External, ExternalName},
    registry::{
        call::{LeaseId, Op, OpReply, Reply, Request},
        external,
        record::Keys,
    },
};

/// Give a service that does not run in Docker a name
///
/// While it is registered it stands in the place of all containers of that name, everywhere at once: so a service moves
/// out of Docker, and back, without touching who uses it. Registering again replaces what was there.
#[derive(Debug, Args)]
#[command(after_help = "\
With --etcd-endpoints (or a --config that names them) it is written into etcd with your own credentials, for every host.
Without, it goes over the control socket to the agent of this host, which keeps it in its state directory.

Examples:
  portolan register redis --cname redis.cache.example.com:6379
  portolan register db.shop --address 10.0.0.9:5432 --address 10.0.0.10:5432 --check tcp
  portolan register api --address '[2001:db8::9]:443' --check https:/health --interval 5s
  portolan unregister redis")]
pub(super) struct Arguments {
    /// The service: NAME (in `global`) or NAME.NAMESPACE
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    place: Place,
    /// What _NAME._tcp questions call its ports
    #[arg(long, value_name = "NAME")]
    port_name: Option<String>,
    /// A word for the application's own use; may be repeated
    #[arg(long, value_name = "WORD")]
    tag: Vec<String>,
    /// Relative share of each address, 0 to 65535
    #[arg(long, value_name = "N")]
    weight: Option<String>,
    /// How each agent finds out whether it answers: tcp, http:/PATH or https:/PATH
    #[arg(long, value_name = "CHECK")]
    check: Option<String>,
    /// From one question to the next
    #[arg(long, value_name = "DURATION", requires = "check")]
    interval: Option<String>,
    /// How long an answer may take
    #[arg(long, value_name = "DURATION", requires = "check")]
    timeout: Option<String>,
    /// Passes in a row that make it healthy
    #[arg(long, value_name = "N", requires = "check")]
    rise: Option<String>,
    /// Failures in a row that make it unhealthy
    #[arg(long, value_name = "N", requires = "check")]
    fall: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::Operator>,
}

/// Where it is.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Place {
    /// It is found under this name, looked up for whoever asks; the port is for SRV and checks
    #[arg(long, value_name = "HOST[:PORT]", conflicts_with = "address")]
    cname: Option<String>,
    /// It is found here; may be repeated
    #[arg(long, value_name = "IP[:PORT]")]
    address: Vec<String>,
}

/// Forget a registered service: its containers answer again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan unregister redis
  portolan unregister db.shop --etcd-endpoints http://10.0.0.1:2379")]
pub(super) struct UnregisterArguments {
    /// The service: NAME (in `global`) or NAME.NAMESPACE
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::Operator>,
}

impl Arguments {
    /// As `[[external]]` takes it.
    fn text(&self) -> anyhow::Result<String> {
        let mut words = vec![self.name.clone()];
        let mut add = |key: &str, values: &[String]| -> anyhow::Result<()> {
            for value in values {
                if value.contains(char::is_whitespace) {
                    return Err(usage(format!("--{key} {value:?}: without blanks, please")));
                }
                words.push(format!("{key}={value}"));
            }
            Ok(())
        };
        add("cname", self.place.cname.as_slice())?;
        add("address", &self.place.address)?;
        add("tag", &self.tag)?;
        let single = [
            ("port-name", &self.port_name),
            ("weight", &self.weight),
            ("check", &self.check),
            ("interval", &self.interval),
            ("timeout", &self.timeout),
            ("rise", &self.rise),
            ("fall", &self.fall),
        ];
        single.iter().try_for_each(|(key, value)| add(key, value.as_slice()))?;
        Ok(words.join(" "))
    }
}

fn usage(message: String) -> anyhow::Error {
    Errors(vec![message]).into()
}

pub(super) async fn register(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    let config = config(&arguments.flags, process)?;
    let text = arguments.text()?;
    // Said here, whoever is asked then.
    let (name, external) = external::parse(&text).map_err(|error| usage(error.to_string()))?;
    external::leads_out(&external, &config.zone.value).map_err(|error| usage(error.to_string()))?;
    let registered = match config.registry.value {
        Registry::Memory => ask(&config, "register", &text).await?,
        Registry::Etcd => write(&config, &name, Some(&external)).await?,
    };
    tell(&arguments.output, &registered)?;
    match registered.replaced {
        Some(before) => note(format_args!("registered {text}; before: {before}")),
        None => note(format_args!("registered {text}")),
    }
    Ok(Exit::Done)
}

pub(super) async fn unregister(arguments: &UnregisterArguments, process: &Process) -> anyhow::Result<Exit> {
    let config = config(&arguments.flags, process)?;
    let name = external::parse_name(&arguments.name).map_err(|error| usage(error.to_string()))?;
    let registered = match config.registry.value {
        Registry::Memory => ask(&config, "unregister", &arguments.name).await?,
        Registry::Etcd => write(&config, &name, None).await?,
    };
    let Some(before) = registered.replaced.clone() else {
        note(format_args!("error: no external service is registered as {name}"));
        return Ok(Exit::NotFound);
    };
    tell(&arguments.output, &registered)?;
    note(format_args!("unregistered {before}"));
    Ok(Exit::Done)
}

fn config(flags: &flags::Flags<flags::Operator>, process: &Process) -> anyhow::Result<Config> {
    let config = Config::load(&flags.given, &process.env, process.root, &read)?;
    let _unchanged = start_log(config.log_format.value, &config.log.value);
    Ok(config)
}

/// The agent of this host.
async fn ask(config: &Config, verb: &str, text: &str) -> anyhow::Result<Registered> {
    let client = Client::Control(config.control.value.clone());
    let body = client.post(&format!("/v1/{verb}?service={}", escape(text))).await?;
    super::decode(&client, &body)
}

/// etcd itself: what was there before comes back in the same transaction.
async fn write(config: &Config, name: &ExternalName, external: Option<&External>) -> anyhow::Result<Registered> {
    let keys = Keys::new(&config.etcd_prefix.value);
    let etcd = crate::agent::etcd_of(config, vec![keys.external_prefix().to_vec()])?;
    let key = keys.external(name);
    let change = match external {
        Some(external) => Op::Put { key: key.clone(), value: external::encode(external), lease: LeaseId(0) },
        None => Op::Delete { key: key.clone() },
    };
    let request = Request::Txn { compare: Vec::new(), then: vec![Op::Get { key }, change], otherwise: Vec::new() };
    let reply = etcd.call(request).await;
    let reply = reply.with_context(|| format!("etcd {} was not written", config.etcd_endpoints.value.join(", ")))?;
    let Reply::Txn { replies, .. } = reply else { bail!("etcd answered another question") };
    let Some(OpReply::Got(before)) = replies.into_iter().next() else { bail!("etcd answered another question") };
    let words = |value: &[u8]| match external::decode(value) {
        Ok(before) => external::words(name, &before),
        Err(error) => format!("{name}, which could not be read: {error}"),
    };
    Ok(Registered { name: name.to_string(), replaced: before.map(|before| words(&before.value)) })
}

fn tell(output: &Output, registered: &Registered) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match output.form {
        Form::Json => writeln!(out, "{}", serde_json::to_string(registered)?)?,
        Form::Name | Form::Table => writeln!(out, "{}", registered.name)?,
    }
    Ok(())
}
