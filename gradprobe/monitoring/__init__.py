"""Counters for long-running programs: ``monitor()`` and its export to OpenTelemetry."""
