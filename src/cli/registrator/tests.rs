//! Command lines of Registrator's users.

use super::*;

fn words(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(Into::into).collect()
}

#[track_caller]
fn translated(line: &str, env: &[(&str, &str)]) -> Result<(String, usize), String> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    match translate(words(line), &env) {
        Ok((words, notes)) => {
            let text = words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
            Ok((text, notes.len()))
        }
        Err(errors) => Err(errors.to_string()),
    }
}

#[test]
fn its_flags_are_taken_where_its_names_are_wanted() {
    for (line, expected, notes) in [
        ("-ip 10.0.0.5", "--advertise 10.0.0.5", 1),
        ("-ip=10.0.0.5 -tags=a,b", "--advertise 10.0.0.5 --tags a,b", 2),
        ("--ip 10.0.0.5", "--advertise 10.0.0.5", 1),
        ("-explicit", "--explicit on", 1),
        ("-explicit=false", "--explicit off", 1),
        ("-ttl 60 -ttl-refresh 30", "--lease 60s", 2),
        ("-ttl 0", "", 1),
        ("-resync 300 -cleanup -retry-attempts -1 -retry-interval 2000", "", 4),
        ("-deregister always", "", 1),
        ("etcd://10.0.0.1:2379/services", "--etcd-endpoints http://10.0.0.1:2379", 2),
        ("etcd://", "--etcd-endpoints http://127.0.0.1:2379", 1),
        ("skydns2://10.0.0.1:2379/cluster.local", "--etcd-endpoints http://10.0.0.1:2379", 2),
        // Ours stay as they are.
        ("--zone a.b -cleanup --tags x", "--zone a.b --tags x", 1),
        ("--explicit on -cleanup", "--explicit on", 1),
    ] {
        let expected = format!("portolan agent --compat registrator {expected}");
        let found = translated(&format!("portolan agent --compat registrator {line}"), &[]);
        assert_eq!(found, Ok((expected.trim_end().to_owned(), notes)), "{line}");
    }
    let by_env = translated("portolan agent -ip 10.0.0.5", &[("PORTOLAN_COMPAT", "registrator")]);
    assert_eq!(by_env, Ok(("portolan agent --advertise 10.0.0.5".into(), 1)));
}

#[test]
fn internal_is_the_other_kind_of_compat() {
    for line in ["--compat registrator -internal", "--compat=registrator -internal", "-internal --compat registrator"] {
        let (text, _) = translated(&format!("portolan agent {line}"), &[]).unwrap();
        assert_eq!(text, "portolan agent --compat registrator-internal");
    }
}

#[test]
fn elsewhere_they_are_answered_with_ours() {
    for (line, named) in [
        ("agent -ip 10.0.0.5", "write --advertise 10.0.0.5"),
        ("agent -internal", "write --compat registrator-internal"),
        ("agent etcd://10.0.0.1", "write --etcd-endpoints http://10.0.0.1"),
        ("agent --compat none -ttl 60", "write --lease 60s"),
    ] {
        let error = translated(&format!("portolan {line}"), &[]).unwrap_err();
        assert!(error.contains(named) && error.contains("--compat registrator"), "{error}");
    }
}

#[test]
fn what_has_no_equivalent_says_why() {
    for (line, named) in [
        ("-deregister on-success", "withdrawn at once"),
        ("-useIpFromLabel ip", "--routed"),
        ("-require-label", "--explicit on"),
        ("consul://localhost:8500", "--etcd-endpoints"),
        ("zookeeper://z/path", "--etcd-endpoints"),
        ("-ip", "a value is missing"),
        ("-ip -cleanup", "a value is missing"),
    ] {
        let error = translated(&format!("portolan agent --compat registrator {line}"), &[]).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
    let both = translated("portolan agent --compat registrator -require-label consul://x", &[]).unwrap_err();
    assert_eq!(both.lines().count(), 2, "all is told at once");
}

#[test]
fn other_command_lines_are_left_alone() {
    for line in [
        "portolan",
        "portolan agent --advertise 10.0.0.5",
        "portolan agent --etcd-endpoints http://10.0.0.1:2379",
        "portolan services -ip",
        "portolan agent --log -1",
    ] {
        assert_eq!(translated(line, &[]), Ok((line.to_owned(), 0)));
    }
}
