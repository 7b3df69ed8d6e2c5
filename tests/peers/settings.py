"""The least Django that the Python event bus runs on. What differs between runs comes from the environment."""

import os

SECRET_KEY = "only for tests"
USE_TZ = True
INSTALLED_APPS = ["openedx_events", "edx_event_bus_redis"]
if os.environ.get("RECORD"):
    INSTALLED_APPS.append("recorder.apps.RecorderConfig")
# The consumer checks its database connection before each event: one that is always there.
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}

EVENT_BUS_PRODUCER = "edx_event_bus_redis.create_producer"
EVENT_BUS_CONSUMER = "edx_event_bus_redis.RedisEventConsumer"
EVENT_BUS_REDIS_CONNECTION_URL = os.environ["EVENT_BUS_REDIS_CONNECTION_URL"]
EVENT_BUS_TOPIC_PREFIX = os.environ.get("EVENT_BUS_TOPIC_PREFIX", "")

# Seconds. Also bounds how long the consumer takes to notice that it should stop; must be below the client library's
# own socket timeout, which is 5.
EVENT_BUS_REDIS_CONSUMER_POLL_TIMEOUT = 1
EVENT_BUS_REDIS_CONSUMER_POLL_FAILURE_SLEEP = 0.1
EVENT_BUS_REDIS_AUDIT_LOGGING_ENABLED = False

# No monitoring service: the default looks for one and complains.
OPENEDX_TELEMETRY = []

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
