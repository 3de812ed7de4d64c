"""The place where code runs: frames, source sites, threads, tasks and module paths."""
