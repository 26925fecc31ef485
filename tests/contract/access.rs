//! Users, tokens and certificates.

use std::{fs, time::Duration};

use portolan::registry::{
    call::{CallError, Reply, Request, WatchEvent},
    etcd::{Etcd, Options, OptionsError, Tls},
};
use tokio::time::timeout;

use crate::{
    both::{PATIENCE, client, client_with},
    etcd::{self, Certificates, Cluster, Security},
    faults::{broken, everything, get, put, watching},
};

fn as_root(cluster: &Cluster, password: &str) -> Etcd {
    client_with(cluster, |options| options.user = Some(("root".into(), password.into())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_no_password_and_a_foreign_key_are_denied() {
    let cluster = Cluster::single();
    cluster.enable_auth("secret");
    let root = as_root(&cluster, "secret");
    root.call(put("a", "1")).await.unwrap();
    for etcd in [as_root(&cluster, "wrong"), client(&cluster)] {
        let error = etcd.call(put("a", "1")).await.unwrap_err();
        assert!(matches!(error, CallError::Denied(_)), "{error:?}");
        broken(&mut etcd.watch(everything(), 0)).await;
    }
    let ctl = |arguments: &[&str]| cluster.ctl(&[&["--user=root:secret"], arguments].concat());
    ctl(&["user", "add", "host:pw"]);
    ctl(&["role", "add", "host"]);
    ctl(&["role", "grant-permission", "--prefix=true", "host", "readwrite", "/own/"]);
    ctl(&["user", "grant-role", "host", "host"]);
    let host = client_with(&cluster, |options| options.user = Some(("host".into(), "pw".into())));
    host.call(put("/own/a", "1")).await.unwrap();
    let error = host.call(put("/other/a", "1")).await.unwrap_err();
    assert!(matches!(error, CallError::Denied(_)), "{error:?}");
    let reason = broken(&mut host.watch(everything(), 0)).await;
    assert!(reason.contains("permission denied"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_etcd_forgot_is_renewed_for_calls_and_for_watches() {
    let cluster = Cluster::single();
    cluster.enable_auth("secret");
    // A change of the password, also to the same one, ends all tokens of the user.
    let forget = || cluster.change_password("secret", "root", "secret");
    let etcd = as_root(&cluster, "secret");
    etcd.call(put("a", "1")).await.unwrap();
    let mut old = watching(&etcd).await;
    forget();
    etcd.call(put("a", "2")).await.unwrap();
    forget();
    watching(&etcd).await;
    // A watch needs its token only to be created.
    assert!(timeout(PATIENCE, old.recv()).await.unwrap().is_some());
}

/// Waits until etcd has let this many tokens expire.
async fn expired(cluster: &Cluster, count: usize) {
    until("tokens expire", || cluster.logged(0, &["deleted a simple token"]) >= count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_is_renewed_by_a_watch_and_by_a_call_on_the_same_tls_connection() {
    let arguments = ["--auth-token-ttl=1".into(), "--bcrypt-cost=4".into()];
    let security = Security::ServerCertificate;
    let cluster = Cluster::start(&etcd::Options { security, arguments: arguments.into(), ..Default::default() });
    cluster.enable_auth("secret");
    let ca = cluster.certificates().map(|certificates| certificates.ca.clone());
    let etcd = client_with(&cluster, |options| {
        options.user = Some(("root".into(), "secret".into()));
        options.tls = Some(Tls { ca, ..Tls::default() });
    });
    etcd.call(put("a", "1")).await.unwrap();
    expired(&cluster, 1).await;
    // Nothing is called in between: what etcd says of the token is said to the watch, which is canceled as it is created.
    let mut old = watching(&etcd).await;
    expired(&cluster, 2).await;
    etcd.call(put("a", "2")).await.unwrap();
    let told = timeout(PATIENCE, old.recv()).await.unwrap();
    assert!(matches!(&told, Some(WatchEvent::Changes { .. })), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_no_hindrance_before_authentication_is_enabled_and_logs_in_afterwards() {
    let cluster = Cluster::single();
    let etcd = as_root(&cluster, "secret");
    etcd.call(put("a", "1")).await.unwrap();
    cluster.enable_auth("secret");
    etcd.call(put("a", "2")).await.unwrap();
    watching(&etcd).await;
}

fn tls(certificates: &Certificates) -> Tls {
    let Certificates { ca, cert, key } = certificates.clone();
    Tls { ca: Some(ca), cert: Some(cert), key: Some(key) }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_by_both_sides_and_read_again_for_each_connection_as_far_as_they_can_be_used() {
    let cluster = Cluster::start(&etcd::Options { security: Security::ClientCertificates, ..Default::default() });
    let ours = tls(cluster.certificates().unwrap());
    let etcd = client_with(&cluster, |options| options.tls = Some(ours.clone()));
    etcd.call(put("a", "1")).await.unwrap();
    watching(&etcd).await;
    // The scheme may be left out.
    let address = cluster.endpoint(0).trim_start_matches("https://").to_owned();
    let short = client_with(&cluster, |options| {
        options.endpoints = vec![address];
        options.tls = Some(ours.clone());
    });
    short.call(get("a")).await.unwrap();

    let nobody = Tls { ca: ours.ca.clone(), ..Tls::default() };
    let distrustful = Tls { ca: ours.cert.clone(), ..ours.clone() };
    for (stranger, certain) in [(nobody, false), (distrustful, true)] {
        let etcd = client_with(&cluster, |options| options.tls = Some(stranger));
        let error = etcd.call(get("a")).await.unwrap_err();
        // A client's certificate is refused only after its first bytes have been sent (TLS 1.3).
        match error {
            CallError::Denied(reason) => assert!(reason.contains("--etcd-c"), "{reason}"),
            CallError::Unknown(_) if !certain => {}
            error => panic!("{error:?}"),
        }
    }

    let fresh = client_with(&cluster, |options| options.tls = Some(ours.clone()));
    let key = ours.key.unwrap();
    let good = fs::read(&key).unwrap();
    fs::write(&key, &good[..good.len() / 2]).unwrap();
    fresh.call(get("a")).await.unwrap();
    let problems = fresh.problems();
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert!(problem.place == format!("--etcd-key {}", key.display()), "{problem:?}");
    assert!(problem.found.starts_with("cannot be used: ") && problem.expected.contains("stays in use"), "{problem:?}");
    fs::write(&key, &good).unwrap();
    until("the problem ends", || fresh.problems().is_empty()).await;
}

/// Waits until a condition holds.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, holds).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_is_left_alone_for_a_while_and_another_one_in_its_file_is_tried() {
    let cluster = Cluster::start(&etcd::Options { arguments: ["--bcrypt-cost=4".into()].into(), ..Default::default() });
    cluster.enable_auth("secret");
    let file = cluster.directory().join("password");
    fs::write(&file, "wrong\n").unwrap();
    let etcd = client_with(&cluster, |options| {
        options.user = Some(("root".into(), "wrong".into()));
        options.password_file = Some(file.clone());
    });
    let refused = cluster.logins("InvalidArgument");
    for _ in 0..20 {
        let error = etcd.call(put("a", "1")).await.unwrap_err();
        let names_file = |reason: &str| reason.contains(&*file.to_string_lossy()) && reason.contains("user root");
        assert!(matches!(&error, CallError::Denied(reason) if names_file(reason)), "{error:?}");
        assert!(!error.to_string().contains("wrong"), "{error}");
    }
    assert_eq!(cluster.logins("InvalidArgument") - refused, 1);
    fs::write(&file, "secret\n").unwrap();
    let taken = async { while etcd.call(put("a", "1")).await.is_err() {} };
    timeout(PATIENCE, taken).await.expect("the file is read again");
    assert_eq!(cluster.logins("InvalidArgument") - refused, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_with_a_token_that_etcd_forgot_log_in_once() {
    let cluster = Cluster::single();
    cluster.enable_auth("secret");
    let etcd = as_root(&cluster, "secret");
    etcd.call(put("a", "1")).await.unwrap();
    cluster.change_password("secret", "root", "secret");
    let before = cluster.logins("OK");
    let calls = (0..16).map(|_| etcd.call(get("a")));
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    assert_eq!(cluster.logins("OK") - before, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_on_a_new_connection_though_etcd_takes_no_login_of_ours() {
    let cluster = Cluster::single();
    cluster.enable_auth("secret");
    let granted = as_root(&cluster, "secret").call(Request::Grant { ttl: 60 }).await.unwrap();
    let Reply::Granted { lease, .. } = granted else { panic!("{granted:?}") };
    cluster.change_password("secret", "root", "another");
    let outdated = as_root(&cluster, "secret");
    let error = outdated.call(put("a", "1")).await.unwrap_err();
    assert!(matches!(&error, CallError::Denied(_)), "{error:?}");
    let renewed = outdated.call(Request::KeepAlive { lease }).await;
    assert!(matches!(renewed, Ok(Reply::Alive { ttl, .. }) if ttl > 0), "{renewed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_watches_go_on_when_authentication_is_disabled_and_enabled() {
    let cluster = Cluster::single();
    cluster.enable_auth("secret");
    let etcd = as_root(&cluster, "secret");
    etcd.call(put("a", "1")).await.unwrap();
    for _ in 0..2 {
        cluster.ctl(&["--user=root:secret", "auth", "disable"]);
        watching(&etcd).await;
        etcd.call(put("a", "2")).await.unwrap();
        cluster.ctl(&["auth", "enable"]);
        watching(&etcd).await;
        etcd.call(put("a", "3")).await.unwrap();
    }
}

#[test]
fn options_that_cannot_work_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("garbage.pem");
    fs::write(&garbage, "-----BEGIN CERTIFICATE-----\nnonsense\n").unwrap();
    let missing = directory.path().join("missing.pem");
    let with = |endpoint: &str, tls: Option<Tls>| {
        let result = Etcd::new(Options { endpoints: vec![endpoint.into()], tls, ..Options::default() });
        result.err().map(|error| error.to_string()).unwrap_or_default()
    };
    let ca = |path: &std::path::Path| Some(Tls { ca: Some(path.into()), ..Tls::default() });
    assert!(matches!(Etcd::new(Options::default()), Err(OptionsError::NoEndpoint)));
    assert_eq!(with("http://127.0.0.1:2379", None), "");
    assert_eq!(with("127.0.0.1:2379", None), "");
    assert!(with("ftp://127.0.0.1", None).contains("ftp is neither http nor https"));
    assert!(with("http://not a host", None).contains("not a host"));
    assert!(with("http://127.0.0.1:2379", ca(&garbage)).contains("is not https, but certificates are given"));
    assert!(with("https://127.0.0.1:2379", ca(&missing)).contains("missing.pem"));
    assert!(with("https://127.0.0.1:2379", ca(&garbage)).contains("cannot be used"));
    let half = Tls { cert: Some(garbage.clone()), ..Tls::default() };
    assert!(with("https://127.0.0.1:2379", Some(half)).contains("needs both"));
    let secret = Options { user: Some(("root".into(), "secret".into())), ..Options::default() };
    assert!(!format!("{secret:?}").contains("secret"));
}
