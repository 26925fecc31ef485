//! Rules of the repository that a reader may rely on, as tests: who may touch what, and how long a file may grow.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Most lines of a source file before it is two ideas. style.md says some 500; this is where it stops being a hint.
const MAX_LINES: usize = 700;

/// Every Rust file below `folder`, with its path relative to the repository.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a folder").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("UTF-8");
            found.push((path.strip_prefix(root).expect("below the root").to_owned(), text));
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no sources below {folder}: the rule would check nothing");
    found
}

/// The code of a file, without comments and without its test module at the end.
fn code(text: &str) -> String {
    let production = text.split("#[cfg(test)]").next().unwrap_or_default();
    production.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Files below `src/` whose code holds one of `words`, other than `allowed` (a file, or a folder ending in `/`).
fn offenders(words: &[&str], allowed: &[&str]) -> Vec<String> {
    let may = |path: &str| allowed.iter().any(|a| if a.ends_with('/') { path.starts_with(a) } else { path == *a });
    let is_test = |path: &Path| {
        path.file_stem().is_some_and(|stem| stem == "tests")
            || path.components().any(|part| part.as_os_str() == "tests")
    };
    let mut found = Vec::new();
    for (path, text) in sources("src") {
        let name = path.to_string_lossy().into_owned();
        if may(&name) || is_test(&path) {
            continue;
        }
        let code = code(&text);
        found.extend(words.iter().filter(|word| code.contains(**word)).map(|word| format!("{name}: {word}")));
    }
    found
}

#[test]
fn dockers_api_is_asked_only_where_docker_is_followed() {
    let words = ["/containers/", "\"/networks", "\"/events"];
    assert_eq!(offenders(&words, &["src/watch/docker.rs", "src/watch/docker/"]), [""; 0]);
}

#[test]
fn etcd_client_is_imported_only_where_etcd_is_called() {
    assert_eq!(offenders(&["etcd_client"], &["src/registry/etcd.rs", "src/registry/etcd/"]), [""; 0]);
}

#[test]
fn dns_sockets_are_opened_only_by_the_server_and_the_forwarder() {
    let words = ["UdpSocket", "TcpListener", "TcpStream", "UnixListener", "UnixStream", "socket2::"];
    let allowed = [
        "src/dns/server.rs",
        "src/dns/server/",
        "src/dns/forward.rs",
        "src/dns/forward/",
        // The HTTP API and its client.
        "src/api/",
        // Asks the engine.
        "src/watch/docker/http.rs",
        // Asks containers how they are.
        "src/watch/probe.rs",
        "src/watch/probe/",
        // Asks an etcd that hung up what it has against our certificate.
        "src/registry/etcd/handshake.rs",
        // Asks the kernel for a source address; sends nothing.
        "src/watch/host.rs",
    ];
    assert_eq!(offenders(&words, &allowed), [""; 0]);
}

#[test]
fn the_pure_core_has_no_clock_no_randomness_and_no_environment() {
    let words = ["Instant::now", "SystemTime::now", "std::env", "env::var", "rand::rng()", "tokio::", "std::fs"];
    let outside = [
        "src/main.rs",
        "src/agent.rs",
        "src/agent/",
        "src/cli.rs",
        "src/cli/",
        "src/config.rs",
        "src/config/",
        "src/api/",
        "src/watch/docker.rs",
        "src/watch/docker/",
        "src/watch/host.rs",
        "src/watch/probe.rs",
        "src/watch/probe/",
        "src/registry/driver.rs",
        "src/registry/driver/",
        "src/registry/etcd.rs",
        "src/registry/etcd/",
        "src/registry/state.rs",
        "src/dns/server.rs",
        "src/dns/server/",
        "src/dns/forward.rs",
        "src/dns/forward/",
    ];
    assert_eq!(offenders(&words, &outside), [""; 0]);
}

#[test]
fn the_flow_goes_one_way() {
    let below: [(&str, &[&str]); 4] = [
        ("src/model.rs", &["crate::watch", "crate::registry", "crate::dns", "crate::api", "crate::agent"]),
        ("src/watch/", &["crate::registry", "crate::dns", "crate::api", "crate::agent", "crate::cli"]),
        ("src/registry/", &["crate::watch", "crate::dns", "crate::api", "crate::agent", "crate::cli"]),
        ("src/dns/", &["crate::watch", "crate::api", "crate::agent", "crate::cli"]),
    ];
    for (place, words) in below {
        for (path, text) in sources("src") {
            if path.to_string_lossy().starts_with(place) {
                for word in words {
                    assert!(!code(&text).contains(word), "{} must not use {word}", path.display());
                }
            }
        }
    }
}

#[test]
fn no_file_is_too_long_and_none_is_without_a_word_about_itself() {
    for folder in ["src", "tests", "benches"] {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= MAX_LINES, "{} has {lines} lines, at most {MAX_LINES}: split it by idea", path.display());
            if path.file_name().is_some_and(|name| name == "tests.rs") {
                // The tests of the file beside it, which says what it is for.
                continue;
            }
            let first = text.trim_start().lines().next().unwrap_or_default();
            assert!(first.starts_with("//!"), "{} does not say what it is for", path.display());
            assert!(!text.starts_with("//! Not written yet"), "{} is still a placeholder", path.display());
        }
    }
}

#[test]
fn every_dependency_has_its_sentence() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).expect("a manifest");
    let mut inside = false;
    let mut previous = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == "[dependencies]" || line == "[dev-dependencies]";
        } else if inside && line.contains(" = ") {
            let follows = previous.starts_with('#') || previous.contains(" = ");
            assert!(follows, "say above `{line}` what it is for and why it is this one");
        }
        previous = line;
    }
}
