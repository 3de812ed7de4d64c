"""One detector per kind of problem that only the running program shows."""
