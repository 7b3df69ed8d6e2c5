#!/usr/bin/env bash
# bench-against.sh OLD NEW   drains the same work with two builds of `sandbar`, in turn, and tells how they compare.
#
# For what a change costs: ratios of one run of `make bench` move with the hour, and two builds that take turns share the hour.
# AGAINST_ROUNDS says how many rounds. `make bench-against OLD=PATH` builds NEW and sets what else the benchmark wants.
set -euo pipefail

old=$(realpath "${1:?usage: bench-against.sh OLD NEW}")
new=$(realpath "${2:?usage: bench-against.sh OLD NEW}")
bench=$(dirname "$new")/sandbar-bench
rounds=${AGAINST_ROUNDS:-7}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

names=(noop_fresh xapi_fresh sqlite_noop publish cold_start_ms)

drained() {
    local build=$1 binary=$2
    SANDBAR_BIN=$binary "$bench" --rounds 1 --workloads noop,xapi --only noop_fresh,xapi_fresh --figures publish,sqlite,start \
        --start-modules 1 --publish-events 300000 --out "$out" 2>&1 | awk -v build="$build" '/^round/ { print build, $3, $4 }'
}

# The median of a figure over the rounds; each must have measured it.
median() {
    awk -v build="$1" -v name="$2" '$1 == build && $2 == name { print $3 }' "$out/figures" | sort -g |
        awk -v what="$1 $2" -v rounds="$rounds" '
            { figure[NR] = $1 }
            END {
                if (NR != rounds) {
                    print "bench-against: " what " was measured " NR " times in " rounds " rounds" >"/dev/stderr"
                    exit 1
                }
                print figure[int((NR + 1) / 2)]
            }'
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

echo "| | old | new | new/old |"
echo "|---|---:|---:|---:|"
for name in "${names[@]}"; do
    before=$(median old "$name")
    after=$(median new "$name")
    awk -v name="$name" -v old="$before" -v new="$after" 'BEGIN { printf "| `%s` | %.6g | %.6g | %.2f |\n", name, old, new, new / old }'
done
