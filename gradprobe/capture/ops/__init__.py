"""Level ``ops``: observation of one operator at a time."""
