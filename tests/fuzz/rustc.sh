#!/usr/bin/env bash
# rustc.sh RUSTC ARGUMENT...   what cargo calls for rustc when the fuzz targets are built: our own crates, and those that read
# what others wrote, are compiled so that libFuzzer sees which of their code an input reaches and what it is compared with.
#
# RUSTFLAGS would have every crate so: the compiler of guests would take twice as long, and its million counters would be
# looked at after each input. Most flags are cargo-fuzz's; the stable compiler has them, only a sanitizer would need another.
# Cargo does not see when this file changes: remove target/fuzz/build then.
set -euo pipefail

rustc=$1
shift
crate=
optimised=
previous=
for argument in "$@"; do
    [ "$previous" != --crate-name ] || crate=$argument
    [[ $argument != opt-level=* ]] || optimised=1
    previous=$argument
done

# What the build itself runs is not optimised, and no libFuzzer is there for its counters.
[ -n "$optimised" ] || exec "$rustc" "$@"

# In one unit, or little is inlined and an input takes three times as long. Comparisons of short texts stay calls, which
# libFuzzer sees.
seen=(-Ccodegen-units=1 -Cpasses=sancov-module)
seen+=(-Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Cllvm-args=-max-loads-per-memcmp=0)
for wanted in level=4 inline-8bit-counters pc-table trace-compares; do
    seen+=("-Cllvm-args=-sanitizer-coverage-$wanted")
done

case $crate in
    # Without a bus some of it is not used; what is to be warned of, the ordinary build says.
    sandbar) exec "$rustc" "$@" "${seen[@]}" -Awarnings ;;
    sandbar_fuzz | transcoder | wire | config | component) exec "$rustc" "$@" "${seen[@]}" ;;
    serde_json | toml | toml_parser | apache_avro | wasmparser | jiff) exec "$rustc" "$@" "${seen[@]}" ;;
    *) exec "$rustc" "$@" ;;
esac
