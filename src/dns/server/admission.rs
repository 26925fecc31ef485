//! Caps: so many at once, and so many of them for one source. Taken off the path of our own names only.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Lets in up to `total`, of them up to `per_source` from one address.
#[derive(Debug)]
pub(super) struct Admission {
    total: usize,
    per_source: usize,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
}

/// A place inside, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    source: IpAddr,
}

impl Admission {
    pub(super) fn new(total: usize, per_source: usize) -> Arc<Self> {
        Arc::new(Self { total, per_source, inside: Mutex::default() })
    }

    /// A place for `source`, or `None` when it or everybody has enough of them. Never waits.
    pub(super) fn admit(self: &Arc<Self>, source: IpAddr) -> Option<Permit> {
        // Nothing below the lock can panic halfway, so a poisoned one is as good as any.
        let mut inside = self.inside.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = inside.by_source.get(&source).copied().unwrap_or(0);
        if inside.total >= self.total || of_source >= self.per_source {
            return None;
        }
        inside.total += 1;
        inside.by_source.insert(source, of_source + 1);
        Some(Permit { admission: Arc::clone(self), source })
    }

    /// How many are inside.
    pub(super) fn inside(&self) -> usize {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut inside = self.admission.inside.lock().unwrap_or_else(PoisonError::into_inner);
        inside.total -= 1;
        let of_source = inside.by_source.get_mut(&self.source).map_or(0, |count| {
            *count -= 1;
            *count
        });
        if of_source == 0 {
            inside.by_source.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_cannot_take_all_places_and_places_come_back() {
        let admission = Admission::new(3, 2);
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let mut of_a = vec![admission.admit(a).unwrap(), admission.admit(a).unwrap()];
        assert!(admission.admit(a).is_none(), "two of a source");
        let of_b = admission.admit(b).unwrap();
        assert!(admission.admit(c).is_none(), "three in all");
        of_a.pop();
        let of_c = admission.admit(c).unwrap();
        assert!(admission.admit(a).is_none(), "three in all");
        drop((of_a, of_b, of_c));
        let inside = admission.inside.lock().unwrap();
        assert_eq!((inside.total, inside.by_source.len()), (0, 0), "nothing is left of those who went");
    }
}
