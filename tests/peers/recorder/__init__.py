"""A Django application with a receiver on every signal, for tests that run the management command itself."""
