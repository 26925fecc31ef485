//! One copy of what many records say alike.

use std::{borrow::Borrow, collections::HashSet, hash::Hash, sync::Arc};

use super::Undecodable;
use crate::model::{Common, Label, Segment};

/// Keeps one copy of each text, label, network and of what replicas have in common: 100,000 records hold few different
/// ones. What nobody else holds any more is forgotten by and by, so that it never holds more than twice of what is in
/// use, or `FIRST_SWEEP` of each kind.
#[derive(Debug, Default)]
pub struct Interner {
    texts: Pool<Arc<str>>,
    labels: Pool<Label>,
    segments: Pool<Arc<Segment>>,
    commons: Pool<Arc<Common>>,
}

/// Fewer than this many are kept in any case: some 100 KiB, less than it is worth to look for them.
const FIRST_SWEEP: usize = 1 << 10;

impl Interner {
    /// The shared copy of a text.
    pub fn text(&mut self, text: &str) -> Arc<str> {
        self.texts.get(text).unwrap_or_else(|| self.texts.keep(text.into()))
    }

    pub(super) fn label(&mut self, text: &str) -> Result<Label, Undecodable> {
        if let Some(known) = self.labels.get(text) {
            return Ok(known);
        }
        let label = Label::parse(text).map_err(|error| Undecodable::new(format!("{text:.80?}: {error}")))?;
        // It may have been written in capitals.
        Ok(self.labels.get(label.as_str()).unwrap_or_else(|| self.labels.keep(label)))
    }

    pub(super) fn segment(&mut self, segment: Segment) -> Arc<Segment> {
        self.segments.get(&segment).unwrap_or_else(|| self.segments.keep(Arc::new(segment)))
    }

    pub(super) fn common(&mut self, common: Common) -> Arc<Common> {
        self.commons.get(&common).unwrap_or_else(|| self.commons.keep(Arc::new(common)))
    }
}

/// What is counted by its holders.
trait Counted {
    fn holders(&self) -> usize;
}

impl<T: ?Sized> Counted for Arc<T> {
    fn holders(&self) -> usize {
        Arc::strong_count(self)
    }
}

impl Counted for Label {
    fn holders(&self) -> usize {
        Label::holders(self)
    }
}

/// One copy of each value of a kind.
#[derive(Debug)]
struct Pool<T> {
    held: HashSet<T>,
    /// With this many it looks for those that nobody else holds: as many as were new since it last did, so that each
    /// one is looked at twice on average.
    sweep_at: usize,
}

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { held: HashSet::new(), sweep_at: FIRST_SWEEP }
    }
}

impl<T: Counted + Clone + Eq + Hash> Pool<T> {
    fn get<Q: ?Sized + Eq + Hash>(&self, value: &Q) -> Option<T>
    where
        T: Borrow<Q>,
    {
        self.held.get(value).cloned()
    }

    /// Keeps a value that is not held yet.
    fn keep(&mut self, value: T) -> T {
        if self.held.len() >= self.sweep_at {
            // Nobody can come to hold what only we hold: it is found through us alone.
            self.held.retain(|value| value.holders() > 1);
            self.sweep_at = FIRST_SWEEP.max(2 * self.held.len());
            self.held.shrink_to(self.sweep_at);
        }
        self.held.insert(value.clone());
        value
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::{
        super::{decode, encode},
        *,
    };
    use crate::model::{Publication, ShortId};

    impl Interner {
        fn sizes(&self) -> [usize; 4] {
            [self.texts.held.len(), self.labels.held.len(), self.segments.held.len(), self.commons.held.len()]
        }
    }

    fn record(number: u16) -> Publication {
        let value = format!(
            r#"{{"name":"c{number}","image":"i{number}","phase":"serving","directory":"d{number}",
            "services":[{{"service":"S{number}","namespace":"shop","tags":["t{number}"],
            "ports":[{{"name":"p{number}","port":{number},"published":[{{"ip":"0.0.0.0","port":{number}}}]}}]}}],
            "networks":[{{"id":"{number}","name":"n","driver":"bridge","ips":["10.0.0.1"]}}]}}"#
        );
        decode(id(), value.as_bytes(), &mut Interner::default()).unwrap()
    }

    fn id() -> ShortId {
        ShortId::parse("0123456789ab").unwrap()
    }

    #[test]
    fn what_is_alike_is_held_once() {
        let mut interner = Interner::default();
        let [a, b, other] = [1, 1, 2].map(|number| decode(id(), &encode(&record(number)), &mut interner).unwrap());
        assert!(Arc::ptr_eq(&a.common, &b.common) && Arc::ptr_eq(&a.networks[0].segment, &b.networks[0].segment));
        assert!(!Arc::ptr_eq(&a.common, &other.common));
        assert!(Arc::ptr_eq(&a.networks[0].name, &other.networks[0].name), "in parts that differ, texts are alike");
        assert!(std::ptr::eq(a.services[0].namespace.as_str(), other.services[0].namespace.as_str()));
        let [lower, upper] = ["web", "Web"].map(|text| interner.label(text).unwrap());
        assert!(std::ptr::eq(lower.as_str(), upper.as_str()), "labels that come to the same");
    }

    #[test]
    fn what_is_in_use_stays_shared_however_much_it_is() {
        let mut interner = Interner::default();
        let many = u16::try_from(3 * FIRST_SWEEP).unwrap();
        let all: Vec<_> =
            (0..many).map(|number| decode(id(), &encode(&record(number)), &mut interner).unwrap()).collect();
        for (number, first) in (0..many).zip(&all) {
            let again = decode(id(), &encode(&record(number)), &mut interner).unwrap();
            assert!(Arc::ptr_eq(&first.common, &again.common), "{number}");
        }
    }

    /// Records come and go, and `kept` of them are in use at a time.
    #[test]
    fn what_is_no_longer_in_use_is_forgotten() {
        let (mut interner, mut in_use) = (Interner::default(), VecDeque::new());
        for (kept, passing) in [(4 * FIRST_SWEEP, 5 * FIRST_SWEEP), (10, 15 * FIRST_SWEEP)] {
            for _ in 0..passing {
                let number = u16::try_from(interner_turn(&mut in_use, kept)).unwrap();
                in_use.push_back((number, decode(id(), &encode(&record(number)), &mut interner).unwrap()));
            }
        }
        assert!(interner.sizes().iter().all(|size| *size <= 6 * FIRST_SWEEP), "{:?}", interner.sizes());
        assert!(interner.commons.held.capacity() <= 8 * FIRST_SWEEP, "room is given back");
    }

    fn interner_turn(in_use: &mut VecDeque<(u16, Publication)>, kept: usize) -> usize {
        let next = in_use.back().map_or(0, |(number, _)| usize::from(*number) + 1);
        while in_use.len() >= kept {
            in_use.pop_front();
        }
        next
    }

    proptest! {
        /// An interner that has seen other records gives the same publications as a fresh one.
        #[test]
        fn a_record_means_the_same_with_and_without_what_is_known(numbers in prop::collection::vec(0..8u16, 1..40)) {
            let mut interner = Interner::default();
            for number in numbers {
                let alone = record(number);
                let value = encode(&alone);
                let shared = decode(id(), &value, &mut interner).unwrap();
                prop_assert_eq!(&shared, &alone);
                prop_assert_eq!(encode(&shared), value);
            }
        }
    }
}
