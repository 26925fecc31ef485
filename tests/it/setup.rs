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
fn the_demonstration_asks_for_docker_rust_a_compiler_and_protoc_only() {
    let output = setup(&["docker", "cargo", "cc", "protoc"], &["demo"]);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");

    // Also where sudo is there: the operator decides whether a machine is changed.
    for programs in [&["docker", "cargo", "cc"][..], &["docker", "cargo", "cc", "sudo"], &["docker", "cargo", "sudo"]] {
        let output = setup(programs, &["demo"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(output.stdout.is_empty(), "nothing is installed: {output:?}");
        let lines: Vec<&str> = said.lines().collect();
        let [_, line] = lines[..] else { panic!("the reason and one line to run: {said}") };
        let asked =
            line.split_once("sudo apt-get install --no-install-recommends ").unwrap_or_else(|| panic!("{said}")).1;
        let mut asked: Vec<&str> = asked.split(' ').collect();
        // Debian's protoc comes without the definitions that it looks for; where they are they are not asked for.
        asked.retain(|package| *package != "libprotobuf-dev");
        let compiler = (!programs.contains(&"cc")).then_some("build-essential");
        assert_eq!(asked, compiler.into_iter().chain(["protobuf-compiler"]).collect::<Vec<_>>(), "{said}");
    }
}

#[test]
fn the_tests_ask_for_what_they_compare_with_and_whoever_may_not_install_is_told_the_line() {
    let output = setup(&["docker", "cargo", "cc", "protoc", "etcd", "etcdctl", "dig"], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line = said.lines().find(|line| line.contains("Ask an administrator to run: apt-get install")).expect("a line");
    for package in ["mmdebstrap", "musl-tools", "docker-compose"] {
        assert!(line.contains(package), "{package}: {line}");
    }
    assert!(!line.contains("etcd") && !line.contains("protobuf"), "what is there is not asked for: {line}");
}
