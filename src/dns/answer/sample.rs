//! In what order an answer holds its addresses: by weight, and by chance. Which ones, where not all fit, `room.rs` says.
//!
//! A client takes the first address, or one of the first, so the order shares the load. It is drawn without putting
//! back: each place goes to one of those left, in proportion to their weights. One key per address does that: the time
//! until something happens that happens `weight` times as often (Efraimidis and Spirakis, 2006). Weight 0 never
//! happens: such addresses stand at the end.

use std::net::IpAddr;

use rand::{Rng, RngExt, seq::SliceRandom};

use super::room::score;

/// An address with the sum of the weights of those who have it.
pub(in crate::dns) type Weighted = (IpAddr, u32);

/// At most `most` of the addresses, which are [distinct]: those of this asker, in the order of the answer.
pub(in crate::dns) fn sample(addresses: &[Weighted], most: usize, asker: IpAddr, rng: &mut impl Rng) -> Vec<Weighted> {
    let weights: Vec<u32> = addresses.iter().map(|(_, weight)| *weight).collect();
    // Where no weight is given there is no logarithm either.
    let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
    let weights = (!equal).then_some(weights.as_slice());
    let mut order = Order::default();
    let drawn = match addresses.len() <= most {
        true => order.draw(addresses.len(), weights, rng),
        false => {
            let octets: Vec<Vec<u8>> = addresses.iter().map(|(address, _)| octets(*address)).collect();
            order.draw_some(addresses.len(), weights, most, asker, |place| &octets[place], rng)
        }
    };
    drawn.iter().map(|place| addresses[*place as usize]).collect()
}

/// The octets of an address, in network order.
pub(in crate::dns) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The addresses in their own order, each once, with the weights of all who have it.
pub(in crate::dns) fn distinct(mut addresses: Vec<Weighted>) -> Vec<Weighted> {
    addresses.sort_unstable_by_key(|(address, _)| *address);
    addresses.dedup_by(|(address, weight), (kept, sum)| {
        let same = address == kept;
        *sum = if same { sum.saturating_add(*weight) } else { *sum };
        same
    });
    addresses
}

/// Draws the order of an answer, as places of what is to be given. Keeps its memory from one answer to the next.
#[derive(Debug, Default)]
pub(in crate::dns) struct Order {
    places: Vec<u32>,
    timed: Vec<(bool, f64, u32)>,
}

impl Order {
    /// All of `count` places; `weights`: of each, unless all are equal.
    pub(in crate::dns) fn draw(&mut self, count: usize, weights: Option<&[u32]>, rng: &mut impl Rng) -> &[u32] {
        self.places.clear();
        self.places.extend((0..).take(count));
        self.arrange(weights, rng)
    }

    /// `most` of `count` places, fewer than all: those that are this asker's, given the `octets` of each.
    pub(in crate::dns) fn draw_some<'a>(
        &mut self,
        count: usize,
        weights: Option<&[u32]>,
        most: usize,
        asker: IpAddr,
        octets: impl Fn(usize) -> &'a [u8],
        rng: &mut impl Rng,
    ) -> &[u32] {
        self.timed.clear();
        self.timed.extend((0u32..).take(count).map(|place| {
            let at = place as usize;
            let (counts, score) = score(asker, octets(at), weights.map_or(1, |weights| weights[at]));
            (!counts, -score, place)
        }));
        self.timed.select_nth_unstable_by(most, sooner);
        self.places.clear();
        self.places.extend(self.timed[..most].iter().map(|(.., place)| *place));
        // So that chance alone decides on the order.
        self.places.sort_unstable();
        self.arrange(weights, rng)
    }

    /// The chosen places in the order of an answer.
    fn arrange(&mut self, weights: Option<&[u32]>, rng: &mut impl Rng) -> &[u32] {
        let Some(weights) = weights else {
            self.places.shuffle(rng);
            return &self.places;
        };
        self.timed.clear();
        self.timed.extend(self.places.iter().map(|place| {
            let weight = weights[*place as usize];
            // In (0, 1], so that its logarithm is finite.
            let chance = 1.0 - rng.random::<f64>();
            (weight == 0, -chance.ln() / f64::from(weight.max(1)), *place)
        }));
        self.timed.sort_unstable_by(sooner);
        self.places.clear();
        self.places.extend(self.timed.iter().map(|(.., place)| *place));
        &self.places
    }

    /// All of `count` places.
    pub(in crate::dns) fn shuffle(&mut self, count: usize, rng: &mut impl Rng) -> &mut [u32] {
        self.places.clear();
        self.places.extend((0..).take(count));
        self.places.shuffle(rng);
        &mut self.places
    }
}

/// Who never comes stands last; of the others, who comes first.
fn sooner(left: &(bool, f64, u32), right: &(bool, f64, u32)) -> std::cmp::Ordering {
    left.0.cmp(&right.0).then_with(|| left.1.total_cmp(&right.1))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    const ASKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 9));

    fn addresses(weights: &[u32]) -> Vec<Weighted> {
        (1u32..).zip(weights).map(|(n, weight)| (IpAddr::from(n.to_be_bytes()), *weight)).collect()
    }

    /// The places (from 1) in `weights` of the addresses given.
    fn places(given: &[Weighted]) -> Vec<u32> {
        given
            .iter()
            .map(|(address, _)| u32::from_be_bytes(address.to_string().parse::<std::net::Ipv4Addr>().unwrap().octets()))
            .collect()
    }

    /// How often each comes first in `rounds` samples.
    fn firsts(weights: &[u32], most: usize, rounds: u64) -> Vec<u64> {
        let mut counts = vec![0; weights.len()];
        for seed in 0..rounds {
            let given = sample(&addresses(weights), most, ASKER, &mut SmallRng::seed_from_u64(seed));
            counts[places(&given)[0] as usize - 1] += 1;
        }
        counts
    }

    /// 10,000 rounds: the standard deviation of a share of one half is 50, of a tenth 30. Six of them are far.
    #[test]
    fn each_comes_first_in_proportion_to_its_weight() {
        for (weights, expected) in [
            (&[1, 1, 1, 1][..], [2500, 2500, 2500, 2500]),
            (&[5, 5], [5000, 5000, 0, 0]),
            (&[1, 2, 3, 4], [1000, 2000, 3000, 4000]),
            (&[10, 90], [1000, 9000, 0, 0]),
            (&[0, 1, 3], [0, 2500, 7500, 0]),
            (&[65_535, 65_535, 0, 0], [5000, 5000, 0, 0]),
        ] {
            for (given, expected) in firsts(weights, 16, 10_000).iter().zip(expected) {
                assert!(given.abs_diff(expected) < 300, "{weights:?}: {given} for {expected}");
            }
        }
    }

    #[test]
    fn the_second_place_is_drawn_from_who_is_left() {
        // After the 8, the 1 and the 3 share the second place one to three.
        let mut seconds = [0u32; 2];
        for seed in 0..20_000 {
            let given = places(&sample(&addresses(&[8, 1, 3]), 16, ASKER, &mut SmallRng::seed_from_u64(seed)));
            if given[0] == 1 {
                seconds[usize::from(given[1] == 3)] += 1;
            }
        }
        let share = f64::from(seconds[1]) / f64::from(seconds[0] + seconds[1]);
        assert!((share - 0.75).abs() < 0.02, "{seconds:?}");
    }

    #[test]
    fn weight_nought_stands_at_the_end_and_is_left_out_first() {
        let weights: Vec<u32> = (0..20).map(|n| u32::from(n % 2 == 1)).collect();
        for seed in 0..200 {
            let rng = &mut SmallRng::seed_from_u64(seed);
            let given: Vec<u32> =
                sample(&addresses(&weights), 16, ASKER, rng).iter().map(|(_, weight)| *weight).collect();
            assert_eq!(given, [&[1; 10][..], &[0; 6]].concat());
        }
        // Nothing else is there: then they serve.
        assert_eq!(sample(&addresses(&[0, 0]), 16, ASKER, &mut SmallRng::seed_from_u64(1)).len(), 2);
    }

    #[test]
    fn an_address_that_several_have_is_given_once_with_all_their_weight() {
        let one = |weight| (IpAddr::from([192, 0, 2, 1]), weight);
        let mut first = 0;
        for seed in 0..10_000 {
            let all = vec![one(2), (IpAddr::from([192, 0, 2, 2]), 5), one(3)];
            let given = sample(&distinct(all), 16, ASKER, &mut SmallRng::seed_from_u64(seed));
            assert_eq!(given.len(), 2);
            first += u32::from(given[0].0 == one(0).0);
        }
        assert!(first.abs_diff(5000) < 300, "{first}");
    }
}
