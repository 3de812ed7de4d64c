"""What can be told of modes from the source alone, without running it."""
