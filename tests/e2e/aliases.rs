//! What Docker's own DNS calls a container, asked for on every host: a project of Compose with all of its names, a container
//! that is given one and loses it, and a name that is gone for a moment.

use std::fs;

use hickory_proto::{op::ResponseCode, rr::RecordType};

use super::{
    bed::{
        A, B, C, Container, Host, SAMPLE, SOON, addresses, eventually, everywhere, expect, run, unique, unique_port,
    },
    deploy::{Socket, compose},
    dns::Answer,
    external::Machine,
};

/// A Compose project on host A; taken down when dropped.
struct Project {
    name: String,
    socket: Socket,
    directory: tempfile::TempDir,
}

impl Project {
    fn up(name: String, file: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join("compose.yaml"), file).expect("a file");
        let project = Self { name, socket: Socket::to(A), directory };
        project.compose(&["up", "-d"]).unwrap_or_else(|error| panic!("compose up: {error}"));
        project
    }

    fn compose(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = compose();
        command.env("DOCKER_HOST", self.socket.url()).args(["-p", &self.name, "-f"]);
        run(command.arg(self.directory.path().join("compose.yaml")).args(arguments))
    }

    /// A container of the same project elsewhere: on the default bridge of a host.
    fn asker(&self, host: Host) -> Container {
        asker(host, &self.name)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        drop(self.compose(&["down", "-v", "-t", "0"]));
    }
}

fn asker(host: Host, project: &str) -> Container {
    let label = format!("com.docker.compose.project={project}");
    host.run(&unique("asker"), &["--label", &label, "--label", "com.docker.compose.service=asker"])
}

#[test]
fn six_names_of_docker_are_answered_on_every_host_as_docker_would_on_one_network() {
    let (name, port) = (unique("shop"), unique_port());
    let outside = format!("www.{name}.example.com");
    let machine = Machine::start(33, &outside);
    let file = format!(
        "version: '3.7'
services:
  db:
    image: {SAMPLE}
    container_name: {name}-store
    hostname: {name}-dbhost
    ports: ['{port}:80']
    networks:
      default:
        aliases: ['{name}-alias', '{outside}']
"
    );
    let project = Project::up(name.clone(), &file);
    let id = A.docker(&["inspect", "-f", "{{slice .Id 0 12}}", &format!("{name}-store")]);
    let names = [
        "db.".to_owned(),
        format!("{name}-store."),
        format!("{name}-alias."),
        format!("{name}-dbhost."),
        format!("{}.", id.trim()),
        outside.clone(),
    ];
    let given = addresses([A]);
    let elsewhere = [project.asker(B), project.asker(A)];
    let stranger = asker(B, &unique("other"));
    for asked in &names {
        for asker in &elsewhere {
            // On its own network Docker itself knows the first five; from here it asks us.
            expect(&format!("{} is given {asked}", asker.name), &given, || asker.ask(asked, "A"));
        }
        let (theirs, none) = match *asked == outside {
            true => (Answer::found([&machine.address]), Answer::found([&machine.address])),
            false => (Answer::NoName, Answer::NoName),
        };
        expect(&format!("another project is not given {asked}"), &theirs, || stranger.ask(asked, "A"));
        expect(&format!("host B is not given {asked}"), &none, || B.ask_itself(asked, "A"));
        let outside = if *asked == outside { Answer::Failed(ResponseCode::Refused) } else { Answer::NoName };
        expect(&format!("a machine elsewhere is not given {asked}"), &outside, || {
            B.ask(asked.trim_end_matches('.'), RecordType::A)
        });
    }
    // Within our zone they are read as bare names are.
    let full = format!("{name}-store.svc.internal");
    expect("below the zone", &given, || elsewhere[0].ask(&full, "A"));
    elsewhere[0].connect(&format!("{}:{port}", A.address)).expect("it opens");
    // Only addresses are its own: the rest of that name is the site's.
    let told =
        super::drain::portolan(B, &["explain", &format!("{outside}."), "--as", &elsewhere[0].name]).expect("explained");
    assert!(told.contains(&format!("{name}-store")), "explain names the container: {told}");
    drop(project);
    expect("the name outside is back", &Answer::found([&machine.address]), || elsewhere[0].ask(&outside, "A"));
    expect("the others are gone", &Answer::NoData, || elsewhere[0].ask(&names[2], "A"));
}

#[test]
fn an_alias_that_is_given_while_the_container_runs_comes_and_goes_with_it() {
    let (name, port) = (unique("shop"), unique_port());
    let label = format!("com.docker.compose.project={name}");
    let network = A.network(&unique("later"));
    let db = A.run(
        &unique("db"),
        &["-p", &format!("{port}:80"), "--label", &label, "--label", "com.docker.compose.service=db"],
    );
    let asker = asker(B, &name);
    let alias = format!("{name}-late.");
    expect("the service is known", &addresses([A]), || asker.ask("db.svc.internal", "A"));
    assert_eq!(asker.ask(&alias, "A"), Answer::NoName);
    A.docker(&["network", "connect", "--alias", alias.trim_end_matches('.'), &network.name, &db.name]);
    expect("connected", &addresses([A]), || asker.ask(&alias, "A"));
    A.docker(&["network", "disconnect", &network.name, &db.name]);
    expect("disconnected: it had the name a moment ago", &Answer::NoData, || asker.ask(&alias, "A"));
}

#[test]
fn a_name_that_is_gone_for_a_moment_is_not_another_teams_until_an_operator_says_so() {
    let (name, own, other) = (unique("shop"), unique_port(), unique_port());
    let service = unique("db");
    let label = format!("com.docker.compose.project={name}");
    let as_service = format!("com.docker.compose.service={service}");
    let team =
        C.run(&unique("team"), &["-p", &format!("{other}:80"), "--label", &format!("portolan.service={service}")]);
    let db = A.run(&unique("db"), &["-p", &format!("{own}:80"), "--label", &label, "--label", &as_service]);
    let asker = asker(B, &name);
    let bare = format!("{service}.");
    everywhere(&format!("{service}.global.svc.internal"), RecordType::A, &addresses([C]));
    expect("its own", &addresses([A]), || asker.ask(&bare, "A"));
    db.docker(&["stop", "-t", "0"]);
    expect("gone, and not the other team's", &Answer::NoData, || asker.ask(&bare, "A"));
    let explain = format!("docker exec portolan-agent portolan explain {bare} --as {} || true", asker.name);
    let told = B.shell(&explain);
    assert!(told.contains("--fallback-after"), "{told}");
    // Nor after a restart of the agent, once it has written that down.
    let kept = "cat /var/lib/docker/volumes/portolan/_data/names.json || true";
    eventually("it is kept", SOON, || {
        let text = B.shell(kept);
        if text.contains(&format!("{{\"name\":\"{service}\",\"namespace\":\"{name}\",\"until\":")) {
            Ok(())
        } else {
            Err(text)
        }
    });
    B.docker(&["restart", "portolan-agent"]);
    expect("nor after a restart", &Answer::NoData, || asker.ask(&bare, "A"));
    db.docker(&["start"]);
    expect("its own again", &addresses([A]), || asker.ask(&bare, "A"));
    db.docker(&["stop", "-t", "0"]);
    expect("gone again", &Answer::NoData, || asker.ask(&bare, "A"));
    super::drain::portolan(B, &["cache", "flush", &service]).expect("flushed");
    expect("by an operator's word", &addresses([C]), || asker.ask(&bare, "A"));
    drop(team);
}
