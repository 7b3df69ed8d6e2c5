"""What the image must do: run as its user, check a configuration, serve an event, say that it is well, and stop when told."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GUESTS = Path(os.environ.get("SANDBAR_GUESTS", ROOT / "target/guests/out"))

# Seconds: for a command, and for the event to be handled on a slow machine.
ORDINARY, PATIENCE = 120, 180

# The schemas are those of the image: without its own, the host would not notice that they are missing.
CONFIG = """
[bus]
url = "sqlite:/data/events.db"
[schemas]
dirs = ["schemas/openedx"]
builtin = false
[[handler]]
name = "hello"
module = "handlers/hello.wasm"
topics = ["course-enrollment"]
start = "beginning"
"""


class Wrong(Exception):
    """The image does not do what it must."""


class Image:
    """The last stage, as a container would run it."""

    def __init__(self, stage, root):
        self.stage, self.root = stage, root

    def start(self, arguments, **options):
        command = [*self.stage.entrypoint, *arguments] if options.pop("entrypoint", True) else arguments
        environment = self.stage.environment | options.pop("environment", {})
        return self.root.start(command, self.stage.directory, environment, self.stage.user, **options)

    def ask(self, *arguments, seconds=ORDINARY, **options):
        """Runs a command to its end; its exit code and what it printed."""
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        process = self.start(list(arguments), **streams, **options)
        try:
            said, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Wrong(f"{' '.join(arguments)} took longer than {seconds} s") from None
        return process.returncode, said

    def must(self, *arguments, **options):
        code, said = self.ask(*arguments, **options)
        if code != 0:
            raise Wrong(f"{' '.join(arguments)} ended with {code}:\n{said}")
        return said


def serve(stage, root, scratch, say):
    """All of it, in the root of the last stage."""
    image = Image(stage, root)
    config = stage.environment["SANDBAR_CONFIG"]
    (scratch / "sandbar.toml").write_text(CONFIG)
    events = (ROOT / "example-handlers/demo/events.jsonl").read_text().splitlines()
    event = next(line for line in events if json.loads(line)["topic"] == "course-enrollment")
    (scratch / "event.json").write_text(event)
    root.bind(scratch / "sandbar.toml", config)
    root.bind(GUESTS, os.path.join(os.path.dirname(config), "handlers"))
    for volume in stage.volumes:
        if not root.inner(volume).is_dir():
            raise Wrong(f"the volume {volume} does not exist, so that it would belong to root")

    version = image.must("--version").strip()
    image.must("check")
    with (scratch / "event.json").open() as file:
        image.must("publish", stdin=file)
    say(f"{version} runs as user {stage.user}, check and publish are content")

    log = scratch / "run.log"
    with log.open("wb") as file:
        host = image.start(stage.command, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_for(image, host)
        healthy(image)
        host.send_signal(getattr(signal, stage.stop_signal))
        code = host.wait(ORDINARY)
    except (Wrong, subprocess.TimeoutExpired) as error:
        raise Wrong(f"{error}\n{log.read_text(errors='replace')}") from None
    said = log.read_text(errors="replace")
    if code != 0 or "hello, org.openedx." not in said:
        raise Wrong(f"after {stage.stop_signal} it ended with {code}, and had said:\n{said}")
    say(f"the event was handled, the host was well, {stage.stop_signal} ended it with 0")


def wait_for(image, host):
    """Until the event is acknowledged, and no later than that is possible."""
    deadline = time.monotonic() + PATIENCE
    while True:
        [row] = json.loads(image.must("status", "--json", environment={"SANDBAR_LOG": "off"}))["handlers"]
        counts = [row[name] for name in ("lag", "pending", "retrying", "dead_letters")]
        if row["exists"] and counts == [0, 0, 0, 0]:
            return
        if host.poll() is not None:
            raise Wrong(f"the host ended with {host.returncode}")
        if row["dead_letters"] or time.monotonic() > deadline:
            raise Wrong(f"the event is not acknowledged: {row}")
        time.sleep(0.2)


def healthy(image):
    """The health check says yes, and would say no."""
    seconds = float(image.stage.health_options.get("timeout", "30s").removesuffix("s"))
    if not image.stage.health:
        raise Wrong("there is no HEALTHCHECK")
    code, said = image.ask(*image.stage.health, seconds=seconds, entrypoint=False)
    if code != 0:
        raise Wrong(f"the health check ended with {code}:\n{said}")
    nowhere = {"SANDBAR_BUS__URL": "sqlite:/nowhere/events.db"}
    if image.ask(*image.stage.health, seconds=seconds, entrypoint=False, environment=nowhere)[0] == 0:
        raise Wrong("the health check is content without a bus")
