"""Integrations with other frameworks, each tried with the framework itself."""
