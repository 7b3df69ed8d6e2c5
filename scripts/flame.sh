#!/usr/bin/env bash
# A flame graph of `sandbar run` while it drains a stream with a handler that does nothing: bench/out/flame.svg.
#
#   scripts/flame.sh TARGET_DIRECTORY
#
# Wants the release builds of sandbar and sandbar-bench, the slim guests, and perf. Stacks are unwound by the tables that
# every build has, since a release keeps no frame pointers; the processor's own counters are not needed.
set -euo pipefail

target=$(realpath "$1")
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
    (sleep 1.2; perf record -q -e cpu-clock -F 499 --call-graph dwarf,16384 -o "$directory/perf.data" -p \$\$ -- sleep 3; touch "$directory/done") \\
        </dev/null >/dev/null 2>&1 & ;;
esac
exec "$target/release/sandbar" "\$@"
SCRIPT
chmod +x "$directory/sandbar"

SANDBAR_BIN=$directory/sandbar SANDBAR_GUESTS=$target/guests/slim "$target/release/sandbar-bench" \
    --rounds 1 --events 700000 --no-figures --workloads noop --only noop_fresh --out "$directory"
# perf writes the last of it when its time is over, which may be after the host has ended.
for _ in $(seq 100); do [ -e "$directory/done" ] && break; sleep 0.1; done

mkdir -p "$out"
perf script --no-inline -i "$directory/perf.data" 2>/dev/null | "$tools/bin/inferno-collapse-perf" >"$out/flame.folded"
"$tools/bin/inferno-flamegraph" --title "sandbar run, a handler that does nothing" --minwidth 0.3 "$out/flame.folded" >"$out/flame.svg"
echo "flame: $out/flame.svg"
