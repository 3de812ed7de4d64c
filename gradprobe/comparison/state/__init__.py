"""The state that a measured call may modify, and how it is restored between calls."""
