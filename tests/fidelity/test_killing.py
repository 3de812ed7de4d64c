"""A program killed while it is recorded leaves a file that reads, with all but its last second."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_program_loses_a_second():
    """A program killed at random moments leaves a readable file that misses at most a second."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.fidelity.killing", "24"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 programs killed" in done.stdout
