"""Writes the id of every event handled to the file RECORD, one a line; at the event number HANG it never ends."""

import os
import time

from django.apps import AppConfig


class RecorderConfig(AppConfig):
    name = "recorder"

    def ready(self):
        from openedx_events.tooling import OpenEdxPublicSignal, load_all_signals

        load_all_signals()
        for signal in OpenEdxPublicSignal.all_events():
            signal.connect(self.receive, weak=False)

    def receive(self, metadata, **_kwargs):
        with open(os.environ["RECORD"], "a+", encoding="utf-8") as record:
            record.seek(0)
            if len(record.readlines()) + 1 == int(os.environ.get("HANG", "0")):
                time.sleep(600)
            record.write(f"{metadata.id}\n")
