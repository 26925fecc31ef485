//! What scripts/setup.sh asks for, on machines that have some programs and lack others: stand-ins in a folder that is all
//! of PATH.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output, Stdio},
};

/// A machine of somebody who is not root, with these programs.
fn setup(programs: &[&str], arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let program = |name: &str, text: &str| {
        let path = directory.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    };
    program("id", "echo 1000");
    for name in programs {
        // No program has subcommands that come with other packages: neither nextest nor Compose.
        program(name, "case $1 in nextest | compose) exit 1 ;; esac");
    }
    Command::new("/bin/bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/setup.sh"))
        .args(arguments)
        .env_clear()
        .env("PATH", directory.path())
        .stdin(Stdio::null())
        .output()
        .expect("bash is there")
}

#[test]
fn the_demonstration_asks_for_docker_rust_and_protoc_only() {
    let output = setup(&["docker", "cargo", "protoc"], &["demo"]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");

    let output = setup(&["docker", "cargo"], &["demo"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    // Debian's protoc comes without the definitions that it looks for.
    let asked = said.lines().find_map(|line| line.strip_prefix("setup: missing packages: "));
    let asked: Vec<&str> = asked.unwrap_or_else(|| panic!("{said}")).split(' ').collect();
    assert!(asked.iter().all(|package| ["protobuf-compiler", "libprotobuf-dev"].contains(package)), "{said}");
}

#[test]
fn the_tests_ask_for_what_they_compare_with_and_whoever_may_not_install_is_told_the_line() {
    let output = setup(&["docker", "cargo", "protoc", "etcd", "etcdctl", "dig"], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = said.lines().find(|line| line.contains("Ask an administrator to run: apt-get install")).expect("a line");
    for package in ["mmdebstrap", "musl-tools", "docker-compose"] {
        assert!(line.contains(package), "{package}: {line}");
    }
    assert!(!line.contains("etcd") && !line.contains("protobuf"), "what is there is not asked for: {line}");
}
