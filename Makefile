# Sandbar's commands, the same for people and for CI. `make` lists them.
#
# Everything that is installed or built goes under the target directory, except Debian's packages and the compiler for
# the guests. Each piece of the set-up does nothing when it is up to date.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

target := $(abspath $(or $(CARGO_TARGET_DIR),target))
venv := $(target)/peers/venv
old_redis := $(target)/peers/redis-6.2
new_redis := $(target)/peers
watermill := $(target)/peers/watermill
extism := $(target)/peers/extism

# What the tests and the benchmark are told: the built guests, the Python with the real event bus, the oldest Redis that
# is supported, newer servers than the distribution's, the host's binary.
export SANDBAR_GUESTS := $(target)/guests/out
export SANDBAR_PYTHON := $(venv)/bin/python
export SANDBAR_REDIS_62 := $(old_redis)/redis-server
export SANDBAR_REDIS_82 := $(new_redis)/redis-8.2/redis-server
export SANDBAR_VALKEY_81 := $(new_redis)/valkey-8.1/valkey-server
export SANDBAR_BIN := $(target)/debug/sandbar

# The guests are no members of the workspace: they are built for another target, perhaps by another compiler. Their
# unit tests and lints run on this machine all the same.
guests := $(wildcard example-handlers/Cargo.toml tests/guests/Cargo.toml)
guests_on_host := $(target)/guests/host
shell_scripts := .ci/run $(wildcard scripts/*.sh tests/fuzz/*.sh)

.PHONY: help
help: ## List the commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

# === For users ===

.PHONY: demo
demo: cc guests ## Build everything and run sample events through sample handlers, without any server
	cargo build --package sandbar
	$(SANDBAR_BIN) demo

.PHONY: build
build: cc ## Build the release binary, target/release/sandbar
	cargo build --release --package sandbar

# === For developers ===

.PHONY: test
test: setup ## Set up what the tests need and run all of them
	cargo build --workspace --all-targets
	cargo test --workspace
	cargo test --manifest-path example-handlers/Cargo.toml --target-dir $(guests_on_host)

.PHONY: lint
lint: cc peers ## Check format, clippy, licences, bans, sources and scripts
	for manifest in Cargo.toml bench/peers/extism/Cargo.toml tests/fuzz/Cargo.toml $(guests); do cargo fmt --all --check --manifest-path "$$manifest"; done
	cargo clippy --workspace --all-targets -- -D warnings
	for manifest in $(guests); do cargo clippy --manifest-path "$$manifest" --target-dir $(guests_on_host) --all-targets -- -D warnings; done
	$(SANDBAR_PYTHON) scripts/licences.py Cargo.toml $(guests)
	$(SANDBAR_PYTHON) -m compileall -q scripts tests/peers bench/peers/python
	for script in $(shell_scripts); do bash -n "$$script"; done
	if command -v shellcheck >/dev/null; then shellcheck --external-sources --severity=warning $(shell_scripts); else echo "lint: no shellcheck here, shell scripts were only parsed"; fi

.PHONY: deny
deny: ## Check licences, bans and sources with cargo-deny, which must be installed
	cargo deny --all-features check licenses bans sources

.PHONY: audit
audit: ## Check dependencies against the advisory database; fails where that cannot be fetched
	scripts/audit.sh

# BENCH='--rounds 1 --events 20000 --workloads noop' measures less; bench/NOTES.md says more.
.PHONY: bench
bench: setup slim-guests bench-peers ## Measure speed and latency beside others; writes the README's tables and plots
	cargo build --release --package sandbar --package sandbar-bench
	SANDBAR_BIN=$(target)/release/sandbar SANDBAR_GUESTS=$(target)/guests/slim SANDBAR_WATERMILL=$(watermill) SANDBAR_EXTISM=$(extism)/release/extism-calls \
		$(target)/release/sandbar-bench --into README.md $(BENCH)

# AGAINST_ROUNDS=15 takes longer and says more.
.PHONY: bench-against
bench-against: setup slim-guests ## Drain with this build and with OLD=PATH, another one, in turn: what a change costs
	cargo build --release --package sandbar --package sandbar-bench
	SANDBAR_GUESTS=$(target)/guests/slim scripts/bench-against.sh $(OLD) $(target)/release/sandbar

# What others offer, each in a workspace of its own. Debian's Go may be too old for Watermill: without one that is not, it is
# left out.
.PHONY: bench-peers
bench-peers: cc
	@if go=$$(command -v go || command -v /usr/local/go/bin/go); then cd bench/peers/watermill && "$$go" build -o $(watermill) .; \
		else echo "bench: no Go here, Watermill is left out"; fi
	cargo build --release --manifest-path bench/peers/extism/Cargo.toml --target-dir $(extism)

.PHONY: bench-micro
bench-micro: cc redis ## Time the line's steps one by one; ARGS=decode chooses some
	cargo bench --package sandbar-costs --bench micro -- $(ARGS)

# On the build that the tests make, so that it costs them nothing: the features of all packages together.
.PHONY: bench-count
bench-count: cc redis counters ## Count what an event costs; fails if it grew. UPDATE=1 renews the baseline
	cargo build --workspace --all-targets
	$(target)/debug/sandbar-costs $(if $(filter-out 0,$(UPDATE)),--update)

.PHONY: bench-flame
bench-flame: setup slim-guests ## Draw where a drain's time goes: bench/out/flame-{redis,sqlite}.svg
	@scripts/apt-install.sh perf=linux-perf jq=jq
	cargo build --release --package sandbar --package sandbar-bench
	@scripts/flame.sh $(target) redis
	@scripts/flame.sh $(target) sqlite

.PHONY: bench-soak
bench-soak: setup slim-guests ## Watch the memory of a host under load for an hour
	cargo build --release --package sandbar --package sandbar-bench
	SANDBAR_BIN=$(target)/release/sandbar SANDBAR_GUESTS=$(target)/guests/slim $(target)/release/sandbar-bench --rounds 1 --only-figures --figures soak --soak-minutes 60

# SOAK_SEEDS=1000 runs more, SOAK_FROM=300 others.
.PHONY: soak
soak: export SOAK_SEEDS ?= 300
soak: export SOAK_FROM ?= 0
soak: export SOAK_OUT := $(target)/soak
soak: export SOAK_INTO := $(abspath README.md)
soak: setup ## Run hosts under hundreds of seeds of faults; writes target/soak and the README's table
	cargo build --package sandbar
	cargo test --package sandbar-tests --test all -- faults::no_seed --nocapture

# HOSTILE_CASE=endless-loop repeats that one only.
.PHONY: hostile
hostile: export HOSTILE_REPETITIONS ?= 10000
hostile: export HOSTILE_NEIGHBOUR := 1
hostile: setup ## Call each hostile handler thousands of times, and measure its neighbour for half a minute
	cargo build --package sandbar
	cargo test --package sandbar-tests --test all -- hostile:: --nocapture --test-threads 1

# FUZZ_SECONDS=600 takes longer, FUZZ_ONLY=wire looks at one. What `make test` replays is in tests/fuzz/corpus.
.PHONY: fuzz
fuzz: cc ## Look for inputs that break what reads others' bytes, a minute for each target
	@scripts/fuzz.sh $(target)

# IMAGE_CHECK=--required fails where it cannot be done, as it does in CI.
.PHONY: image-check
image-check: peers guests ## Build the Dockerfile's image in a chroot and serve an event with it; needs root
	@$(SANDBAR_PYTHON) scripts/container-check.py $(IMAGE_CHECK)

# SWAP_RATE=8000 sends more in a second. Nothing else should run meanwhile.
.PHONY: swap-soak
swap-soak: export SWAP_EVENTS ?= 1000000
swap-soak: export SWAP_SWAPS ?= 100
swap-soak: export SWAP_RATE ?= 4000
swap-soak: setup ## Swap a module a hundred times while a million events flow; prints what that did to latency
	cargo build --release --package sandbar
	SANDBAR_BIN=$(target)/release/sandbar cargo test --package sandbar-tests --test all -- events_flow_while_modules_are_swapped_on_redis --nocapture

.PHONY: canary-runs
canary-runs: export CANARY_RUNS ?= 20
canary-runs: setup ## Try modules that fail a fifth of their events, and such that are as good, twenty times each
	cargo build --package sandbar
	cargo test --package sandbar-tests --test all -- run::trying::a_module --nocapture --test-threads 1

.PHONY: clean
clean: ## Remove everything that was built
	cargo clean
	rm -rf bench/out

# === Set-up ===

.PHONY: setup
setup: cc redis peers old-redis new-redis guests ## Set up what the tests need, and nothing else

.PHONY: cc
cc:
	@scripts/apt-install.sh cc=build-essential

.PHONY: redis
redis:
	@scripts/apt-install.sh redis-server=redis-server openssl=openssl

.PHONY: counters
counters:
	@scripts/apt-install.sh valgrind=valgrind strace=strace

.PHONY: peers
peers:
	@scripts/python-peers.sh $(venv)

.PHONY: old-redis
old-redis: peers
	@scripts/old-redis.sh $(old_redis) $(venv)/bin/python

.PHONY: new-redis
new-redis: peers
	@scripts/new-redis.sh $(new_redis) $(venv)/bin/python

.PHONY: guests
guests: cc ## Build the guests to WebAssembly components
	@scripts/build-guests.sh

# For wasm32-unknown-unknown: what docs/handlers.md recommends where speed matters, and so what is measured.
.PHONY: slim-guests
slim-guests: cc
	@scripts/build-guests.sh --slim
