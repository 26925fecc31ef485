use std::{fs, path::Path};

use tempfile::TempDir;
use tokio::time::advance;

use super::*;

fn options(directory: &TempDir, password: &str) -> Options {
    let file = directory.path().join("password");
    fs::write(&file, password).unwrap();
    Options { user: Some(("near".into(), password.into())), password_file: Some(file), ..Options::default() }
}

/// The password that is tried now, if any is.
fn tried(credentials: &Credentials) -> Option<Login> {
    credentials.next_login().ok()
}

fn refuse_all(credentials: &Credentials) -> Vec<String> {
    let next = || {
        let login = tried(credentials)?;
        credentials.refuse(&login, "etcd says no");
        Some(login.password)
    };
    std::iter::from_fn(next).collect()
}

#[tokio::test(start_paused = true)]
async fn the_files_password_is_tried_first_and_the_one_that_etcd_took_before_it_second() {
    let directory = TempDir::new().unwrap();
    let credentials = Credentials::new(&options(&directory, "one")).unwrap();
    credentials.accept(&tried(&credentials).unwrap());
    let renewed = credentials.renew(&options(&directory, "two")).unwrap();
    assert_eq!((renewed.settings, renewed.outdates_connections), (vec![PASSWORD_FILE], false));

    let newest = tried(&credentials).unwrap();
    assert_eq!(newest.password, "two");
    credentials.refuse(&newest, "etcd says no");
    let before = tried(&credentials).unwrap();
    assert_eq!(before.password, "one");
    credentials.accept(&before);
    let [problem] = &credentials.problems()[..] else { panic!("the file is ahead of etcd, which is a problem") };
    assert!(problem.place.ends_with("/password") && problem.expected.contains("user passwd near"), "{problem:?}");
    assert_eq!(tried(&credentials).unwrap().password, "one", "the newest was refused a moment ago");
    advance(REFUSED_FOR).await;
    credentials.refuse(&tried(&credentials).unwrap(), "etcd says no");
    // Now etcd has it, too, and that one is refused which it took until a moment ago.
    let before = tried(&credentials).unwrap();
    assert_eq!(before.password, "one");
    credentials.refuse(&before, "etcd says no");
    let newest = tried(&credentials).unwrap();
    assert_eq!(newest.password, "two", "it is not left alone now");
    credentials.accept(&newest);
    assert_eq!(credentials.problems(), []);
    // The one before has had its day.
    assert_eq!(refuse_all(&credentials), ["two"]);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_left_alone_for_a_while_unless_the_operator_says_otherwise() {
    let directory = TempDir::new().unwrap();
    let wanted = options(&directory, "one");
    let credentials = Credentials::new(&wanted).unwrap();
    assert_eq!(refuse_all(&credentials), ["one"]);
    assert_eq!(credentials.next_login().err().as_deref(), Some("etcd says no"));
    advance(REFUSED_FOR).await;
    assert_eq!(refuse_all(&credentials), ["one"]);
    credentials.renew(&wanted).unwrap();
    assert_eq!(refuse_all(&credentials), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn the_file_is_read_again_when_a_password_is_refused_but_not_all_the_time() {
    let directory = TempDir::new().unwrap();
    let credentials = Credentials::new(&options(&directory, "one")).unwrap();
    let write = |password: &str| fs::write(directory.path().join("password"), password).unwrap();
    write("two");
    assert_eq!(refuse_all(&credentials), ["one", "two"]);
    write("three");
    assert!(tried(&credentials).is_none());
    advance(READ_EVERY).await;
    assert_eq!(refuse_all(&credentials), ["three"]);
    for (content, reason) in [("\nsecond line", "has an empty first line"), ("", "has an empty first line")] {
        write(content);
        advance(REFUSED_FOR).await;
        assert_eq!(refuse_all(&credentials), ["three"], "what it held before is tried");
        let [problem] = &credentials.problems()[..] else { panic!("a problem") };
        assert_eq!((&*problem.found, problem.place.starts_with("--etcd-password-file /")), (reason, true));
    }
    write("four");
    advance(LOOK_EVERY).await;
    assert_eq!(credentials.problems(), []);
    assert_eq!(tried(&credentials).unwrap().password, "four");
}

const CERTIFICATE: &str = include_str!("../../../../tests/it/dns_server/tls/certificate.pem");
const CERTIFICATES_KEY: &str = include_str!("../../../../tests/it/dns_server/tls/key.pem");
const OTHER_CERTIFICATE: &str = include_str!("../../../../tests/it/dns_server/tls/renewed-certificate.pem");
const OTHERS_KEY: &str = include_str!("../../../../tests/it/dns_server/tls/renewed-key.pem");

fn write_tls(directory: &Path, texts: [&str; 3]) {
    for (name, text) in ["ca", "cert", "key"].into_iter().zip(texts) {
        fs::write(directory.join(name), text).unwrap();
    }
}

fn with_tls(directory: &TempDir) -> Options {
    let file = |name| Some(directory.path().join(name));
    let tls = Tls { ca: file("ca"), cert: file("cert"), key: file("key") };
    Options { tls: Some(tls), ..Options::default() }
}

#[tokio::test(start_paused = true)]
async fn certificates_that_cannot_be_used_change_nothing_and_the_file_that_is_to_blame_is_named() {
    let directory = TempDir::new().unwrap();
    let good = [CERTIFICATE, CERTIFICATE, CERTIFICATES_KEY];
    write_tls(directory.path(), good);
    let credentials = Credentials::new(&with_tls(&directory)).unwrap();
    let half = |text: &'static str| &text[..text.len() / 2];
    let rows: [([&str; 3], &str, &str); 8] = [
        ([half(CERTIFICATE), CERTIFICATE, CERTIFICATES_KEY], CA, "no certificate in PEM"),
        (["", CERTIFICATE, CERTIFICATES_KEY], CA, "no certificate in PEM"),
        ([OTHERS_KEY, CERTIFICATE, CERTIFICATES_KEY], CA, "no certificate in PEM"),
        ([CERTIFICATE, half(CERTIFICATE), CERTIFICATES_KEY], CERT, "no certificate in PEM"),
        ([CERTIFICATE, "", CERTIFICATES_KEY], CERT, "no certificate in PEM"),
        ([CERTIFICATE, CERTIFICATE, half(CERTIFICATES_KEY)], KEY, "no private key in PEM"),
        // Both are whole, and one of them is not written yet.
        ([CERTIFICATE, OTHER_CERTIFICATE, CERTIFICATES_KEY], KEY, "cannot be used with --etcd-cert"),
        ([CERTIFICATE, CERTIFICATE, OTHERS_KEY], KEY, "cannot be used with --etcd-cert"),
    ];
    for (texts, setting, reason) in rows {
        write_tls(directory.path(), texts);
        let error = credentials.renew(&with_tls(&directory)).err().expect("it is refused").to_string();
        assert!(error.starts_with(&format!("--{setting} /")) && error.contains(reason), "{error}");
        credentials.tls();
        let problems = credentials.problems();
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert!(problem.place.starts_with(&format!("--{setting} /")) && problem.found.contains(reason), "{problem:?}");
        assert_eq!(credentials.state().material.ca.as_deref(), Some(CERTIFICATE.as_bytes()));
        write_tls(directory.path(), good);
        advance(LOOK_EVERY).await;
        assert_eq!(credentials.problems(), []);
    }
    fs::remove_file(directory.path().join("ca")).unwrap();
    let error = credentials.renew(&with_tls(&directory)).err().expect("it is refused").to_string();
    assert!(error.contains("/ca cannot be read: No such file"), "{error}");

    write_tls(directory.path(), [CERTIFICATE, OTHER_CERTIFICATE, OTHERS_KEY]);
    let renewed = credentials.renew(&with_tls(&directory)).unwrap();
    assert_eq!((renewed.settings, renewed.outdates_connections), (vec![CERT, KEY], true));
    let again = credentials.renew(&with_tls(&directory)).unwrap();
    assert_eq!((again.settings.len(), again.outdates_connections), (0, false));
}

#[test]
fn each_refusal_names_what_an_operator_can_change() {
    let directory = TempDir::new().unwrap();
    write_tls(directory.path(), [CERTIFICATE, CERTIFICATE, CERTIFICATES_KEY]);
    let bare = Options::default;
    let password = || options(&directory, "secret");
    let without_file = || Options { password_file: None, ..password() };
    let certificates = || with_tls(&directory);
    let rows: [(&dyn Fn() -> Options, &str, &str); 10] = [
        (&password, "authentication failed, invalid user ID or password", "user near: --etcd-password-file /"),
        (&without_file, "authentication failed, invalid user ID or password", "user near: etcd has no such user"),
        (&password, "etcdserver: permission denied", "user near: its role"),
        (&certificates, "etcdserver: permission denied", "the user that --etcd-cert /"),
        (&bare, "etcdserver: permission denied", ""),
        (&bare, "etcdserver: user name is empty", "--etcd-user with --etcd-password-file"),
        (&certificates, "invalid peer certificate: UnknownIssuer", "--etcd-ca /"),
        (&bare, "invalid peer certificate: UnknownIssuer", "no authority of this system"),
        (&certificates, "received fatal alert: BadCertificate", "--etcd-cert /"),
        (&bare, "received fatal alert: CertificateRequired", "--etcd-cert with --etcd-key"),
    ];
    for (options, reason, advice) in rows {
        let explained = Credentials::new(&options()).unwrap().explain(reason);
        assert!(explained.starts_with(reason) && explained.contains(advice), "{explained}");
        assert_eq!(explained == reason, advice.is_empty(), "{explained}");
        assert!(!explained.contains("secret"), "{explained}");
    }
}
