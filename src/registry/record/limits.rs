//! What a record may hold, at its writer: more than a reader takes is left out here, piece by piece, so that the rest of
//! the container stays answerable. A reader skips a record beyond its limits as a whole.
//!
//! What is left out is what others need least, and always the same for the same publication, so that nothing is written
//! twice: networks that mean nothing beyond this host go before those that do, ports without a name and tags from the
//! end. The host itself answers from Docker's truth, with everything.

use std::{borrow::Cow, cmp::Reverse, sync::Arc};

use super::{MAX_ADDRESSES, MAX_NETWORKS, MAX_PORTS, MAX_SERVICES, MAX_TAGS};
use crate::model::{Attachment, Common, Driver, Offer, Port, Problem, Publication, Published, Scope};

/// What of a publication fits into its record, and a problem for each limit it exceeds.
pub fn fit(publication: &Publication) -> (Cow<'_, Publication>, Vec<Problem>) {
    let place = format!("container {} ({})", publication.container, publication.name);
    let mut left_out = LeftOut { place, problems: Vec::new() };
    let services = left_out.first(&publication.services, MAX_SERVICES, "services", |_| 0);
    let services: Box<[Offer]> = services.iter().map(|offer| left_out.offer(offer)).collect();
    let networks = left_out.first(&publication.networks, MAX_NETWORKS, "networks", |network| {
        let is_for_others = network.scope != Scope::Local || network.driver != Driver::Bridge;
        u32::from(!is_for_others)
    });
    let networks: Box<[Attachment]> = networks.iter().map(|network| left_out.network(network)).collect();
    if left_out.problems.is_empty() {
        return (Cow::Borrowed(publication), Vec::new());
    }
    let common = Arc::new(Common { services, ..Common::clone(&publication.common) });
    (Cow::Owned(Publication { common, networks, ..publication.clone() }), left_out.problems)
}

/// Most problems of one container: a thousand ports may all be beyond the same limit.
const MAX_PROBLEMS: usize = 8;

struct LeftOut {
    place: String,
    problems: Vec<Problem>,
}

impl LeftOut {
    /// The `most` items of the lowest rank, in their order.
    fn first<T: Clone, R: Ord>(&mut self, items: &[T], most: usize, what: &str, rank: impl Fn(&T) -> R) -> Box<[T]> {
        if items.len() <= most {
            return items.into();
        }
        let found = format!("{} {what}", items.len());
        let expected = format!("at most {most}: other hosts do not learn of the rest");
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem::new(self.place.clone(), &found, expected));
        }
        let mut chosen: Vec<usize> = (0..items.len()).collect();
        chosen.sort_by_key(|at| rank(&items[*at]));
        chosen.truncate(most);
        chosen.sort_unstable();
        chosen.into_iter().map(|at| items[at].clone()).collect()
    }

    fn offer(&mut self, offer: &Offer) -> Offer {
        let service = &offer.service;
        let ports = self.first(&offer.ports, MAX_PORTS, &format!("ports of service {service}"), |port| {
            // The port that A answers stand for; those that others reach; those that SRV questions name.
            Reverse((Some(port.port) == offer.port, !port.published.is_empty(), port.name.is_some()))
        });
        Offer {
            tags: self.first(&offer.tags, MAX_TAGS, &format!("tags of service {service}"), |_| 0),
            ports: ports.iter().map(|port| self.port(port)).collect(),
            ..offer.clone()
        }
    }

    fn port(&mut self, port: &Port) -> Port {
        let what = format!("addresses that port {}/{} is published on", port.port, port.proto.as_str());
        let rank = |published: &Published| Reverse((!published.ip.is_loopback(), published.chosen));
        Port { published: self.first(&port.published, MAX_ADDRESSES, &what, rank), ..port.clone() }
    }

    fn network(&mut self, network: &Attachment) -> Attachment {
        let what = format!("addresses on network {}", network.name);
        Attachment { ips: self.first(&network.ips, MAX_ADDRESSES, &what, |_| 0).into(), ..network.clone() }
    }
}
