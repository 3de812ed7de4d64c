"""The command line: a file per verb, each with what it takes and what it does."""
