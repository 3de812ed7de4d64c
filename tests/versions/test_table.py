"""The table of versions says what was found, and what was found of the version that runs this is still so."""

from __future__ import annotations

import json
import platform
from typing import Any

import pytest
import torch

from gradprobe.capture.capabilities import list_capabilities
from tests.versions.__main__ import FOUND, PAGE
from tests.versions.table import CONSEQUENCES, OF_THE_MACHINE, table, written


def found() -> list[dict[str, Any]]:
    return json.loads(FOUND.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_the_page_has_the_table_of_what_was_found() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page, found()) == page


def test_what_was_found_of_this_version_is_still_so() -> None:
    here = torch.__version__.split("+")[0], platform.python_version_tuple()[:2]
    same = [one for one in found() if (one["torch"], tuple(one["python"].split(".")[:2])) == here]
    if not same:
        pytest.skip("this version was not measured")
    now = {name: there for name, there, _ in list_capabilities()}
    assert {name: there for name, there in same[0]["capabilities"].items() if name not in OF_THE_MACHINE} == {
        name: there for name, there in now.items() if name not in OF_THE_MACHINE
    }


def test_a_gap_is_told_with_its_reason_and_a_fault_with_its_error() -> None:
    one = {
        "torch": "2.4.1",
        "python": "3.10.13",
        "capabilities": {"torch.accelerator": False, "thread start": True, "level ops": False},
        "refusal": "it does not compile",
        "programs": {"device time": "no device", "`monitor`": "ValueError: wrong", "`inspect`": None, "operators": "x"},
        "needs": {"device time": "torch.accelerator", "operators": "level ops"},
    }
    text = table([one])
    rows = {cells[1].strip(): cells[2].strip() for line in text.splitlines() if len(cells := line.split("|")) == 4}
    assert rows["device time"] == rows["`torch.accelerator`"] == "no (1)"
    assert rows["`monitor`"] == "no (2)"
    assert rows["`inspect`"] == rows["thread start"] == "yes"
    assert rows["operators"] == "no (3)"
    assert f"1. `torch.accelerator` is missing: {CONSEQUENCES['torch.accelerator']}." in text
    assert "2. A fault: ValueError: wrong" in text
    assert "3. Level `ops` is refused: it does not compile." in text
