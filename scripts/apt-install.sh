#!/usr/bin/env bash
# apt-install.sh [COMMAND=]PACKAGE...   installs Debian packages, but not those whose command is there already.
#
# A server that comes with a package is not started. Quiet unless it has something to do or fails. The package lists
# are only fetched when the ones on the machine do not lead to the package.
set -euo pipefail

missing=()
for pair in "$@"; do
    case $pair in
        *=*) command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}") ;;
        *) missing+=("$pair") ;;
    esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

fail() { echo "apt-install: $*" >&2; exit 1; }
command -v apt-get >/dev/null 2>&1 || fail "this is no Debian; install yourself: ${missing[*]}"

as_root=()
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null 2>&1 || fail "needs root or sudo to install: ${missing[*]}"
    as_root=(sudo)
fi

log=$(mktemp)
policy=/usr/sbin/policy-rc.d
made_policy=
cleanup() {
    rm -f "$log"
    [ -z "$made_policy" ] || "${as_root[@]}" rm -f "$policy"
}
trap cleanup EXIT

# Debian starts a server when it installs one. The tests start their own, so this one is told not to.
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    made_policy=1
    "${as_root[@]}" chmod 755 "$policy"
fi

apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@"; }
install() { apt install -y --no-install-recommends "${missing[@]}"; }

echo "apt-install: ${missing[*]}"
{ install || { apt update && install; }; } >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "could not install ${missing[*]}"; }
