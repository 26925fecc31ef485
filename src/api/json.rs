//! The JSON of the API and of `-o json`. Field names are those of the etcd records (design, "etcd layout"), so that
//! one `jq` filter serves both: services, ports and networks are the records' own wire types, and a test holds the rest
//! against a record.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    model::{
        Catalog, Health, HostId, Label, Offer, Origin, Phase, Proto, Publication, ShortId, Standing, WhenNoneReady,
        external_host,
    },
    registry::record::{NetworkWire, ServiceWire, is_not, written},
};

/// The container's part of a record.
#[derive(Serialize)]
struct ContainerJson<'a> {
    host: &'a str,
    container: &'a str,
    name: &'a str,
    image: &'a str,
    phase: Phase,
    health: Health,
    #[serde(skip_serializing_if = "is_not")]
    held: bool,
    networks: Vec<NetworkWire<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    aliases: &'a [Arc<str>],
}

impl<'a> ContainerJson<'a> {
    fn of(host: &'a HostId, publication: &'a Publication) -> Self {
        Self {
            host: host.as_str(),
            container: publication.container.as_str(),
            name: &publication.name,
            image: &publication.image,
            phase: publication.phase,
            health: written(publication.health),
            held: publication.health == Health::Held,
            networks: publication.networks.iter().map(NetworkWire::of).collect(),
            aliases: &publication.aliases,
        }
    }
}

/// A container with one of its services.
#[derive(Serialize)]
struct InstanceJson<'a> {
    #[serde(flatten)]
    container: ContainerJson<'a>,
    #[serde(flatten)]
    service: ServiceWire<'a>,
}

#[derive(Serialize)]
struct ServiceJson<'a> {
    service: &'a str,
    namespace: &'a str,
    ready: usize,
    answers: &'static str,
    instances: Vec<InstanceJson<'a>>,
}

#[derive(Serialize)]
struct EventJson<'a> {
    event: &'a str,
    #[serde(flatten)]
    container: ContainerJson<'a>,
    namespace: &'a str,
    services: Vec<ServiceWire<'a>>,
}

/// A line of JSON. Our own structs hold neither maps with odd keys nor failing serializers, the two ways to fail.
pub(super) fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// One line of `/v1/watch` about a publication: `{"event":"added","host":…,"container":…,"services":[…],…}`.
pub(super) fn event(event: &str, host: &HostId, publication: &Publication) -> Vec<u8> {
    let services = publication.services.iter().map(ServiceWire::of).collect();
    let namespace = publication.namespace.as_str();
    line(&EventJson { event, container: ContainerJson::of(host, publication), namespace, services })
}

/// Which services are asked for; `None`: all.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Filter {
    /// Of this namespace.
    pub namespace: Option<String>,
    /// Of this name.
    pub service: Option<String>,
}

impl Filter {
    fn takes(&self, offer: &Offer) -> bool {
        let is = |wanted: &Option<String>, label: &Label| wanted.as_ref().is_none_or(|text| text == label.as_str());
        is(&self.namespace, &offer.namespace) && is(&self.service, &offer.service)
    }
}

/// The body of `/v1/services` in pieces, one per service, so that the largest catalog is never held as text:
/// `{"revision":…,"cluster":…,"complete":…,"stale":…,"problems":…,"services":[{"service":…,"instances":[…]}]}`.
pub(super) fn services(
    catalog: &Catalog,
    own: &HostId,
    filter: &Filter,
    problems: usize,
    when_none_ready: WhenNoneReady,
) -> impl Iterator<Item = Vec<u8>> + Send + use<> {
    #[derive(Serialize)]
    struct Head {
        revision: i64,
        cluster: u64,
        complete: bool,
        stale: bool,
        problems: usize,
        services: [(); 0],
    }
    /// One offer of one publication, by its place there.
    type Instance = (HostId, Arc<Publication>, usize);
    let mut index: BTreeMap<(Label, Label), Vec<Instance>> = BTreeMap::new();
    for (origin, host) in &catalog.hosts {
        for publication in host.publications.values() {
            for (place, offer) in publication.services.iter().enumerate().filter(|(_, offer)| filter.takes(offer)) {
                let instances = index.entry((offer.namespace.clone(), offer.service.clone())).or_default();
                instances.push((host_of(origin, own).clone(), Arc::clone(publication), place));
            }
        }
    }
    let mut head = serde_json::to_vec(&Head {
        revision: catalog.revision,
        cluster: catalog.cluster,
        complete: catalog.is_complete(),
        stale: catalog.stale,
        problems,
        services: [],
    })
    .unwrap_or_default();
    head.truncate(head.len().saturating_sub(2)); // Reopens the list: `…"services":[`.
    let mut separator = "";
    let body = index.into_iter().map(move |((namespace, name), instances)| {
        let json = ServiceJson {
            service: name.as_str(),
            namespace: namespace.as_str(),
            ready: answering(instances.iter(), |(_, held, _)| held).filter(|(_, held, _)| held.is_ready()).count(),
            answers: given(
                instances.iter().filter_map(|(_, held, place)| Some((&**held, held.services.get(*place)?))),
                when_none_ready,
            ),
            instances: instances
                .iter()
                .filter_map(|(host, publication, place)| {
                    let service = ServiceWire::of(publication.services.get(*place)?);
                    Some(InstanceJson { container: ContainerJson::of(host, publication), service })
                })
                .collect(),
        };
        let mut piece = std::mem::replace(&mut separator, ",").as_bytes().to_vec();
        piece.extend(serde_json::to_vec(&json).unwrap_or_default());
        piece
    });
    std::iter::once(head).chain(body).chain(std::iter::once(b"]}\n".to_vec()))
}

/// The instances of a service that count: the external ones where there are any, as in `dns/zone.rs`.
fn answering<'a, T: 'a>(
    instances: impl Iterator<Item = &'a T> + Clone,
    publication: impl Fn(&'a T) -> &'a Publication,
) -> impl Iterator<Item = &'a T> {
    let any_external = instances.clone().any(|held| publication(held).elsewhere.is_some());
    instances.filter(move |held| !any_external || publication(held).elsewhere.is_some())
}

/// Whom clients of a service are sent to: `ready` instances, those of a fallback, or `nobody`. As in `dns/ready.rs`: the
/// policy is that of the instance with the lowest id that has one.
pub(super) fn given<'a>(
    instances: impl Iterator<Item = (&'a Publication, &'a Offer)>,
    when_none_ready: WhenNoneReady,
) -> &'static str {
    let mut standings = BTreeSet::new();
    let mut own: Option<(ShortId, WhenNoneReady)> = None;
    let instances: Vec<_> = instances.collect();
    for (publication, offer) in answering(instances.iter(), |(held, _)| held) {
        standings.insert(publication.standing());
        if let Some(policy) = offer.when_none_ready
            && own.is_none_or(|(lowest, _)| publication.container < lowest)
        {
            own = Some((publication.container, policy));
        }
    }
    let policy = own.map_or(when_none_ready, |(_, policy)| policy);
    policy.given(&standings).map_or("nobody", Standing::as_str)
}

/// The host a copy in the catalog belongs to.
pub(super) fn host_of<'a>(origin: &'a Origin, own: &'a HostId) -> &'a HostId {
    match origin {
        Origin::Own => own,
        Origin::Registry(host) => host,
        Origin::External => external_host(),
    }
}

/// The answer to `POST /v1/cache/flush`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Answers of upstreams that were forgotten.
    pub flushed: usize,
    /// Namespaces that had lost the name, whose askers find it in `global` from now on.
    #[serde(default)]
    pub freed: usize,
}

/// The answer to `POST /v1/leave`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The host that has left.
    pub host: String,
    /// It has.
    pub left: bool,
}

/// The answer to `/v1/resolve`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveReply {
    /// The whole name that was looked up.
    pub name: String,
    /// The record type.
    #[serde(rename = "type")]
    pub kind: String,
    /// On whose behalf, for people: `host`, `container shop-web-1 (namespace shop)`.
    pub asker: String,
    /// `NOERROR`, `NXDOMAIN`, `SERVFAIL`, `REFUSED`, …
    pub rcode: String,
    /// The answer section.
    pub answers: Vec<ResolveRecord>,
    /// The additional section: the addresses of SRV targets.
    pub additionals: Vec<ResolveRecord>,
}

/// One record of a [`ResolveReply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolveRecord {
    /// Its owner.
    pub name: String,
    /// In seconds.
    pub ttl: u32,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its data as a zone file writes it.
    pub data: String,
}

/// What `portolan services` reads of `/v1/services`.
#[derive(Debug, Deserialize)]
pub struct Listing {
    /// The registry cannot be heard at the moment.
    pub stale: bool,
    /// Docker and the registry have both been listed.
    pub complete: bool,
    /// How many problems `/v1/problems` tells.
    pub problems: usize,
    /// Ordered by namespace and name.
    pub services: Vec<ListedService>,
}

/// One service of a [`Listing`].
#[derive(Debug, Deserialize)]
pub struct ListedService {
    /// Its name.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// Instances that take part in answers.
    pub ready: usize,
    /// Whom answers hold: `ready`, `draining` or `unhealthy` instances, or `nobody`.
    pub answers: String,
    /// All instances.
    pub instances: Vec<ListedInstance>,
}

/// One instance of a [`ListedService`].
#[derive(Debug, Deserialize)]
pub struct ListedInstance {
    /// Its host.
    pub host: String,
    /// Its ports.
    pub ports: Vec<ListedPort>,
}

/// One port of a [`ListedInstance`].
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedPort {
    /// The number inside the container.
    pub port: u16,
    /// The transport.
    pub proto: Proto,
}

/// What `portolan watch` reads of a line of `/v1/watch`.
#[derive(Debug, Deserialize)]
pub struct WatchLine {
    /// `added`, `changed`, `removed`; or `synced`, `stale`, `fresh` without the rest.
    pub event: String,
    /// The publication's host.
    #[serde(default)]
    pub host: String,
    /// The container.
    #[serde(default)]
    pub container: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Its phase.
    #[serde(default)]
    pub phase: String,
    /// What it offers.
    #[serde(default)]
    pub services: Vec<WatchedService>,
}

/// One service of a [`WatchLine`].
#[derive(Debug, Deserialize)]
pub struct WatchedService {
    /// Its name.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{dns::fixture::World, registry::record};

    /// One container with every field that a record can have.
    fn publication() -> Arc<Publication> {
        let world = World::parse(
            "network n1 bridge 172.18.0.0/16
             host own 192.0.2.1
               a1 @n1=172.18.0.2 name=shop-web-1 web.shop main=80 http:80/tcp>0.0.0.0:8080 weight=5 tag=x",
        );
        world.catalog.hosts.values().find_map(|host| host.publications.values().next().cloned()).unwrap()
    }

    /// What etcd holds of it, with the host and the container that its key says.
    fn record(publication: &Publication) -> Value {
        let mut record: Value = serde_json::from_slice(&record::encode(publication)).unwrap();
        (record["host"], record["container"]) = (json!("a"), json!("a10000000000"));
        record
    }

    #[test]
    fn whom_clients_are_sent_to_is_what_the_answers_hold() {
        let rows = [
            ("a @n1=172.18.0.2 web.shop\nb @n1=172.18.0.3 draining web.shop", "ready"),
            ("a @n1=172.18.0.2 unhealthy web.shop\nb @n1=172.18.0.3 draining web.shop", "draining"),
            ("a @n1=172.18.0.2 unhealthy web.shop\nb @n1=172.18.0.3 starting web.shop", "unhealthy"),
            ("a @n1=172.18.0.2 starting web.shop\nb @n1=172.18.0.3 paused web.shop", "nobody"),
            ("a @n1=172.18.0.2 draining web.shop none-ready=none\nb @n1=172.18.0.3 draining web.shop", "nobody"),
            (
                "b @n1=172.18.0.2 draining web.shop none-ready=none
                 a @n1=172.18.0.3 unhealthy web.shop none-ready=unhealthy",
                "unhealthy",
            ),
            ("a @n1=172.18.0.2 web.shop\nhost external\ne =10.0.0.9 unhealthy web.shop", "unhealthy"),
            ("a @n1=172.18.0.2 unhealthy web.shop\nhost external\ne =10.0.0.9 web.shop", "ready"),
        ];
        for (text, expected) in rows {
            let text: String = text.lines().map(|line| format!("  {}\n", line.trim())).collect();
            let world = World::parse(&format!("network n1 bridge 172.18.0.0/16\nhost own 192.0.2.1\n{text}"));
            let held = world.catalog.hosts.values().flat_map(|host| host.publications.values());
            let instances = held.map(|publication| (&**publication, &publication.services[0]));
            let policy = WhenNoneReady::default();
            assert_eq!(given(instances, policy), expected, "{text}");
            let members = world.zone.service("shop", "web").unwrap_or_default();
            let chosen = crate::dns::ready::choose(members, policy).standing;
            assert_eq!(chosen.map_or("nobody", Standing::as_str), expected, "the answers themselves");
        }
    }

    #[test]
    fn an_event_is_the_record_of_the_container_and_an_instance_that_of_one_service() {
        let (publication, host) = (publication(), HostId::parse("a").unwrap());
        let mut expected = record(&publication);
        assert_eq!(expected["services"][0]["port"], 80, "the record has the optional fields, too: {expected}");
        expected["event"] = json!("added");
        assert_eq!(serde_json::from_slice::<Value>(&event("added", &host, &publication)).unwrap(), expected);

        let fields = expected.as_object_mut().unwrap();
        fields.remove("event");
        let Some(Value::Array(services)) = fields.remove("services") else { panic!("services") };
        fields.extend(services[0].as_object().unwrap().clone());
        let origin = (
            Origin::Own,
            Arc::new(crate::model::Host {
                publications: [(publication.container, publication)].into_iter().collect(),
                ..Default::default()
            }),
        );
        let catalog = Catalog { hosts: [origin].into_iter().collect(), ..Catalog::default() };
        let listing: Vec<u8> =
            super::services(&catalog, &host, &Filter::default(), 0, WhenNoneReady::default()).flatten().collect();
        let listing: Value = serde_json::from_slice(&listing).unwrap();
        assert_eq!(listing["services"][0]["instances"], json!([expected]));
    }
}
