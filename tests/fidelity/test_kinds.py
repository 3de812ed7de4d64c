"""Programs of kinds that a dispatch mode would crash or change run the same unwatched and at every level.

They run in a process of their own, whose end shows a crash; the last line that it printed names the program before.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests import warm_python
from tests.fidelity.kinds import KINDS, LEVELS

ROOT = Path(__file__).parents[2]


def test_the_same_at_every_level_and_no_fault() -> None:
    ended = warm_python.run("-m", "tests.fidelity.kinds", cwd=ROOT)

    lines = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith(b"[")]
    assert ended.returncode == 0, (lines[-1:], ended.stderr[-2000:])
    found = {(name, level): (result, faults) for name, level, result, faults in lines}
    expected = {(program.__name__, level): found[program.__name__, None] for program in KINDS for level in LEVELS}
    assert {key: value for key, value in found.items() if key[1] is not None} == expected
