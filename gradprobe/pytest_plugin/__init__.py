"""The pytest plugin: its options, budgets, leaks, baselines and reports."""
