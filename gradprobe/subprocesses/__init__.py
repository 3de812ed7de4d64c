"""Recording of child processes: data loader workers, pool workers and Python subprocesses."""
