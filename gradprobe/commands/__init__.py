"""Command line: a module per verb, with its arguments and its execution."""
