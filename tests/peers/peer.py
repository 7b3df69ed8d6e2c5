"""What producer and consumer share: starting Django, and telling the test which releases it talks to."""

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path


def start(url, prefix):
    """Starts Django with the real event bus, pointed at one Redis server, and loads all of its signals."""
    os.environ["EVENT_BUS_REDIS_CONNECTION_URL"] = url
    os.environ["EVENT_BUS_TOPIC_PREFIX"] = prefix
    os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
    sys.path.insert(0, str(Path(__file__).parent))

    import django

    django.setup()

    from openedx_events.tooling import load_all_signals

    load_all_signals()


def say(line):
    """Writes one JSON line to the test that started this process."""
    print(json.dumps(line), flush=True)


def say_ready():
    """The first line of every peer."""
    say(
        {
            "python": platform.python_version(),
            "edx-event-bus-redis": version("edx-event-bus-redis"),
            "openedx-events": version("openedx-events"),
        }
    )
