"""The way of events from tuples in a queue to columns of numbers."""
