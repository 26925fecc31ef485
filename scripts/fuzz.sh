#!/usr/bin/env bash
# fuzz.sh SECONDS [TARGET]: runs the fuzz targets (src/fuzz.rs), each for its share of the seconds, or one for all of them.
#
# Works with stable Rust: the coverage comes from a pass that every rustc has, the fuzzer from libfuzzer-sys, which builds it
# with the system's C++ compiler. No sanitizer: no target comes near an `unsafe` of ours.
#
# What is found is kept in target/fuzz/found/ from run to run. MERGE=1 takes from it into fuzz/corpus/ what covers more.
# An input that breaks a target lies in fuzz/crashes/TARGET/ then: give it the name of a test in src/fuzz/tests.rs.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
chosen=${2:-}

# Largest input: what a datagram of 1,232 octets, a reply that was cut at 4,096, or a record of ordinary size may be.
max_octets=4096
# Longest time for one input, and most memory: all of them take microseconds and a few MiB.
max_seconds=5
max_mib=1024

all=(hot complete forward record)
targets=("${all[@]}")
if [ -n "$chosen" ]; then
    case " ${all[*]} " in *" $chosen "*) targets=("$chosen") ;; *)
        echo "fuzz: no target $chosen; there are: ${all[*]}" >&2
        exit 2
        ;;
    esac
fi
case $seconds in '' | *[!0-9]* | 0*)
    echo "fuzz: SECONDS is a whole number of at least 1, not '$seconds'" >&2
    exit 2
    ;;
esac
if ! command -v c++ >/dev/null; then
    echo "fuzz: a C++ compiler is missing: apt-get install g++" >&2
    exit 1
fi

out=$(realpath -m "${CARGO_TARGET_DIR:-target}")/fuzz
host=$(rustc -vV | sed -n 's/^host: //p')
# Edges are counted, comparisons are traced, so that the fuzzer learns what a field is compared with. `--target` keeps build
# scripts and macros, which are run while building, free of it.
passes=(-sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters -sanitizer-coverage-pc-table
    -sanitizer-coverage-trace-compares)
flags="-Cpasses=sancov-module ${passes[*]/#/-Cllvm-args=}"
# Make hands TARGET on, and build scripts look at it.
unset TARGET CARGO_ENCODED_RUSTFLAGS
RUSTFLAGS=$flags cargo build --release --manifest-path fuzz/Cargo.toml --target "$host" --target-dir "$out"

share=$((seconds / ${#targets[@]}))
[ "$share" -gt 0 ] || share=1
failed=0
for target in "${targets[@]}"; do
    program=$out/$host/release/$target
    found=$out/found/$target
    log=$out/$target.log
    mkdir -p "$found" "fuzz/corpus/$target" "fuzz/crashes/$target"
    limits=(-max_len=$max_octets -timeout=$max_seconds -rss_limit_mb=$max_mib)
    status=0
    "$program" "${limits[@]}" -max_total_time="$share" -print_final_stats=1 \
        -artifact_prefix="fuzz/crashes/$target/" "$found" "fuzz/corpus/$target" 2>"$log" || status=$?
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    covered=$(sed -n 's/.* cov: \([0-9]*\) ft: \([0-9]*\) corp: \([^ ]*\).*/\1 edges, \2 features, corpus \3/p' "$log" | tail -n 1)
    printf '%-10s%12s executions in %s s; %s\n' "$target" "${runs:-?}" "$share" "${covered:-no coverage}"
    if [ "$status" != 0 ]; then
        failed=1
        grep -aE '^thread|panicked|^ *(left|right):|^==|SUMMARY|Test unit written' "$log" -A 1 >&2 || tail -n 20 "$log" >&2
        echo "fuzz: $target is broken by an input in fuzz/crashes/$target/; all of it: $log" >&2
    elif [ "${MERGE:-}" = 1 ]; then
        merged=$out/merged/$target
        rm -rf "$merged"
        mkdir -p "$merged"
        # First from the corpus as it is, so that what it has stays, then from what was found.
        "$program" "${limits[@]}" -merge=1 "$merged" "fuzz/corpus/$target" "$found" 2>>"$log"
        rm -rf "fuzz/corpus/$target"
        cp -r "$merged" "fuzz/corpus/$target"
        echo "          corpus: $(find "$merged" -type f | wc -l) inputs, $(cat "$merged"/* | wc -c) octets"
    fi
    rmdir --ignore-fail-on-non-empty "fuzz/crashes/$target"
done
exit $failed
