//! Which instances of a service count as backends: the ready ones; while there is none, those that crashed a moment ago,
//! then what the policy names.

use super::zone::Candidate;
use crate::model::{Standing, WhenNoneReady};

/// The instances that answers are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen<'z> {
    /// In the order of the service's candidates; possibly none.
    pub members: Vec<&'z Candidate>,
    /// What they all are: [`Standing::Ready`], or the standing that the policy fell back to. `None`: there is no
    /// member, for the policy allows none of what there is.
    pub standing: Option<Standing>,
}

/// The policy of a service: that of its first instance with one of its own, else the operator's.
pub fn policy(candidates: &[Candidate], default: WhenNoneReady) -> WhenNoneReady {
    candidates.iter().find_map(|candidate| candidate.offer().when_none_ready).unwrap_or(default)
}

/// Chooses among the instances of one service.
pub fn choose(candidates: &[Candidate], default: WhenNoneReady) -> Chosen<'_> {
    let with = |standing: Standing| -> Vec<&Candidate> {
        candidates.iter().filter(|candidate| candidate.publication.standing() == standing).collect()
    };
    // Those that are held are so for the sake of others: alone they are as good as ready.
    let sound = [Standing::Ready, Standing::Held];
    for standing in sound.into_iter().chain(policy(candidates, default).steps()) {
        let members = with(standing);
        if !members.is_empty() {
            return Chosen { members, standing: Some(standing) };
        }
    }
    Chosen { members: Vec::new(), standing: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::fixture::World;

    /// The containers chosen among these (by their first letter), and what they are.
    fn chosen(instances: &str, default: &str) -> String {
        let text: String = instances.lines().map(|line| format!("  {}\n", line.trim())).collect();
        let world = World::parse(&format!("network n1 bridge 172.18.0.0/16\nhost own 192.0.2.1\n{text}"));
        let candidates = world.zone.service("shop", "web").unwrap_or_default();
        let chosen = choose(candidates, WhenNoneReady::parse(default).unwrap());
        let ids = chosen.members.iter().map(|member| &member.publication.container.as_str()[..1]);
        format!("{} {}", chosen.standing.map_or("nobody", Standing::as_str), ids.collect::<String>())
    }

    #[test]
    fn the_ready_ones_count_else_those_of_the_policys_first_step_that_has_any() {
        let all = "a @n1=172.18.0.2 web.shop\nb @n1=172.18.0.3 healthy web.shop\nc @n1=172.18.0.4 draining web.shop
            d @n1=172.18.0.5 unhealthy web.shop\ne @n1=172.18.0.6 starting web.shop\nf @n1=172.18.0.7 paused web.shop";
        let without = |gone: &str| -> String {
            let stays = all.lines().filter(|line| !gone.contains(&line.trim()[..1]));
            stays.map(|line| format!("{line}\n")).collect()
        };
        let rows = [
            ("", "draining,unhealthy", "ready ab"),
            ("a", "none", "ready b"),
            ("ab", "draining,unhealthy", "draining c"),
            ("ab", "unhealthy,draining", "unhealthy d"),
            ("ab", "unhealthy", "unhealthy d"),
            ("abc", "draining,unhealthy", "unhealthy d"),
            ("abc", "draining", "nobody "),
            ("ab", "none", "nobody "),
            ("abcd", "draining,unhealthy", "nobody "),
        ];
        for (gone, policy, expected) in rows {
            assert_eq!(chosen(&without(gone), policy), expected, "without {gone:?} under {policy}");
        }
        let both = "a @n1=172.18.0.2 draining unhealthy web.shop\nb @n1=172.18.0.3 draining starting web.shop";
        assert_eq!(chosen(both, "draining,unhealthy"), "unhealthy a", "a failing check outweighs a stop");
    }

    #[test]
    fn who_is_held_for_the_sake_of_others_is_given_where_there_are_none() {
        let held = "a @n1=172.18.0.2 held web.shop\nb @n1=172.18.0.3 held web.shop";
        for (others, expected) in [
            ("", "starting ab"),
            ("c @n1=172.18.0.4 web.shop", "ready c"),
            ("c @n1=172.18.0.4 healthy web.shop", "ready c"),
            ("c @n1=172.18.0.4 draining web.shop\nd @n1=172.18.0.5 unhealthy web.shop", "starting ab"),
            ("c @n1=172.18.0.4 starting web.shop\nd @n1=172.18.0.5 paused web.shop", "starting ab"),
        ] {
            for policy in ["draining,unhealthy", "none"] {
                assert_eq!(chosen(&format!("{held}\n{others}"), policy), expected, "{others} under {policy}");
            }
        }
        assert_eq!(chosen("a @n1=172.18.0.2 draining held web.shop", "draining"), "draining a");
    }

    #[test]
    fn the_services_own_policy_beats_the_operators() {
        let own = "a @n1=172.18.0.2 draining web.shop\nb @n1=172.18.0.3 unhealthy web.shop none-ready=unhealthy
            c @n1=172.18.0.4 draining web.shop none-ready=none";
        assert_eq!(chosen(own, "draining"), "unhealthy b", "that of the first instance that has one");
    }
}
