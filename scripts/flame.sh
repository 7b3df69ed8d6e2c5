#!/usr/bin/env bash
# A flame graph of `sandbar run` while it drains a topic with a handler that does nothing, on Redis or on the embedded bus:
# bench/out/flame-BUS.svg. Beside it, in flame-BUS.md, the processor time that each kind of thread takes for an event.
#
#   scripts/flame.sh TARGET_DIRECTORY redis|sqlite
#
# Wants the release builds of sandbar and sandbar-bench, the slim guests, and perf. Stacks are unwound by the tables that
# every build has, since a release keeps no frame pointers; the processor's own counters are not needed.
set -euo pipefail

target=$(realpath "$1")
bus=$2
hertz=499
case $bus in
redis) drain=(--no-figures --events 700000 --workloads noop --only noop_fresh) figure=noop_fresh ;;
sqlite) drain=(--only-figures --figures sqlite --sqlite-events 700000) figure=sqlite_noop ;;
*) echo "flame: no such bus: $bus" >&2; exit 2 ;;
esac
inferno=0.12.8
tools=$target/tools/inferno-$inferno
out=bench/out

if ! [ -x "$tools/bin/inferno-flamegraph" ]; then
    echo "flame: installing inferno $inferno into $tools"
    cargo install --quiet --locked --root "$tools" --version "$inferno" inferno
fi

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
# Where the measuring program starts a host, perf looks at that process once it drains.
cat >"$directory/sandbar" <<SCRIPT
#!/usr/bin/env bash
case " \$* " in *" run "*)
    (sleep 1.2; perf record -q -e cpu-clock -F $hertz --call-graph dwarf,16384 -o "$directory/perf.data" -p \$\$ -- sleep 3; touch "$directory/done") \\
        </dev/null >/dev/null 2>&1 & ;;
esac
exec "$target/release/sandbar" "\$@"
SCRIPT
chmod +x "$directory/sandbar"

SANDBAR_BIN=$directory/sandbar SANDBAR_GUESTS=$target/guests/slim "$target/release/sandbar-bench" \
    --rounds 1 "${drain[@]}" --out "$directory"
# perf writes the last of it when its time is over, which may be after the host has ended.
for _ in $(seq 100); do [ -e "$directory/done" ] && break; sleep 0.1; done

mkdir -p "$out"
graph=$out/flame-$bus
perf script --no-inline -i "$directory/perf.data" 2>/dev/null | "$tools/bin/inferno-collapse-perf" >"$graph.folded"
"$tools/bin/inferno-flamegraph" --title "sandbar run on $bus, a handler that does nothing" --minwidth 0.3 "$graph.folded" >"$graph.svg"

# Each sample is so much processor time of one thread; in the window of three seconds so many events were acknowledged.
rate=$(jq ".figures[] | select(.name == \"$figure\").median" "$directory/summary.json")
awk -v rate="$rate" -v hertz="$hertz" -v seconds=3 '
    { stack = $0; sub(/;.*/, "", stack); count = $NF; of[stack] += count; all += count }
    END {
        microseconds = 1000000 / hertz / (rate * seconds)
        printf "%d events/s under perf; cores busy %.2f\n\n| thread | µs of processor time an event |\n|---|---:|\n", rate, all / hertz / seconds; fflush()
        for (name in of) printf "| %s | %.1f |\n", name, of[name] * microseconds | "sort -t\\| -k3 -rn"
        close("sort -t\\| -k3 -rn")
        printf "| all | %.1f |\n", all * microseconds
    }' "$graph.folded" | tee "$graph.md"
echo "flame: $graph.svg"
