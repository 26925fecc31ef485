//! Which of the instances that an asker reaches are near enough to be given alone: `--prefer` and `--prefer-floor`.
//!
//! This comes last, after readiness and after the address rules: only an instance that this asker can be given at all
//! counts as near, in each address family by itself. Nearness is a circle around this host that widens until it holds
//! `floor` instances:
//!
//! | `--prefer` | circles |
//! |---|---|
//! | `none` | everybody at once |
//! | `host` | this host; everybody |
//! | `locality` | `eu/a`, to which this host belongs; `eu`; everybody: one path element less each time |
//!
//! `locality` does not put the own host first: clients of one place are meant to share its instances evenly, and a host
//! of many clients would overload its own. A host that says no locality stands nowhere in particular.
//!
//! A and AAAA leave out who is outside of the circle, because a client cannot be told why an address is the second
//! choice. SRV can (RFC 2782, priority): it carries everybody, those outside at a higher priority the farther they are,
//! so that a client which has lost its neighbours need not ask anew.
//!
//! Only for askers of this host: where a stranger stands is not known. And only among ready instances: while there are
//! none, whoever may be able to help is given.

use std::{fmt, sync::Arc};

use super::{source::Source, zone::Home};
use crate::model::{Origin, Standing};

/// What nearness is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    /// Nobody is nearer than another.
    #[default]
    None,
    /// This host is near, others are not.
    Host,
    /// The more of its locality a host shares with this one, the nearer it is.
    Locality,
}

impl Prefer {
    /// Takes `none`, `host` or `locality`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Host, Self::Locality].into_iter().find(|prefer| prefer.as_str() == text)
    }

    /// As the operator writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Host => "host",
            Self::Locality => "locality",
        }
    }
}

impl fmt::Display for Prefer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the operator prefers, seen from this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preference {
    /// What nearness is.
    pub by: Prefer,
    /// The instances that must be near, or else the circle is widened. At least 1.
    pub floor: usize,
    /// Where this host stands.
    pub locality: Arc<str>,
}

impl Default for Preference {
    fn default() -> Self {
        Self { by: Prefer::None, floor: 1, locality: "".into() }
    }
}

impl Preference {
    /// Whether anything is preferred for this asker, among instances of this standing.
    pub fn applies(&self, source: &Source, standing: Option<Standing>) -> bool {
        self.by != Prefer::None
            && matches!(standing, Some(Standing::Ready | Standing::Held))
            && matches!(source, Source::Container(_) | Source::Host)
    }

    /// How far away a host is: 0 is nearest.
    pub fn distance(&self, home: &Home) -> u16 {
        let own = home.origin == Origin::Own;
        match self.by {
            Prefer::None => 0,
            _ if own => 0,
            Prefer::Host => 1,
            Prefer::Locality => {
                let elements = |path: &'_ str| path.split('/').filter(|element| !element.is_empty()).count();
                let common = self.locality.split('/').zip(home.locality.split('/'));
                let shared = common.take_while(|(own, other)| own == other && !own.is_empty()).count();
                u16::try_from(elements(&self.locality) - shared).unwrap_or(u16::MAX)
            }
        }
    }

    /// The SRV priority of each instance, given where it runs: 0 for those in the circle. `None`: all are in it.
    pub fn priorities<'h>(&self, homes: impl Iterator<Item = &'h Home>) -> Option<Vec<u16>> {
        let mut distances: Vec<u16> = homes.map(|home| self.distance(home)).collect();
        let mut ordered = distances.clone();
        ordered.sort_unstable();
        let radius = *ordered.get(self.floor.max(1) - 1)?;
        if ordered.last() == Some(&radius) {
            return None;
        }
        distances.iter_mut().for_each(|distance| *distance = distance.saturating_sub(radius));
        Some(distances)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{dns::fixture::World, model::HostId};

    fn home(host: &str) -> Home {
        let (id, locality) = host.split_once('@').unwrap_or((host, ""));
        let origin = match id {
            "own" => Origin::Own,
            id => Origin::Registry(HostId::parse(id).unwrap()),
        };
        Home { origin, advertise: Box::default(), locality: locality.into(), hostname: "".into() }
    }

    #[test]
    fn the_circle_widens_until_it_holds_enough() {
        let rows: [(Prefer, usize, &str, &str); 17] = [
            (Prefer::None, 1, "own b", "all"),
            (Prefer::Host, 1, "own b own", "0 1 0"),
            (Prefer::Host, 2, "own b own", "0 1 0"),
            (Prefer::Host, 3, "own b own", "all"),
            (Prefer::Host, 4, "own b own", "all"),
            (Prefer::Host, 1, "own own", "all"),
            (Prefer::Host, 1, "b c", "all"),
            (Prefer::Host, 1, "", "all"),
            (Prefer::Host, 0, "own b", "0 1"),
            (Prefer::Locality, 1, "own b@eu/a c@eu/b d@us/a e", "0 0 1 2 2"),
            (Prefer::Locality, 2, "own b@eu/a c@eu/b d@us/a e", "0 0 1 2 2"),
            (Prefer::Locality, 3, "own b@eu/a c@eu/b d@us/a e", "0 0 0 1 1"),
            (Prefer::Locality, 4, "own b@eu/a c@eu/b d@us/a e", "all"),
            // Nobody stands in the same place: the shared first element is nearer than nothing.
            (Prefer::Locality, 1, "c@eu/b d@us/a", "0 1"),
            (Prefer::Locality, 1, "c@eu d@a/eu f@eu/a/rack1", "1 2 0"),
            // `e` and `eu` share letters, no element.
            (Prefer::Locality, 1, "own c@e/a", "0 2"),
            (Prefer::Locality, 1, "b@us c@us/a", "all"),
        ];
        for (by, floor, homes, expected) in rows {
            let preference = Preference { by, floor, locality: "eu/a".into() };
            let homes: Vec<Home> = homes.split_whitespace().map(home).collect();
            let given = preference.priorities(homes.iter()).map_or("all".to_owned(), |priorities| {
                priorities.iter().map(u16::to_string).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(given, expected, "{by} with a floor of {floor} among {homes:?}");
        }
    }

    #[test]
    fn a_host_without_a_locality_prefers_nobody_by_it() {
        let preference = Preference { by: Prefer::Locality, floor: 1, locality: "".into() };
        let homes = ["own", "b@eu/a", "c"].map(home);
        assert_eq!(preference.priorities(homes.iter()), None);
    }

    #[test]
    fn only_askers_of_this_host_and_ready_instances_know_near_from_far() {
        let world = World::parse("network n1 bridge 172.18.0.0/16\nasker f1 shop n1=172.18.0.9");
        let preference = Preference { by: Prefer::Host, ..Preference::default() };
        for (who, expected) in [("f1", true), ("host", true), ("stranger", false), ("unknown", false)] {
            let source = world.source(who);
            assert_eq!(preference.applies(&source, Some(Standing::Ready)), expected, "{who}");
            assert!(!preference.applies(&source, Some(Standing::Draining)) && !preference.applies(&source, None));
            assert!(!Preference::default().applies(&source, Some(Standing::Ready)));
        }
    }
}
