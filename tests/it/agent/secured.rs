//! An etcd as one would run it: TLS, users, and for each host a role that may do what the README says and no more.

use portolan::registry::etcd::{Options, Tls};

use super::{
    bed::{Home, address, engine_bed, eventually, succeeds},
    registry::{ROUTED, Registry},
};
use crate::{
    engine,
    etcd::{self, Cluster, Security},
};

const ROOT: &str = "open sesame";
const PASSWORD: &str = "close simsim";

/// How an agent says who it is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Credentials {
    Password,
    PasswordAndCertificate,
    /// Its common name is the user.
    Certificate,
}

/// An etcd with a user for each of these hosts. A token lives for a second after it was last used, which is less than any
/// agent's pause between two calls.
struct Stage {
    registry: Registry,
    credentials: Credentials,
    bed: engine::Bed,
}

impl Stage {
    fn new(test: &str, credentials: Credentials, hosts: &[&str]) -> Self {
        let security = match credentials {
            Credentials::Password => Security::ServerCertificate,
            Credentials::PasswordAndCertificate | Credentials::Certificate => Security::ClientCertificates,
        };
        let arguments = ["--auth-token-ttl=1".into(), "--bcrypt-cost=4".into()].into();
        let cluster = Cluster::start(&etcd::Options { security, arguments, ..etcd::Options::default() });
        for host in hosts {
            let password = (credentials != Credentials::Certificate).then_some(PASSWORD);
            grant(&cluster, host, password);
        }
        cluster.enable_auth(ROOT);
        std::fs::write(cluster.directory().join("password"), PASSWORD).expect("a file");
        let etcd::Certificates { ca, cert, key } = cluster.certificates().expect("a cluster with TLS").clone();
        let tls = Tls { ca: Some(ca), cert: Some(cert), key: Some(key) };
        let user = Some(("root".into(), ROOT.into()));
        let registry = Registry::of(cluster, Options { user, tls: Some(tls), ..Options::default() });
        Self { registry, credentials, bed: engine_bed(test) }
    }

    /// The agent of a host, with the credentials of a user.
    fn home(&self, host: &str, user: &str, arguments: &[&str]) -> Home {
        let cluster = &self.registry.cluster;
        let file = |name: &str| cluster.directory().join(name).to_str().expect("text").to_owned();
        let mut all = ["--host-id", host, "--etcd-endpoints"].map(str::to_owned).to_vec();
        all.extend([self.registry.url(), "--etcd-ca".into(), file("ca.pem")]);
        if self.credentials != Credentials::Password {
            cluster.certificate_of(user);
            all.extend(["--etcd-cert".into(), file(&format!("{user}.pem"))]);
            all.extend(["--etcd-key".into(), file(&format!("{user}.key"))]);
        }
        if self.credentials != Credentials::Certificate {
            all.extend(["--etcd-user".into(), user.into(), "--etcd-password-file".into(), file("password")]);
        }
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        Home::new(&all.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Starts a container and gives its name below the zone, its address and its id.
    fn container(&self, short: &str) -> (String, String, String) {
        let id = self.bed.sleeper(short, &[]);
        let name = self.bed.name(short);
        (format!("{name}.default"), address(&name), id)
    }
}

/// A user for a host, with the role that the README says an agent needs; without a password it is a certificate's.
pub(super) fn grant(cluster: &Cluster, host: &str, password: Option<&str>) {
    let [own, echo, ack] = ["hosts", "echo", "acks"].map(|part| format!("/portolan/v1/{part}/{host}"));
    cluster.ctl(&["role", "add", host]);
    cluster.ctl(&["role", "grant-permission", "--prefix=true", host, "read", "/portolan/v1/"]);
    cluster.ctl(&["role", "grant-permission", "--prefix=true", host, "write", &format!("{own}/")]);
    for key in [echo, ack] {
        cluster.ctl(&["role", "grant-permission", host, "write", &key]);
    }
    match password {
        None => cluster.ctl(&["user", "add", "--no-password", host]),
        Some(password) => cluster.ctl(&["user", "add", &format!("{host}:{password}")]),
    };
    cluster.ctl(&["user", "grant-role", host, host]);
}

/// What an agent of a host without an engine needs.
pub(super) const FAR: [&str; 4] = ["--docker-host", "unix:///nonexistent/docker.sock", "--routed", ROUTED];

/// Two hosts publish, follow and answer one another, also when their tokens are no longer known to etcd: because they
/// were not used for too long, and because etcd was restarted.
fn goes_on(test: &str, credentials: Credentials) {
    let mut stage = Stage::new(test, credentials, &["near", "far"]);
    let (first, first_ip, first_id) = stage.container("first");
    let (near, far) = (stage.home("near", "near", &[]), stage.home("far", "far", &FAR));
    let (_near, _far) = (near.start(), far.start());
    far.until_address(&first, &first_ip);
    near.until_ready();
    near.until_synced();
    let published = stage.registry.instance(&first_id).expect("it is published");
    assert!(published.lease.is_some() && published.key.starts_with(b"/portolan/v1/hosts/near/"), "{published:?}");
    // The far host acknowledges, and the near one reads that.
    let container = stage.bed.name("first");
    succeeds(&near.client(&["drain", &container, "--wait", "--timeout", "30s"]));
    succeeds(&near.client(&["undrain", &container]));

    if credentials != Credentials::Certificate {
        // An agent that has nothing to tell writes its echo every 10 s: by the next one its token has expired.
        let forgotten = || stage.registry.cluster.logged(0, &["deleted a simple token", "\"user-name\":\"far\""]);
        let next =
            |last| eventually("its next echo", || stage.registry.echo("far").filter(|kv| kv.mod_revision > last));
        let (first, before) = (next(0), forgotten());
        let second = next(first.mod_revision);
        next(second.mod_revision);
        assert!(forgotten() > before);
    }
    let (second, second_ip, second_id) = stage.container("second");
    far.until_address(&second, &second_ip);

    // Tokens live in etcd's memory only.
    stage.registry.cluster.kill(0);
    let (third, third_ip, _) = stage.container("third");
    near.until_address(&third, &third_ip);
    stage.registry.cluster.restart(0);
    stage.registry.cluster.wait_healthy(0);
    far.until_address(&third, &third_ip);
    near.until_synced();
    for (name, ip) in [(&first, &first_ip), (&second, &second_ip)] {
        assert_eq!(far.ask(name).expect("a reply").data, [ip.as_str()]);
    }
    let still = stage.registry.instance(&first_id).expect("it is published");
    assert_eq!((still.create_revision, still.lease), (published.create_revision, published.lease));
    let ours =
        |key: &str| key.ends_with("/session") || [&first_id, &second_id].iter().any(|id| key.ends_with(&id[..12]));
    let deleted = stage.registry.deletions();
    assert!(!deleted.iter().any(|(key, _)| ours(key)), "nothing was withdrawn: {deleted:?}");
}

#[test]
fn agents_with_roles_go_on_over_tls_when_their_tokens_are_no_longer_known() {
    goes_on("token", Credentials::Password);
}

#[test]
fn agents_that_show_a_password_and_a_certificate_go_on_when_their_tokens_are_no_longer_known() {
    goes_on("tokencert", Credentials::PasswordAndCertificate);
}

#[test]
fn agents_whose_certificates_name_their_users_need_no_password() {
    goes_on("certuser", Credentials::Certificate);
}

#[test]
fn an_agent_with_another_hosts_role_publishes_nothing_says_why_and_goes_on_answering() {
    let stage = Stage::new("role", Credentials::Password, &["near"]);
    let (name, ip, id) = stage.container("web");
    let near = stage.home("near", "near", &[]);
    let _near = near.start();
    near.until_synced();
    let stranger = stage.home("stranger", "near", &FAR);
    let _stranger = stranger.start();
    stranger.until_address(&name, &ip);
    eventually("it says why", || {
        let error = stranger.json("/v1/status")["facts"]["registry"]["last_error"].as_str().map(str::to_owned);
        error.filter(|error| error.contains("permission denied"))
    });
    let strangers = |kv: &portolan::registry::call::KeyValue| kv.key.starts_with(b"/portolan/v1/hosts/stranger/");
    assert!(!stage.registry.keys().iter().any(strangers));
    assert!(stage.registry.instance(&id).is_some());
}
