#!/usr/bin/env python3
"""Checks every dependency against deny.toml: licences, bans and sources, as cargo-deny would, in a second.

    licences.py [MANIFEST...]

cargo-deny takes minutes to build, which is too long for something that runs before every commit. What this leaves to it
are the texts of the licences (here a crate is taken at its word) and the advisories.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Unreadable(Exception):
    """Not an SPDX expression."""


def allowed(expression, allow):
    """True if one of the choices that an SPDX expression offers consists of allowed licences only.

    `/` between two licences is crates.io's old way to write OR.
    """
    tokens = re.findall(r"[()/]|[^\s()/]+", expression)
    at = 0

    def peek():
        return tokens[at] if at < len(tokens) else None

    def take():
        nonlocal at
        if at == len(tokens):
            raise Unreadable(expression)
        at += 1
        return tokens[at - 1]

    def either():
        result = both()
        while peek() in ("OR", "/"):
            take()
            result = both() or result
        return result

    def both():
        result = one()
        while peek() == "AND":
            take()
            result = one() and result
        return result

    def one():
        name = take()
        if name == "(":
            result = either()
            if take() != ")":
                raise Unreadable(expression)
            return result
        if name in ("OR", "AND", "WITH", "/", ")"):
            raise Unreadable(expression)
        if peek() == "WITH":
            take()
            name = f"{name} WITH {take()}"
        return name in allow

    result = either()
    if peek() is not None:
        raise Unreadable(expression)
    return result


def packages(manifest, targets):
    """All packages that a build for one of the targets may use, normal, build and test alike."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features", "--manifest-path", manifest]
    for target in targets:
        command += ["--filter-platform", target]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    metadata = json.loads(found.stdout)
    used = {node["id"] for node in metadata["resolve"]["nodes"]}
    return [package for package in metadata["packages"] if package["id"] in used]


def problems(crates, deny):
    """One sentence for each rule that is broken."""
    licences, bans, sources = deny["licenses"], deny["bans"], deny["sources"]
    registries = {f"registry+{url}" for url in sources["allow-registry"]}
    versions = defaultdict(set)
    for package in crates:
        name = f"{package['name']} {package['version']}"
        versions[package["name"]].add(package["version"])
        try:
            if not package["license"]:
                yield f"{name} names no licence"
            elif not allowed(package["license"], licences["allow"]):
                yield f"{name} is under {package['license']}, which [licenses] does not allow"
        except Unreadable:
            yield f"{name} has a licence that cannot be read: {package['license']}"
        if package["source"] and package["source"] not in registries:
            yield f"{name} comes from {package['source']}, which [sources] does not allow"
    for ban in bans["deny"]:
        found = versions.get(ban["crate"], set())
        if ban.get("deny-multiple-versions"):
            if len(found) > 1:
                yield f"{ban['crate']} is there in {len(found)} versions ({', '.join(sorted(found))}): {ban['reason']}"
        elif found:
            yield f"{ban['crate']} is banned: {ban['reason']}"


def main(manifests):
    deny = tomllib.loads((ROOT / "deny.toml").read_text())
    bad = False
    for manifest in manifests:
        crates = packages(manifest, deny["graph"]["targets"])
        broken = list(problems(crates, deny))
        for sentence in broken:
            print(f"licences: {manifest}: {sentence}", file=sys.stderr)
        if not broken:
            print(f"licences: {manifest}: {len(crates)} packages pass deny.toml")
        bad = bad or bool(broken)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [str(ROOT / "Cargo.toml")]))
