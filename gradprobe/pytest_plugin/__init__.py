"""What the pytest plugin is made of: its settings, budgets, leaks, baselines, and what it reports."""
