#!/usr/bin/env bash
# Finds or makes a Rust compiler for WebAssembly guests, and says which in one line.
#
#     scripts/wasm-toolchain.sh [TARGET…]          default: wasm32-wasip2; also: wasm32-unknown-unknown
#
# The answer is kept as shell assignments in $HOME_DIR/env:
#     . ~/.cache/sandbar/wasm-toolchain/env
#     RUSTC=$WASM_RUSTC cargo build --release --target wasm32-wasip2
#
# First choice is the standard library that rustup has, or may download, for the targets; RUSTUP_AUTO_INSTALL=0, rustup's
# own switch, forbids the download. Where that fails, Debian and its kin ship a compiler meant for the web browser
# (rustc-web), the source of the standard library that belongs to it (rust-web-src) and a C library (wasi-libc): out of
# these a private sysroot is made, with the standard library compiled once. The linkers come from rustup's toolchain.
#
# Running it again when all is there takes a fraction of a second. Settings:
#     SANDBAR_WASM_TOOLCHAIN    where to keep it      (~/.cache/sandbar/wasm-toolchain)
#     SANDBAR_WASM_FALLBACK=1   skip rustup           (to try the second way on a machine that has the first)
set -euo pipefail

readonly HOME_DIR=${SANDBAR_WASM_TOOLCHAIN:-${XDG_CACHE_HOME:-$HOME/.cache}/sandbar/wasm-toolchain}
# Part of a sysroot's name. Raise it when the way a sysroot is made changes.
readonly RECIPE=1
readonly PACKAGES=(rustc-web rust-web-src wasi-libc)
TARGETS=("$@")
[ ${#TARGETS[@]} -gt 0 ] || TARGETS=(wasm32-wasip2)

main() {
    command -v rustc >/dev/null && command -v cargo >/dev/null ||
        die "there is no rustc and cargo on the PATH: install Rust from https://rustup.rs first"
    mkdir -p "$HOME_DIR"
    # Of two runs at once the second waits, and then finds everything done.
    exec 9>"$HOME_DIR/lock"
    flock 9

    RUSTUP_SYSROOT=$(rustc --print sysroot)
    if [ "${SANDBAR_WASM_FALLBACK:-0}" != 1 ] && with_rustup; then
        finish "$RUSTUP_SYSROOT/bin/rustc" "from rustup"
    else
        with_debian
        finish "$SYSROOT/bin/rustc" "a sysroot of Debian's packages"
    fi
}

# --- The first way: rustup ---------------------------------------------------------------------------------------------

with_rustup() {
    local missing=() target
    for target in "${TARGETS[@]}"; do
        has_std "$RUSTUP_SYSROOT" "$target" || missing+=("$target")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "${RUSTUP_AUTO_INSTALL:-1}" != 0 ] && command -v rustup >/dev/null || return 1
    # Where rustup could not, and the other way did it, nobody waits for rustup again.
    ! has_all "$HOME_DIR/sysroot-*" || return 1
    say "asking rustup for ${missing[*]}"
    # The log is shown only if the other way fails too.
    timeout 300 rustup target add "${missing[@]}" >"$HOME_DIR/rustup.log" 2>&1 || return 1
    has_all "$RUSTUP_SYSROOT"
}

# --- The second way: Debian's packages ---------------------------------------------------------------------------------

with_debian() {
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || {
        [ -s "$HOME_DIR/rustup.log" ] && tail -n 5 "$HOME_DIR/rustup.log" >&2
        die "no standard library for ${TARGETS[*]}, and this is no Debian where it could be made from packages." \
            "Run: rustup target add ${TARGETS[*]}"
    }
    install_packages
    HOST=$(/usr/bin/rustc -vV | sed -n 's/^host: //p')
    LINKERS=$RUSTUP_SYSROOT/lib/rustlib/$HOST/bin
    local tool target
    for tool in wasm-component-ld rust-lld; do
        [ -x "$LINKERS/$tool" ] || die "$LINKERS has no $tool: it comes with rustup's toolchains; is this rustc one of them?"
    done

    # Named after whatever it is made of and never removed: another checkout may be compiling with it.
    local made_of
    made_of=$(/usr/bin/rustc -vV; dpkg-query -W "${PACKAGES[@]}"; echo "$LINKERS")
    SYSROOT=$HOME_DIR/sysroot-$RECIPE-$(sha256sum <<<"$made_of" | cut -c1-12)
    [ -x "$SYSROOT/bin/rustc" ] || lay_out_sysroot
    for target in "${TARGETS[@]}"; do
        has_std "$SYSROOT" "$target" || compile_std "$target"
    done
}

install_packages() {
    local missing=() package
    for package in "${PACKAGES[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "missing packages: run as root: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    say "installing ${missing[*]}"
    local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${missing[@]}")
    # The package lists may be stale or not there at all: try once without and once with refreshing them.
    "${install[@]}" >"$HOME_DIR/apt.log" 2>&1 ||
        { "${as_root[@]}" apt-get update && "${install[@]}"; } >>"$HOME_DIR/apt.log" 2>&1 ||
        { tail -n 15 "$HOME_DIR/apt.log" >&2; die "cannot install ${missing[*]} (the log is $HOME_DIR/apt.log)"; }
}

# The host's part and the source are Debian's, the linkers rustup's; only std for the targets is compiled into it later.
lay_out_sysroot() {
    local rustlib=$SYSROOT/lib/rustlib
    mkdir -p "$SYSROOT/bin" "$rustlib/$HOST" "$rustlib/src"
    ln -sfn "/usr/lib/rustlib/$HOST/lib" "$rustlib/$HOST/lib"
    ln -sfn "$LINKERS" "$rustlib/$HOST/bin"
    ln -sfn "$(readlink -f /usr/lib/rustlib/src/rust)" "$rustlib/src/rust"
    printf '#!/bin/sh\nexec /usr/bin/rustc --sysroot "%s" "$@"\n' "$SYSROOT" >"$SYSROOT/bin/rustc"
    # Last: whoever finds it executable finds the rest.
    chmod +x "$SYSROOT/bin/rustc"
}

compile_std() {
    local target=$1 work=$HOME_DIR/work log=$HOME_DIR/std-$1.log
    say "compiling the standard library for $target, once (about a minute)"
    rm -rf "$work" && mkdir -p "$work/src"
    printf '[package]\nname = "nothing"\nedition = "2021"\n[workspace]\n' >"$work/Cargo.toml"
    echo '#![no_std]' >"$work/src/lib.rs"
    # build-std is unstable, hence the bootstrap switch. Bitcode, so that guests can be linked with LTO. Nothing that the
    # caller set for builds of its own may leak into this one.
    (
        cd "$work"
        env -u RUSTUP_TOOLCHAIN -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_TARGET -u CARGO_BUILD_RUSTFLAGS \
            -u RUSTC_WRAPPER -u RUSTC_WORKSPACE_WRAPPER \
            RUSTC="$SYSROOT/bin/rustc" RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Cembed-bitcode=yes CARGO_TARGET_DIR="$work/target" \
            "$RUSTUP_SYSROOT/bin/cargo" build --release --target "$target" -Zbuild-std=std,panic_abort
    ) >"$log" 2>&1 9>&- || { tail -n 30 "$log" >&2; die "cannot compile the standard library (the log is $log)"; }

    local lib=$SYSROOT/lib/rustlib/$target/lib
    rm -rf "$lib.new" && mkdir -p "$lib.new"
    find "$work/target/$target/release/deps" -name 'lib*.rlib' ! -name 'libnothing-*' -exec cp -t "$lib.new" {} +
    case $target in *-wasi*) add_c_library "$target" "$lib.new/self-contained" "$work" ;; esac
    # In one step, so that a run that was interrupted leaves nothing that looks complete.
    rm -rf "$lib" && mv "$lib.new" "$lib"
    rm -rf "$work"
}

# Debian's wasi-libc is older than what std::thread refers to. The missing functions fail when called, as they do in a
# newer wasi-libc without threads, instead of failing to link. (ar cannot index wasm objects; rust-lld needs no index.)
add_c_library() {
    local target=$1 dir=$2 work=$3
    mkdir -p "$dir"
    cp /usr/lib/wasm32-wasi/crt1-command.o /usr/lib/wasm32-wasi/crt1-reactor.o /usr/lib/wasm32-wasi/libc.a "$dir/"
    ! grep -aq pthread_create "$dir/libc.a" || return 0
    cat >"$work/no_threads.rs" <<'RUST'
#![no_std]
type Any = *mut core::ffi::c_void;
const ENOTSUP: i32 = 58; // wasi's number
#[unsafe(no_mangle)] extern "C" fn pthread_create(_: Any, _: Any, _: Any, _: Any) -> i32 { ENOTSUP }
#[unsafe(no_mangle)] extern "C" fn pthread_join(_: Any, _: Any) -> i32 { ENOTSUP }
#[unsafe(no_mangle)] extern "C" fn pthread_detach(_: Any) -> i32 { ENOTSUP }
#[unsafe(no_mangle)] extern "C" fn pthread_attr_init(_: Any) -> i32 { 0 }
#[unsafe(no_mangle)] extern "C" fn pthread_attr_destroy(_: Any) -> i32 { 0 }
#[unsafe(no_mangle)] extern "C" fn pthread_attr_setstacksize(_: Any, _: usize) -> i32 { 0 }
RUST
    # Compiled before the rest of the sysroot is in its place; core is all it needs.
    "$SYSROOT/bin/rustc" --edition 2024 --target "$target" -L "$dir/.." --extern "core=$(echo "$dir"/../libcore-*.rlib)" \
        --crate-type lib --emit obj -O -C panic=abort "$work/no_threads.rs" -o "$work/no_threads.o"
    ar r "$dir/libc.a" "$work/no_threads.o" 2>/dev/null
}

# --- Both --------------------------------------------------------------------------------------------------------------

has_all() { # SYSROOT (or a pattern)
    local target
    for target in "${TARGETS[@]}"; do has_std "$1" "$target" || return 1; done
}

has_std() { # SYSROOT (or a pattern) TARGET
    compgen -G "$1/lib/rustlib/$2/lib/libstd-*.rlib" >/dev/null
}

finish() { # RUSTC ORIGIN
    local version
    version=$("$1" -V)
    printf 'export WASM_RUSTC=%q\nexport WASM_RUSTC_VERSION=%q\n' "$1" "$version" >"$HOME_DIR/env.new"
    # Whoever compares it with what was built sees a change only if there is one.
    cmp -s "$HOME_DIR/env.new" "$HOME_DIR/env" || cp "$HOME_DIR/env.new" "$HOME_DIR/env"
    rm -f "$HOME_DIR/env.new"
    say "${TARGETS[*]}: $version, $2"
}

say() { echo "wasm-toolchain: $*" >&2; }
die() { say "$@"; exit 1; }

main
