"""Costs of the hooks in machine instructions, which do not depend on the load of the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradprobe.comparison.workers import instruction_counts
from tests.thoroughness import thorough

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "instructions.py"


@thorough
@pytest.mark.skipif(
    instruction_counts.explain_unavailable() is not None,
    reason=f"instructions cannot be counted: {instruction_counts.explain_unavailable()}",
)
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or not torch.__version__.startswith("2.13."),
    reason="the budgets are those of Python 3.11 and torch 2.13",
)
def test_instruction_budgets():
    """Blocks and operators take no more instructions than their budgets allow."""
    done = subprocess.run([sys.executable, BENCHMARK, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with inference_mode()" in done.stdout
