"""The script that draws charts is made by another process, or here where there is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from gradprobe.report import charts

pytestmark = pytest.mark.skipif(not charts.can_draw(), reason="needs Altair and vl-convert")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    charts.load_vega_script.cache_clear()
    yield
    charts.load_vega_script.cache_clear()


def test_another_process_makes_the_same_script(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = charts.load_vega_script()
    charts.load_vega_script.cache_clear()
    monkeypatch.setattr(sys, "executable", "/usr/sbin/server")
    assert charts.load_vega_script() == apart
    assert "vegaEmbed" in apart
    assert "</script" not in apart


def test_where_no_process_can_be_started_it_is_made_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert "vegaEmbed" in charts.load_vega_script()
