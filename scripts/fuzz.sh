#!/usr/bin/env bash
# fuzz.sh TARGET   fuzzes for a minute each what is in tests/fuzz; TARGET is cargo's target directory.
#
# FUZZ_SECONDS sets the time, FUZZ_ONLY names some of the targets. It begins with tests/fuzz/corpus, which the tests replay;
# what it finds along the way stays in TARGET/fuzz/corpus for the next time. An input that fails is written to
# TARGET/fuzz/failed, and TARGET/fuzz/build/release/NAME FILE repeats it: it belongs into tests/fuzz/corpus/NAME.
set -euo pipefail

target=${1:?usage: fuzz.sh TARGET}
here=$(cd "$(dirname "$0")/.." && pwd)
out=$target/fuzz
fuzz=$here/tests/fuzz
seconds=${FUZZ_SECONDS:-60}

# Bytes of an input: about as many as its longest seed has, and no more, so that it runs fast.
declare -A longest=([transcoder]=4096 [wire]=2048 [config]=16384 [component]=8192)
only=${FUZZ_ONLY:-transcoder wire config component}
for name in $only; do
    [ -n "${longest[$name]:-}" ] || { echo "fuzz: there is no target $name, only ${!longest[*]}" >&2; exit 2; }
done

# The versions of what is shipped. Once copied, cargo leaves out what is not needed here and adds libFuzzer.
[ "$fuzz/Cargo.lock" -nt "$here/Cargo.lock" ] || cp "$here/Cargo.lock" "$fuzz/Cargo.lock"

# Without a sanitizer no nightly compiler is needed: what memory could be harmed is behind safe Rust, and what the guests'
# compiler makes of their code is not looked at here.
begun=$SECONDS
RUSTC_WRAPPER=$fuzz/rustc.sh cargo build --release --manifest-path "$fuzz/Cargo.toml" --target-dir "$out/build"
echo "fuzz: built in $((SECONDS - begun)) s"

failed=()
for name in $only; do
    binary=$out/build/release/$name
    log=$out/$name.log
    mkdir -p "$out/corpus/$name" "$out/failed/$name"
    options=(-max_len="${longest[$name]}" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$out/failed/$name/"
        -dict="$fuzz/dictionaries/$name")
    echo "fuzz: $name for $seconds s"
    "$binary" "${options[@]}" -max_total_time="$seconds" -print_final_stats=1 \
        "$out/corpus/$name" "$fuzz/corpus/$name" >"$log" 2>&1 || failed+=("$name")
    # How much was reached by what was there already, and in the end; how many inputs were run.
    grep -E '^#[0-9]+\s+INITED' "$log" || true
    grep -E '^#[0-9]+.*cov:' "$log" | tail -n 1 || true
    grep -E 'stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)' "$log" || true
done

for name in "${failed[@]}"; do
    tail -n 40 "$out/$name.log" >&2
    echo "fuzz: $name failed: the input is in $out/failed/$name" >&2
done
[ ${#failed[@]} = 0 ]
