#!/usr/bin/env bash
# before.sh dns|portolan|scale COMMIT: prints the path of an older binary, for a benchmark to set beside the present one: a
# benchmark's own, or the agent's. All are built once for each commit, as benchmarks are, from a copy of its files that is
# gone afterwards; target/before/COMMIT/ keeps them. A COMMIT that is a file is the binary itself.
set -euo pipefail
name=${1:-} wish=${2:-}
case $name in dns | portolan | scale) ;; *)
    sed -n '2,4p' "$0" | cut -c3- >&2
    exit 2
    ;;
esac
if [ -f "$wish" ]; then
    realpath "$wish"
    exit
fi
cd "$(dirname "$0")/.."
if ! commit=$(git rev-parse --verify --quiet --short=12 "$wish^{commit}"); then
    echo "before: '$wish' is neither a commit nor a binary" >&2
    exit 2
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
before=$target/before
kept=$before/$commit

build() ( # in a shell of its own, whose end cleans up
    source=$before/source
    rm -rf "$source"
    mkdir -p "$source" "$kept"
    trap 'rm -rf "$source"' EXIT
    # With the time of now: cargo takes files that are older than its last build for files that did not change.
    git archive "$commit" | tar -x -m -C "$source"
    # A target directory of its own: cargo would take the same package of another folder for this one. Dependencies that
    # were compiled for the present binary serve the older one, too.
    if [ ! -d "$before/target" ] && [ -d "$target/release" ]; then
        mkdir -p "$before/target"
        cp -a --reflink=auto "$target/release" "$before/target/"
    fi
    messages=$(cd "$source" && CARGO_TARGET_DIR=$before/target \
        cargo bench --locked --no-run --bench dns --bench scale --message-format json-render-diagnostics)
    keep bench dns
    keep bench scale
    keep bin portolan
)

keep() { # KIND NAME: of an executable that cargo has told
    local built
    built=$(sed -n 's/.*"kind":\["'"$1"'"\].*"executable":"\([^"]*\)".*/\1/p' <<<"$messages" | grep "/$2[^/]*$")
    mv "$built" "$kept/$2"
}

if [ ! -x "$kept/$name" ]; then build >&2; fi
# The benchmark starts the agent that cargo built with it, where cargo put it.
if [ "$name" = scale ]; then cp "$kept/portolan" "$before/target/release/portolan"; fi
echo "$kept/$name"
