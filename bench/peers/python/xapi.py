"""The real Python consumer with a receiver that does what the example handler xapi does.

    xapi.py --url redis://127.0.0.1:6379/0 --prefix bench --topic events --group reports --into statements

Makes an xAPI statement of each change of an enrollment and publishes it through the real producer, until it is ended.
The producer can only send types that Open edX knows, so the statement travels as the data of a tracking event.
"""

import argparse
import json
import logging
import sys
from datetime import datetime, timezone
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tests" / "peers"))

import peer  # noqa: E402

BASE = "https://lms.example.org"
VERBS = {
    True: ("http://adlnet.gov/expapi/verbs/registered", "registered"),
    False: ("http://id.tincanapi.com/verb/unregistered", "unregistered"),
}


class Refusals(logging.Handler):
    """The library logs its failures and carries on; here one ends the process."""

    def emit(self, record):
        sys.stderr.write(self.format(record) + "\n")
        sys.stderr.flush()
        # Not sys.exit: the library catches what a receiver raises.
        import os

        os._exit(1)


def statement(enrollment, metadata):
    verb, english = VERBS[enrollment.is_active]
    return {
        "id": str(metadata.id),
        "actor": {"objectType": "Agent", "account": {"homePage": BASE, "name": str(enrollment.user.id)}},
        "object": {
            "objectType": "Activity",
            "id": f"{BASE}/courses/{enrollment.course.course_key}",
            "definition": {
                "type": "http://adlnet.gov/expapi/activities/course",
                "name": {"und": enrollment.course.display_name},
                "extensions": {"https://w3id.org/xapi/acrossx/extensions/type": enrollment.mode},
            },
        },
        "context": {"platform": metadata.source},
        "timestamp": metadata.time.isoformat(),
        "verb": {"id": verb, "display": {"en": english}},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("url", "prefix", "topic", "group", "into"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()

    peer.start(options.url, options.prefix)
    logging.getLogger().addHandler(Refusals(logging.ERROR))

    from openedx_events.analytics.data import TrackingLogData
    from openedx_events.analytics.signals import TRACKING_EVENT_EMITTED
    from openedx_events.event_bus import get_producer, make_single_consumer
    from openedx_events.learning.signals import COURSE_ENROLLMENT_CHANGED

    producer = get_producer()

    def receive(metadata, enrollment, **_kwargs):
        said = statement(enrollment, metadata)
        log = TrackingLogData(
            name="xapi.statement.v1",
            timestamp=datetime.now(timezone.utc),
            data=json.dumps(said),
            context="{}",
        )
        producer.send(
            signal=TRACKING_EVENT_EMITTED,
            topic=options.into,
            event_key_field="tracking_log.name",
            event_data={"tracking_log": log},
            event_metadata=TRACKING_EVENT_EMITTED.generate_signal_metadata(),
        )

    COURSE_ENROLLMENT_CHANGED.connect(receive, weak=False)
    consumer = make_single_consumer(
        topic=options.topic, group_id=options.group, consumer_name="python-peer", check_backlog=True
    )
    consumer.consume_indefinitely()


if __name__ == "__main__":
    main()
