"""Comparison of modes: a workload is timed under each, its operations are counted, and differences are explained."""
