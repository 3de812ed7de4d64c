"""``Comparison``: what users hold once modes were compared. Needs no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.analysis.comparison_outcome import ComparisonOutcome, parse_outcome, write_advice
from gradprobe.comparison.stats import regression
from gradprobe.errors import GradprobeError

if TYPE_CHECKING:
    import pandas as pd


class Comparison:
    """Modes measured side by side. ``str()`` gives the terminal report.

    ``outcome`` holds the records that all of the rest is made from.
    """

    def __init__(self, outcome: ComparisonOutcome) -> None:
        self.outcome = outcome

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per workload and mode: median time of a call in nanoseconds, ratio to `no_grad` with its 95 per cent
        interval, verdict, and what one call makes PyTorch do. NaN where something was not measured."""
        from gradprobe.analysis.comparison_table import build_comparison_table

        return build_comparison_table(self.outcome)

    @property
    def verdicts(self) -> dict[str, dict[str, str]]:
        """By workload and mode: `faster`, `slower`, `equivalent`, `undecided`; `unusable` of a mode that fails there."""
        return {
            compared.workload: {arm.mode: arm.verdict for arm in compared.arms} for compared in self.outcome.workloads
        }

    @property
    def advice(self) -> dict[str, str]:
        """By workload, one sentence: whether to swap `no_grad` for `inference_mode`."""
        return {compared.workload: write_advice(compared) for compared in self.outcome.workloads}

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
        return regression.compare_outcomes(self.outcome, earlier.outcome, force=force)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes the comparison as JSON. Raises ``GradprobeError`` if the file exists, unless ``force``."""
        self._save(path, "json", force=force)

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
        try:
            found = cls(parse_outcome(plain, str(path)))
            # An edited file may hold anything. What cannot be shown is refused here, not where it is first looked at.
            for shown in ("terminal", "markdown", "html"):
                found._text(shown)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            told = f"{type(error).__name__}: {error}".splitlines()[0]
            raise GradprobeError(f"{path} is damaged ({told}); compare again") from None
        return found

    def to_json(self) -> str:
        """Everything, as docs/compare.md describes it."""
        return self._text("json")

    def to_markdown(self) -> str:
        """A report ready for a pull request."""
        return self._text("markdown")

    def to_html(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes the report as one HTML file, which needs no network. Raises ``GradprobeError`` if it exists, unless
        ``force``."""
        self._save(path, "html", force=force)

    def to_csv(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Writes the table. Raises ``GradprobeError`` if the file exists, unless ``force``."""
        self._save(path, "csv", force=force)

    def _repr_html_(self) -> str:
        from gradprobe.report.formats import html_page
        from gradprobe.report.sections import comparison_document

        return html_page.render_fragment(comparison_document.build_document(self.outcome))

    def _save(self, path: str | os.PathLike[str], name: str, *, force: bool) -> None:
        from gradprobe.report.formats.registry import find_format, save_report

        save_report(self.outcome, Path(path), find_format(name), force=force)

    def _text(self, name: str) -> str:
        from gradprobe.report.formats.registry import find_format, render_text

        return render_text(self.outcome, find_format(name))

    def __str__(self) -> str:
        return self._text("terminal").rstrip("\n")

    def __repr__(self) -> str:
        return f"<gradprobe.Comparison: {len(self.outcome.workloads)} workloads, {', '.join(self.settings['modes'])}>"
