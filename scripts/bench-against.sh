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

names=(noop_fresh xapi_fresh sqlite_noop publish cold_start_ms cold_start_compiling_ms)

drained() {
    local build=$1 binary=$2
    SANDBAR_BIN=$binary "$bench" --rounds 1 --events 400000 --workloads noop,xapi --only noop_fresh,xapi_fresh \
        --figures publish,sqlite,start --start-modules 1 --publish-events 300000 --out "$out" 2>&1 |
        awk -v build="$build" '/^round/ { print build, $3, $4; next } /^Error/, 0 { print >"/dev/stderr" }'
}

# A row of the table: what either build's median is, and what the ratios within the rounds are, in the middle and the quartiles.
# Each round must have measured both.
row() {
    awk -v name="$1" -v rounds="$rounds" '
        function sorted(list, into,    n, i, j, value) {
            for (n = 1; n in list; n++) {
                value = list[n]
                for (i = n - 1; i > 0 && into[i] > value; i--) into[i + 1] = into[i]
                into[i + 1] = value
            }
        }
        function part(list, of,    into) {
            sorted(list, into)
            return into[int(of * (rounds - 1) + 0.5) + 1]
        }
        $2 == name && $1 == "old" { old[++olds] = $3 }
        $2 == name && $1 == "new" { new[++news] = $3 }
        END {
            if (olds != rounds || news != rounds) {
                print "bench-against: " name " was measured " olds + 0 " and " news + 0 " times in " rounds " rounds" >"/dev/stderr"
                exit 1
            }
            for (n = 1; n <= rounds; n++) ratio[n] = new[n] / old[n]
            printf "| `%s` | %.6g | %.6g | %.2f | %.2f | %.2f |\n",
                name, part(old, 0.5), part(new, 0.5), part(ratio, 0.5), part(ratio, 0.25), part(ratio, 0.75)
        }' "$out/figures"
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
