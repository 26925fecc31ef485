//! Whom to ask: resolv.conf as it changes, and domains with upstreams of their own.

use std::{collections::BTreeSet, path::Path};

use portolan::model::Local;

use super::*;

/// Replaces a file as editors and DHCP clients do.
fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

#[tokio::test]
async fn resolv_conf_is_followed_and_we_are_never_in_the_list() {
    let directory = tempfile::tempdir().unwrap();
    let (path, resolved) = (directory.path().join("resolv.conf"), directory.path().join("resolved.conf"));
    std::fs::write(&path, "nameserver 10.0.0.1\nnameserver 172.17.0.1\nnameserver 10.0.0.2\n").unwrap();
    let wants = |texts: &[&str]| -> Arc<BTreeSet<SocketAddr>> {
        Arc::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    };
    let (wanted, watched) = watch::channel(wants(&["172.17.0.1:53", "127.0.0.1:5300"]));
    let (local, hosts) = watch::channel(Arc::new(Local::default()));
    let options = Options { resolved: resolved.clone(), ..options(Upstreams::ResolvConf(path.clone())) };
    let forwarder = Arc::new(Forwarder::new(options, &Apex::default(), watched, hosts));
    let is = |texts: &[&str]| {
        let expected: Vec<SocketAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
        *forwarder.upstreams() == expected
    };
    assert!(is(&["10.0.0.1:53", "10.0.0.2:53"]), "{:?}", forwarder.upstreams());

    let following = Arc::clone(&forwarder);
    let _task = tokio::spawn(async move { following.follow().await });
    replace(&path, "nameserver 10.0.0.3\n");
    eventually("the new server", || is(&["10.0.0.3:53"])).await;

    replace(&path, "nameserver 127.0.0.53\noptions edns0\n");
    eventually("the stub alone, without its file", || is(&["127.0.0.53:53"])).await;
    replace(&resolved, "nameserver 10.0.0.4\nnameserver 192.0.2.1\n");
    eventually("the stub's real servers", || is(&["10.0.0.4:53", "192.0.2.1:53"])).await;

    wanted.send_replace(wants(&["0.0.0.0:53"]));
    local.send_replace(Arc::new(Local {
        addresses: Arc::new(["192.0.2.1".parse().unwrap()].into()),
        ..Local::default()
    }));
    eventually("we listen on everything this host has", || is(&["10.0.0.4:53"])).await;
    assert_eq!(forwarder.problems().len(), 0);

    replace(&path, "nameserver 127.0.0.1\nnameserver 192.0.2.1\n");
    eventually("nobody but ourselves", || is(&[])).await;
    let problem = &forwarder.problems()[0];
    assert_eq!(problem.place, path.display().to_string());
    assert_eq!(problem.found, "only ourselves: [127.0.0.1:53, 192.0.2.1:53]");
    assert_eq!(rcode(&forward(&forwarder, &example()).await), ResponseCode::Refused);

    replace(&path, "nameserver 10.0.0.5\n");
    eventually("a server again", || is(&["10.0.0.5:53"]) && forwarder.problems().is_empty()).await;
    std::fs::remove_file(&path).unwrap();
    eventually("the missing file is told of", || forwarder.problems().len() == 1).await;
    assert!(is(&["10.0.0.5:53"]), "what was known stays in use");
}

/// A forwarder that would read its file again in an hour, and what follows it.
fn following(path: &Path, resolved: &Path) -> (Arc<Forwarder>, JoinSet<()>) {
    let options = Options {
        resolved: resolved.to_owned(),
        reread: Duration::from_secs(3600),
        ..options(Upstreams::ResolvConf(path.to_owned()))
    };
    let forwarder = Arc::new(forwarder(options));
    let (follower, mut task) = (Arc::clone(&forwarder), JoinSet::new());
    task.spawn(async move { follower.follow().await });
    (forwarder, task)
}

/// Answers A with a private address for names that begin with "in", and with one of the internet for others.
async fn inward() -> Upstream {
    Upstream::start(|packet, _| {
        let name = decode(packet).queries[0].name.to_string();
        let address = if name.starts_with("in") { Ipv4Addr::new(192, 168, 7, 7) } else { THERE };
        vec![changed(&answer(packet, 1), |reply| reply.answers[0].data = RData::A(A(address)))]
    })
    .await
}

#[tokio::test]
async fn an_answer_leads_into_a_network_only_where_that_is_wanted() {
    let (general, special) = (inward().await, inward().await);
    let suffixes = vec![("corp.example".parse().unwrap(), vec![special.address])];
    let chosen =
        |private| Chosen { suffixes: suffixes.clone(), private, ..Upstreams::Fixed(vec![general.address]).into() };
    let forwarder =
        forwarder(Options { cache: 1 << 20, chosen: chosen(PrivateAnswers::Refuse), ..options(Upstreams::None) });
    let [inside, outside, own] = ["in.example.org.", "www.example.org.", "in.corp.example."]
        .map(|name| with_edns(&query(7, name, RecordType::A), 1232));
    let inner = Ipv4Addr::new(192, 168, 7, 7);
    // Asked of the upstream, and then known.
    for private in [1, 2] {
        let refused = forward(&forwarder, &inside).await;
        assert_eq!((rcode(&refused), decode(&refused).answers.len()), (ResponseCode::NoError, 0));
        assert!(!decode(&refused).metadata.truncation && decode(&refused).edns.is_some());
        assert_eq!(addresses(&forward(&forwarder, &outside).await), [THERE]);
        assert_eq!(addresses(&forward(&forwarder, &own).await), [inner], "its domain has an upstream of its own");
        assert_eq!(forwarder.counts().private, private);
    }
    let mut at_once = Vec::new();
    assert!(forwarder.at_once(&inside, Transport::Udp, Instant::now(), &mut at_once));
    assert_eq!((decode(&at_once).answers.len(), forwarder.counts().private), (0, 3));
    let followed = forwarder.follow_name(&inside).await.unwrap();
    assert_eq!(addresses(&followed), [inner], "the operator's own word leads there");
    forwarder.choose(chosen(PrivateAnswers::Allow));
    assert_eq!(addresses(&forward(&forwarder, &inside).await), [inner]);
    assert_eq!(general.asked(), 2, "what is known is the same");
}

/// Whatever way a file is changed in, inotify tells.
#[tokio::test]
async fn every_way_of_changing_resolv_conf_is_seen_at_once() {
    let (etc, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (path, target) = (etc.path().join("resolv.conf"), run.path().join("stub.conf"));
    let resolved = run.path().join("resolv.conf");
    std::fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
    let (forwarder, _task) = following(&path, &resolved);
    let becomes = async |last: u8| {
        let expected = [SocketAddr::from(([10, 0, 0, last], 53))];
        eventually(&format!("10.0.0.{last}"), || *forwarder.upstreams() == expected).await;
    };
    // The first look is made as soon as it follows; a change before that would be seen by it.
    becomes(1).await;
    std::fs::write(&path, "nameserver 10.0.0.2\n").unwrap();
    becomes(2).await;
    replace(&path, "nameserver 10.0.0.3\n");
    becomes(3).await;
    std::fs::write(&target, "nameserver 10.0.0.4\n").unwrap();
    std::fs::remove_file(&path).unwrap();
    eventually("it is missed", || forwarder.problems().len() == 1).await;
    std::os::unix::fs::symlink(&target, &path).unwrap();
    becomes(4).await;
    std::fs::write(&target, "nameserver 10.0.0.5\n").unwrap();
    becomes(5).await;
    replace(&target, "nameserver 10.0.0.6\n");
    becomes(6).await;
    std::fs::write(&target, "nameserver 127.0.0.53\n").unwrap();
    eventually("the stub", || forwarder.upstreams()[0].ip().is_loopback()).await;
    replace(&resolved, "nameserver 10.0.0.7\n");
    becomes(7).await;
    std::fs::write(&resolved, "nameserver 10.0.0.8\n").unwrap();
    becomes(8).await;
}

fn special(general: Upstreams, suffixes: &[(&str, &[SocketAddr])]) -> Forwarder {
    let suffixes = suffixes.iter().map(|(suffix, servers)| (suffix.parse().unwrap(), servers.to_vec())).collect();
    forwarder(Options { chosen: Chosen { suffixes, ..general.into() }, ..options(Upstreams::None) })
}

#[tokio::test]
async fn the_longest_domain_says_who_is_asked() {
    let [general, corp, lab] = [Upstream::helpful().await, Upstream::helpful().await, Upstream::helpful().await];
    let forwarder = special(
        Upstreams::Fixed(vec![general.address]),
        &[("corp.example", &[corp.address]), ("lab.corp.example", &[lab.address])],
    );
    let asked = || [general.asked(), corp.asked(), lab.asked()];
    for (name, expected) in [
        ("www.example.", [1, 0, 0]),
        ("corp.example.", [1, 1, 0]),
        ("www.CORP.example.", [1, 2, 0]),
        ("lab.corp.example.", [1, 2, 1]),
        ("a.b.Lab.corp.example.", [1, 2, 2]),
        ("xlab.corp.example.", [1, 3, 2]),
        ("xcorp.example.", [2, 3, 2]),
    ] {
        assert_eq!(addresses(&forward(&forwarder, &query(7, name, RecordType::A)).await), [THERE], "{name}");
        assert_eq!(asked(), expected, "{name}");
    }
}

#[tokio::test]
async fn without_general_upstreams_only_what_a_domain_covers_is_asked() {
    let (first, second) =
        (Upstream::start(|packet, _| vec![failing(packet, ResponseCode::ServFail)]).await, Upstream::helpful().await);
    let forwarder = special(Upstreams::None, &[("corp.example", &[first.address, second.address])]);
    let www = |domain: &str| query(7, &format!("www.{domain}"), RecordType::A);
    assert_eq!(addresses(&forward(&forwarder, &www("corp.example.")).await), [THERE], "the second of its servers");
    assert_eq!(rcode(&forward(&forwarder, &www("example.")).await), ResponseCode::Refused);
    assert_eq!((first.asked(), second.asked(), forwarder.problems().len()), (1, 1, 0));
}

#[tokio::test]
async fn our_own_zone_stays_whatever_domain_is_given_away() {
    let upstream = Upstream::helpful().await;
    let forwarder = special(Upstreams::None, &[("internal", &[upstream.address])]);
    let web = |domain: &str| query(7, &format!("web.{domain}"), RecordType::A);
    assert_eq!(rcode(&forward(&forwarder, &web("svc.internal.")).await), ResponseCode::Refused);
    assert_eq!(addresses(&forward(&forwarder, &web("other.internal.")).await), [THERE]);
}

#[tokio::test]
async fn other_upstreams_are_asked_anew_and_the_old_answer_stays_for_when_they_fail() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let upstream = Upstream::helpful().await;
    std::fs::write(&path, "nameserver 127.0.0.1\n").unwrap();
    let (wanted, watched) = watch::channel(Arc::default());
    let (_, local) = watch::channel(Arc::default());
    let upstreams = Upstreams::Fixed(vec![upstream.address, fresh_address()]);
    let options = Options { cache: 1 << 20, ..options(upstreams) };
    let forwarder = Arc::new(Forwarder::new(options, &Apex::default(), watched, local));
    let follower = Arc::clone(&forwarder);
    let mut task = JoinSet::new();
    task.spawn(async move { follower.follow().await });
    forward(&forwarder, &example()).await;
    let mut out = Vec::new();
    assert!(forwarder.at_once(&example(), Transport::Udp, Instant::now(), &mut out));
    // The one that knew is one of our own listeners now.
    wanted.send_replace(Arc::new(BTreeSet::from([upstream.address])));
    eventually("the other alone", || forwarder.upstreams().len() == 1).await;
    assert!(!forwarder.at_once(&example(), Transport::Udp, Instant::now(), &mut out), "no longer true");
    assert_eq!(decode(&forward(&forwarder, &example()).await).answers[0].ttl, 30);
}
