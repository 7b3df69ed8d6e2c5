#!/usr/bin/env bash
# python-peers.sh VENV   makes the virtual environment with the real Python event bus that the tests talk to.
#
# Takes the newest Python it can find, because the current releases need 3.12; Debian 12's own 3.11 gets the last
# releases that still take it. Does nothing when the environment is up to date. PYTHON=… chooses the interpreter.
set -euo pipefail

venv=${1:?usage: python-peers.sh VENV}
here=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "python-peers: $*"; }

# True if it runs (a pyenv shim may not), is of that version and can make environments.
usable() {
    "$1" -c "import sys, ensurepip, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$2')" >/dev/null 2>&1
}

find_python() {
    local version candidate
    for version in 3.13 3.12 3.11; do
        for candidate in "${PYTHON:-python$version}" "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python3 python3 /usr/bin/python3; do
            [ -z "${PYTHON:-}" ] || [ "$candidate" = "$PYTHON" ] || continue
            if usable "$candidate" "$version"; then
                command -v "$candidate"
                return
            fi
        done
    done
    return 1
}

if ! python=$(find_python); then
    [ -z "${PYTHON:-}" ] || { say "$PYTHON is no Python 3.11 to 3.13 with venv" >&2; exit 1; }
    # Debian's python3 comes without ensurepip, and a slim machine without python3.
    "$here/scripts/apt-install.sh" python3-venv
    python=$(find_python) || { say "no Python 3.11 to 3.13 with venv found" >&2; exit 1; }
fi

version=$("$python" -c 'import platform; print(platform.python_version())')
case $version in
    3.11.*) requirements=$here/tests/peers/requirements-311.txt ;;
    *) requirements=$here/tests/peers/requirements-312.txt ;;
esac

stamp="$venv/.stamp"
wanted="$(readlink -f "$("$python" -c 'import sys; print(sys.executable)')") $version $(sha256sum <"$requirements")"
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

say "Python $version with $(grep -E '^(edx-event-bus-redis|openedx-events)==' "$requirements" | tr '\n' ' ')in $venv"
rm -rf "$venv"
mkdir -p "$(dirname "$venv")"
"$python" -m venv "$venv"
# The lists are complete, so nothing is resolved anew and nothing unpinned can come in.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$requirements"
"$venv/bin/python" -m pip check >/dev/null || { "$venv/bin/python" -m pip check; exit 1; }
printf '%s\n' "$wanted" >"$stamp"
