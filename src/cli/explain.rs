//! `portolan explain`

use std::io::{self, Write};

use clap::Args;

use super::{
    AskAs, Exit, Process, client, flags,
    output::{Form, Output, count, note},
};
use crate::api::{
    client::escape,
    explain::{ExplainReply, ExplainedCandidate, ExplainedContainer, ExplainedFamily, ExplainedReason, ExplainedView},
};

/// Tell why an instance is, or is not, in the answer
///
/// For a name: how it was read, and for every instance of the service the rule by which it is in, or the reason why it
/// is out, for the asker you name and as another host sees it. For a container of the agent's host: the names it is
/// answered under and who reaches it, or why it has none and which label would mend that.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  portolan explain web.shop                          as this host, and as another
  portolan explain web --as shop-frontend-1          as that container, in its own namespace
  portolan explain shop-web-1                        a container: its names, or what is missing
  portolan explain web.shop -o name                  the instances that are in")]
pub(super) struct Arguments {
    /// A name (service, service.namespace, or with the zone), or a container of the agent's host (name or id)
    #[arg(value_name = "NAME|CONTAINER")]
    subject: String,
    #[command(flatten)]
    ask_as: AskAs,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    flags: flags::Flags<flags::Client>,
}

pub(super) async fn run(arguments: &Arguments, process: &Process) -> anyhow::Result<Exit> {
    let client = client(&arguments.flags, process)?;
    let subject = escape(&arguments.subject);
    let target = format!("/v1/explain?name={subject}&container={subject}{}", arguments.ask_as.query());
    let body = client.get(&target).await?;
    let reply: ExplainReply = super::decode(&client, &body)?;

    let containers = reply.containers.as_deref().unwrap_or_default();
    // A container's name is a name, too, though mostly nobody's service.
    let is_about_name = |view: &ExplainedView| {
        containers.is_empty()
            || !view.candidates.is_empty()
            || view.answers.iter().any(|answer| !answer.data.is_empty())
    };
    let views: &[ExplainedView] = reply.name.as_ref().map_or(&[], |name| &name.views);
    let views = if views.iter().any(is_about_name) { views } else { &[] };

    let mut out = io::BufWriter::new(io::stdout().lock());
    match arguments.output.form {
        Form::Json => {
            out.write_all(&body)?;
            writeln!(out)?;
        }
        Form::Name => names(&mut out, views, containers)?,
        Form::Table => {
            for (place, view) in views.iter().enumerate() {
                separate(&mut out, place)?;
                print_view(&mut out, view)?;
            }
            for (place, container) in containers.iter().enumerate() {
                separate(&mut out, views.len() + place)?;
                print_container(&mut out, container)?;
            }
        }
    }
    out.flush()?;

    if containers.is_empty() && views.iter().all(|view| view.candidates.is_empty()) {
        note(format_args!("no service and no container of this host is called {}", arguments.subject));
    }
    let answered = views.first().is_some_and(|view| view.answers.iter().any(|answer| !answer.data.is_empty()));
    let found = if views.is_empty() { containers.iter().any(|container| container.published) } else { answered };
    Ok(if found { Exit::Done } else { Exit::NotFound })
}

fn separate(out: &mut impl Write, place: usize) -> io::Result<()> {
    if place > 0 { writeln!(out) } else { Ok(()) }
}

/// The instance names of those that are given to the asker; the names of a container.
fn names(out: &mut impl Write, views: &[ExplainedView], containers: &[ExplainedContainer]) -> io::Result<()> {
    for candidate in views.first().map_or(&[][..], |view| &view.candidates) {
        if candidate.verdict != "out" {
            writeln!(out, "{}.{}.{}", candidate.container, candidate.service, candidate.namespace)?;
        }
    }
    containers.iter().flat_map(|container| &container.names).try_for_each(|name| writeln!(out, "{name}"))
}

fn print_view(out: &mut impl Write, view: &ExplainedView) -> io::Result<()> {
    writeln!(out, "{}  as {}", view.name, view.asker)?;
    writeln!(out, "  read as    {}", view.reading)?;
    if let Some(course) = &view.course {
        writeln!(out, "  it is      {course}")?;
    }
    if view.searched.len() > 1 {
        let mut won = false;
        let looked = view.searched.iter().map(|searched| {
            let word = match (searched.found, won) {
                (true, false) => "has it",
                (true, true) => "has it too, but comes second",
                (false, _) => "does not have it",
            };
            won |= searched.found;
            format!("{} {word}", searched.namespace)
        });
        writeln!(out, "  namespace  {}", looked.collect::<Vec<_>>().join("; "))?;
    }
    if let Some(advice) = &view.advice {
        writeln!(out, "  advice     {advice}")?;
    }
    if !view.candidates.is_empty() {
        let ready = view.candidates.iter().filter(|candidate| candidate.standing == "ready").count();
        let fallback = match (view.standing.as_deref(), ready) {
            (_, 1..) => String::new(),
            (Some(standing), _) => format!("; the {standing} ones are given"),
            (None, _) => format!("; when none is ready: {}", view.when_none_ready.as_deref().unwrap_or("none")),
        };
        writeln!(out, "  ready      {ready} of {}{fallback}", view.candidates.len())?;
    }
    if let Some(number) = &view.number {
        writeln!(out, "  port       {number}")?;
    }
    for answer in &view.answers {
        let data = if answer.data.is_empty() { answer.rcode.clone() } else { answer.data.join(", ") };
        let data = if data == "NOERROR" { "NODATA".to_owned() } else { data };
        writeln!(out, "  {:<9}  {data}", answer.kind)?;
    }
    if let Some(held) = &view.held {
        writeln!(out, "  note       {held}")?;
    }
    view.candidates.iter().try_for_each(|candidate| print_candidate(out, candidate, true))
}

fn print_candidate(out: &mut impl Write, candidate: &ExplainedCandidate, with_place: bool) -> io::Result<()> {
    let ExplainedCandidate { verdict, host, container, standing, .. } = candidate;
    // Any writer of etcd chose that name, and this is somebody's terminal.
    let name = candidate.name.escape_debug();
    if with_place {
        writeln!(out, "  {verdict:<3} {host}/{name} ({container}), {standing}")?;
    } else {
        writeln!(out, "    {}.{}", candidate.service, candidate.namespace)?;
    }
    // What is true of both families is said once.
    if candidate.ipv4 == candidate.ipv6 {
        print_family(out, "both", &candidate.ipv4)?;
    } else {
        print_family(out, "IPv4", &candidate.ipv4)?;
        print_family(out, "IPv6", &candidate.ipv6)?;
    }
    if !candidate.ports.is_empty() {
        let ports = candidate.ports.iter().map(|port| match port.number == port.port {
            true => port.number.to_string(),
            false => format!("{} for {}/{}", port.number, port.port, port.proto),
        });
        let priority =
            if candidate.priority > 0 { format!(", priority {}", candidate.priority) } else { String::new() };
        writeln!(out, "      SRV   {}{priority}", ports.collect::<Vec<_>>().join(", "))?;
    }
    Ok(())
}

fn print_family(out: &mut impl Write, label: &str, family: &ExplainedFamily) -> io::Result<()> {
    let why: Vec<&str> = family.reasons.iter().map(|reason| reason.reason.as_str()).collect();
    let address = match (&family.address, family.given) {
        (Some(address), true) => address.clone(),
        (Some(address), false) => format!("not {address}"),
        (None, _) => "-".to_owned(),
    };
    writeln!(out, "      {label}  {address}: {}", why.join("; but "))?;
    family.reasons.iter().try_for_each(|reason| print_fix(out, reason))
}

fn print_fix(out: &mut impl Write, reason: &ExplainedReason) -> io::Result<()> {
    reason.fix.iter().try_for_each(|fix| writeln!(out, "            fix: {fix}"))
}

fn print_container(out: &mut impl Write, container: &ExplainedContainer) -> io::Result<()> {
    let ExplainedContainer { host, container: id, namespace, .. } = container;
    writeln!(out, "container {host}/{} ({id}), asks from namespace {namespace}", container.name.escape_debug())?;
    if let Some(advice) = &container.advice {
        writeln!(out, "  advice: {advice}")?;
    }
    if let Some(reason) = &container.reason {
        writeln!(out, "  not published: {}", reason.reason)?;
        print_fix(out, reason)?;
    }
    for problem in &container.problems {
        writeln!(out, "  problem: {}: {:?}", problem.place, problem.found)?;
        writeln!(out, "            fix: {}", problem.expected)?;
    }
    for name in &container.names {
        writeln!(out, "  name       {name}")?;
    }
    if !container.aliases.is_empty() {
        let all = container.aliases.join(" ");
        writeln!(out, "  aliases    {all} (bare, for askers of namespace {namespace})")?;
    }
    for seen in &container.seen_by {
        writeln!(out, "  seen by {}", seen.asker)?;
        seen.instances.iter().try_for_each(|candidate| print_candidate(out, candidate, false))?;
    }
    if !container.names.is_empty() {
        writeln!(out, "  {} on {host}", count(container.names.len() / 2, "service"))?;
    }
    Ok(())
}
