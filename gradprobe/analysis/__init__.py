"""What a recording shows: pure functions from its processes to numbers and sentences."""
