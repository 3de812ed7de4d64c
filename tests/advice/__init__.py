"""Tests of gradprobe.advice."""
