//! A worker's own view of the snapshots: what it answers ordinary queries from, without a lock or an allocation.

use std::{net::IpAddr, sync::Arc, time::Instant};

use rand::rngs::SmallRng;

use super::{Shared, query::Later, rate::Rates};
use crate::dns::{
    access::AccessList,
    hot::{self, Ground, Place, Scratch, Trails, View},
    wire::{MAX_AMPLIFICATION, Pace, Transport},
    zone::Zone,
};

/// Sources whose view is remembered, by a hash of their address; a power of two. A host has some hundred containers.
const SOURCES: usize = 1024;

/// What the worker does not answer itself.
pub(super) enum Beyond {
    /// The complete path decides, and is told how often this one was answered.
    Odd(Pace),
    /// An upstream is to be asked.
    Later(Later),
}

/// What one worker keeps from query to query.
pub(super) struct Front {
    /// The worker's number.
    index: usize,
    /// The snapshots that `sources` were found in.
    ground: Arc<Ground>,
    access: Arc<AccessList>,
    /// Grows with each change of those two.
    generation: u64,
    sources: Box<[Known]>,
    trails: Trails,
    rates: Rates,
    /// When this batch came, once somebody wants to know.
    now: Option<Instant>,
    /// The cache's replies are written here first.
    foreign: Vec<u8>,
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
    pub(super) fn new(shared: &Shared, index: usize) -> Self {
        let nobody = Known { generation: 0, source: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), view: None };
        Self {
            index,
            ground: shared.ground.load_full(),
            access: shared.access.load_full(),
            generation: 1,
            sources: vec![nobody; SOURCES].into(),
            trails: Trails::default(),
            rates: Rates::new(shared.limits.per_source),
            now: None,
            foreign: Vec::new(),
            scratch: Scratch::default(),
            rng: rand::make_rng(),
        }
    }

    /// Takes over what has changed since the last batch. Call it before each: all queries of a batch are answered from one
    /// state of things, the zone that this gives.
    pub(super) fn refresh(&mut self, shared: &Shared) -> arc_swap::Guard<Arc<Zone>> {
        // In the order in which they are set: who may ask, who asks, and what there is.
        self.now = None;
        let zone = shared.zone.load();
        let (ground, access) = (shared.ground.load(), shared.access.load());
        if !Arc::ptr_eq(&ground, &self.ground) || !Arc::ptr_eq(&access, &self.access) {
            self.ground = Arc::clone(&ground);
            self.access = Arc::clone(&access);
            self.generation += 1;
        }
        zone
    }

    /// Has what the answer to a packet will need fetched from memory. First `approach` for all packets of a batch, then
    /// `follow` for all.
    #[inline]
    pub(super) fn approach(&self, packet: &[u8]) -> Place {
        self.trails.approach(packet)
    }

    /// See [`Front::approach`].
    #[inline]
    pub(super) fn follow(&self, place: Place) {
        self.trails.follow(place);
    }

    /// Whether the last answer holds a part of the addresses that there are.
    #[inline]
    pub(super) fn gave_part(&self) -> bool {
        self.scratch.is_part()
    }

    /// Answers one packet into `reply`: the octets written.
    #[inline]
    pub(super) fn answer(
        &mut self,
        shared: &Shared,
        zone: &Zone,
        source: IpAddr,
        packet: &[u8],
        at: Place,
        reply: &mut [u8],
    ) -> Result<usize, Beyond> {
        let source = source.to_canonical();
        let known = &mut self.sources[place(source)];
        if known.generation != self.generation || known.source != source {
            let asker = || self.access.locate(&self.ground.local, source);
            let view = self.access.permits(source).then(|| View::of(&self.ground, &asker(), source));
            *known = Known { generation: self.generation, source, view: view.flatten() };
        }
        let view = known.view.as_ref();
        let is_near = view.is_some_and(View::is_near);
        if !is_near {
            let pace = self.rates.take(source, *self.now.get_or_insert_with(Instant::now));
            if pace != Pace::Answer {
                return Err(Beyond::Odd(pace));
            }
        }
        let (rng, scratch) = (&mut self.rng, &mut self.scratch);
        let length = view.and_then(|view| hot::respond(&self.ground, zone, view, packet, rng, scratch, reply));
        if length.is_some() {
            self.scratch.note(&mut self.trails, at);
        }
        // Longer ones are cut by the complete path where its address has had its share.
        let is_fair = |length: &usize| {
            let beyond = length.saturating_sub(MAX_AMPLIFICATION * packet.len());
            let now = || self.now.unwrap_or_else(Instant::now);
            is_near || beyond == 0 || shared.allowance.take(source, beyond, now())
        };
        if let Some(length) = length.filter(is_fair) {
            return Ok(length);
        }
        let odd = Beyond::Odd(Pace::Answer);
        if !view.is_some_and(|view| hot::is_for_others(&self.ground, zone, view, packet)) {
            return Err(odd);
        }
        let Some(forwarder) = shared.forwarder.get() else { return Err(odd) };
        let now = *self.now.get_or_insert_with(Instant::now);
        if !forwarder.at_once(packet, Transport::Udp, now, &mut self.foreign) {
            match Later::forward(shared, shared.metrics.worker(self.index), source, packet) {
                Ok(later) => return Err(Beyond::Later(later)),
                Err(busy) => self.foreign = busy.unwrap_or_default(),
            }
        }
        let room = reply.get_mut(..self.foreign.len()).filter(|room| !room.is_empty()).ok_or(odd)?;
        room.copy_from_slice(&self.foreign);
        Ok(self.foreign.len())
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
