//! How many of a service's addresses an answer holds.

use hickory_proto::rr::Name;

use crate::dns::{
    answer::Room,
    wire::{HEADER, MAX_UDP, MAX_UDP_PLAIN, OPT_LENGTH},
};

/// How many of so many addresses of each family the answers for a name hold; `None`: all of them.
pub fn held(name: &Name, addresses: [usize; 2]) -> Option<String> {
    let [v4, v6] = [(addresses[0], 4, "A"), (addresses[1], 16, "AAAA")].map(|family| of_family(name, family));
    match (v4, v6) {
        (Some(v4), Some(v6)) => Some(format!("{v4}; {v6}")),
        (one, other) => one.or(other),
    }
}

fn of_family(name: &Name, (count, octets, kind): (usize, usize, &str)) -> Option<String> {
    let name = name.len() + 1;
    let most = |limit: usize| {
        let room = Room { octets: limit - HEADER - name - 4, ..Room::whole([0; 4].into()) };
        room.records(name, octets).min(count)
    };
    let (plain, edns) = (most(MAX_UDP_PLAIN.into()), most((MAX_UDP - OPT_LENGTH).into()));
    let tcp = most(usize::from(u16::MAX - OPT_LENGTH));
    let how_many = |held: usize| if held == count { "all".to_owned() } else { held.to_string() };
    (plain < count).then(|| {
        format!(
            "{kind}: of {count} addresses an answer holds {plain} over UDP without EDNS, {} with it, {} over TCP; always the \
             same ones for one asker",
            how_many(edns),
            how_many(tcp)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_holds_is_told_where_it_is_not_all() {
        let held = |addresses| held(&"web.shop.svc.internal.".parse().unwrap(), addresses);
        assert_eq!(held([29, 0]), None);
        let told = "A: of 30 addresses an answer holds 29 over UDP without EDNS, all with it, all over TCP; always the same \
                    ones for one asker";
        assert_eq!(held([30, 0]).as_deref(), Some(told));
        let told = "A: of 5000 addresses an answer holds 29 over UDP without EDNS, 73 with it, 4092 over TCP; always the \
                    same ones for one asker";
        assert_eq!(held([5000, 16]).as_deref(), Some(told));
        assert!(held([0, 17]).unwrap().starts_with("AAAA: of 17 addresses an answer holds 16 over UDP"));
        assert!(held([30, 17]).unwrap().contains("; AAAA: of 17 "));
    }
}
