//! `portolan resolve`

use std::{
    io::{self, Write},
    net::IpAddr,
};

use clap::Args;

use super::{
    AskAs, Exit, Process, client, flags,
    output::{Form, Output, count, note},
};
use crate::api::{ResolveReply, client::escape};

/// Ask the agent for a name, as any container would
///
/// Prints the data of each record, like `dig +short`; the response code goes to stderr. The answer is the one that
/// DNS gives, for the asker you name: which addresses it holds depends on who asks.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan resolve web.shop                          as this host
  portolan resolve web --as shop-frontend-1          as that container, in its own namespace
  portolan resolve _http._tcp.web.shop --type SRV
  portolan resolve 172.18.0.2 --type PTR             addresses may be written as such")]
pub(super) struct Arguments {
    /// The name: service, service.namespace, or with the zone
    name: String,
    /// A, AAAA, SRV, TXT, PTR, SOA or NS
    #[arg(long = "type", value_name = "TYPE", default_value = "A")]
    kind: String,
    #[command(flatten)]
    ask_as: AskAs,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::Client>,
}

pub(super) async fn run(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    let client = client(&arguments.flags, process)?;
    let name = match arguments.name.parse() {
        Ok(address) if arguments.kind.eq_ignore_ascii_case("PTR") => reverse(address),
        _ => arguments.name.clone(),
    };
    let target =
        format!("/v1/resolve?name={}&type={}{}", escape(&name), escape(&arguments.kind), arguments.ask_as.query());
    let body = client.get(&target).await?;
    let reply: ResolveReply = super::decode(&client, &body)?;

    let mut out = io::BufWriter::new(io::stdout().lock());
    if arguments.output.form == Form::Json {
        out.write_all(&body)?;
        writeln!(out)?;
    } else {
        for record in &reply.answers {
            let data = match (arguments.output.form, record.kind.as_str()) {
                // Priority, weight and port go; the target is the name.
                (Form::Name, "SRV") => record.data.rsplit(' ').next().unwrap_or_default(),
                _ => &record.data,
            };
            writeln!(out, "{data}")?;
        }
    }
    out.flush()?;

    let answers = count(reply.answers.len(), "answer");
    note(format_args!("{}: {answers} for {} {}, asked as {}", reply.rcode, reply.name, reply.kind, reply.asker));
    Ok(match reply.rcode.as_str() {
        "NOERROR" if !reply.answers.is_empty() => Exit::Done,
        "NOERROR" | "NXDOMAIN" => Exit::NotFound,
        _ => Exit::Failure,
    })
}

/// The name that PTR questions about an address ask (RFC 1035 section 3.5, RFC 3596 section 2.5).
fn reverse(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(address) => {
            let nibbles =
                address.octets().into_iter().rev().map(|octet| format!("{:x}.{:x}.", octet & 0xf, octet >> 4));
            format!("{}ip6.arpa", nibbles.collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_become_reverse_names() {
        assert_eq!(reverse([172, 18, 0, 2].into()), "2.0.18.172.in-addr.arpa");
        let name = "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.2.d.f.ip6.arpa";
        assert_eq!(reverse("fd21::5".parse().unwrap()), name);
    }
}
