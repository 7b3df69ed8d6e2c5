#!/usr/bin/env bash
# Builds every Rust guest of this repository into one folder of components.
#
#     scripts/build-guests.sh          for wasm32-wasip2,          into target/guests/out/*.wasm
#     scripts/build-guests.sh --slim   for wasm32-unknown-unknown, into target/guests/slim/*.wasm
#
# A guest is a folder of example-handlers/ or tests/guests/ with a Cargo.toml that makes a cdylib; folder, crate and
# component have the same name (tests/guests/grows-memory becomes grows-memory.wasm). Both are workspaces of their own,
# with their own lock file, because guests may need another compiler than the host.
#
# Does nothing if no source, no lock file and no compiler has changed since the last time. The tests find the components
# in SANDBAR_GUESTS, by default target/guests/out.
set -euo pipefail

cd "$(dirname "$0")/.."
readonly ROOT=$PWD
# Beside what the host's build writes; a relative CARGO_TARGET_DIR counts from the root.
TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")/guests
readonly TARGET_DIR
target=wasm32-wasip2 out=$TARGET_DIR/out
case ${1-} in
    '') ;;
    --slim) target=wasm32-unknown-unknown out=$TARGET_DIR/slim ;;
    *) echo "usage: scripts/build-guests.sh [--slim]" >&2; exit 2 ;;
esac

workspaces=()
for workspace in example-handlers tests/guests; do
    [ ! -f "$workspace/Cargo.toml" ] || workspaces+=("$workspace")
done

main() {
    mkdir -p "$out"
    # Two builds at once would write the same files.
    exec 9>"$TARGET_DIR/$target.lock"
    flock 9

    "$ROOT/scripts/wasm-toolchain.sh" "$target" 2>"$TARGET_DIR/toolchain.log" 9>&- ||
        { cat "$TARGET_DIR/toolchain.log" >&2; exit 1; }
    . "${SANDBAR_WASM_TOOLCHAIN:-${XDG_CACHE_HOME:-$HOME/.cache}/sandbar/wasm-toolchain}/env"

    local libs compiler made_of
    libs=$("$WASM_RUSTC" --print target-libdir --target "$target")
    compiler="$WASM_RUSTC_VERSION, $target, std $(cat "$libs"/libstd-*.rlib | sha256sum | cut -c1-16)"
    made_of=$(sources "$compiler")
    if [ "$(cat "$out/.built-from" 2>/dev/null)" = "$made_of" ] && complete; then
        return
    fi
    # Cargo tells compilers apart by their version. What was built against another standard library would not link.
    if [ "$(cat "$TARGET_DIR/$target.compiler" 2>/dev/null)" != "$compiler" ]; then
        rm -rf "${TARGET_DIR:?}/$target"
        echo "$compiler" >"$TARGET_DIR/$target.compiler"
    fi
    rm -f "$out/.built-from" "$out"/*.wasm
    local workspace name
    for workspace in "${workspaces[@]}"; do
        build "$workspace"
        for name in $(guests_of "$workspace"); do
            cp "$TARGET_DIR/$target/release/${name//-/_}.wasm" "$out/$name.wasm"
        done
    done
    # As it was before the build: what was changed meanwhile is built the next time.
    echo "$made_of" >"$out/.built-from"
    echo "build-guests: $(find "$out" -name '*.wasm' | wc -l) components in ${out#"$ROOT"/}, by $WASM_RUSTC_VERSION" >&2
}

# One line that changes whenever something changes that a component is made of.
sources() { # COMPILER
    {
        echo "$1"
        find Cargo.toml scripts/build-guests.sh sdk wit "${workspaces[@]}" -name target -prune -o -type f -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum
}

complete() {
    local workspace name
    for workspace in "${workspaces[@]}"; do
        for name in $(guests_of "$workspace"); do [ -f "$out/$name.wasm" ] || return 1; done
    done
}

guests_of() { # WORKSPACE
    local manifest
    for manifest in "$1"/*/Cargo.toml; do
        ! grep -qs cdylib "$manifest" || basename "$(dirname "$manifest")"
    done
}

build() { # WORKSPACE
    local show=()
    [ -t 2 ] || show=(--quiet)
    # Flags and compilers that were set for the host are not for guests. rustc finds the linker beside its own.
    (
        cd "$1"
        env -u RUSTUP_TOOLCHAIN -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET -u CARGO_BUILD_RUSTFLAGS \
            -u RUSTC_WRAPPER -u RUSTC_WORKSPACE_WRAPPER \
            RUSTC="$WASM_RUSTC" CARGO_TARGET_DIR="$TARGET_DIR" \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=wasm-component-ld \
            cargo build "${show[@]}" --release --target "$target" 9>&-
    )
}

main
