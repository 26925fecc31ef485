//! A worker's own view of the snapshots: what it answers ordinary queries from, without a lock or an allocation.

use std::{net::IpAddr, sync::Arc};

use rand::rngs::SmallRng;

use super::Shared;
use crate::dns::{
    access::AccessList,
    hot::{self, Ground, Scratch, View},
    source::locate,
    zone::Zone,
};

/// Sources whose view is remembered, by a hash of their address; a power of two. A host has some hundred containers.
const SOURCES: usize = 1024;

/// What one worker keeps from query to query.
pub(super) struct Front {
    /// The snapshots that `sources` were found in.
    ground: Arc<Ground>,
    access: Arc<AccessList>,
    /// Grows with each change of those two.
    generation: u64,
    sources: Box<[Known]>,
    scratch: Scratch,
    rng: SmallRng,
}

/// Who asks from an address, as far as it was found in that generation.
#[derive(Clone)]
struct Known {
    generation: u64,
    source: IpAddr,
    /// `None`: may not ask, or is not known yet.
    view: Option<View>,
}

impl Front {
    pub(super) fn new(shared: &Shared) -> Self {
        let nobody = Known { generation: 0, source: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), view: None };
        Self {
            ground: shared.ground.load_full(),
            access: shared.access.load_full(),
            generation: 1,
            sources: vec![nobody; SOURCES].into(),
            scratch: Scratch::default(),
            rng: rand::make_rng(),
        }
    }

    /// Takes over what has changed since the last batch. Call it before each: all queries of a batch are answered from one
    /// state of things, the zone that this gives.
    pub(super) fn refresh(&mut self, shared: &Shared) -> arc_swap::Guard<Arc<Zone>> {
        // In the order in which they are set: who may ask, who asks, and what there is.
        let zone = shared.zone.load();
        let (ground, access) = (shared.ground.load(), shared.access.load());
        if !Arc::ptr_eq(&ground, &self.ground) || !Arc::ptr_eq(&access, &self.access) {
            self.ground = Arc::clone(&ground);
            self.access = Arc::clone(&access);
            self.generation += 1;
        }
        zone
    }

    /// Answers one packet into `reply`: the octets written, or `None` for the complete path to decide.
    #[inline]
    pub(super) fn answer(&mut self, zone: &Zone, source: IpAddr, packet: &[u8], reply: &mut [u8]) -> Option<usize> {
        let source = source.to_canonical();
        let known = &mut self.sources[place(source)];
        if known.generation != self.generation || known.source != source {
            let view = self.access.permits(source).then(|| View::of(&self.ground, &locate(&self.ground.local, source)));
            *known = Known { generation: self.generation, source, view: view.flatten() };
        }
        let view = known.view.as_ref()?;
        hot::respond(&self.ground, zone, view, packet, &mut self.rng, &mut self.scratch, reply)
    }
}

/// Neighbours have different places.
#[inline]
fn place(source: IpAddr) -> usize {
    let folded = match source {
        IpAddr::V4(ip) => u32::from(ip),
        IpAddr::V6(ip) => {
            let octets = ip.octets();
            let (words, _) = octets.as_chunks::<4>();
            words.iter().fold(0, |folded, word| folded ^ u32::from_be_bytes(*word))
        }
    };
    (folded.wrapping_mul(0x9e37_79b1) >> 22) as usize % SOURCES
}
