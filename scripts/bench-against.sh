#!/usr/bin/env bash
# bench-against.sh OLD NEW   drains the same work with two builds of `sandbar`, in turn, and tells how they compare.
#
# For what a change costs: ratios of one run of `make bench` move with the hour, and two builds that take turns share the minute.
# AGAINST_ROUNDS says how many turns. `make bench-against OLD=PATH` builds NEW and sets what else the benchmark wants.
set -euo pipefail

old=$(realpath "${1:?usage: bench-against.sh OLD NEW}")
new=$(realpath "${2:?usage: bench-against.sh OLD NEW}")
bench=$(dirname "$new")/sandbar-bench
rounds=${AGAINST_ROUNDS:-11}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

names=(noop_fresh xapi_fresh sqlite_noop publish cold_start_ms cold_start_compiling_ms
    start_100_modules_warm_ms start_100_modules_cold_ms)

drained() {
    local build=$1 binary=$2
    SANDBAR_BIN=$binary "$bench" --rounds 1 --events 400000 --workloads noop,xapi --only noop_fresh,xapi_fresh \
        --figures publish,sqlite,start --start-modules 100 --publish-events 300000 --out "$out" 2>&1 |
        awk -v build="$build" '/^round/ { print build, $3, $4; next } /^Error/, 0 { print >"/dev/stderr" }'
}

# One figure of one build, a line for each round.
of() {
    awk -v build="$1" -v name="$2" '$1 == build && $2 == name { print $3 }' "$out/figures"
}

# The quartile of this number (2: the median) of as many numbers as there are rounds.
quartile() {
    sort -g | sed -n "$((($1 * (rounds - 1) + 2) / 4 + 1))p"
}

# That quartile of the ratios within the rounds.
ratio() {
    paste <(of old "$1") <(of new "$1") | awk '{ print $2 / $1 }' | quartile "$2"
}

# A row of the table: what either build's median is, and what the ratios within the rounds are, in the middle and the quartiles.
# Each round must have measured both.
row() {
    local name=$1 olds news
    olds=$(of old "$name" | wc -l) news=$(of new "$name" | wc -l)
    if ((olds != rounds || news != rounds)); then
        echo "bench-against: $name was measured $olds and $news times in $rounds rounds" >&2
        return 1
    fi
    printf '| `%s` | %.6g | %.6g | %.2f | %.2f | %.2f |\n' "$name" \
        "$(of old "$name" | quartile 2)" "$(of new "$name" | quartile 2)" "$(ratio "$name" 2)" "$(ratio "$name" 1)" "$(ratio "$name" 3)"
}

for round in $(seq "$rounds"); do
    echo "bench-against: round $round of $rounds" >&2
    # Whoever came first comes later in the next.
    if ((round % 2)); then
        drained old "$old"
        drained new "$new"
    else
        drained new "$new"
        drained old "$old"
    fi
done >"$out/figures"

echo "| | old | new | new/old | lower quartile | upper quartile |"
echo "|---|---:|---:|---:|---:|---:|"
for name in "${names[@]}"; do
    row "$name"
done
