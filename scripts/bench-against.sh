#!/usr/bin/env bash
# bench-against.sh OLD NEW   drains the same work with two builds of `sandbar`, in turn, and tells how they compare.
#
# For what a change costs: ratios of one run of `make bench` move with the hour, and two builds that take turns share the hour.
# AGAINST_ROUNDS says how many rounds. `make bench-against OLD=PATH` builds NEW and sets what else the benchmark wants.
set -euo pipefail

old=${1:?usage: bench-against.sh OLD NEW}
new=${2:?usage: bench-against.sh OLD NEW}
bench=$(dirname "$new")/sandbar-bench
rounds=${AGAINST_ROUNDS:-7}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

drained() {
    SANDBAR_BIN=$2 "$bench" --rounds 1 --workloads noop,xapi --only noop_fresh,xapi_fresh --figures publish,sqlite,start \
        --start-modules 1 --publish-events 300000 --out "$out" 2>&1 | awk -v build="$1" '/^round/ { print build, $3, $4 }'
}

for round in $(seq "$rounds"); do
    echo "bench-against: round $round of $rounds" >&2
    # Whoever came first comes later in the next.
    if ((round % 2)); then
        drained old "$old" && drained new "$new"
    else
        drained new "$new" && drained old "$old"
    fi
done >"$out/figures"

echo "| | old | new | new/old |"
echo "|---|---:|---:|---:|"
for name in noop_fresh xapi_fresh sqlite_noop publish cold_start_ms; do
    median() { awk -v build="$1" -v name="$name" '$1 == build && $2 == name { print $3 }' "$out/figures" | sort -n | sed -n "$(((rounds + 1) / 2))p"; }
    awk -v name="$name" -v old="$(median old)" -v new="$(median new)" \
        'BEGIN { printf "| `%s` | %.6g | %.6g | %.2f |\n", name, old, new, new / old }'
done
