//! Snapshots → OpenMetrics text, made when somebody scrapes. No counter is kept here.
//!
//! | name | kind | meaning |
//! |---|---|---|
//! | `portolan_info{version,host}` | info | which agent this is |
//! | `portolan_catalog_hosts` | gauge | hosts known, this one included |
//! | `portolan_catalog_services` | gauge | services known |
//! | `portolan_catalog_services_without_ready{answers}` | gauge | services of which no instance is ready, by who is given instead: `draining` or `unhealthy` ones, or `nobody` |
//! | `portolan_catalog_instances{ready}` | gauge | instances known, by whether they take part in answers |
//! | `portolan_catalog_complete` | gauge | 1: Docker and the registry have been listed, so absence may be stated |
//! | `portolan_catalog_revision` | gauge | the registry's revision that answers come from |
//! | `portolan_problems` | gauge | broken inputs, told by `/v1/problems` |
//! | `portolan_docker_connected` | gauge | 1: the event stream is open |
//! | `portolan_docker_events_total` | counter | events taken |
//! | `portolan_docker_resyncs_total` | counter | event streams opened anew after a loss |
//! | `portolan_docker_lists_total` | counter | full lists taken |
//! | `portolan_checks` | gauge | containers of this host that are checked by their labels |
//! | `portolan_check_results_total{result}` | counter | results of these checks, by `pass` and `fail` |
//! | `portolan_local_askers` | gauge | addresses of this host's containers that may ask |
//! | `portolan_local_networks` | gauge | Docker networks of this host |
//! | `portolan_registry_synced` | gauge | 1: all we want published is published |
//! | `portolan_registry_stale_seconds` | gauge | how long the registry has not been heard; 0: it is heard |
//! | `portolan_registry_conflict` | gauge | 1: another agent publishes under our host id |
//! | `portolan_registry_published` | gauge | containers published |
//! | `portolan_registry_undecodable` | gauge | records that cannot be decoded |
//! | `portolan_registry_writes_total` | counter | transactions that wrote |
//! | `portolan_registry_relists_total` | counter | full lists taken |
//! | `portolan_registry_lease_losses_total` | counter | leases lost |
//! | `portolan_registry_repairs_total` | counter | differences that a full compare found |
//! | `portolan_registry_respelled_total` | counter | own records rewritten without another meaning, after an upgrade |
//! | `portolan_dns_queries_total{transport}` | counter | questions received, by `udp` and `tcp` |
//! | `portolan_dns_replies_total{rcode}` | counter | replies sent |
//! | `portolan_dns_dropped_total` | counter | packets dropped without a reply |
//! | `portolan_dns_too_often_total` | counter | packets beyond the rate of their source: truncated or dropped, unless they carried a cookie of ours |
//! | `portolan_dns_odd_over_cap_total` | counter | packets with unusual questions, dropped because too many of those waited |
//! | `portolan_dns_part_answers_total` | counter | answers with a part of the addresses that there are, as all do not fit |
//! | `portolan_dns_truncated_total` | counter | replies that say they are cut, so that the client asks over TCP |
//! | `portolan_dns_forwarded_total` | counter | questions passed on |
//! | `portolan_dns_forward_failures_total` | counter | questions that no upstream answered, asked or known to be down |
//! | `portolan_dns_private_answers_total` | counter | answers of upstreams handed on empty because they told of addresses inside networks |
//! | `portolan_dns_cache_hits_total` | counter | questions answered with what upstreams have said before |
//! | `portolan_dns_cache_misses_total` | counter | questions that an upstream had to be asked for |
//! | `portolan_dns_cache_stale_total` | counter | questions answered with what is over, because no upstream answered in time |
//! | `portolan_dns_cache_coalesced_total` | counter | questions that waited for what somebody else had asked already |
//! | `portolan_dns_cache_evictions_total` | counter | answers that had to make room |
//! | `portolan_dns_cache_entries` | gauge | answers held |
//! | `portolan_dns_cache_octets` | gauge | memory they take |
//! | `portolan_dns_upstreams{state}` | gauge | upstreams, by `up`, `down` (silent) and `loop` (they lead back to us) |
//! | `portolan_dns_upstream_mismatched_total` | counter | replies that answered none of our questions: late, confused or forged |
//! | `portolan_dns_tcp_connections` | gauge | TCP connections open, those of TLS included |
//! | `portolan_dns_tls_handshakes_total{result}` | counter | handshakes of TLS, by `done` and `failed` (too slow ones included) |
//! | `portolan_dns_listeners{state}` | gauge | wanted addresses, by `bound` and `failed` |

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

use super::{facts::Facts, json::given};
use crate::model::{Catalog, HostId, Local, Origin, WhenNoneReady};

/// The media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything known, and the operator's policy on services without a ready instance.
type Known<'a> = (&'a Catalog, WhenNoneReady);

/// All metrics of this moment. Walks the catalog once.
pub fn render(host: &HostId, catalog: Known<'_>, local: &Local, facts: &Facts, problems: usize) -> String {
    let mut registry = Registry::default();
    let labels = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("host", host.to_string())];
    registry.register("portolan", "Which agent this is", Info::new(labels));
    registry.register_collector(Box::new(Moment(rows(catalog, local, facts, problems))));
    let mut text = String::new();
    // Writing into a string fails only where a collector does, and ours does not.
    text::encode(&mut text, &registry).unwrap_or_default();
    text
}

/// One metric: its samples by the one label it may have.
#[derive(Debug)]
struct Row {
    name: &'static str,
    help: &'static str,
    label: &'static str,
    samples: Vec<(&'static str, Value)>,
}

#[derive(Debug)]
enum Value {
    Gauge(f64),
    Counter(u64),
}

impl Value {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Gauge(value) => ConstGauge::new(*value).encode(encoder),
            Self::Counter(value) => ConstCounter::new(*value).encode(encoder),
        }
    }
}

fn gauge(name: &'static str, help: &'static str, value: f64) -> Row {
    Row { name, help, label: "", samples: vec![("", Value::Gauge(value))] }
}

fn counter(name: &'static str, help: &'static str, value: u64) -> Row {
    Row { name, help, label: "", samples: vec![("", Value::Counter(value))] }
}

/// Exact up to 2^53, far beyond any number of things we hold.
#[expect(clippy::cast_precision_loss, reason = "counts of things in memory stay below 2^53")]
fn count(number: usize) -> f64 {
    number as f64
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

fn rows((catalog, policy): Known<'_>, local: &Local, facts: &Facts, problems: usize) -> Vec<Row> {
    let Sizes { hosts, services, without_ready, ready, not_ready } = Sizes::of(catalog, policy);
    let Facts { docker, checks, registry, dns, cache, listeners, .. } = facts;
    let failed = listeners.iter().filter(|listener| listener.error.is_some()).count();
    let unsigned = |number: u64| count(usize::try_from(number).unwrap_or(usize::MAX));
    #[expect(
        clippy::cast_precision_loss,
        reason = "etcd's revision passes 2^53 after 285 years at a million writes a second"
    )]
    let revision = catalog.revision as f64;
    vec![
        gauge("catalog_hosts", "Hosts known, this one included", count(hosts)),
        gauge("catalog_services", "Services known", count(services)),
        Row {
            name: "catalog_services_without_ready",
            help: "Services of which no instance is ready, by who is given instead",
            label: "answers",
            samples: without_ready.map(|(answers, number)| (answers, Value::Gauge(count(number)))).into(),
        },
        Row {
            name: "catalog_instances",
            help: "Instances known, by whether they take part in answers",
            label: "ready",
            samples: vec![("true", Value::Gauge(count(ready))), ("false", Value::Gauge(count(not_ready)))],
        },
        gauge("catalog_complete", "1: absence of a name may be stated", flag(catalog.is_complete())),
        gauge("catalog_revision", "The registry's revision that answers come from", revision),
        gauge("problems", "Broken inputs, told by /v1/problems", count(problems)),
        gauge("docker_connected", "1: the event stream is open", flag(docker.connected)),
        counter("docker_events", "Events taken", docker.events),
        counter("docker_resyncs", "Event streams opened anew after a loss", docker.resyncs),
        counter("docker_lists", "Full lists taken", docker.lists),
        gauge("checks", "Containers of this host that are checked by their labels", unsigned(checks.containers)),
        Row {
            name: "check_results",
            help: "Results of these checks",
            label: "result",
            samples: vec![("pass", Value::Counter(checks.passed)), ("fail", Value::Counter(checks.failed))],
        },
        gauge("local_askers", "Addresses of this host's containers that may ask", count(local.askers.len())),
        gauge("local_networks", "Docker networks of this host", count(local.networks.len())),
        gauge("registry_synced", "1: all we want published is published", flag(registry.synced)),
        gauge(
            "registry_stale_seconds",
            "How long the registry has not been heard; 0: it is heard",
            registry.stale_for.unwrap_or_default().as_secs_f64(),
        ),
        gauge("registry_conflict", "1: another agent publishes under our host id", flag(registry.conflict.is_some())),
        gauge("registry_published", "Containers published", unsigned(registry.published)),
        gauge("registry_undecodable", "Records that cannot be decoded", unsigned(registry.undecodable)),
        counter("registry_writes", "Transactions that wrote", registry.writes),
        counter("registry_relists", "Full lists taken", registry.relists),
        counter("registry_lease_losses", "Leases lost", registry.lease_losses),
        counter("registry_repairs", "Differences that a full compare found", registry.repairs),
        counter("registry_respelled", "Own records rewritten without another meaning", registry.respelled),
        Row {
            name: "dns_queries",
            help: "Questions received",
            label: "transport",
            samples: vec![("udp", Value::Counter(dns.udp_queries)), ("tcp", Value::Counter(dns.tcp_queries))],
        },
        Row {
            name: "dns_replies",
            help: "Replies sent",
            label: "rcode",
            samples: dns.replies.iter().map(|(rcode, number)| (*rcode, Value::Counter(*number))).collect(),
        },
        counter("dns_dropped", "Packets dropped without a reply", dns.dropped),
        counter("dns_too_often", "Packets beyond the rate of their source", dns.too_often),
        counter(
            "dns_odd_over_cap",
            "Packets with unusual questions, dropped because too many waited",
            dns.odd_over_cap,
        ),
        counter("dns_part_answers", "Answers with a part of the addresses that there are", dns.part_answers),
        counter("dns_truncated", "Replies that say they are cut", dns.truncated),
        counter("dns_forwarded", "Questions passed on", dns.forwarded),
        counter(
            "dns_forward_failures",
            "Questions that no upstream answered, asked or known to be down",
            dns.forward_failures,
        ),
        counter(
            "dns_private_answers",
            "Answers of upstreams handed on empty because they told of addresses inside networks",
            dns.private_answers,
        ),
        counter("dns_cache_hits", "Questions answered with what upstreams have said before", cache.hits),
        counter("dns_cache_misses", "Questions that an upstream had to be asked for", cache.misses),
        counter(
            "dns_cache_stale",
            "Questions answered with what is over, because no upstream answered in time",
            cache.stale,
        ),
        counter("dns_cache_coalesced", "Questions that waited for what somebody else had asked", cache.coalesced),
        counter("dns_cache_evictions", "Answers that had to make room", cache.evictions),
        gauge("dns_cache_entries", "Answers held", unsigned(cache.entries)),
        gauge("dns_cache_octets", "Memory they take", unsigned(cache.octets)),
        Row {
            name: "dns_upstreams",
            help: "Upstreams, by how they stand",
            label: "state",
            samples: ["up", "down", "loop"]
                .map(|word| {
                    let number = cache.upstreams.iter().filter(|upstream| upstream.state == word).count();
                    (word, Value::Gauge(count(number)))
                })
                .into(),
        },
        counter("dns_upstream_mismatched", "Replies that answered none of our questions", cache.mismatched),
        gauge("dns_tcp_connections", "TCP connections open", unsigned(dns.tcp_connections)),
        Row {
            name: "dns_tls_handshakes",
            help: "Handshakes of TLS",
            label: "result",
            samples: vec![("done", Value::Counter(dns.tls_handshakes)), ("failed", Value::Counter(dns.tls_failures))],
        },
        Row {
            name: "dns_listeners",
            help: "Wanted addresses",
            label: "state",
            samples: vec![
                ("bound", Value::Gauge(count(listeners.len() - failed))),
                ("failed", Value::Gauge(count(failed))),
            ],
        },
    ]
}

#[derive(Debug)]
struct Moment(Vec<Row>);

impl Collector for Moment {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        for Row { name, help, label, samples } in &self.0 {
            let Some((_, first)) = samples.first() else { continue };
            let kind = match first {
                Value::Gauge(_) => MetricType::Gauge,
                Value::Counter(_) => MetricType::Counter,
            };
            let name = format!("portolan_{name}");
            let mut metric = encoder.encode_descriptor(&name, help, None, kind)?;
            if label.is_empty() {
                first.encode(metric)?;
                continue;
            }
            for (text, value) in samples {
                value.encode(metric.encode_family(&[(*label, *text)])?)?;
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Sizes {
    hosts: usize,
    services: usize,
    /// By who is given instead.
    without_ready: [(&'static str, usize); 3],
    ready: usize,
    not_ready: usize,
}

impl Sizes {
    fn of(catalog: &Catalog, policy: WhenNoneReady) -> Self {
        let mut ready_names = HashSet::new();
        let mut others: HashMap<_, Vec<_>> = HashMap::new();
        let without_ready = ["draining", "unhealthy", "nobody"].map(|word| (word, 0));
        let hosts = catalog.docker_hosts();
        let external = catalog.hosts.get(&Origin::External).into_iter().flat_map(|host| host.publications.values());
        let offers = external.flat_map(|held| &held.services);
        let replaced: HashSet<_> = offers.map(|offer| (&offer.namespace, &offer.service)).collect();
        let mut sizes = Self { hosts, services: 0, without_ready, ready: 0, not_ready: 0 };
        for publication in catalog.hosts.values().flat_map(|host| host.publications.values()) {
            let count = if publication.is_ready() { &mut sizes.ready } else { &mut sizes.not_ready };
            *count += publication.services.len();
            for offer in &publication.services {
                let name = (&offer.namespace, &offer.service);
                // An external service answers in its place.
                if publication.elsewhere.is_none() && replaced.contains(&name) {
                    continue;
                }
                if publication.is_ready() {
                    ready_names.insert(name);
                } else {
                    others.entry(name).or_default().push((&**publication, offer));
                }
            }
        }
        others.retain(|name, _| !ready_names.contains(name));
        sizes.services = ready_names.len() + others.len();
        for instances in others.into_values() {
            let answers = given(instances.into_iter(), policy);
            sizes.without_ready.iter_mut().filter(|(word, _)| *word == answers).for_each(|(_, number)| *number += 1);
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table at the top of this file and what is rendered name the same metrics with the same kinds.
    #[test]
    fn every_metric_is_documented_and_rendered() {
        let documented: Vec<(String, &str)> = include_str!("metrics.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `"))
            .filter_map(|line| {
                let (name, rest) = line.split_once('`')?;
                let kind = rest.split('|').nth(1)?.trim();
                let name = name.split('{').next()?;
                Some((name.strip_suffix("_total").or(name.strip_suffix("_info")).unwrap_or(name).to_owned(), kind))
            })
            .collect();
        let facts = Facts {
            dns: crate::api::DnsFacts { replies: vec![("NOERROR", 7)], udp_queries: 8, ..Default::default() },
            registry: crate::api::RegistryFacts {
                stale_for: Some(std::time::Duration::from_millis(1500)),
                ..Default::default()
            },
            ..Facts::default()
        };
        let host = HostId::parse("a").unwrap();
        let text = render(&host, (&Catalog::default(), WhenNoneReady::default()), &Local::default(), &facts, 3);
        let rendered: Vec<(String, &str)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE "))
            .filter_map(|line| line.split_once(' '))
            .map(|(name, kind)| (name.to_owned(), kind))
            .collect();
        assert_eq!(rendered, documented, "{text}");
        for sample in [
            concat!("portolan_info{version=\"", env!("CARGO_PKG_VERSION"), "\",host=\"a\"} 1"),
            "portolan_dns_queries_total{transport=\"udp\"} 8",
            "portolan_dns_replies_total{rcode=\"NOERROR\"} 7",
            "portolan_registry_stale_seconds 1.5",
            "portolan_problems 3",
        ] {
            assert!(text.lines().any(|line| line.starts_with(sample)), "{sample}:\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
