#!/usr/bin/env bash
# A flame graph of `sandbar run` while it drains a topic with a handler that does nothing, on Redis or on the embedded bus:
# bench/out/flame-BUS.svg. Beside it, in flame-BUS.md, what each kind of thread takes for an event.
#
#   scripts/flame.sh TARGET_DIRECTORY redis|sqlite
#
# Wants the release builds of sandbar and sandbar-bench, the slim guests, and perf. Stacks are unwound by the tables that
# every build has, since a release keeps no frame pointers; the processor's own counters are not needed.
set -euo pipefail

target=$(realpath "$1")
bus=$2
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
mkdir -p "$out"
graph=$out/flame-$bus

# Drains once; where the measuring program starts the host, `$1` looks at that process, $process, once it drains.
drain() {
    rm -f "$directory/done"
    cat >"$directory/sandbar" <<SCRIPT
#!/usr/bin/env bash
process=\$\$
look() {
$1
}
case " \$* " in *" run "*) (sleep 1.2; look; touch "$directory/done") </dev/null >/dev/null 2>&1 & ;; esac
exec "$target/release/sandbar" "\$@"
SCRIPT
    chmod +x "$directory/sandbar"
    SANDBAR_BIN=$directory/sandbar SANDBAR_GUESTS=$target/guests/slim "$target/release/sandbar-bench" \
        --rounds 1 "${drain[@]}" --out "$directory"
    # It may be written after the host has ended.
    for _ in $(seq 100); do [ -e "$directory/done" ] && return; sleep 0.1; done
    echo "flame: nothing was seen of the host" >&2
    exit 1
}

drain "perf record -q -e cpu-clock -F 499 --call-graph dwarf,16384 -o '$directory/perf.data' -p \$process -- sleep 3"
perf script --no-inline -i "$directory/perf.data" 2>/dev/null | "$tools/bin/inferno-collapse-perf" >"$graph.folded"
"$tools/bin/inferno-flamegraph" --title "sandbar run on $bus, a handler that does nothing" --minwidth 0.3 "$graph.folded" >"$graph.svg"

# What the kernel has counted for each thread: nanoseconds on a core, and ready to run without one. Not in the run above,
# whose samples cost time themselves.
seconds=2
# shellcheck disable=SC2016 # it is expanded beside the host
times='for thread in /proc/$process/task/*; do echo "$(tr " " - <$thread/comm) $(cat $thread/schedstat)"; done'
drain "{ $times; sleep $seconds; echo; $times; } >'$directory/times'"
rate=$(jq ".figures[] | select(.name == \"$figure\").median" "$directory/summary.json")
awk -v rate="$rate" -v seconds="$seconds" '
    NF == 0 { later = 1; next }
    { sign = later ? 1 : -1; name = $1; runs[name] += sign * $2; waits[name] += sign * $3; run += sign * $2; wait += sign * $3 }
    END {
        each = rate * seconds * 1000
        printf "%d events/s; %.2f cores busy\n\n", rate, run / seconds / 1000000000
        print "| thread | µs an event on a core | µs an event waiting for one |\n|---|---:|---:|"; fflush()
        sort = "sort -t\\| -k3 -rn"
        for (name in runs) printf "| %s | %.1f | %.1f |\n", name, runs[name] / each, waits[name] / each | sort
        close(sort)
        printf "| all | %.1f | %.1f |\n", run / each, wait / each
    }' "$directory/times" | tee "$graph.md"
echo "flame: $graph.svg"
