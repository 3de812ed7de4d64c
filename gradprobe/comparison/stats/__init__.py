"""Statistics of a comparison: intervals, costs of mechanisms, comparison with an earlier run."""
