use super::*;
use crate::{
    model::Silence,
    watch::container::{
        Event, State,
        tests::{Bed, id, labels_of, running},
    },
};

const VPN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const SIDECAR: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const APP: &str = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";
const NEXT_VPN: &str = "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd";

/// A container that runs since then (a second of one minute), in a namespace if its process is visible.
fn since(container: &str, second: &str, namespace: Option<u64>) -> Inspected {
    let name = match container {
        SIDECAR => "sidecar",
        APP => "app",
        _ => "vpn",
    };
    Inspected {
        name: name.into(),
        metadata: labels_of(&[]),
        started: Some(format!("2026-11-29T12:00:{second}Z").into()),
        namespace,
        ..running(container, "10.0.0.2")
    }
}

/// The same, in another's network.
fn joined(container: &str, owner: &str, second: &str, namespace: Option<u64>) -> Inspected {
    let network_mode = NetworkMode::Container(owner.into());
    Inspected { network_mode, endpoints: Vec::new(), ..since(container, second, namespace) }
}

/// Why `app` is not published (nothing: it is), and what its problem tells to do.
fn told(bed: &Bed) -> String {
    let app = id(APP).short();
    let resident = &bed.residents[&app];
    assert_eq!(resident.silence.is_none(), bed.desired.publications.contains_key(&app));
    let problems = bed.desired.problems.iter().filter(|problem| problem.place.ends_with("(app)"));
    let problems: Vec<String> = problems.map(|problem| problem.expected.clone()).collect();
    match &resident.silence {
        None => problems.join("; "),
        Some(Silence::Detached(detached)) => format!("{:?}: {}", detached.lost, problems.join("; ")),
        Some(other) => format!("{other:?}: {}", problems.join("; ")),
    }
}

/// `app` in the network of `vpn`, both running.
fn pair() -> Bed {
    let mut bed = Bed::new();
    bed.start(&since(VPN, "01", None)).start(&joined(APP, VPN, "02", None));
    assert_eq!(told(&bed), "");
    bed
}

#[test]
fn a_joiner_counts_while_it_shares_the_network_of_the_owner_s_present_run() {
    let restart = "restart app (docker restart app)";
    let (started, stopped) = (format!("Restarted: {restart}"), "Stopped: start vpn, then restart app");

    let mut bed = pair();
    assert_eq!(told(bed.died(VPN)), stopped, "at once, with the owner's end");
    assert_eq!(told(bed.start(&since(VPN, "03", None))), started);
    assert_eq!(told(bed.apply(Event::Lost)), started);
    bed = pair();
    bed.died(VPN).start(&since(VPN, "03", None));
    assert_eq!(told(bed.died(APP)), "Stopped: ", "its own end needs no advice");
    assert_eq!(told(bed.start(&joined(APP, VPN, "04", None))), "");

    bed = pair();
    let paused = Inspected { state: State::Paused, ..since(VPN, "01", None) };
    assert_eq!(told(bed.apply(Event::Paused(id(VPN))).answer(&paused)), "");
    assert_eq!(told(bed.apply(Event::Changed(id(VPN))).answer(&since(VPN, "01", None))), "");

    bed = pair();
    bed.died(VPN).apply(Event::Destroyed(id(VPN)));
    let again = "Gone: create app again: its network is that of a container by its id";
    assert_eq!(told(&bed), again);
    assert_eq!(told(bed.start(&since(NEXT_VPN, "03", None))), again, "one of the same name is another container");
}

#[test]
fn whatever_the_clock_says_a_visible_namespace_decides() {
    for (vpn, app, expected) in [
        (("05", Some(7)), ("02", Some(7)), ""),
        (("01", Some(8)), ("02", Some(7)), "Restarted: restart app (docker restart app)"),
        (("01", None), ("02", Some(7)), ""),
        (("01", Some(7)), ("02", None), ""),
        (("03", None), ("02", Some(7)), "Restarted: restart app (docker restart app)"),
        // Nanoseconds, of which Docker leaves out noughts at the end.
        (("01.1", None), ("01.09", None), "Restarted: restart app (docker restart app)"),
        (("01.1", None), ("01.1000001", None), ""),
        (("01", None), ("01.5", None), ""),
        (("01", None), ("01", None), ""),
    ] {
        let mut bed = Bed::new();
        bed.start(&since(VPN, vpn.0, vpn.1)).start(&joined(APP, VPN, app.0, app.1));
        assert_eq!(told(&bed), expected, "{vpn:?} {app:?}");
    }
    let mut bed = Bed::new();
    let unknown = Inspected { started: None, ..since(VPN, "01", None) };
    bed.start(&unknown).start(&joined(APP, VPN, "02", None));
    assert!(told(&bed).starts_with("Restarted"), "what is not known is not given");
}

#[test]
fn through_two_joins_every_link_has_to_hold() {
    let chain = |app: &str, sidecar: &str, vpn: &str| {
        let mut bed = Bed::new();
        bed.start(&since(VPN, vpn, None)).start(&joined(SIDECAR, VPN, sidecar, None));
        bed.start(&joined(APP, SIDECAR, app, None));
        bed
    };
    let mut bed = chain("03", "02", "01");
    assert_eq!(told(&bed), "");
    assert_eq!(bed.desired.publications[&id(APP).short()].networks.len(), 1, "the addresses of vpn");
    bed.died(VPN);
    assert_eq!(told(&bed), "Stopped: start vpn, then restart sidecar, then app");
    bed.start(&since(VPN, "04", None));
    let both = "Restarted: restart sidecar, then app (docker restart sidecar app)";
    assert_eq!(told(&bed), both);
    // The one in the middle alone does not help: app is in the network of its earlier run.
    bed.died(SIDECAR).start(&joined(SIDECAR, VPN, "05", None));
    assert_eq!(told(&bed), "Restarted: restart app (docker restart app)");
    // Nor the last one alone.
    assert_eq!(told(&chain("05", "02", "04")), both);
    assert_eq!(told(&chain("06", "05", "04")), "");
    let mut bed = chain("03", "02", "01");
    assert_eq!(told(bed.died(SIDECAR)), "Stopped: start sidecar, then restart app");
}

#[test]
fn who_joined_and_is_not_to_be_found_anyway_has_no_problem() {
    let mut bed = Bed::new();
    let ignored = Inspected { metadata: labels_of(&[("portolan.ignore", "true")]), ..joined(APP, VPN, "02", None) };
    bed.start(&since(VPN, "03", None)).start(&ignored);
    assert!(told(&bed).starts_with("Ignored") && told(&bed).ends_with(": "), "{}", told(&bed));
}
