#!/usr/bin/env bash
# image.sh base | agent | demo | bed | front: makes images; those that need packages only where they are missing.
#   base   portolan-base:bookworm, Debian's small base: from this engine, else from a registry, else built from packages;
#          `base trixie` makes the next release's
#   agent  portolan:dev, the agent as built here, and what it loads: no distribution
#   demo   portolan-demo, the same for the demonstration
#   bed    portolan-test-host, -host26, -sample, -etcd, -dockercoins, -bare for the test bed
#   front  portolan-test-front, the resolvers and load balancers of docs/resolvers.md
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}

exists() { docker image inspect "$1" >/dev/null 2>&1; }

build() { # ARGUMENTS…: quiet unless it fails
    local log
    if ! log=$(docker build "$@" 2>&1); then
        printf '%s\n' "$log" >&2
        exit 1
    fi
}

make_base() { # RELEASE: of Debian, by its code name
    local base=portolan-base:$1 upstream=debian:$1-slim
    if exists "$base"; then return; fi
    if exists "$upstream" || timeout 120 docker pull -q "$upstream" >/dev/null 2>&1; then
        docker tag "$upstream" "$base"
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
            --dpkgopt='path-exclude=/usr/share/locale/*' "$1" "$directory/base.tar"
        docker import "$directory/base.tar" "$base" >/dev/null
    )
}

# Builds the agent and prints where cargo put it, which environment and configuration may decide. With the tests, as
# `make check` builds: alone, the features of the dependencies differ. From nothing that takes 183 s instead of 180 s (2
# processors); after `make check` it takes nothing instead of two minutes.
build_agent() {
    cargo build --bin portolan --test e2e --message-format json-render-diagnostics |
        sed -n 's/.*"kind":\["bin"\].*"executable":"\([^"]*\)".*/\1/p'
}

# As FROM scratch, by one import, which needs no builder and leaves no layer behind.
make_scratch() { # NAME [CHANGE…]: instructions of a Dockerfile beyond those of deploy/Dockerfile
    local name=$1 binary
    shift
    binary=$(build_agent)
    (
        umask 022
        # Beside the binary, for programs can be run there.
        directory=$(mktemp -d "${binary%/*}/image-XXXXXX")
        trap 'rm -rf "$directory"' EXIT
        # Without the symbols: a debug build is large.
        if ! { command -v strip && strip -o "$directory/portolan" "$binary"; } >/dev/null 2>&1; then
            cp "$binary" "$directory/portolan"
        fi
        # `sleep` and `getent` for the demonstration's services and its client.
        scripts/collect.sh "$directory/root" "$directory/portolan" sleep getent
        for bundle in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem \
            /etc/ssl/cert.pem; do
            if [ -e $bundle ]; then
                mkdir -p "$directory/root/etc/ssl/certs"
                cp -L $bundle "$directory/root/etc/ssl/certs/ca-certificates.crt"
                break
            fi
        done
        changes=()
        while IFS= read -r line; do changes+=(--change "$line"); done < <(
            grep -E '^(VOLUME|ENTRYPOINT|CMD) ' deploy/Dockerfile
            for change; do printf '%s\n' "$change"; done
        )
        before=$(docker image inspect -f '{{.Id}}' "$name" 2>/dev/null) || true
        tar -c --owner=0 --group=0 -C "$directory/root" . | docker import "${changes[@]}" - "$name" >/dev/null
        # The former image has lost this name. With another one it is of use to its owner.
        if [ -n "$before" ] && [ "$(docker image inspect -f '{{len .RepoTags}}' "$before" 2>/dev/null)" = 0 ]; then
            docker image rm "$before" >/dev/null 2>&1 || true
        fi
    )
}

make_bed() {
    make_base bookworm
    make_base trixie
    local bed="$target/bed-context"
    rm -rf "$bed"
    mkdir -p "$target"
    cp -r tests/e2e/bed "$bed"
    cp scripts/collect.sh "$bed"
    for image in host etcd sample bare; do
        build --build-arg BASE=portolan-base:bookworm --target $image -t portolan-test-$image "$bed"
    done
    build --build-arg BASE=portolan-base:trixie --build-arg ALSO=podman --target host -t portolan-test-host26 "$bed"
    # The example's stand-ins, as its README says.
    local example=deploy/examples/dockercoins context="$target/dockercoins"
    mkdir -p "$context"
    rustc --edition 2024 -O -C target-feature=+crt-static -C strip=symbols -o "$context/dockercoins" $example/dockercoins.rs
    build -f $example/Dockerfile -t portolan-test-dockercoins "$context"
}

make_front() {
    make_base bookworm
    build --build-arg BASE=portolan-base:bookworm -t portolan-test-front tests/it/agent/front
}

case "${1:-}" in
base) make_base "${2:-bookworm}" ;;
agent) make_scratch portolan:dev ;;
demo) make_scratch portolan-demo 'LABEL portolan-demo=image' ;;
bed) make_bed ;;
front) make_front ;;
*)
    sed -n '2,8p' "$0" | cut -c3- >&2
    exit 2
    ;;
esac
