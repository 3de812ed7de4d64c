"""Reports: one neutral document built from tables and outcomes, and a renderer per format."""
