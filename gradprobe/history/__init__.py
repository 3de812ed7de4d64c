"""The meaning of a recording: transitions, regions, calls and sums, rebuilt from stored rows."""
