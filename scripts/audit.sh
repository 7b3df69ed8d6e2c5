#!/usr/bin/env bash
# audit.sh   checks the dependencies against the RustSec advisory database.
#
# Passes only if the database was there and named nothing. Where it cannot be fetched it says so and fails: an audit
# that could not look must not look like one that found nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log"' EXIT

if cargo deny --version >/dev/null 2>&1; then
    audit=(cargo deny --all-features check advisories)
elif cargo audit --version >/dev/null 2>&1; then
    audit=(cargo audit)
else
    echo "audit: nothing was checked: neither cargo-deny nor cargo-audit is installed (cargo install --locked cargo-deny)" >&2
    exit 2
fi

if "${audit[@]}" 2>&1 | tee "$log"; then
    exit 0
fi
if grep -qE "(failed to|couldn't) fetch advisory database" "$log"; then
    echo "audit: nothing was checked: the advisory database cannot be fetched from here" >&2
    exit 2
fi
echo "audit: there are findings, see above" >&2
exit 1
