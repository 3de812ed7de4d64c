"""Workloads that come with gradprobe, written with torch alone."""
