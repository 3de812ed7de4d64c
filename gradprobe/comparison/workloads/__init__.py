"""The functions to measure, and how a worker process opens them."""
