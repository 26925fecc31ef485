#!/usr/bin/env bash
# setup.sh: installs from Debian's packages what building and testing need and this machine lacks. Safe to run again:
# with nothing missing it looks, and ends at once. More may be asked for as `COMMAND:PACKAGE` arguments, as the benchmarks do.
# `setup.sh demo` asks for what building the agent needs, and no more. Only root has it installed: a look at the
# demonstration must not change a machine because sudo happens to allow it. Other users get the one line to run.
set -euo pipefail
scope=all
if [ "${1:-}" = demo ]; then
    scope=demo
    shift
fi

# What must be there, and the package that brings it.
missing=()
need() { # COMMAND PACKAGE
    command -v "$1" >/dev/null || PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null || missing+=("$2")
}
# Rust links with it, and crates compile a little C.
need cc build-essential
need protoc protobuf-compiler
# The compiler's own definitions, which it looks for beside itself; Debian keeps them in a package that is only recommended.
# A compiler from elsewhere is its owner's affair.
if [ "$(command -v protoc || echo /usr/bin/protoc)" = /usr/bin/protoc ] &&
    [ ! -e /usr/include/google/protobuf/descriptor.proto ]; then missing+=(libprotobuf-dev); fi
if [ $scope = all ]; then
    need etcd etcd-server
    need etcdctl etcd-client
    need dig bind9-dnsutils
    need dnsperf dnsperf
    need mmdebstrap mmdebstrap
    # The server that our answers are compared with.
    need nsd nsd
    # The C library of Alpine's images, whose resolver is another one.
    need musl-gcc musl-tools
    # Certificates for the tests that speak TLS with etcd.
    need openssl openssl
    # Tests put busybox alone into an image, so it must be the one without libraries.
    if ! command -v busybox >/dev/null || ldd "$(command -v busybox)" >/dev/null 2>&1; then missing+=(busybox-static); fi
fi
for wish in "$@"; do need "${wish%%:*}" "${wish#*:}"; done
docker_missing=0
if ! command -v docker >/dev/null; then
    missing+=(docker.io)
    docker_missing=1
fi
if [ $scope = all ] && ! command -v docker-compose >/dev/null && ! docker compose version >/dev/null 2>&1; then
    missing+=(docker-compose)
fi

if [ ${#missing[@]} -gt 0 ]; then
    if [ "$(id -u)" = 0 ]; then
        sudo=()
    elif [ $scope = demo ]; then
        echo "setup: building the agent needs ${missing[*]} (Debian's names). Run this, and then the same again:" >&2
        echo "    sudo apt-get update && sudo apt-get install --no-install-recommends ${missing[*]}" >&2
        exit 1
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null || { [ -t 0 ] && command -v sudo >/dev/null; }; then
        sudo=(sudo)
    else
        echo "setup: missing packages: ${missing[*]}" >&2
        echo "setup: installing them needs root or sudo. Ask an administrator to run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    if ! command -v apt-get >/dev/null; then
        echo "setup: missing: ${missing[*]} (Debian's names); there is no apt-get here, install them your system's way" >&2
        exit 1
    fi
    echo "setup: installing ${missing[*]}"
    "${sudo[@]}" apt-get update -q
    # 101 from this file says that nothing is to be started while packages are installed (invoke-rc.d(8)).
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap '"${sudo[@]}" rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
        "${sudo[@]}" chmod 755 "$policy"
    fi
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
    # Debian starts the servers it installs, and again after a reboot. Ours run on ports of their own with configurations of
    # their own, so those only get in the way.
    for service in etcd nsd knot unbound; do
        if [ -d /run/systemd/system ] && systemctl is-enabled -q "$service" 2>/dev/null; then
            case " ${missing[*]} " in *" $service "* | *" $service-server "*) "${sudo[@]}" systemctl disable --now "$service" ;; esac
        fi
    done
    if [ "$docker_missing" = 1 ] && ! "${sudo[@]}" docker info >/dev/null 2>&1; then
        echo "setup: starting the Docker engine"
        "${sudo[@]}" service docker start || true
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "setup: cargo is missing; install Rust from https://rustup.rs" >&2
    exit 1
fi
if [ $scope = all ] && ! cargo nextest --version >/dev/null 2>&1; then
    echo "setup: compiling cargo-nextest, once; this takes a few minutes"
    cargo install cargo-nextest --locked
fi
if ! docker info >/dev/null 2>&1; then
    echo "setup: the Docker engine does not answer: start it, or join its group (usermod -aG docker $(id -un))" >&2
    exit 1
fi
