"""``Comparison``: what users hold once modes were compared. Needs no torch."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.analysis.comparisons import Arm, Outcome, advice, explained_share, outcome
from gradprobe.comparison import later
from gradprobe.errors import GradprobeError

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = [
    "workload",
    "mode",
    "median_ns",
    "ratio",
    "ci_low",
    "ci_high",
    "verdict",
    "nodes",
    "counters_created",
    "version_bumps",
    "tracked_views",
    "saved_bytes",
    "instructions",
    "saved_tensors",
    "inference_tensors",
    "operators",
    "explained",
    "rounds",
    "difference",
    "error",
]


class Comparison:
    """Modes measured side by side. ``str()`` gives the terminal report.

    ``outcome`` holds the records that all of the rest is made from.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per workload and mode: median time of a call in nanoseconds, ratio to `no_grad` with its 95 per cent
        interval, verdict, and what one call makes PyTorch do. NaN where something was not measured."""
        import pandas as pd

        rows = [
            {"workload": compared.workload, "explained": explained_share(compared, arm), **_cells(arm)}
            for compared in self.outcome.workloads
            for arm in compared.arms
        ]
        table: pd.DataFrame = pd.DataFrame(rows, columns=COLUMNS)
        return table

    @property
    def verdicts(self) -> dict[str, dict[str, str]]:
        """By workload and mode: `faster`, `slower`, `equivalent`, `undecided`; `unusable` of a mode that fails there."""
        return {
            compared.workload: {arm.mode: arm.verdict for arm in compared.arms} for compared in self.outcome.workloads
        }

    @property
    def advice(self) -> dict[str, str]:
        """By workload, one sentence: whether to swap `no_grad` for `inference_mode`."""
        return {compared.workload: advice(compared) for compared in self.outcome.workloads}

    @property
    def environment(self) -> Mapping[str, Any]:
        """Where it was measured."""
        return self.outcome.environment

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was asked for, and how long it took."""
        return self.outcome.settings

    def against(self, earlier: Comparison, *, force: bool = False) -> pd.DataFrame:
        """What changed since an earlier comparison: a row per workload and mode that both have.

        ``change`` is the factor between the two ratios to `no_grad`, with an interval and a verdict; counts are beside each
        other. Raises ``GradprobeError`` where devices, thread counts or minor versions of torch differ, unless ``force``.
        """
        return later.against(self.outcome, earlier.outcome, force=force)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes the comparison as JSON. Raises ``GradprobeError`` if the file exists, unless ``force``."""
        from gradprobe.result import check_room, write_text

        check_room(Path(path), force=force)
        write_text(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """The comparison in a JSON file. Raises ``GradprobeError`` for a file that is none."""
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise GradprobeError(f"cannot read {path}: {error.strerror}; name a file that is there") from None
        except (ValueError, RecursionError) as error:
            raise GradprobeError(f"{path} is no JSON ({error}); name a file that gradprobe compare wrote") from None
        if not isinstance(plain, dict):
            raise GradprobeError(f"{path} is no comparison; name a JSON file that gradprobe compare -o wrote")
        return cls(outcome(plain, str(path)))

    def to_json(self) -> str:
        """Everything, as docs/compare.md describes it."""
        return json.dumps(self.outcome.plain(), indent=1, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """A report ready for a pull request."""
        from gradprobe.report import comparison, markdown

        return markdown.render(comparison.document(self.outcome))

    def __str__(self) -> str:
        from gradprobe.report import comparison, terminal

        return terminal.render(comparison.document(self.outcome)).rstrip("\n")

    def __repr__(self) -> str:
        return f"<gradprobe.Comparison: {len(self.outcome.workloads)} workloads, {', '.join(self.settings['modes'])}>"


def _cells(arm: Arm) -> dict[str, Any]:
    return {field.name: getattr(arm, field.name) for field in dataclasses.fields(arm)}
