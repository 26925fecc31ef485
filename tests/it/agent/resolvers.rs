//! The resolvers of both C libraries that containers have: glibc's, and musl's, which asks its servers at once and takes the
//! first word for the last. Through the engine's embedded DNS, and asking us directly.

use std::{path::Path, process::Command};

use super::bed::{Home, engine_bed, eventually};
use crate::engine::docker;

/// Compiles the little client that is to be run in containers.
pub(super) fn compile(compiler: &str, options: &[&str], into: &Path) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/agent/resolve.c");
    let output = Command::new(compiler)
        .args(options)
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .arg(into)
        .arg(source)
        .output()
        .unwrap_or_else(|error| panic!("{compiler} (make setup): {error}"));
    assert!(output.status.success(), "{compiler}: {}", String::from_utf8_lossy(&output.stderr));
    into.display().to_string()
}

/// A container's address of a family on one network: `IPAddress` or `GlobalIPv6Address`.
pub(super) fn address(container: &str, field: &str) -> String {
    docker(&[
        "inspect",
        "-f",
        &format!("{{{{range .NetworkSettings.Networks}}}}{{{{.{field}}}}}{{{{end}}}}"),
        container,
    ])
}

#[test]
fn glibc_and_musl_resolve_bare_relative_and_absolute_names_through_the_engine_and_directly() {
    let (bed, folder) = (engine_bed("resolvers"), tempfile::tempdir().expect("a directory"));
    // musl is linked in; glibc loads parts of itself when it resolves, so it takes this host's own libraries along.
    let musl = compile("musl-gcc", &["-static"], &folder.path().join("musl"));
    let glibc = compile("gcc", &[], &folder.path().join("glibc"));

    let [high, low] = u16::try_from(std::process::id() & 0xffff).expect("masked").to_be_bytes();
    let subnet_6 = format!("fd53:{high:02x}{low:02x}::/64");
    let network = bed.network("net", &["--ipv6", "--subnet", &subnet_6]);
    let gateways = docker(&["network", "inspect", "-f", "{{range .IPAM.Config}}{{.Gateway}} {{end}}", &network]);
    let gateway =
        gateways.split_whitespace().find(|gateway| gateway.contains('.')).expect("an IPv4 gateway").to_owned();
    let home = Home::new(&["--dns", &format!("{gateway}:53")]);
    let _agent = home.start();
    home.until_ready();

    let shop = ["--network", &network, "--label", "portolan.namespace=shop"];
    bed.sleeper("web", &[&shop[..], &["--label", "portolan.service=backend"]].concat());
    let container = bed.name("web");
    let mut expected = vec![address(&container, "IPAddress"), address(&container, "GlobalIPv6Address")];
    assert!(expected.iter().all(|address| !address.is_empty()), "one address of each family: {expected:?}");
    expected.sort();
    let expected = expected.join(" ");

    // The engine writes 127.0.0.11 into resolv.conf on such networks; the other file is what a container without it has.
    let direct = folder.path().join("resolv.conf");
    std::fs::write(&direct, format!("nameserver {gateway}\nsearch shop.svc.internal svc.internal\noptions ndots:2\n"))
        .expect("a file");
    let direct = format!("{}:/etc/resolv.conf:ro", direct.display());
    let programs = [format!("{musl}:/musl:ro"), format!("{glibc}:/glibc:ro")];
    let libraries = ["/usr:/usr:ro", "/lib:/lib:ro", "/lib64:/lib64:ro"];
    let mounts = programs.iter().map(String::as_str).chain(libraries.into_iter().filter(|mount| {
        // Some machines have no /lib64.
        Path::new(mount.split(':').next().unwrap_or_default()).exists()
    }));
    let mounts: Vec<&str> = mounts.flat_map(|mount| ["-v", mount]).collect();
    // As Docker does by itself; with search domains, which musl looks through only for names with fewer dots than
    // `ndots`; and without the engine's DNS, which passes on no bare name where `ndots` was chosen.
    let search = ["--dns-search", "shop.svc.internal", "--dns-search", "svc.internal", "--dns-opt", "ndots:2"];
    bed.sleeper("embedded", &[&shop[..], &mounts, &["--dns", &gateway]].concat());
    bed.sleeper("searching", &[&shop[..], &mounts, &["--dns", &gateway], &search].concat());
    bed.sleeper("direct", &[&shop[..], &mounts, &["-v", &direct]].concat());
    for asker in ["embedded", "searching"] {
        let file = docker(&["exec", &bed.name(asker), "/bin/busybox", "cat", "/etc/resolv.conf"]);
        assert!(file.contains("nameserver 127.0.0.11"), "{file}");
    }

    let (bare, relative) = (["backend."], ["backend", "backend.shop", "gone"]);
    let absolute =
        ["backend.shop.svc.internal.", "backend.shop.svc.internal", "backend.svc.internal.", "gone.shop.svc.internal."];
    for (asker, names) in [
        ("embedded", [&bare[..], &absolute].concat()),
        ("searching", [&relative[..], &absolute].concat()),
        ("direct", [&bare[..], &relative, &absolute].concat()),
    ] {
        // What does not exist is said to be so: not "try again".
        let is_absent = |name: &str| name.starts_with("gone");
        let wanted: Vec<String> =
            names.iter().map(|name| format!("{name} {}", if is_absent(name) { "NONAME" } else { &expected })).collect();
        for program in ["/musl", "/glibc"] {
            let container = bed.name(asker);
            let resolve = |names: &[&str]| docker(&[&["exec", &container, program][..], names].concat());
            eventually(format_args!("{asker} is known"), || resolve(&absolute[..1]).contains(&expected).then_some(()));
            let said = resolve(&names);
            assert_eq!(said.lines().collect::<Vec<_>>(), wanted, "{program} {asker}");
        }
    }
}
