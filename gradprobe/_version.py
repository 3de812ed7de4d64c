"""Version of gradprobe: the build reads it here, and every recording stores it."""

__version__ = "0.1.0"
