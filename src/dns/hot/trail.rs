//! Where answers lay last time, so that the processor fetches several at once.
//!
//! From a name to what is written of it leads a chain of pointers: through the map to the service, to what was encoded of
//! it, to its octets. With many names in random order each step is a cache miss, and none can begin before the one before
//! it has ended: two thirds of what we cost beside the kernel. So each worker remembers, by a hash of the question, the addresses that
//! its last answer led over. When a batch comes, all of them are prefetched for all its questions, and then each is answered
//! in the ordinary way, over what has arrived meanwhile.
//!
//! Nothing is ever read through these addresses, for a prefetch is only a wish: one that is wrong or long gone costs a
//! little time. So the table is never invalidated, and what it says can make no answer wrong.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "a prefetch takes a pointer, though it reads nothing")
)]

use std::hash::BuildHasher;

use crate::dns::wire::HEADER;

/// Trails that are remembered, a power of two. A worker's table has two mebibytes, of which only what is used is there.
const TRAILS: usize = 1 << 15;

/// Octets of a question that the hash looks at: longer names that begin alike share a trail.
const LOOKED_AT: usize = 64;

/// The addresses that an answer led over, in no order; 0 for those not met. Together they fill one cache line.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Trail {
    steps: [usize; STEPS],
    length: usize,
}

const STEPS: usize = 8;

impl Trail {
    #[inline]
    pub(super) fn pass(&mut self, met: *const u8) {
        if let Some(step) = self.steps.get_mut(self.length) {
            *step = met.addr();
            self.length += 1;
        }
    }
}

/// One worker's memory of trails.
#[derive(Debug)]
pub struct Trails {
    table: Box<[[usize; STEPS]]>,
    hash: foldhash::fast::FixedState,
}

impl Default for Trails {
    fn default() -> Self {
        // Of numbers, so that the kernel gives it zeroed, page by page as it is used.
        Self { table: vec![[0; STEPS]; TRAILS].into(), hash: foldhash::fast::FixedState::default() }
    }
}

/// Where a question's trail stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place(usize);

impl Trails {
    /// Finds the trail of a packet's question, and asks for it to be fetched.
    #[inline]
    pub fn approach(&self, packet: &[u8]) -> Place {
        let question = packet.get(HEADER..).unwrap_or_default();
        let hash = self.hash.hash_one(&question[..question.len().min(LOOKED_AT)]);
        let place = usize::try_from(hash % TRAILS as u64).unwrap_or_default();
        prefetch((&raw const self.table[place]).addr());
        Place(place)
    }

    /// Asks for what the trail leads over.
    #[inline]
    pub fn follow(&self, Place(place): Place) {
        for step in self.table[place] {
            if step == 0 {
                break;
            }
            prefetch(step);
        }
    }

    #[inline]
    pub(super) fn note(&mut self, Place(place): Place, trail: Trail) {
        self.table[place] = trail.steps;
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn prefetch(address: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch neither reads nor faults, whatever the address (Intel SDM volume 2, PREFETCHh); SSE is part of
    // x86-64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) }
}

/// The answers are the same without.
#[cfg(not(target_arch = "x86_64"))]
fn prefetch(_address: usize) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trail_keeps_the_first_steps_and_is_found_by_its_question_alone() {
        let octets = [0u8; STEPS + 1];
        let mut trail = Trail::default();
        octets.iter().for_each(|octet| trail.pass(octet));
        assert_eq!(trail.steps, std::array::from_fn(|step| (&raw const octets[step]).addr()));
        let mut trails = Trails::default();
        let (packet, same, other) = (b"12..........web", b"98..........web", b"12..........db");
        let Place(place) = trails.approach(packet);
        trails.note(Place(place), trail);
        assert_eq!(trails.approach(same).0, place);
        assert_ne!(trails.approach(other).0, place);
        assert_eq!(trails.table[place], trail.steps);
        trails.note(Place(place), Trail::default());
        assert_eq!(trails.table[place], [0; STEPS]);
        // Whatever stands there, and whatever the packet is.
        for packet in [&b""[..], &[0xff; 5], &[7; 4096]] {
            let place = trails.approach(packet);
            trails.note(place, Trail { steps: [usize::MAX; STEPS], length: STEPS });
            trails.follow(place);
        }
    }
}
