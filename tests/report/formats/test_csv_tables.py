"""CSV of long tables is made a part at a time, and is the same as that of whole tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gradprobe.errors import GradprobeError
from gradprobe.report.formats import csv_tables
from gradprobe.report.formats.registry import find_format, save_report
from gradprobe.report.formats.rendered import RenderOptions, TextParts
from gradprobe.tables.recording_tables import RecordingTables
from tests.history.test_op_totals import make_contents
from tests.report import samples


def test_parts_of_a_table_are_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = RecordingTables([make_contents(1), make_contents(2)], include_torch=None)
    assert min(len(tables.transitions), len(tables.regions), len(tables.ops)) > 4
    whole = csv_tables.render_tables(tables)
    for rows in (1, 3):
        monkeypatch.setattr(csv_tables, "_PART_ROWS", rows)
        assert csv_tables.render_tables(tables) == whole
    for name in ("transitions", "regions", "ops"):
        all_rows = getattr(tables, name)
        for some in (slice(2), slice(1, 4), slice(len(all_rows) - 1, len(all_rows) + 5)):
            shown = tables.read_rows(name, some).reset_index(drop=True)
            assert shown.equals(all_rows.iloc[some].reset_index(drop=True)), (name, some)
            assert (shown.dtypes == all_rows.dtypes).all()


def test_a_file_whose_text_cannot_be_made_is_not_left_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Iterator[str]:
        yield "a,b\r\n"
        raise GradprobeError("no more")

    monkeypatch.setattr(csv_tables, "_write_table", fail)
    with pytest.raises(GradprobeError, match="no more"):
        save_report(samples.tables(), tmp_path / "a.csv", find_format("csv"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_the_text_of_parts_is_made_when_it_is_read() -> None:
    rendered = find_format("csv").render(samples.tables(), RenderOptions(stem="r"))
    parts = rendered.attachments["r.regions.csv"]
    assert isinstance(parts, TextParts)
    assert "".join(parts) == str(parts) == csv_tables.render_tables(samples.tables())["regions"]
