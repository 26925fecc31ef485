#!/usr/bin/env bash
# test.sh [engines]: brings the bed up, runs every test in one nextest run, takes the bed down however it ended, and tells
# how long each part took.
#   engines   after that, all tests that use a Docker engine once more, on engine 26.1
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
# What `make test` may take, without compiling, on two processors (seconds).
budget=$((35 * 60))
# nextest writes it here, whatever CARGO_TARGET_DIR says.
report=target/nextest/full/junit.xml
times=$target/nextest/times

# Sets the report of a run aside: the next run writes its own in the same place.
keep() { # NAME
    if [ -e "$report" ]; then mv "$report" "$times/$1.xml"; fi
}

tell() { printf '%8s s               %s\n' "$2" "$1"; }

finish() {
    local status=$? tested=$SECONDS
    trap - EXIT
    keep last
    scripts/bed.sh down
    echo "test: how long each part took"
    tell "the bed comes up" "$up"
    tell "the image of the resolvers and load balancers in front" "$image"
    # Parts below a second are not where the time goes.
    if ls "$times"/*.xml >/dev/null 2>&1; then scripts/times.sh "$times"/*.xml | awk '$1 >= 1'; fi
    tell "the bed goes down" $((SECONDS - tested))
    tell "all of it, of $budget" "$SECONDS"
    if [ "$SECONDS" -gt "$budget" ]; then
        echo "test: that took longer than the $((budget / 60)) minutes that make test may take: make a part cheaper" >&2
    fi
    exit "$status"
}

# The tests of a single agent follow the engine of the machine that they run on: run them on a host with that engine.
# Four modules are left out. `secured` reads etcd's log, and that host's etcd 3.5 writes another one than Debian 12's
# 3.4; `resolvers` and `search` need musl-gcc, and `front` an image of its own, which are not there.
within_26() {
    local build=$target/nextest/within
    mkdir -p "$build"
    cargo nextest list --profile full --list-type binaries-only --message-format json >"$build/binaries.json"
    cargo metadata --locked --format-version 1 \
        --filter-platform "$(rustc -vV | sed -n 's/^host: //p')" >"$build/metadata.json"
    scripts/bed.sh within /opt/cargo/cargo-nextest nextest run --profile full \
        --binaries-metadata "$build/binaries.json" --cargo-metadata "$build/metadata.json" \
        -E 'binary(it) & test(/^(docker|agent)::/) - test(/^agent::(secured|resolvers|search|front)::/)'
}

cargo nextest run --profile full --no-run --cargo-quiet
rm -rf "$report" "$times"
mkdir -p "$times"
SECONDS=0
up="?"
image="?"
trap finish EXIT
scripts/bed.sh up
up=$SECONDS
scripts/image.sh front
image=$((SECONDS - up))
cargo nextest run --profile full
if [ "${1:-}" = engines ]; then
    keep first
    budget=$((2 * budget))
    echo "test: the same on engine 26.1"
    PORTOLAN_TEST_HOST=portolan-test-host26 scripts/bed.sh up
    cargo nextest run --profile full -E 'binary(e2e)'
    keep bed
    within_26
fi
