"""Format of recordings: events, the rows and records that they become, and the SQLite file."""
