//! The command line as a person meets it: the real binary, its transcripts and its exit codes; and the API over real
//! sockets with a hand-made state.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

mod api;
mod client;
mod explain;
mod stage;

/// One run of the binary in an empty environment, as it looks in a terminal.
fn transcript(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    format!("exit {code}\n--- stdout\n{}--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

fn portolan(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    portolan_in("/".as_ref(), arguments, env)
}

fn portolan_in(directory: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portolan"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    // A fixed home, so that defaults do not depend on who runs the tests.
    command.env_clear().env("HOME", "/home/anna").envs(env.iter().copied());
    command.output().expect("the binary starts")
}

#[test]
fn every_command_explains_itself_with_examples() {
    for (name, arguments) in [
        ("help", &["--help"][..]),
        ("help_agent", &["agent", "--help"]),
        ("help_services", &["services", "--help"]),
        ("help_resolve", &["resolve", "--help"]),
        ("help_explain", &["explain", "--help"]),
        ("help_zone", &["zone", "--help"]),
        ("help_zone_dump", &["zone", "dump", "--help"]),
        ("help_watch", &["watch", "--help"]),
        ("help_drain", &["drain", "--help"]),
        ("help_undrain", &["undrain", "--help"]),
        ("help_register", &["register", "--help"]),
        ("help_unregister", &["unregister", "--help"]),
        ("help_leave", &["leave", "--help"]),
        ("help_cache", &["cache", "--help"]),
        ("help_cache_flush", &["cache", "flush", "--help"]),
        ("help_cache_stats", &["cache", "stats", "--help"]),
        ("help_config", &["config", "--help"]),
        ("help_config_show", &["config", "show", "--help"]),
        ("help_config_check", &["config", "check", "--help"]),
    ] {
        let output = portolan(arguments, &[]);
        let help = String::from_utf8(output.stdout).expect("text");
        assert!(output.status.success() && help.contains("Examples:"), "{arguments:?}: {help}");
        insta::assert_snapshot!(name, help);
    }
}

#[test]
fn config_show_tells_every_value_and_its_source() {
    let directory = tempfile::tempdir().expect("a directory");
    let text = "# ours\nlocality = \"eu/a\"\nallow = [\"10.0.0.0/8\", \"fd00::/8\"]\n";
    std::fs::write(directory.path().join("ours.toml"), text).expect("a file");
    let arguments =
        ["config", "show", "--config", "ours.toml", "--lease", "1m", "--state-dir", "/s", "--control", "/s/c.sock"];
    let env = [
        ("ETCDCTL_ENDPOINTS", "10.0.0.1:2379,10.0.0.2:2379"),
        ("ETCDCTL_USER", "root:geheim"),
        ("PORTOLAN_DNS", "docker"),
    ];
    let portolan = |arguments: &[&str]| portolan_in(directory.path(), arguments, &env);
    let shown = transcript(&portolan(&arguments));
    assert!(!shown.contains("geheim"));
    insta::assert_snapshot!("config_show", shown);

    let json = portolan(&[&arguments[..], &["-o", "json"]].concat());
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&json.stdout).expect("json");
    assert_eq!(rows.len(), portolan::config::KEYS.len());
    assert!(rows.contains(&serde_json::json!({ "name": "lease", "value": "1m", "source": "flag" })));
    assert!(rows.contains(&serde_json::json!({ "name": "host-id", "value": "", "source": "default" })));
    assert!(!String::from_utf8_lossy(&json.stdout).contains("geheim"));

    let names = portolan(&[&arguments[..], &["-o", "name"]].concat());
    assert!(String::from_utf8_lossy(&names.stdout).lines().eq(portolan::config::KEYS.iter().map(|key| key.name)));
}

#[test]
fn mistakes_are_told_with_their_source_and_the_fix() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("portolan.toml");
    std::fs::write(&file, "zone = \"svc.internal\"\nleese = \"30s\"\nttl = 99999\n").expect("a file");
    let path = file.to_str().expect("text");
    let show = |arguments: &[&str], env: &[(&str, &str)]| transcript(&portolan(arguments, env)).replace(path, "FILE");
    insta::assert_snapshot!(show(&["agent", "--advertise", "127.0.0.1"], &[]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: --advertise "127.0.0.1" (flag): a loopback address leads every other host to itself; name the address under which other hosts reach this one, such as 10.0.0.5
    "#);
    insta::assert_snapshot!(show(&["config", "check", "--config", path], &[("PORTOLAN_LEASE", "fast")]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: FILE line 2: unknown key "leese"; did you mean "lease"?
    error: --lease "fast" (PORTOLAN_LEASE): a duration is a whole number and a unit: 30s, 2m, 1h
    error: --ttl "99999" (FILE line 3): addresses are reused at once; use at most 3600 seconds
    "#);
    insta::assert_snapshot!(show(&["services", "--api", "localhost:7300"], &[]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: --api "localhost:7300" (flag): use a URL such as http://127.0.0.1:7300
    "#);
    insta::assert_snapshot!(show(&["agent", "--config", "/nowhere/portolan.toml"], &[]), @r#"
    exit 2
    --- stdout
    --- stderr
    error: --config "/nowhere/portolan.toml" (flag): cannot be read: No such file or directory (os error 2)
    "#);
    let pem = |name: &str| format!("{}/tests/it/dns_server/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (certificate, key) = (pem("certificate.pem"), pem("renewed-key.pem"));
    let unfit = ["agent", "--dns-tls", "127.0.0.1", "--tls-cert", &certificate, "--tls-key", &key];
    insta::assert_snapshot!(show(&unfit, &[]).replace(&key, "KEY"), @r#"
    exit 2
    --- stdout
    --- stderr
    error: --tls-key "KEY" (flag): the key does not fit the certificate; name the key that it was made with, and the server's own certificate first
    "#);
    insta::assert_snapshot!(show(&["agent", "--leese", "30s"], &[]), @r"
    exit 2
    --- stdout
    --- stderr
    error: unexpected argument '--leese' found

      tip: a similar argument exists: '--lease'

    Usage: portolan agent --lease <DURATION>

    For more information, try '--help'.
    ");
    insta::assert_snapshot!(show(&["config", "check"], &[("PORTOLAN_LEESE", "geheim")]), @r"
    exit 2
    --- stdout
    --- stderr
    error: unknown environment variable PORTOLAN_LEESE; did you mean PORTOLAN_LEASE?
    ");
    insta::assert_snapshot!(show(&["config", "check", "-o", "name", "--ttl", "5", "--zone", "a.b"], &[]), @r"
    exit 0
    --- stdout
    zone
    ttl
    --- stderr
    the configuration is valid: 2 values given, the rest are defaults
    ");
    insta::assert_snapshot!(show(&["config", "check", "-o", "json", "--ttl", "5"], &[]), @r#"
    exit 0
    --- stdout
    {"errors":[],"given":[{"name":"ttl","source":"flag","value":"5"}],"valid":true}
    --- stderr
    the configuration is valid: 1 value given, the rest are defaults
    "#);
    insta::assert_snapshot!(show(&["config", "check", "-o", "json", "--ttl", "soon"], &[]), @r#"
    exit 2
    --- stdout
    {"errors":["--ttl \"soon\" (flag): a ttl is a number of seconds: 0, 5, 60"],"given":[],"valid":false}
    --- stderr
    error: --ttl "soon" (flag): a ttl is a number of seconds: 0, 5, 60
    "#);
    insta::assert_snapshot!(show(&["config", "check", "--ttl", "5"], &[]), @r"
    exit 0
    --- stdout
    --- stderr
    the configuration is valid: 1 value given, the rest are defaults
    ");
}

/// It is no error there: the agent goes on, here to an address that no host has.
#[test]
fn an_agent_warns_of_variables_that_only_look_like_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let state = directory.path().to_str().expect("text");
    let control = format!("{state}/control.sock");
    let arguments = ["agent", "--state-dir", state, "--control", &control, "--http", "203.0.113.1:1"];
    let output = portolan(&arguments, &[("PORTOLAN_LEESE", "geheim")]);
    let said = transcript(&output);
    assert!(said.contains("unknown environment variable PORTOLAN_LEESE; did you mean PORTOLAN_LEASE?"), "{said}");
    assert!(said.contains("--http 203.0.113.1:1 cannot be listened on") && !said.contains("geheim"), "{said}");
}

/// What an agent needs is none of a client's business: a certificate that only the agent's user may read, say.
#[test]
fn client_commands_ignore_settings_of_the_agent() {
    let env = [("ETCDCTL_KEY", "/nowhere/key.pem"), ("PORTOLAN_LEASE", "fast")];
    let output = portolan(&["services", "--api", "http://127.0.0.1:1"], &env);
    assert_eq!(output.status.code(), Some(4), "{}", transcript(&output));
}

#[test]
fn an_agent_that_is_not_there_is_exit_code_4_and_names_the_fix() {
    let commands = [
        &["services"][..],
        &["watch"],
        &["resolve", "web"],
        &["explain", "web"],
        &["zone", "dump"],
        &["cache", "stats"],
    ];
    for arguments in commands {
        let output = portolan(&[arguments, &["--api", "http://127.0.0.1:1"]].concat(), &[]);
        assert_eq!(
            transcript(&output),
            "exit 4\n--- stdout\n--- stderr\nerror: no agent answers at http://127.0.0.1:1: Connection refused \
             (os error 111); is it running? start it with `portolan agent`, or name another with --api URL\n",
        );
    }
    let output = portolan(&["leave", "--control", "/nowhere/control.sock"], &[]);
    assert_eq!(
        transcript(&output),
        "exit 4\n--- stdout\n--- stderr\nerror: no agent answers at /nowhere/control.sock: No such file or directory \
         (os error 2); is it running? start it with `portolan agent`, or name its socket with --control PATH\n",
    );
}

#[test]
fn usage_errors_are_exit_code_2() {
    for arguments in [
        &[][..],
        &["fly"],
        &["resolve"],
        &["explain"],
        &["zone"],
        &["config"],
        &["services", "-o", "yaml"],
        &["leave", "--api", "x"],
    ] {
        assert_eq!(portolan(arguments, &[]).status.code(), Some(2), "{arguments:?}");
    }
}
