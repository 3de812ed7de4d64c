"""Runs that do not end bound the whole command, and the sites that they leave open are named with the reason."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from gradprobe.advice import time_limits
from gradprobe.advice.examination import Examination, examine
from gradprobe.advice.program_runs import ProgramRunner
from gradprobe.advice.time_limits import TimeLimits

pytestmark = pytest.mark.usefixtures("one_process")


def run(text: str, folder: Path, timeout_s: float) -> Examination:
    script = folder / "program.py"
    script.write_text(text)
    return examine([script], [], None, timeout_s=timeout_s, is_timed=False)


def test_runs_without_an_end_may_take_the_timeout_in_all() -> None:
    limits = TimeLimits(300)
    assert limits.next_s == 300
    limits.expect(4)
    assert limits.next_s == 100
    said = [limits.add_late() for _ in range(2)]
    assert said[0] == "did not end within 100 s"
    assert not limits.are_spent
    limits.add_late()
    assert limits.are_spent


def test_a_program_that_does_not_end_runs_once(tmp_path: Path) -> None:
    text = "import time, torch\nwith torch.no_grad():\n    torch.ones(1)\nwith torch.no_grad():\n    time.sleep(600)\n"
    found = run(text, tmp_path, 3)
    assert [(each.verdict, each.reason) for each in found.certificates] == [("unproven", "timeout")] * 2
    assert found.certificates[0].message == "The program as it is did not end within 3 s."
    assert found.remarks[0] == "The program ran 1 time."
    assert "raise --timeout" in found.remarks[1]


WAITS = """\
import time, torch
with torch.no_grad():
    x = torch.ones(1)
while x.is_inference():
    time.sleep(0.1)
with torch.no_grad():
    print(torch.ones(1).sum())
"""


def test_an_exchange_that_never_ends_is_waited_for_no_longer_than_the_program_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time_limits, "_MARGIN_S", 1.0)
    found = run(WAITS, tmp_path, 10_000)
    assert [(each.site.line, each.verdict, each.reason) for each in found.certificates] == [
        (2, "unproven", "timeout"),
        (6, "swap", "none"),
    ]
    assert found.certificates[0].message.startswith("The run with the swap did not end within")


def test_no_run_is_started_once_the_time_is_spent(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("print(1)\n")
    with ProgramRunner([str(script)], is_script=True, own=[], timeout_s=5) as runner:
        runner.limits.add_late()
        outcome = runner.run()
        assert runner.runs == 0
    assert outcome.is_late
    assert "was not started" in outcome.lateness


@pytest.mark.skipif(sys.platform == "win32", reason="there are no process groups")
def test_processes_of_a_run_end_with_it(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    (tmp_path / "child.py").write_text(
        "import pathlib, time\nfor i in range(10_000):\n"
        f"    pathlib.Path({str(alive)!r}).write_text(str(i))\n    time.sleep(0.05)\n"
    )
    script = tmp_path / "program.py"
    script.write_text("import subprocess, sys\nsubprocess.run([sys.executable, '-I', 'child.py'], cwd=sys.argv[1])\n")
    with ProgramRunner([str(script), str(tmp_path)], is_script=True, own=[], timeout_s=3) as runner:
        assert runner.run().is_late

    assert alive.exists()
    time.sleep(0.3)
    before = alive.read_text()
    time.sleep(0.5)
    assert alive.read_text() == before
