"""A program killed while it is recorded leaves a file that reads.

How much of the last second such a file misses depends on the load of the machine: ``make fidelity`` measures it.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.fidelity import killing

FOR_EVER_NS = 10**18


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments_a_program_leaves_a_file_that_reads(tmp_path: Path) -> None:
    seed = random.randrange(10**6)
    assert killing.trial(6, seed, tmp_path, longest_s=0.7, may_miss_ns=FOR_EVER_NS) == [], f"seed {seed}"
