"""From a recording to something to read: one neutral document, and a file per format."""
