"""What the hooks cost in machine instructions stays within its budgets, whatever else the machine does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gradprobe.comparison.workers import instruction_counts

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "instructions.py"


@pytest.mark.skipif(
    instruction_counts.explain_unavailable() is not None,
    reason=f"instructions cannot be counted: {instruction_counts.explain_unavailable()}",
)
@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or not torch.__version__.startswith("2.13."),
    reason="the budgets are those of Python 3.11 and torch 2.13",
)
def test_blocks_and_operators_take_no_more_instructions_than_budgeted():
    done = subprocess.run([sys.executable, BENCHMARK, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "with inference_mode()" in done.stdout
