//! An engine of one test: what a real one answered, over HTTP on a Unix socket, and what a proxy before it makes of
//! that.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::engine::DEADLINE;

/// What comes instead of the engine's own answer to a request whose target contains a text.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The request is refused, as by a socket proxy.
    Refuse(String),
    /// It is taken and never answered.
    Stall(String),
}

/// What the engine has.
#[derive(Debug, Default)]
struct State {
    version: Value,
    info: Value,
    networks: Vec<Value>,
    /// Each as a list has it, and as an inspect does.
    containers: Vec<(Value, Value)>,
    faults: Vec<Fault>,
}

/// The engine. Gone with its socket.
pub(crate) struct Fake {
    pub(crate) path: PathBuf,
    folder: PathBuf,
    state: Arc<Mutex<State>>,
    /// All events so far, which each new stream begins with: a test takes less than the two seconds that are asked for
    /// again.
    events: watch::Sender<Vec<String>>,
    /// The targets of all requests.
    asked: watch::Sender<Vec<String>>,
    _tasks: JoinSet<()>,
    _directory: tempfile::TempDir,
}

impl Fake {
    /// An engine of this version, with its networks and no containers.
    pub(crate) fn start(version: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/engines").join(version);
        let Value::Array(networks) = json_of(&folder, "networks") else { panic!("networks.json holds a list") };
        let state = State { version: json_of(&folder, "version"), networks, ..State::default() };
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&path).expect("a socket");
        let (state, events, asked) = (Arc::new(Mutex::new(state)), watch::Sender::default(), watch::Sender::default());
        let mut tasks = JoinSet::new();
        let shared = (Arc::clone(&state), events.clone(), asked.clone());
        tasks.spawn(async move {
            // Connections end with this task, that is with the engine.
            let mut connections = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                connections.spawn(serve(client, Arc::clone(&shared.0), shared.1.subscribe(), shared.2.clone()));
            }
        });
        Self { path, folder, state, events, asked, _tasks: tasks, _directory: directory }
    }

    /// As `version` says what the engine is.
    pub(crate) fn set_version(&self, version: Value) {
        self.with(|state| state.version = version);
    }

    pub(crate) fn set_faults(&self, faults: &[Fault]) {
        self.with(|state| state.faults = faults.to_vec());
    }

    /// As `info` says how the engine runs.
    pub(crate) fn set_info(&self, info: Value) {
        self.with(|state| state.info = info);
    }

    /// A container that was seen on this version: as a list has it, and as an inspect does.
    pub(crate) fn seen(&self, name: &str) -> (Value, Value) {
        let listed = json_of(&self.folder, "containers");
        let is_named = |listed: &&Value| listed["Names"][0] == json!(format!("/{name}"));
        let listed = listed.as_array().and_then(|all| all.iter().find(is_named)).expect("a container of this name");
        (listed.clone(), json_of(&self.folder, name))
    }

    /// The engine has one more container, and says nothing.
    pub(crate) fn add(&self, container: (Value, Value)) {
        self.with(|state| state.containers.push(container));
    }

    /// The engine has a container of this name no more, and says nothing.
    pub(crate) fn remove(&self, name: &str) {
        let name = json!(format!("/{name}"));
        self.with(|state| state.containers.retain(|(_, inspect)| inspect["Name"] != name));
    }

    /// Tells what this version said of a container, in its words and order: the events with these actions.
    pub(crate) fn tell(&self, id: &str, actions: &[&str]) {
        let lines = self.said(id, actions);
        self.events.send_modify(|events| events.extend(lines));
    }

    /// Starts one more container like `db`, whose id, name and address are its own, and tells so. Gives the service's name
    /// and the address.
    pub(crate) fn start_another(&self, number: u8) -> (String, String) {
        let (listed, inspect) = self.seen("db");
        let id = inspect["Id"].as_str().expect("an id").to_owned();
        let (service, address) = (format!("db{number}"), format!("10.203.7.{}", 100 + number));
        let own = |text: String| {
            text.replace(&id[..12], &format!("{number:012x}"))
                .replace("db\"", &format!("{service}\""))
                .replace("10.203.7.3", &address)
                .replace("fd7a:1::3", &format!("fd7a:1::{}", 100 + number))
        };
        let of_own = |value: Value| serde_json::from_str(&own(value.to_string())).expect("JSON");
        self.add((of_own(listed), of_own(inspect)));
        let lines = self.said(&id, &["create", "connect", "start"]).into_iter().map(own);
        self.events.send_modify(|events| events.extend(lines));
        (service, address)
    }

    /// The events of a container with these actions.
    fn said(&self, id: &str, actions: &[&str]) -> Vec<String> {
        let all = std::fs::read_to_string(self.folder.join("events.jsonl")).expect("events.jsonl");
        let is_meant = |line: &&str| {
            let event: Value = serde_json::from_str(line).expect("an event");
            let action = event["Action"].as_str().expect("an action");
            let actor = &event["Actor"];
            actions.contains(&action) && (actor["ID"] == *id || actor["Attributes"]["container"] == *id)
        };
        let lines: Vec<String> = all.lines().filter(is_meant).map(str::to_owned).collect();
        assert_eq!(lines.len(), actions.len(), "{actions:?} of {id}");
        lines
    }

    /// Tells this line.
    pub(crate) fn tell_line(&self, line: &Value) {
        self.events.send_modify(|events| events.push(line.to_string()));
    }

    /// Changes a network of this name.
    pub(crate) fn change_network(&self, name: &str, change: impl FnOnce(&mut Value)) {
        self.with(|state| {
            let network = state.networks.iter_mut().find(|network| network["Name"] == name);
            change(network.expect("a network of this name"));
        });
    }

    /// How many requests had this in their target.
    pub(crate) fn asked(&self, text: &str) -> usize {
        count(&self.asked.borrow(), text)
    }

    /// Waits until so many requests had this in their target.
    pub(crate) async fn until_asked(&self, text: &str, times: usize) {
        let mut asked = self.asked.subscribe();
        let met = timeout(DEADLINE, asked.wait_for(|asked| count(asked, text) >= times)).await;
        drop(
            met.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {times} times {text}")).expect("the engine lives"),
        );
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().expect("no test panics with the lock held"))
    }
}

fn count(targets: &[String], text: &str) -> usize {
    targets.iter().filter(|target| target.contains(text)).count()
}

fn json_of(folder: &Path, name: &str) -> Value {
    let path = folder.join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// One request on one connection.
async fn serve(
    mut client: UnixStream,
    state: Arc<Mutex<State>>,
    events: watch::Receiver<Vec<String>>,
    asked: watch::Sender<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(octet) = client.read_u8().await else { return };
        head.push(octet);
    }
    let head = String::from_utf8(head).expect("a head of plain characters");
    let mut words = head.split(' ');
    assert_eq!(words.next(), Some("GET"), "nothing is ever changed on an engine");
    let target = words.next().expect("a target").to_owned();
    let answer = state.lock().expect("no test panics with the lock held").answer(&target);
    asked.send_modify(|asked| asked.push(target));
    // Whoever asked may have gone.
    let _gone = match answer {
        Answer::Json(status, body) => {
            let body = body.to_string();
            let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
            client.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await
        }
        Answer::Events => stream(&mut client, events).await,
        Answer::Nothing => std::future::pending().await,
    };
}

async fn stream(client: &mut UnixStream, mut events: watch::Receiver<Vec<String>>) -> std::io::Result<()> {
    client.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await?;
    let mut told = 0;
    loop {
        let due: Vec<String> = events.borrow_and_update()[told..].to_vec();
        told += due.len();
        for line in due {
            client.write_all(format!("{:x}\r\n{line}\n\r\n", line.len() + 1).as_bytes()).await?;
        }
        if events.changed().await.is_err() {
            return Ok(());
        }
    }
}

enum Answer {
    Json(&'static str, Value),
    Events,
    Nothing,
}

impl State {
    fn answer(&self, target: &str) -> Answer {
        for fault in &self.faults {
            match fault {
                Fault::Refuse(text) if target.contains(&**text) => {
                    return Answer::Json("403 Forbidden", json!({"message": "not allowed here"}));
                }
                Fault::Stall(text) if target.contains(&**text) => return Answer::Nothing,
                Fault::Refuse(_) | Fault::Stall(_) => {}
            }
        }
        let path = target.split('?').next().unwrap_or_default();
        let found = match path.split('/').skip(1).collect::<Vec<_>>()[..] {
            ["version"] => Some(self.version.clone()),
            ["info"] => Some(self.info.clone()).filter(|info| !info.is_null()),
            ["events"] => return Answer::Events,
            ["networks"] => Some(self.networks.iter().cloned().collect()),
            ["networks", id] => self.networks.iter().find(|network| network["Id"] == *id).cloned(),
            ["containers", "json"] => Some(self.containers.iter().map(|(listed, _)| listed.clone()).collect()),
            ["containers", id, "json"] => {
                self.containers.iter().map(|(_, inspect)| inspect).find(|inspect| inspect["Id"] == *id).cloned()
            }
            _ => None,
        };
        match found {
            Some(body) => Answer::Json("200 OK", body),
            None => Answer::Json("404 Not Found", json!({"message": format!("No such thing: {path}")})),
        }
    }
}
