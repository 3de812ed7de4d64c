"""The parts of a report's document, built from tables and outcomes."""
