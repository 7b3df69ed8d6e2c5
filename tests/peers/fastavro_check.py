"""Random data, written by fastavro, with the JSON that Sandbar must make of it.

    fastavro_check.py SCHEMAS OUT SEED ROUNDS

Reads the .avsc files in SCHEMAS and writes a few more, with the types that those lack, to OUT. Prints one JSON object
a line: `kind`, `datum` (base64) and `json` (as text, so that no reader on the way rounds a number). Maps are written
with their keys sorted, so there is one way to write each value, and encoding `json` must give `datum` again.
"""

import base64
import io
import json
import math
import random
import signal
import struct
import sys
from pathlib import Path

import fastavro

# This process ends by itself whatever happens to the one that started it.
signal.alarm(300)

PIECES = ["", "course-v1:edX+DemoX", '"\\\n', "é", "\U0001f600", "\0\x1f\x7f", "a" * 70, "\u2028"]

MORE = [
    {
        "type": "record",
        "name": "Everything",
        "namespace": "test.peer",
        "fields": [
            {"name": "a", "type": ["null", "int", "string", {"type": "array", "items": "long"}]},
            {"name": "b", "type": "bytes"},
            {"name": "c", "type": {"type": "fixed", "name": "Fixed", "size": 5}},
            {"name": "d", "type": {"type": "enum", "name": "Enum", "symbols": ["A", "B", "C"]}},
            {"name": "e", "type": "float"},
            {"name": "f", "type": "double"},
            {"name": "g", "type": ["Fixed", "Enum"]},
            {"name": "h", "type": {"type": "map", "values": {"type": "map", "values": ["double", "null"]}}},
            {"name": "i", "type": ["null", "Everything"]},
            {"name": "j", "type": {"type": "array", "items": "null"}},
            {"name": "k", "type": ["boolean", "float"]},
        ],
    },
    {
        "type": "record",
        "name": "CloudEvent",
        "namespace": "test.odd-name.v1",
        "fields": [
            {"name": "x", "type": {"type": "record", "name": "X", "fields": []}},
            {"name": "y", "type": ["null", "X"]},
            {"name": "z", "type": {"type": "array", "items": {"type": "map", "values": "X"}}},
        ],
    },
]


def text(rng):
    return "".join(rng.choice(PIECES) for _ in range(rng.randrange(5)))


def number(value):
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def shortest(value):
    """The number with the fewest digits that is this float: not the one that Python prints, which is a double."""
    if not math.isfinite(value):
        return number(value)
    same = struct.pack("<f", value)
    candidates = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next(number for number in candidates if packs_to(number, same))


def packs_to(number, same):
    try:
        return struct.pack("<f", number) == same
    except OverflowError:
        return False


class Maker:
    """Makes a value for fastavro and the JSON for it."""

    def __init__(self, rng):
        self.rng = rng
        self.named = {}

    def full_name(self, schema, namespace):
        name = schema["name"]
        if "." in name:
            return name
        namespace = schema.get("namespace", namespace)
        return f"{namespace}.{name}" if namespace else name

    def make(self, schema, namespace=None, depth=0):
        rng = self.rng
        if isinstance(schema, list):
            return self.union(schema, namespace, depth)
        kind = schema["type"] if isinstance(schema, dict) else schema
        count = rng.randrange(4) if depth < 8 else 0
        match kind:
            case "null":
                return None, None
            case "boolean":
                value = rng.random() < 0.5
                return value, value
            case "int":
                value = rng.choice([0, -1, 2**31 - 1, -(2**31), rng.randrange(-(2**31), 2**31)])
                return value, value
            case "long":
                value = rng.choice([0, -1, 2**63 - 1, -(2**63), 2**53 + 1, rng.randrange(-(2**63), 2**63)])
                return value, value
            case "float":
                value = struct.unpack("<f", rng.randbytes(4))[0]
                return value, shortest(value)
            case "double":
                value = struct.unpack("<d", rng.randbytes(8))[0]
                return value, number(value)
            case "string":
                value = text(rng)
                return value, value
            case "bytes":
                value = rng.randbytes(rng.randrange(9))
                return value, base64.b64encode(value).decode()
            case "fixed":
                self.named[self.full_name(schema, namespace)] = schema
                value = rng.randbytes(schema["size"])
                return value, base64.b64encode(value).decode()
            case "enum":
                self.named[self.full_name(schema, namespace)] = schema
                value = rng.choice(schema["symbols"])
                return value, value
            case "array":
                items = [self.make(schema["items"], namespace, depth + 1) for _ in range(count)]
                return [value for value, _ in items], [as_json for _, as_json in items]
            case "map":
                keys = sorted({text(rng) for _ in range(count)})
                items = {key: self.make(schema["values"], namespace, depth + 1) for key in keys}
                return {k: v for k, (v, _) in items.items()}, {k: j for k, (_, j) in items.items()}
            case "record":
                name = self.full_name(schema, namespace)
                self.named[name] = schema
                inner = name.rpartition(".")[0]
                items = {f["name"]: self.make(f["type"], inner, depth + 1) for f in schema["fields"]}
                return {k: v for k, (v, _) in items.items()}, {k: j for k, (_, j) in items.items()}
            case dict() | list():
                return self.make(kind, namespace, depth)
            case name:
                full = name if "." in name else f"{namespace}.{name}"
                return self.make(self.named[full], full.rpartition(".")[0], depth)

    def union(self, branches, namespace, depth):
        branch = "null" if depth >= 8 and "null" in branches else self.rng.choice(branches)
        value, as_json = self.make(branch, namespace, depth + 1)
        if branch == "null":
            return None, None
        if isinstance(branch, dict):
            named = branch["type"] in ("record", "enum", "fixed")
            tag = self.full_name(branch, namespace) if named else branch["type"]
        elif branch in ("boolean", "int", "long", "float", "double", "string", "bytes"):
            tag = branch
        else:
            tag = branch if "." in branch else f"{namespace}.{branch}"
        if len(branches) == 2 and "null" in branches:
            return (tag, value), as_json
        return (tag, value), {tag: as_json}


def main():
    schemas, out, seed, rounds = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    rng = random.Random(seed)
    files = sorted(schemas.glob("*.avsc"))
    for schema in MORE:
        kind = schema["namespace"] if schema["name"] == "CloudEvent" else f"{schema['namespace']}.{schema['name']}"
        path = out / f"{kind}.avsc"
        path.write_text(json.dumps(schema))
        files.append(path)
    for path in files:
        schema = json.loads(path.read_text())
        kind = path.stem.removesuffix("_schema").replace("+", ".")
        parsed = fastavro.parse_schema(schema)
        for _ in range(rounds):
            value, as_json = Maker(rng).make(schema)
            datum = io.BytesIO()
            fastavro.schemaless_writer(datum, parsed, value, strict=True)
            document = json.dumps(as_json, allow_nan=False)
            print(json.dumps({"kind": kind, "datum": base64.b64encode(datum.getvalue()).decode(), "json": document}))


main()
