use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::dns::tls::samples::{CERTIFICATE, KEY, OTHER_KEY};

const FILE: &str = "/etc/portolan.toml";

/// The four layers as rows: `--flag=value`, `NAME=value` and the file's text; files that can be read hold "secret".
fn load(flags: &[&str], env: &[&str], text: &str) -> Result<Config, Errors> {
    let mut given = Given::new();
    for flag in flags {
        let (name, value) = flag.strip_prefix("--").and_then(|flag| flag.split_once('=')).expect("--flag=value");
        given.entry(key(name).expect("a known flag").name).or_default().push(value.to_owned());
    }
    if !text.is_empty() {
        given.insert("config", vec![FILE.to_owned()]);
    }
    let env = env.iter().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    Config::load(&given, &env, true, &|path| match path.to_str() {
        Some(FILE) => Ok(text.to_owned()),
        Some("/missing") => Err(io::ErrorKind::NotFound.into()),
        _ => Ok("secret\n".to_owned()),
    })
}

#[track_caller]
fn shows(flags: &[&str], env: &[&str], text: &str, expected: &[(&str, &str, &str)]) {
    let rows = load(flags, env, text).expect("a valid configuration").shown();
    for (name, value, source) in expected {
        let row = rows.iter().find(|row| row.name == *name).expect("a row");
        assert_eq!((row.value.as_str(), row.source.to_string().as_str()), (*value, *source), "{name}");
    }
}

#[track_caller]
fn refuses(flags: &[&str], env: &[&str], text: &str, expected: &[&str]) {
    let errors = load(flags, env, text).expect_err("an invalid configuration");
    assert_eq!(errors.0, expected);
}

#[test]
fn every_setting_has_a_row_and_a_default_that_parses() {
    let config = load(&[], &[], "").unwrap();
    let rows = config.shown();
    assert_eq!(rows.iter().map(|row| row.name).collect::<Vec<_>>(), KEYS.iter().map(|k| k.name).collect::<Vec<_>>());
    for (row, key) in rows.iter().zip(KEYS) {
        assert_eq!(row.source, Source::Default, "{}", row.name);
        if !key.default.is_empty() {
            assert_eq!(row.value, key.default, "{}", row.name);
        }
    }
}

#[test]
fn a_flag_wins_over_the_environment_the_environment_over_the_file_the_file_over_the_default() {
    let file = "# mine\nlease = \"10s\"\n";
    shows(&[], &[], "", &[("lease", "30s", "default")]);
    shows(&[], &[], file, &[("lease", "10s", "/etc/portolan.toml line 2")]);
    shows(&[], &["PORTOLAN_LEASE=20s"], file, &[("lease", "20s", "PORTOLAN_LEASE")]);
    shows(&["--lease=1m"], &["PORTOLAN_LEASE=20s"], file, &[("lease", "1m", "flag")]);
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let env = Env::from([("PORTOLAN_CONFIG".to_owned(), FILE.to_owned())]);
    let config = Config::load(&Given::new(), &env, true, &|_| Ok("ttl = 5".to_owned())).unwrap();
    assert_eq!((config.ttl.value, config.ttl.source), (5, Source::File(Path::new(FILE).into(), 1)));
}

#[test]
fn an_empty_value_is_not_given() {
    let file = "lease = \"\"\nallow = []\nupstream = [\"\"]";
    shows(
        &["--zone="],
        &["PORTOLAN_LEASE= "],
        file,
        &[
            ("lease", "30s", "default"),
            ("zone", "svc.internal", "default"),
            ("allow", "-", "default"),
            ("upstream", "-", "default"),
        ],
    );
}

#[test]
fn names_of_other_tools_are_read_after_our_own() {
    let env = ["ETCDCTL_ENDPOINTS=http://a:1,http://b:2", "DOCKER_HOST=tcp://d:2375"];
    shows(
        &[],
        &env,
        "",
        &[
            ("etcd-endpoints", "http://a:1,http://b:2", "ETCDCTL_ENDPOINTS"),
            ("docker-host", "tcp://d:2375", "DOCKER_HOST"),
        ],
    );
    let env = ["ETCDCTL_ENDPOINTS=http://a:1", "PORTOLAN_ETCD_ENDPOINTS=http://c:3"];
    shows(&[], &env, "", &[("etcd-endpoints", "http://c:3", "PORTOLAN_ETCD_ENDPOINTS")]);
}

#[test]
fn several_values_come_repeated_with_commas_or_as_a_list() {
    let expected = "docker,127.0.0.1:5300,[::1]:53";
    shows(&["--dns=docker,127.0.0.1:5300", "--dns=[::1]:53"], &[], "", &[("dns", expected, "flag")]);
    shows(
        &[],
        &[],
        "dns = [\"docker\", \"127.0.0.1:5300\", \"[::1]:53\"]",
        &[("dns", expected, "/etc/portolan.toml line 1")],
    );
}

#[test]
fn endpoints_imply_etcd_and_take_a_scheme() {
    shows(
        &["--etcd-endpoints=10.0.0.1:2379"],
        &[],
        "",
        &[("registry", "etcd", "flag"), ("etcd-endpoints", "http://10.0.0.1:2379", "flag")],
    );
    shows(
        &["--etcd-endpoints=e:1,https://[fd00::1]:2", "--etcd-ca=/ca"],
        &[],
        "",
        &[("etcd-endpoints", "https://e:1,https://[fd00::1]:2", "flag")],
    );
}

#[test]
fn a_locality_is_needed_to_prefer_by_it() {
    shows(&["--prefer=locality", "--locality=eu/a"], &[], "", &[("prefer", "locality", "flag")]);
    refuses(
        &["--prefer=locality"],
        &[],
        "",
        &["--prefer \"locality\" (flag): where does this host stand? add --locality, such as eu/a"],
    );
}

#[test]
fn contradictions_about_the_registry_are_refused() {
    refuses(
        &["--registry=memory"],
        &["ETCDCTL_ENDPOINTS=e:1"],
        "",
        &["--registry \"memory\" (flag): contradicts --etcd-endpoints (ETCDCTL_ENDPOINTS); leave one of the two out"],
    );
    refuses(
        &[],
        &["PORTOLAN_REGISTRY=etcd"],
        "",
        &["--registry \"etcd\" (PORTOLAN_REGISTRY): no endpoint is known; add --etcd-endpoints http://HOST:2379"],
    );
    refuses(
        &["--etcd-endpoints=http://e:1", "--etcd-ca=/ca", "--etcd-key=/missing"],
        &[],
        "",
        &[
            "--etcd-key \"/missing\" (flag): cannot be read: entity not found",
            "--etcd-key \"/missing\" (flag): a key needs its certificate; add --etcd-cert",
            "--etcd-endpoints \"http://e:1\" (flag): not encrypted although --etcd-ca (flag) is given; write https://",
        ],
    );
}

#[test]
fn dns_over_tls_needs_addresses_a_certificate_and_its_key() {
    let read = |path: &Path| match path.to_str() {
        Some("/cert") => Ok(CERTIFICATE.to_owned()),
        Some("/key") => Ok(KEY.to_owned()),
        Some("/other") => Ok(OTHER_KEY.to_owned()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    let load = |flags: &[(&'static str, &str)]| {
        let given = flags.iter().map(|(name, value)| (*name, vec![(*value).to_owned()])).collect();
        Config::load(&given, &Env::new(), true, &read)
    };
    let files = [("tls-cert", "/cert"), ("tls-key", "/key")];
    let config = load(&[&files[..], &[("dns-tls", "10.0.0.5,fd00::5,[fd00::6],[::1]:8853")]].concat()).unwrap();
    assert_eq!(config.dns_tls.value.show(), "10.0.0.5:853,[fd00::5]:853,[fd00::6]:853,[::1]:8853");
    assert_eq!(config.certificate, Certificate::parse(CERTIFICATE, KEY).ok());
    assert_eq!(load(&[]).unwrap().certificate, None);
    let tls = ("dns-tls", "10.0.0.5");
    for (flags, expected) in [
        (
            &[tls][..],
            &[
                "--dns-tls \"10.0.0.5:853\" (flag): without a certificate and its key; add --tls-cert FILE and --tls-key FILE",
            ][..],
        ),
        (&[tls, files[0]], &["--dns-tls \"10.0.0.5:853\" (flag): without the certificate's key; add --tls-key FILE"]),
        (&[tls, files[1]], &["--dns-tls \"10.0.0.5:853\" (flag): without a certificate; add --tls-cert FILE"]),
        (
            &files,
            &[
                "--tls-cert \"/cert\" (flag): nobody is answered with it; add --dns-tls ADDR",
                "--tls-key \"/key\" (flag): nobody is answered with it; add --dns-tls ADDR",
            ],
        ),
        (
            &[tls, ("tls-cert", "/none"), ("tls-key", "/none")],
            &[
                "--tls-cert \"/none\" (flag): cannot be read: entity not found",
                "--tls-key \"/none\" (flag): cannot be read: entity not found",
            ],
        ),
        (
            &[tls, files[0], ("tls-key", "/cert")],
            &["--tls-key \"/cert\" (flag): there is no private key in it; it begins with -----BEGIN PRIVATE KEY-----"],
        ),
        (
            &[tls, files[0], ("tls-key", "/other")],
            &[
                "--tls-key \"/other\" (flag): the key does not fit the certificate; name the key that it was made with, and the server's own certificate first",
            ],
        ),
        (
            &[("dns-tls", "10.0.0.5:5300"), ("dns", "10.0.0.5:5300"), files[0], files[1]],
            &[
                "--dns-tls \"10.0.0.5:5300\" (flag): --dns (flag) answers there in the clear; leave the port out for 853",
            ],
        ),
        (
            &[("dns-tls", "10.0.0.5:53"), files[0], files[1]],
            &[
                "--dns-tls \"10.0.0.5:53\" (flag): port 53 is never encrypted (RFC 7858 section 3.1); leave the port out",
            ],
        ),
    ] {
        assert_eq!(load(flags).expect_err("an invalid configuration").0, expected);
    }
}

#[test]
fn a_password_is_used_and_never_shown() {
    let config = load(&["--etcd-user=root", "--etcd-password-file=/pw"], &[], "").unwrap();
    let user = config.etcd_user.value.clone().unwrap();
    assert_eq!((user.name.as_str(), user.password.as_ref().map(Secret::reveal)), ("root", Some("secret")));
    assert!(!format!("{config:?}{:?}", config.shown()).contains("secret"));
    shows(&[], &["ETCDCTL_USER=root:secret"], "", &[("etcd-user", "root:***", "ETCDCTL_USER")]);
    let errors = load(&["--etcd-user=root:secret"], &[], "").unwrap_err();
    assert_eq!(
        errors.0,
        ["--etcd-user \"root\" (flag): a password here is seen by other users of this host; use --etcd-password-file",]
    );
    let errors = load(&[], &["PORTOLAN_ETCD_USER=:secret"], "").unwrap_err();
    assert_eq!(errors.0, ["--etcd-user \"\" (PORTOLAN_ETCD_USER): the user's name is missing"]);
    for misplaced in
        ["--etcd-endpoints=http://u:secret@e:1", "--etcd-endpoints=u:secret@e:1", "--docker-host=tcp://u:secret@d:1"]
    {
        let errors = load(&[misplaced], &[], "").unwrap_err();
        assert!(!errors.0.is_empty() && !errors.to_string().contains("secret"), "{errors}");
    }
    refuses(
        &["--etcd-password-file=/pw"],
        &[],
        "",
        &["--etcd-password-file \"/pw\" (flag): whose password? add --etcd-user"],
    );
}

#[test]
fn the_file_is_told_apart_line_by_line() {
    let text = "leese = \"5s\"\netcd_prefix = \"/p\"\ncolour = 1\nttl = 1.5\nallow = [1.5]\nconfig = \"x\"\n[dns]\n";
    refuses(
        &[],
        &[],
        text,
        &[
            "/etc/portolan.toml line 1: unknown key \"leese\"; did you mean \"lease\"?",
            "/etc/portolan.toml line 2: unknown key \"etcd_prefix\"; did you mean \"etcd-prefix\"?",
            "/etc/portolan.toml line 3: unknown key \"colour\"; the keys are the names of the flags in `portolan agent --help`",
            "/etc/portolan.toml line 4: ttl takes one text: ttl = \"…\"",
            "/etc/portolan.toml line 5: allow takes a list of texts: allow = [\"…\"]",
            "/etc/portolan.toml line 6: unknown key \"config\"; the keys are the names of the flags in `portolan agent --help`",
            "/etc/portolan.toml line 7: dns takes a list of texts: dns = [\"…\"]",
        ],
    );
    refuses(
        &[],
        &[],
        "zone = \"a.b\"\nzone = \"c.d\"\nlease 30s\n",
        &[
            "/etc/portolan.toml line 2: not TOML: duplicate key",
            "/etc/portolan.toml line 3: not TOML: key with no value, expected `=`",
        ],
    );
}

#[test]
fn variables_that_only_look_like_ours_are_told_without_their_values() {
    let env = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), "geheim".to_owned())).collect::<Env>();
    let known: Vec<String> = KEYS.iter().map(Key::env).collect();
    assert_eq!(unknown_variables(&env(&known.iter().map(String::as_str).collect::<Vec<_>>())), [""; 0]);
    let names = [
        "PORTOLAN_LEESE",
        "PORTOLAN_ETCD_ENDPOINT",
        "PORTOLAN_",
        "PORTOLAN_COLOUR",
        "PORTOLAN_ttl",
        "LEESE",
        "portolan_ttl",
    ];
    assert_eq!(
        unknown_variables(&env(&names)),
        [
            "unknown environment variable PORTOLAN_; the names are those of the flags in `portolan agent --help`",
            "unknown environment variable PORTOLAN_COLOUR; the names are those of the flags in `portolan agent --help`",
            "unknown environment variable PORTOLAN_ETCD_ENDPOINT; did you mean PORTOLAN_ETCD_ENDPOINTS?",
            "unknown environment variable PORTOLAN_LEESE; did you mean PORTOLAN_LEASE?",
            "unknown environment variable PORTOLAN_ttl; did you mean PORTOLAN_TTL?",
        ],
    );
}

#[test]
fn an_unreadable_file_is_an_error() {
    refuses(&["--config=/missing"], &[], "", &["--config \"/missing\" (flag): cannot be read: entity not found"]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    refuses(
        &["--lease=3s", "--advertise=127.0.0.1"],
        &["PORTOLAN_ZONE=com"],
        "http = \"7300\"",
        &[
            "--lease \"3s\" (flag): shorter than a lost call and a leader election take; use at least 5s",
            "--advertise \"127.0.0.1\" (flag): a loopback address leads every other host to itself; name the address under \
         which other hosts reach this one, such as 10.0.0.5",
            "--zone \"com\" (PORTOLAN_ZONE): a whole top-level domain would be taken from its owner; use a domain of your own, \
         or one below internal, such as svc.internal",
            "--http \"7300\" (/etc/portolan.toml line 1): write an address with its port such as 127.0.0.1:7300 or [::1]:7300",
        ],
    );
}

#[test]
fn claims_may_be_tables_of_the_file() {
    let file = "[[claim]]\nimages = [\"postgres:*\", \"own/pg\"]\nname = \"db\"\n[[claim]]\nname = \"*\"\nnamespaces = \"infra\"\nlabels = [\"team=data\"]\n";
    let shown = "db image=postgres:* image=own/pg,* label=team=data namespace=infra";
    shows(&[], &[], file, &[("claim", shown, "/etc/portolan.toml line 1")]);
    shows(&[], &[], "claim = [\"db image=a\"]", &[("claim", "db image=a", "/etc/portolan.toml line 1")]);
    for (file, error) in [
        ("[[claim]]\nname = \"db\"", "nobody could have \"db\""),
        ("[[claim]]\nimages = [\"a\"]", "the name comes first"),
        ("[[claim]]\nnames = \"db\"", "unknown part \"names\""),
        ("[[claim]]\nname = \"db\"\nimages = [\"a b\"]", "without spaces"),
        ("[[claim]]\nname = [\"db\"]\nimages = \"a\"", "name takes texts"),
        ("[[allow]]\nname = \"db\"\nimages = \"a\"", "allow takes a list of texts"),
    ] {
        let told = load(&[], &[], file).expect_err(file).0.join("\n");
        assert!(told.contains(error), "{file:?}: {told}");
    }
}

/// Values that are taken, as they are shown afterwards.
#[test]
fn good_values_are_taken() {
    let long = format!("{}.{}", "a".repeat(50), "b".repeat(5));
    for (name, text, shown) in [
        ("lease", "5s", "5s"),
        ("lease", "10m", "10m"),
        ("lease", "90s", "90s"),
        ("ttl", "1m", "60"),
        ("ttl", "3600", "3600"),
        ("advertise", "10.0.0.5, fd00::5", "10.0.0.5,fd00::5"),
        ("advertise", "::ffff:10.0.0.5", "10.0.0.5"),
        ("zone", "Svc.Internal.", "svc.internal"),
        ("zone", "internal", "internal"),
        ("zone", &long, &long),
        ("allow", "10.1.2.3/8,192.168.1.1", "10.0.0.0/8,192.168.1.1/32"),
        ("routed", "0.0.0.0/0", "0.0.0.0/0"),
        ("rate-limit", "0", "0"),
        ("rate-limit", "1000000", "1000000"),
        ("reply-allowance", "0", "0"),
        ("reply-allowance", "64KiB", "64KiB"),
        ("reply-allowance-network", "1024MiB", "1GiB"),
        ("upstream", "none", "none"),
        ("upstream", "9.9.9.9,10.0.0.2:5353,fd00::1", "9.9.9.9:53,10.0.0.2:5353,[fd00::1]:53"),
        (
            "upstream",
            "Corp.Example.=10.0.0.2, corp.example=[::1]:5353",
            "corp.example=10.0.0.2:53,corp.example=[::1]:5353",
        ),
        ("upstream", "a.b=10.0.0.2,none", "none,a.b=10.0.0.2:53"),
        (
            "upstream",
            "10.in-addr.arpa=10.0.0.2,internal=10.0.0.2,9.9.9.9",
            "9.9.9.9:53,10.in-addr.arpa=10.0.0.2:53,internal=10.0.0.2:53",
        ),
        ("cache-size", "0", "0"),
        ("cache-size", "256KiB", "256KiB"),
        ("cache-size", "1024MiB", "1GiB"),
        ("private-answers", "refuse", "refuse"),
        ("site-names", "answer", "answer"),
        ("site-names", "forward", "forward"),
        ("single-labels", "forward", "forward"),
        ("dns", "auto", "auto"),
        ("http", "[::]:0", "[::]:0"),
        ("host-id", "node-1.example", "node-1.example"),
        ("locality", "eu/a", "eu/a"),
        ("prefer", "host", "host"),
        ("namespaces", "off", "off"),
        ("claim", "db  namespace=shop, * image=own/*", "db namespace=shop,* image=own/*"),
        ("prefer-floor", "3", "3"),
        ("log", "info,portolan::dns=debug", "info,portolan::dns=debug"),
        ("log", "off", "off"),
        ("docker-host", "unix:///run/docker.sock", "unix:///run/docker.sock"),
        ("api", "http://host-a:7300/", "http://host-a:7300"),
        ("etcd-prefix", "/a/b", "/a/b"),
        ("on-term", "leave", "leave"),
        ("log-format", "json", "json"),
    ] {
        shows(&[&format!("--{name}={text}")], &[], "", &[(name, shown, "flag")]);
    }
}

#[test]
fn bad_values_are_refused() {
    let long_zone = format!("{}.{}", "a".repeat(50), "b".repeat(6));
    let long_path = format!("/{}", "p".repeat(MAX_SOCKET_PATH));
    for (name, text) in [
        ("lease", "30"),
        ("lease", "4s"),
        ("lease", "11m"),
        ("lease", "-1s"),
        ("lease", "99999999999999999999s"),
        ("lease", "99999999999999999h"),
        ("ttl", "3601"),
        ("ttl", "soon"),
        ("advertise", "::1"),
        ("advertise", "::ffff:127.0.0.1"),
        ("advertise", "0.0.0.0"),
        ("advertise", "fe80::1"),
        ("advertise", "224.0.0.1"),
        ("advertise", "host-a"),
        ("advertise", "10.0.0.1,10.0.0.2"),
        ("zone", "local"),
        ("zone", "foo.local"),
        ("zone", "in-addr.arpa"),
        ("zone", "docker"),
        ("zone", "a..b"),
        ("zone", "-a.b"),
        ("zone", "a_b.c"),
        ("zone", "10.0.0.1"),
        ("zone", "."),
        ("zone", &long_zone),
        ("allow", "0.0.0.0/0"),
        ("allow", "::/0"),
        ("allow", "10.0.0.0/33"),
        ("dns-tls", "dns.example"),
        ("dns-tls", "224.0.0.1"),
        ("dns-tls", "10.0.0.5:0"),
        ("dns-tls", "docker"),
        ("rate-limit", "-1"),
        ("rate-limit", "1000001"),
        ("rate-limit", "10/s"),
        ("reply-allowance", "1"),
        ("reply-allowance", "2GiB"),
        ("reply-allowance-network", "64kB"),
        ("upstream", "none,9.9.9.9"),
        ("upstream", "0.0.0.0"),
        ("upstream", "dns.example"),
        ("upstream", "9.9.9.9:0"),
        ("upstream", "=9.9.9.9"),
        ("upstream", "a..b=9.9.9.9"),
        ("upstream", "corp.example="),
        ("upstream", "corp.example=none"),
        ("upstream", "corp.example=dns.example"),
        ("upstream", "svc.internal=9.9.9.9"),
        ("upstream", "shop.SVC.internal=9.9.9.9"),
        ("cache-size", "1"),
        ("cache-size", "16MB"),
        ("cache-size", "255KiB"),
        ("cache-size", "2GiB"),
        ("cache-size", "-1MiB"),
        ("cache-size", "99999999999999999999GiB"),
        ("dns", "53"),
        ("dns", "localhost:53"),
        ("http", "localhost:7300"),
        ("host-id", "a/b"),
        ("locality", "/eu"),
        ("private-answers", "yes"),
        ("site-names", "ask"),
        ("single-labels", "auto"),
        ("prefer", "near"),
        ("namespaces", "no"),
        ("claim", "db"),
        ("claim", "db colour=red"),
        ("prefer-floor", "0"),
        ("prefer-floor", "many"),
        ("log", "inof"),
        ("log", "inof,portolan=debug"),
        ("log", "portolan=loud"),
        ("docker-host", "ssh://host"),
        ("docker-host", "/var/run/docker.sock"),
        ("docker-host", "tcp://host"),
        ("api", "https://host:7300"),
        ("api", "127.0.0.1:7300"),
        ("api", "http://127.0.0.1"),
        ("etcd-prefix", "/"),
        ("etcd-prefix", "portolan"),
        ("etcd-prefix", "/a//b"),
        ("etcd-prefix", "/a b"),
        ("etcd-endpoints", "ftp://e:1"),
        ("etcd-endpoints", "http://u:p@e:1"),
        ("etcd-endpoints", "http://e"),
        ("registry", "consul"),
        ("on-term", "stay"),
        ("log-format", "xml"),
        ("control", &long_path),
    ] {
        let errors = load(&[&format!("--{name}={text}")], &[], "").expect_err(&format!("--{name} {text}"));
        assert!(errors.0.iter().all(|error| error.starts_with(&format!("--{name} "))), "{errors}");
    }
    let many = vec!["10.0.0.0/8"; MAX_VALUES + 1].join(",");
    refuses(&[&format!("--allow={many}")], &[], "", &["--allow \"…\" (flag): 65 values; use at most 64"]);
}

#[test]
fn what_an_upstream_cannot_be_is_told_with_the_way_out() {
    refuses(
        &["--upstream=shop.svc.internal=10.0.0.2,none,9.9.9.9"],
        &[],
        "",
        &[
            "--upstream \"none\" (flag): contradicts the addresses beside it; leave one of the two out",
            "--upstream \"shop.svc.internal=10.0.0.2:53\" (flag): svc.internal is our own zone and answered here; name a \
             domain outside of it",
        ],
    );
}

#[test]
fn no_server_is_taken_for_names_that_every_host_answers_itself() {
    for (domain, document) in
        [("localhost", "RFC 6761"), ("a.localhost", "RFC 6761"), ("invalid", "RFC 6761"), ("x.onion", "RFC 7686")]
    {
        let Errors(errors) = load(&[&format!("--upstream={domain}=10.0.0.2")], &[], "").unwrap_err();
        let expected = format!(
            "--upstream \"{domain}=10.0.0.2:53\" (flag): {domain} is answered by every host itself ({document}) and never \
             forwarded; leave it out"
        );
        assert_eq!(errors, [expected]);
    }
    for domain in ["test", "home.arpa", "google.internal", "10.in-addr.arpa", "nas"] {
        assert!(load(&[&format!("--upstream={domain}=10.0.0.2")], &[], "").is_ok(), "{domain}");
    }
}

#[test]
fn several_servers_of_one_domain_stay_together() {
    let config = load(&["--upstream=a.b=10.0.0.1,c=10.0.0.2,a.b=10.0.0.3"], &[], "").unwrap();
    let servers = |servers: &[&str]| servers.iter().map(|server| server.parse().unwrap()).collect::<Vec<SocketAddr>>();
    assert_eq!(
        config.upstream.value.by_suffix(),
        [
            ("a.b".parse().unwrap(), servers(&["10.0.0.1:53", "10.0.0.3:53"])),
            ("c".parse().unwrap(), servers(&["10.0.0.2:53"])),
        ]
    );
    assert_eq!(config.upstream.value.general, General::System);
}

#[test]
fn directories_follow_the_user() {
    let of = |env: &[(&str, &str)]| {
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Config::load(&Given::new(), &env, false, &|_| Err(io::ErrorKind::NotFound.into()))
            .map(|config| (config.state_dir.value.show(), config.control.value.show()))
            .map_err(|errors| errors.0)
    };
    let own = |state: &str, control: &str| Ok((state.to_owned(), control.to_owned()));
    assert_eq!(
        of(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/1")]),
        own("/h/.local/state/portolan", "/run/user/1/portolan/control.sock")
    );
    assert_eq!(of(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]), own("/s/portolan", "/s/portolan/control.sock"));
    assert_eq!(of(&[]), Err(vec!["--state-dir: neither XDG_STATE_HOME nor HOME is set; name a directory".to_owned()]));
}

/// `deploy/portolan.toml` documents every setting, and what it shows as defaults are the defaults.
#[test]
fn the_documented_file_shows_every_setting_with_its_default() {
    let documented = include_str!("../../deploy/portolan.toml");
    let uncommented: Vec<&str> = documented
        .lines()
        .filter_map(|line| line.strip_prefix('#').filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase())))
        .collect();
    let names: Vec<&str> = uncommented.iter().filter_map(|line| line.split_once(" = ")).map(|(name, _)| name).collect();
    let known: Vec<&str> = KEYS.iter().map(|key| key.name).filter(|name| *name != "config").collect();
    assert_eq!(names, known);
    let defaults = load(&[], &[], "").unwrap().shown();
    let shown = load(&[], &[], &uncommented.join("\n")).unwrap().shown();
    for (default, shown) in defaults.iter().zip(&shown).filter(|(default, _)| default.name != "config") {
        assert_eq!((default.name, &default.value), (shown.name, &shown.value));
    }
    load(&[], &[], documented).expect("the file as it is delivered");
}

/// Texts of the alphabet that values and files are made of, so that some get far.
fn text() -> impl Strategy<Value = String> {
    "[a-z0-9:/.,@=\"\\[\\]# \n-]{0,40}|\\PC{0,20}"
}

proptest! {
    #[test]
    fn no_value_of_any_setting_makes_it_panic(key in select(KEYS), text in text()) {
        let _ = load(&[&format!("--{}={text}", key.name)], &[], "");
        let _ = load(&[], &[&format!("{}={text}", key.env())], "");
    }

    #[test]
    fn no_file_makes_it_panic(lines in vec((select(KEYS), text()), 0..5)) {
        let file: String = lines.iter().map(|(key, text)| format!("{} = {text}\n", key.name)).collect();
        let _ = load(&[], &[], &format!("\n{file}"));
    }

    /// What is shown is what was meant: fed back in, it is taken and shows the same.
    #[test]
    fn what_is_shown_can_be_given_again(key in select(KEYS), text in text()) {
        let shown = |config: &Config| config.shown().into_iter().find(|row| row.name == key.name).map(|row| row.value);
        let secret = text.contains(':') && key.name == "etcd-user";
        if let Ok(config) = load(&[&format!("--{}={text}", key.name)], &[], "")
            && let Some(value) = shown(&config).filter(|value| value != "-" && !secret)
        {
            let again = load(&[&format!("--{}={value}", key.name)], &[], "").expect("taken before");
            prop_assert_eq!(shown(&again), Some(value));
        }
    }
}

#[test]
fn whom_to_give_while_none_is_ready_and_what_checks_may_run_are_said_exactly() {
    let file = "when-none-ready = \"unhealthy, draining\"\ncheck-commands = \"/etc/portolan/checks\"";
    shows(
        &[],
        &[],
        file,
        &[
            ("when-none-ready", "unhealthy,draining", "/etc/portolan.toml line 1"),
            ("check-commands", "/etc/portolan/checks", "/etc/portolan.toml line 2"),
        ],
    );
    shows(&["--when-none-ready=none"], &[], file, &[("when-none-ready", "none", "flag")]);
    refuses(
        &["--when-none-ready=starting", "--check-commands=checks"],
        &[],
        "",
        &[
            "--check-commands \"checks\" (flag): name a directory by its whole path, such as /etc/portolan/checks",
            "--when-none-ready \"starting\" (flag): write `draining`, `unhealthy`, both with a comma between them in the \
             order to try, or `none`",
        ],
    );
}
