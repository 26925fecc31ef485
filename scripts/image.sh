#!/usr/bin/env bash
# image.sh base | agent | bed: makes images, each only when its parts have changed.
#   base   portolan-base:bookworm, Debian's small base: from this engine, else from a registry, else built from packages
#   agent  portolan:dev, deploy/Dockerfile around target/debug/portolan (built here)
#   bed    portolan-test-host, -sample, -etcd, -dockercoins for the test bed
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
base=portolan-base:bookworm
upstream=debian:bookworm-slim

exists() { docker image inspect "$1" >/dev/null 2>&1; }

build() { # ARGUMENTS…: quiet unless it fails
    local log
    if ! log=$(docker build --build-arg BASE=$base "$@" 2>&1); then
        printf '%s\n' "$log" >&2
        exit 1
    fi
}

make_base() {
    if exists $base; then return; fi
    if exists $upstream || timeout 120 docker pull -q $upstream >/dev/null 2>&1; then
        docker tag $upstream $base
        return
    fi
    echo "image: no registry within reach; building $base from Debian's packages (about 20 s, once)"
    if ! command -v mmdebstrap >/dev/null; then
        echo "image: for that mmdebstrap is missing: run scripts/setup.sh, or bring $upstream onto this engine" >&2
        exit 1
    fi
    # It makes the owners of files that only root may have, in namespaces of its own.
    if [ "$(id -u)" != 0 ] && ! command -v newuidmap >/dev/null && ! command -v fakechroot >/dev/null; then
        echo "image: for that mmdebstrap needs newuidmap where it is not run by root: have Debian's package uidmap" \
            "installed, or let root run scripts/image.sh base once, or bring $upstream onto this engine" >&2
        exit 1
    fi
    # In a shell of its own, whose end cleans up: a trap on RETURN would fire again when the caller returns.
    (
        directory=$(mktemp -d)
        trap 'rm -rf "$directory"' EXIT
        mmdebstrap --quiet --variant=minbase --dpkgopt='path-exclude=/usr/share/man/*' \
            --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
            --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$directory/base.tar"
        docker import "$directory/base.tar" $base >/dev/null
    )
}

make_agent() {
    make_base
    # With the tests, as `make check` builds: alone, the features of the dependencies differ and all is compiled twice.
    cargo build --quiet --bin portolan --test e2e
    # Only the binary is sent to the engine, without the symbols: a debug build is large.
    local context="$target/image"
    mkdir -p "$context"
    if command -v strip >/dev/null; then strip -o "$context/portolan" "$target/debug/portolan"; else
        cp "$target/debug/portolan" "$context/portolan"
    fi
    build -f deploy/Dockerfile -t portolan:dev "$context"
}

make_bed() {
    make_base
    for image in host etcd sample; do
        build --target $image -t portolan-test-$image tests/e2e/bed
    done
    # The example's stand-ins, as its README says.
    local example=deploy/examples/dockercoins context="$target/dockercoins"
    mkdir -p "$context"
    rustc --edition 2024 -O -C target-feature=+crt-static -C strip=symbols -o "$context/dockercoins" $example/dockercoins.rs
    build -f $example/Dockerfile -t portolan-test-dockercoins "$context"
}

case "${1:-}" in
base) make_base ;;
agent) make_agent ;;
bed) make_bed ;;
*)
    sed -n '2,5p' "$0" | cut -c3- >&2
    exit 2
    ;;
esac
