"""Recording the processes that a recorded program starts: workers of data loaders, of pools, and Python subprocesses."""
