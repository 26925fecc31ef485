#!/usr/bin/env bash
# test.sh: brings the bed up, runs every test in one nextest run, takes the bed down however it ended.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo nextest run --profile full --no-run --cargo-quiet
trap 'scripts/bed.sh down' EXIT
scripts/bed.sh up
cargo nextest run --profile full
