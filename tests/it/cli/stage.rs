//! An agent without an agent: its API over real sockets, with hands on the snapshots behind it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use imbl::OrdMap;
use portolan::{
    api::{
        ApiState, AskAs, DockerFacts, DumpError, DumpRequest, Facts, ResolveError, ResolveRecord, ResolveReply,
        ResolveRequest,
        control::{Control, ControlSocket, Leave, control, serve_control},
        drain::{Drained, DrainedContainer, Drains, Progress},
        external::{Call, Externals, NotRegistered, Registered},
        http::{Limits, public, serve_tcp},
    },
    model::{
        Attachment, Catalog, Common, Driver, Health, Host, HostId, Label, Local, NetworkId, Offer, Origin, Phase, Port,
        Problem, Proto, Publication, Published, Scope, Segment, ShortId,
    },
    watch::container::{Command, NotDone, Target},
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};

/// Nothing here takes longer than moments; a test that waits this long has failed.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

pub(super) fn container(number: usize) -> ShortId {
    ShortId::parse(&format!("{number:012x}")).expect("an id")
}

/// `web` of namespace `shop`, as container `number`.
pub(super) fn publication(number: usize, phase: Phase) -> Arc<Publication> {
    let published = Published { ip: Ipv4Addr::UNSPECIFIED.into(), port: 8080, chosen: true };
    let port = Port {
        name: Label::parse("http").ok(),
        port: 80,
        proto: Proto::Tcp,
        published: [published].into(),
        extra: None,
    };
    Arc::new(Publication {
        container: container(number),
        name: format!("shop-web-{number}").into(),
        common: Arc::new(Common {
            image: "web:1".into(),
            services: [Offer {
                service: Label::parse("web").expect("a label"),
                namespace: Label::parse("shop").expect("a label"),
                tags: ["a".into()].into(),
                weight: 1,
                port: None,
                ports: [port].into(),
                when_none_ready: None,
            }]
            .into(),
            directory: None,
            namespace: Label::parse("shop").expect("a label"),
            aliases: [].into(),
        }),
        phase,
        health: Health::None,
        elsewhere: None,
        networks: [Attachment {
            segment: Arc::new(Segment {
                id: NetworkId("n1".into()),
                name: "shop_default".into(),
                driver: Driver::Bridge,
                scope: Scope::Local,
                internal: false,
            }),
            ips: [[172, 18, 0, 2].into()].into(),
        }]
        .into(),
    })
}

pub(super) fn host(publications: impl IntoIterator<Item = Arc<Publication>>) -> Arc<Host> {
    let publications = publications.into_iter().map(|publication| (publication.container, publication)).collect();
    Arc::new(Host { publications, ..Host::default() })
}

pub(super) fn host_id(text: &str) -> HostId {
    HostId::parse(text).expect("a host id")
}

/// Two hosts: ours with one instance that serves, `b` with one that serves and one that drains.
pub(super) fn catalog() -> Catalog {
    let own = host([publication(1, Phase::Serving)]);
    let other = host([publication(2, Phase::Serving), publication(3, Phase::Draining)]);
    Catalog {
        hosts: OrdMap::from_iter([(Origin::Own, own), (Origin::Registry(host_id("b")), other)]),
        docker_listed: true,
        registry_listed: true,
        revision: 7,
        cluster: 1,
        problems: [Problem::new("key /portolan/v1/hosts/c/instances/x", "garbage", "a JSON object")].into(),
        ..Catalog::default()
    }
}

/// What is served, until it is dropped.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    pub(super) catalog: watch::Sender<Arc<Catalog>>,
    pub(super) facts: watch::Sender<Facts>,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn resolve(request: &ResolveRequest) -> Result<ResolveReply, ResolveError> {
    if request.asker == Some(AskAs::Container("ghost".to_owned())) {
        return Err(ResolveError::NoSuchAsker("no container \"ghost\" on this host".to_owned()));
    }
    if request.kind == "LOC" {
        return Err(ResolveError::Invalid(
            "type \"LOC\" is not answered; use A, AAAA, SRV, TXT, PTR, SOA or NS".into(),
        ));
    }
    let record = |kind: &str, data: &str| ResolveRecord {
        name: "web.shop.svc.internal.".to_owned(),
        ttl: 0,
        kind: kind.to_owned(),
        data: data.to_owned(),
    };
    let (rcode, answers) = match (request.name.as_str(), request.kind.as_str()) {
        ("broken", _) => ("SERVFAIL", vec![]),
        ("gone", _) => ("NXDOMAIN", vec![]),
        (_, "SRV") => ("NOERROR", vec![record("SRV", "1 1 80 000000000001.web.shop.svc.internal.")]),
        (_, "A") => ("NOERROR", vec![record("A", "172.18.0.2"), record("A", "172.18.0.3")]),
        _ => ("NOERROR", vec![]),
    };
    let asker = match &request.asker {
        None => "host".to_owned(),
        Some(AskAs::Container(name)) => format!("container {name} (namespace shop)"),
        Some(AskAs::Address(address)) => format!("stranger {address}"),
    };
    let name = format!("{}.svc.internal.", request.name);
    Ok(ResolveReply { name, kind: request.kind.clone(), asker, rcode: rcode.to_owned(), answers, additionals: vec![] })
}

fn dump(request: &DumpRequest) -> Result<String, DumpError> {
    match (request.zone.as_deref(), &request.asker) {
        (Some("nowhere"), _) => {
            Err(DumpError::NotFound("`nowhere.` is no zone of this host; these are: svc.internal.".into()))
        }
        (Some("early"), _) => Err(DumpError::NotYet("docker or the registry has not been listed yet".into())),
        (zone, asker) => {
            let zone = zone.unwrap_or("svc.internal");
            Ok(format!("{zone}. 1 IN SOA {zone}. hostmaster.{zone}. 1 7200 1800 86400 1\n; {asker:?}\n"))
        }
    }
}

pub(super) async fn serve(catalog: Catalog) -> Served {
    serve_within(catalog, "127.0.0.1:0", Limits::default()).await
}

pub(super) async fn serve_within(catalog: Catalog, bind: &str, limits: Limits) -> Served {
    let listener = TcpListener::bind(bind).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (catalog, catalog_receiver) = watch::channel(Arc::new(catalog));
    let (facts, facts_receiver) =
        watch::channel(Facts { docker: DockerFacts { connected: true, ..DockerFacts::default() }, ..Facts::default() });
    let (_, local) = watch::channel(Arc::new(Local::default()));
    let state = ApiState {
        host: host_id("a"),
        zone: "svc.internal".into(),
        catalog: catalog_receiver,
        local,
        when_none_ready: Arc::new(portolan::model::WhenNoneReady::default),
        facts: Arc::new(move || facts_receiver.borrow().clone()),
        resolve: Arc::new(|request| resolve(&request)),
        explain: Arc::new(|request| super::explain::explain(&request)),
        dump: Arc::new(|request| dump(&request)),
    };
    let router = public(state, address);
    let task = tokio::spawn(serve_tcp(listener, router, limits, watch::channel(false).1));
    Served { address, catalog, facts, task }
}

/// An agent that runs one container, `shop-web-1`, and needs two looks until everybody knows.
fn drains() -> Drains {
    let looks = Arc::new(AtomicUsize::new(0));
    let order = |command: Command| -> BoxFuture<'static, Result<Drained, NotDone>> {
        let (Command::Drain(target) | Command::Undrain(target)) = command;
        let container = DrainedContainer { container: container(1).to_string(), name: "shop-web-1".into() };
        let outcome = match target {
            Target::Named(name) if name != "shop-web-1" => Err(NotDone::NoSuch(format!("nothing called {name}"))),
            _ => Ok(Drained { host: "a".into(), round: 7, containers: vec![container] }),
        };
        Box::pin(async move { outcome })
    };
    let progress = move |round| -> BoxFuture<'static, Progress> {
        let known = looks.fetch_add(1, Relaxed) >= 2;
        let waits_for = if known { vec![] } else { vec!["host b".into()] };
        Box::pin(async move { Progress { round, known: known && round == 7, waits_for, ttl: 0 } })
    };
    Drains { order: Arc::new(order), progress: Arc::new(progress) }
}

/// An agent that keeps no service but `redis`, and takes any other.
fn externals() -> Externals {
    let register: Call = Arc::new(|text| {
        let (name, _) = text.split_once(' ').unwrap_or((&text, ""));
        let replaced = (name == "redis").then(|| "redis address=10.0.0.8".to_owned());
        let registered = Registered { name: format!("{name}.global"), replaced };
        Box::pin(async move { Ok(registered) })
    });
    let unregister: Call = Arc::new(|name| {
        let outcome = match name.as_str() {
            "redis" => Ok(Registered { name: "redis.global".into(), replaced: Some("redis address=10.0.0.8".into()) }),
            other => Err(NotRegistered::NoSuch(format!("{other}.global"))),
        };
        Box::pin(async move { outcome })
    });
    Externals { register, unregister }
}

/// The control socket with a hand-made agent behind it.
pub(super) fn serve_leave(path: &Path, outcome: Result<(), String>) -> (JoinHandle<()>, mpsc::Receiver<()>) {
    let (leave, mut asked) = mpsc::channel(1);
    let (seen, told) = mpsc::channel(8);
    let socket = ControlSocket::bind(path).expect("a socket");
    tokio::spawn(async move {
        while let Some(done) = asked.recv().await {
            let done: Leave = done;
            let _ = seen.send(()).await;
            let _ = done.send(outcome.clone());
        }
    });
    // It knows what upstreams said of `example.com`, and two other names.
    let flush = Arc::new(|name: Option<&str>| match name {
        None => Ok((3, 0)),
        Some("example.com") => Ok((1, 0)),
        Some("db") => Ok((0, 1)),
        Some("a..b") => Err("\"a..b\" is no name".to_owned()),
        Some(_) => Ok((0, 0)),
    });
    let (drains, externals) = (drains(), externals());
    let (takeover, handing) = (mpsc::channel(1).0, Arc::default());
    let router = control(Control { host: host_id("a"), leave, drains, externals, flush, takeover, handing });
    let task = tokio::spawn(serve_control(socket, router, Limits::default(), watch::channel(false).1));
    (task, told)
}
