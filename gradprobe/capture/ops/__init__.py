"""Level ``ops``: observation of one operator at a time, by a library in C++."""
