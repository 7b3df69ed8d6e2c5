"""Publishes events through the real Python producer.

    produce.py --url redis://127.0.0.1:6379/0 --prefix dev < events.jsonl

Each line is {"event_type", "topic", "key_field", "data", "metadata"}: `data` is the datum as it should lie on the wire,
in JSON, `metadata` has id, source, sourcehost, time and sourcelib. After a line with the versions there is one answer
per line: {"event_type", "sent": true}, or {"event_type", "unsupported": why} when the installed release of
openedx-events cannot express the event. Anything else that goes wrong ends the process with an error.
"""

import argparse
import json
import logging
import signal
import sys
import typing
from datetime import datetime
from uuid import UUID

import peer


class Unsupported(Exception):
    """This release has no way to say it."""


class Refusals(logging.Handler):
    """The producer logs its failures and carries on; here a failure has to be seen."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.seen = []

    def emit(self, record):
        self.seen.append(record.getMessage())


def build(value, kind):
    """The Python object of type `kind` that the producer would write as `value`.

    The library's own deserializer is not used: it replaces falsy values by the attribute's default, so what it makes
    of some data is written differently again.
    """
    from openedx_events.event_bus.avro.deserializer import DEFAULT_DESERIALIZERS

    if value is None:
        return None
    if kind in DEFAULT_DESERIALIZERS:
        return DEFAULT_DESERIALIZERS[kind](value)
    if hasattr(kind, "__attrs_attrs__"):
        attributes = {attribute.name: attribute.type for attribute in kind.__attrs_attrs__}
        if missing := value.keys() - attributes.keys():
            raise Unsupported(f"{kind.__name__} has no {', '.join(sorted(missing))}")
        return kind(**{name: build(item, attributes[name]) for name, item in value.items()})
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is list and arguments:
        return [build(item, arguments[0]) for item in value]
    if typing.get_origin(kind) is dict and arguments:
        return {key: build(item, arguments[1]) for key, item in value.items()}
    return value


def send(event, repeat=1):
    from openedx_events.data import EventsMetadata
    from openedx_events.event_bus import get_producer
    from openedx_events.event_bus.avro.serializer import AvroSignalSerializer
    from openedx_events.tooling import OpenEdxPublicSignal

    event_type, metadata = event["event_type"], event["metadata"]
    try:
        event_signal = OpenEdxPublicSignal.get_signal_by_type(event_type)
    except KeyError as error:
        raise Unsupported("no such event type") from error
    try:
        AvroSignalSerializer(event_signal)
    except Exception as error:  # the library raises no narrower type
        raise Unsupported(str(error)) from error

    producer = get_producer()
    arguments = {
        "signal": event_signal,
        "topic": event["topic"],
        "event_key_field": event["key_field"],
        "event_data": {name: build(event["data"][name], kind) for name, kind in event_signal.init_data.items()},
        "event_metadata": EventsMetadata(
            event_type=event_type,
            id=UUID(metadata["id"]),
            minorversion=metadata.get("minorversion", 0),
            source=metadata["source"],
            sourcehost=metadata["sourcehost"],
            time=datetime.fromisoformat(metadata["time"]),
            sourcelib=tuple(metadata["sourcelib"]),
        ),
    }
    for _ in range(repeat):
        producer.send(**arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="of the Redis server")
    parser.add_argument("--prefix", default="", help="put before every topic, with a dash")
    parser.add_argument("--repeat", type=int, default=1, help="send each event so many times; for measuring")
    parser.add_argument("--seconds", type=int, default=60, help="end after this time in any case")
    options = parser.parse_args()

    signal.alarm(options.seconds)
    peer.start(options.url, options.prefix)
    refusals = Refusals()
    logging.getLogger().addHandler(refusals)
    peer.say_ready()

    for line in sys.stdin:
        event = json.loads(line)
        try:
            send(event, options.repeat)
        except Unsupported as error:
            peer.say({"event_type": event["event_type"], "unsupported": str(error)})
            continue
        if refusals.seen:
            sys.exit(f"the producer refused {event['event_type']}: {refusals.seen[0]}")
        peer.say({"event_type": event["event_type"], "sent": True})


if __name__ == "__main__":
    main()
