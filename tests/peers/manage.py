"""The `manage.py` of a service with a receiver; what differs comes from the environment."""

import os
import sys

sys.path.insert(0, os.environ["PEERS"])
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"

from django.core.management import execute_from_command_line  # noqa: E402

execute_from_command_line(sys.argv)
