"""Runs the real Python consumer with a Django receiver on every signal.

    consume.py --url redis://127.0.0.1:6379/0 --prefix dev --topic course-enrollment --group reports --count 3

First a line with the versions, when the group exists; then one line for each event that reached the receiver: its
metadata, and its data as the library itself writes it. Ends with 0 once `--count` events were received and
acknowledged, with 1 if `--seconds` run out before. With `--quiet` the receiver does nothing, which is what the
benchmark measures.
"""

import argparse
import sys
import threading

import peer


class Receiver:
    """The Django receiver: writes what it gets and stops the consumer after the last event expected."""

    def __init__(self, count):
        self.left = count
        self.consumer = None

    def __call__(self, signal, metadata, **kwargs):
        from openedx_events.event_bus.avro.serializer import AvroSignalSerializer

        data = {name: kwargs[name] for name in signal.init_data}
        peer.say(
            {
                "type": metadata.event_type,
                "id": str(metadata.id),
                "minorversion": metadata.minorversion,
                "source": metadata.source,
                "sourcehost": metadata.sourcehost,
                "time": metadata.time.isoformat(),
                "sourcelib": list(metadata.sourcelib),
                "data": AvroSignalSerializer(signal).to_dict(data),
            }
        )
        self.left -= 1
        if self.left <= 0:
            # Looked at before the next read, that is after this event was acknowledged.
            self.consumer._shut_down()


def ignore(**_kwargs):
    """The receiver of the benchmark."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="of the Redis server")
    parser.add_argument("--prefix", default="", help="put before the topic, with a dash")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--count", type=int, default=1, help="stop after this many events")
    parser.add_argument("--seconds", type=float, default=60.0, help="stop after this time in any case")
    parser.add_argument("--new", action="store_true", help="skip what is in the stream already")
    parser.add_argument("--quiet", action="store_true", help="receive and do nothing, until the time is over")
    options = parser.parse_args()

    peer.start(options.url, options.prefix)
    from openedx_events.event_bus import make_single_consumer
    from openedx_events.tooling import OpenEdxPublicSignal

    receiver = Receiver(options.count)
    for signal in OpenEdxPublicSignal.all_events():
        signal.connect(ignore if options.quiet else receiver, weak=False)

    consumer = make_single_consumer(
        topic=options.topic, group_id=options.group, consumer_name="python-peer", check_backlog=not options.new
    )
    receiver.consumer = consumer
    timer = threading.Timer(options.seconds, consumer._shut_down)
    timer.daemon = True
    timer.start()

    peer.say_ready()
    consumer.consume_indefinitely()
    if receiver.left > 0:
        sys.exit(1)


if __name__ == "__main__":
    main()
