"""Counters for programs that run for ever: ``monitor()`` and its export to OpenTelemetry."""
