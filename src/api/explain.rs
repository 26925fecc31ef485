//! The JSON of `/v1/explain`: what `dns/explain.rs` found out, in words. Field names are those of the records where
//! they mean the same.

use serde::{Deserialize, Serialize};

use crate::model::Problem;

/// The answer to `/v1/explain`. A part is there if it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReply {
    /// What becomes of a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<ExplainedName>,
    /// The containers of this host that were meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub containers: Option<Vec<ExplainedContainer>>,
}

/// A name as several askers see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedName {
    /// The whole name.
    pub name: String,
    /// The one asked for first, then another host.
    pub views: Vec<ExplainedView>,
}

/// A name as one asker sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedView {
    /// Who asks, for people.
    pub asker: String,
    /// The name it asks: for another host one that says the namespace.
    pub name: String,
    /// How the name was read.
    pub reading: String,
    /// What becomes of it, and why, if it is not ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub course: Option<String>,
    /// The namespaces looked into, in order.
    pub searched: Vec<Searched>,
    /// What the asker may have meant to do otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// What those are that are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<String>,
    /// Who is given while nobody is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when_none_ready: Option<String>,
    /// The one number that A and AAAA stand for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<String>,
    /// There are more addresses than the smallest answer holds.
    pub sampled: bool,
    /// How many an answer holds then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// What DNS says right now.
    pub answers: Vec<ExplainedAnswer>,
    /// Every instance of the service.
    pub candidates: Vec<ExplainedCandidate>,
}

/// A namespace that was looked into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Searched {
    /// The namespace.
    pub namespace: String,
    /// It has the service; the first that has it is taken.
    pub found: bool,
}

/// One answer of DNS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedAnswer {
    /// `A`, `AAAA`, `SRV`, `PTR`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `NOERROR`, `NXDOMAIN`, …, or `FORWARD` for a name that the upstreams are asked for.
    pub rcode: String,
    /// Its data, one record each.
    pub data: Vec<String>,
}

/// One instance, in or out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedCandidate {
    /// Its host.
    pub host: String,
    /// Its container.
    pub container: String,
    /// The container's name.
    pub name: String,
    /// Its service.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// `serving`, `draining`, `paused`.
    pub phase: String,
    /// `healthy`, `unhealthy`, `starting`, `none`.
    pub health: String,
    /// What the two come to.
    pub standing: String,
    /// Its share.
    pub weight: u16,
    /// `in`: A or AAAA hold it; `srv`: only SRV does; `out`.
    pub verdict: String,
    /// Over IPv4.
    pub ipv4: ExplainedFamily,
    /// Over IPv6.
    pub ipv6: ExplainedFamily,
    /// Its ports in SRV.
    pub ports: Vec<ExplainedPort>,
    /// Its priority there.
    pub priority: u16,
}

/// One instance in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedFamily {
    /// How it is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The answer holds that.
    pub given: bool,
    /// The rule, and why it is left out.
    pub reasons: Vec<ExplainedReason>,
}

/// A reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedReason {
    /// For programs.
    pub code: String,
    /// For people.
    pub reason: String,
    /// What would change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

/// One port in SRV.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedPort {
    /// What `_name._tcp` calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The container port.
    pub port: u16,
    /// The transport.
    pub proto: String,
    /// The number this asker is given.
    pub number: u16,
}

/// A container of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedContainer {
    /// This host.
    pub host: String,
    /// The container.
    pub container: String,
    /// Its name.
    pub name: String,
    /// The namespace it asks from.
    pub namespace: String,
    /// What may have been meant otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    /// It is published.
    pub published: bool,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ExplainedReason>,
    /// What is broken in its labels.
    pub problems: Vec<Problem>,
    /// The names it is answered under.
    pub names: Vec<String>,
    /// What it is called besides by Docker's own DNS: for askers of its own namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Who reaches it, and how.
    pub seen_by: Vec<SeenBy>,
}

/// A container as one asker sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenBy {
    /// Who asks, for people.
    pub asker: String,
    /// One for each of its services.
    pub instances: Vec<ExplainedCandidate>,
}
