"""Reads a Dockerfile and a .dockerignore, as far as ours go: what is not known is refused by name."""

import json
import os
import re
import shlex
from dataclasses import dataclass, field


class Unsupported(Exception):
    """Something that is not known here: teach it, or do without it."""


@dataclass
class Step:
    """RUN or COPY, with what holds when it is reached."""

    word: str
    # The shell's text of a RUN; sources and destination of a COPY.
    what: str | list[str]
    # The stage that a COPY copies from; none for the context.
    source: str | None
    directory: str
    environment: dict[str, str]
    user: str


@dataclass
class Stage:
    """From one FROM to the next."""

    image: str
    name: str
    steps: list[Step] = field(default_factory=list)
    directory: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0"
    volumes: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    health_options: dict[str, str] = field(default_factory=dict)
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    stop_signal: str = "SIGTERM"


def instructions(text):
    """Pairs of instruction and arguments. A comment may stand between the lines of one instruction."""
    gathered = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            continue
        gathered += line
        if gathered.endswith("\\"):
            gathered = gathered[:-1]
        elif gathered.strip():
            word, _, rest = gathered.strip().partition(" ")
            yield word.upper(), rest.strip()
            gathered = ""
    if gathered.strip():
        raise Unsupported(f"the file ends within an instruction: {gathered}")


def flags(rest):
    """The options at the front, and what follows them."""
    found = {}
    while match := re.match(r"--([a-z-]+)=(\S+)\s+", rest):
        found[match[1]] = match[2]
        rest = rest[match.end() :]
    if rest.startswith("--"):
        raise Unsupported(f"option {rest.split()[0]}")
    return found, rest


def listed(word, rest):
    """The form with brackets, which takes no shell."""
    try:
        parts = json.loads(rest)
    except ValueError:
        parts = None
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise Unsupported(f"{word} {rest}: write it as a list")
    return parts


def stages(text):
    """All stages, the image's own last."""
    found = []
    for word, rest in instructions(text):
        options, rest = flags(rest) if word in ("FROM", "COPY", "RUN", "HEALTHCHECK", "ADD") else ({}, rest)
        if word == "FROM":
            parts = rest.split()
            if options or len(parts) not in (1, 3) or (len(parts) == 3 and parts[1].upper() != "AS"):
                raise Unsupported(f"FROM {rest}")
            found.append(Stage(parts[0], parts[2] if len(parts) == 3 else str(len(found))))
            continue
        if not found:
            raise Unsupported(f"{word} before FROM")
        read(found[-1], word, options, rest, [stage.name for stage in found[:-1]])
    if not found:
        raise Unsupported("there is no FROM")
    return found


def read(stage, word, options, rest, before):
    """One instruction of a stage."""
    allowed = {"COPY": {"from"}, "HEALTHCHECK": {"interval", "timeout", "start-period", "retries"}}
    if unknown := set(options) - allowed.get(word, set()):
        raise Unsupported(f"{word} --{unknown.pop()}")
    if "$" in rest and word not in ("RUN", "CMD", "ENTRYPOINT", "HEALTHCHECK"):
        raise Unsupported(f"{word} {rest}: variables")

    def step(what, source=None):
        here = (stage.directory, dict(stage.environment), stage.user)
        stage.steps.append(Step(word, what, source, *here))

    match word:
        case "RUN" if not rest.startswith(("[", "<<")):
            step(rest)
        case "COPY" if len(rest.split()) > 1 and not rest.startswith(("[", "<<")):
            source = options.get("from")
            if source is not None and source not in before:
                raise Unsupported(f"COPY --from={source}: no stage before has that name")
            step(rest.split(), source)
        case "WORKDIR":
            stage.directory = os.path.join(stage.directory, rest)
        case "ENV":
            for pair in shlex.split(rest):
                name, equals, value = pair.partition("=")
                if not equals:
                    raise Unsupported(f"ENV {rest}: write NAME=value")
                stage.environment[name] = value
        case "USER" if rest.isdigit():
            stage.user = rest
        case "VOLUME" if rest.startswith("/"):
            stage.volumes += rest.split()
        case "STOPSIGNAL":
            stage.stop_signal = rest
        case "HEALTHCHECK" if rest.startswith("CMD "):
            stage.health, stage.health_options = listed("HEALTHCHECK CMD", rest[4:].strip()), options
        case "ENTRYPOINT":
            stage.entrypoint = listed(word, rest)
        case "CMD":
            stage.command = listed(word, rest)
        case _:
            raise Unsupported(f"{word} {rest}")


class Ignore:
    """A .dockerignore: the last line that matches a path, or a folder around it, decides."""

    def __init__(self, text):
        lines = [line.strip() for line in text.splitlines()]
        self.rules = []
        self.exceptions = []
        for line in lines:
            if not line or line.startswith("#"):
                continue
            rule = line.removeprefix("!").strip("/")
            if line.startswith("!"):
                self.exceptions.append(rule)
            self.rules.append((not line.startswith("!"), re.compile(expression(rule))))

    def ignored(self, path):
        result = False
        for ignored, pattern in self.rules:
            if pattern.fullmatch(path):
                result = ignored
        return result

    def open(self, path):
        """Whether to look into a folder: one that is ignored may hold an exception."""
        return not self.ignored(path) or any(rule.startswith(f"{path}/") for rule in self.exceptions)

    def context(self, root):
        """What is sent: paths below `root`, folders before what is in them."""

        def below(folder):
            for entry in sorted(os.scandir(os.path.join(root, folder)), key=lambda entry: entry.name):
                path = os.path.join(folder, entry.name)
                if not self.ignored(path):
                    yield path
                if entry.is_dir(follow_symlinks=False) and self.open(path):
                    yield from below(path)

        return below("")


def expression(rule):
    """A pattern of .dockerignore, and all that lies below, as a regular expression."""
    out = ""
    for part in re.findall(r"\*\*/?|\*|\?|\[|\\|[^*?\[\\]+", rule):
        if part in ("[", "\\"):
            raise Unsupported(f"{part} in .dockerignore: {rule}")
        out += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part)
    return f"{out}(?:/.*)?"
