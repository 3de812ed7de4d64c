"""The gain of an exchange has an interval, and is not worth it where the interval has no gain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gradprobe.advice.gains import read_gains, site_label
from gradprobe.advice.manager_sites import SourceFile
from gradprobe.advice.run_request import TIMES_FILE


@pytest.mark.parametrize(("share", "verdict"), [(0.8, "faster"), (1.0, "not worth it"), (1.2, "slower")])
def test_a_block_that_ran_often_enough_has_an_interval(tmp_path: Path, share: float, verdict: str) -> None:
    (site,) = SourceFile("/program.py", "import torch\nwith torch.no_grad():\n    pass\n").sites
    rows = []
    for number in range(200):
        normal = 10_000 + 37 * number % 500
        rows.append([site_label(site), "no_grad", normal])
        rows.append([site_label(site), "inference_mode", round(share * normal)])
    (tmp_path / TIMES_FILE).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    gain = read_gains(tmp_path, [site])[site]
    assert (gain["verdict"], gain["blocks"]) == (verdict, 400)
    assert gain["ci_low"] <= share <= gain["ci_high"]
    assert f"({gain['ci_low']:.3f} to {gain['ci_high']:.3f}, 400 blocks)" in gain["text"]


def test_a_block_that_ran_seldom_has_none(tmp_path: Path) -> None:
    (site,) = SourceFile("/program.py", "import torch\nwith torch.no_grad():\n    pass\n").sites
    (tmp_path / TIMES_FILE).write_text(f"{json.dumps([site_label(site), 'no_grad', 5])}\n")
    assert read_gains(tmp_path, [site])[site]["text"] == "not measured: the block ran 1 time in the timed run"
