"""``Comparison``: the result of ``gradprobe.compare``. Reading one needs no torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradprobe.analysis.comparison_advice import write_advice
from gradprobe.analysis.comparison_json import parse_outcome
from gradprobe.analysis.comparison_outcome import ArmResult, ComparisonOutcome
from gradprobe.comparison.stats import regression
from gradprobe.errors import GradprobeError

if TYPE_CHECKING:
    import pandas as pd


class Comparison:
    """Result of a comparison of modes.

    :func:`gradprobe.compare` and :meth:`load` return it. ``str()`` of it is the terminal report; in a notebook it shows
    itself as HTML.

    Example::

        comparison = gradprobe.compare(model, x)
        print(comparison)  # the report
        comparison.advice  # {'Linear': 'inference_mode is 6.1 % faster (95 % CI ...'}
        comparison.assert_faster("inference_mode")
    """

    def __init__(self, outcome: ComparisonOutcome) -> None:
        self._outcome = outcome

    @cached_property
    def table(self) -> pd.DataFrame:
        """Table with one row per workload and mode.

        Columns:
            workload, mode (str): what was called, and under which mode.
            median_ns (float): median time of one call, in nanoseconds.
            ratio (float): time relative to `no_grad`; below 1 is faster.
            ci_low, ci_high (float): ends of the 95 % interval of ``ratio``.
            verdict (str): see :attr:`verdicts`.
            nodes, counters_created, version_bumps, tracked_views, saved_tensors, inference_tensors, operators (float):
                counts of what PyTorch does in one call.
            saved_bytes (float): bytes that one call saves for backward.
            instructions (float): machine instructions of one call, if they were requested.
            explained (float): share of the difference to `no_grad` that the counts explain.
            rounds (int): number of blocks of calls that were timed.
            difference, error (str): how the outputs differ from those under `no_grad`, and the error of an unusable mode.

        Numbers that were not measured are NaN, never 0.
        """
        from gradprobe.analysis.comparison_table import build_comparison_table

        return build_comparison_table(self._outcome)

    @property
    def verdicts(self) -> dict[str, dict[str, str]]:
        """Verdict by workload and mode.

        It is ``"faster"``, ``"slower"``, ``"equivalent"`` or ``"undecided"`` compared with `no_grad`, whose own is
        ``"baseline"``, or ``"unusable"`` for a mode in which the call fails.
        """
        return {result.workload: {arm.mode: arm.verdict for arm in result.arms} for result in self._outcome.workloads}

    @property
    def advice(self) -> dict[str, str]:
        """Advice by workload: whether to replace `no_grad` by `inference_mode`, and why."""
        return {result.workload: write_advice(result) for result in self._outcome.workloads}

    @property
    def notes(self) -> list[str]:
        """Remarks on the measurement and on each workload, as in the report's section Remarks."""
        of_workloads = [f"{result.workload} {note}" for result in self._outcome.workloads for note in result.notes]
        return [*of_workloads, *self._outcome.notes]

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions, machine and device of the measurement, and the number of ``processes`` that measured."""
        return self._outcome.environment

    @property
    def settings(self) -> Mapping[str, Any]:
        """Arguments of the comparison, and the seconds ``took_s`` that it took."""
        return self._outcome.settings

    def assert_faster(self, mode: str = "inference_mode", *, by: float = 0.0) -> None:
        """Raise ``AssertionError`` unless ``mode`` is faster than `no_grad` in each workload.

        Args:
            mode: mode to check.
            by: minimum share of time that must be saved; 0.05 requires a ratio of at most 0.95. The verdict must be
                "faster" in any case, so that the whole interval is below 1.

        Raises:
            AssertionError: if it is not faster; the message contains the ratio, its interval and the report.
            GradprobeError: if ``mode`` was not measured.

        Example::

            gradprobe.compare(model, x).assert_faster("inference_mode", by=0.02)
        """
        __tracebackhide__ = True
        claim = f"faster than no_grad by {by:.1%}" if by else "faster than no_grad"
        self._assert_all(mode, claim, lambda arm: arm.verdict == "faster" and arm.ratio <= 1 - by)

    def assert_equivalent(self, mode: str = "inference_mode") -> None:
        """Raise ``AssertionError`` unless ``mode`` makes no relevant difference to `no_grad` in each workload.

        Args:
            mode: mode to check.

        Raises:
            AssertionError: if the verdict is not "equivalent"; the message contains the ratio, its interval and the report.
            GradprobeError: if ``mode`` was not measured.

        Example::

            gradprobe.compare(model, x).assert_equivalent("inference_mode")
        """
        __tracebackhide__ = True
        self._assert_all(mode, "equivalent to no_grad", lambda arm: arm.verdict == "equivalent")

    def _assert_all(self, mode: str, claim: str, holds: Callable[[ArmResult], bool]) -> None:
        __tracebackhide__ = True
        for result in self._outcome.workloads:
            arm = result.arm(mode)
            if arm is None:
                measured = ", ".join(arm.mode for arm in result.arms)
                raise GradprobeError(f"cannot check {mode!r}: it was not measured; use one of {measured}")
            if not holds(arm):
                where = f" in {result.workload}" if len(self._outcome.workloads) > 1 else ""
                raise AssertionError(f"{mode} is not {claim}{where}: {_describe_arm(arm)}\n\n{self}")

    def against(self, earlier: Comparison, *, force: bool = False) -> pd.DataFrame:
        """Compare with an earlier comparison of the same workloads.

        Args:
            earlier: the earlier comparison.
            force: compare although devices, thread counts or minor versions of torch differ (default: False).

        Returns:
            A DataFrame with one row per workload and mode that both have. ``change`` is the ratio to `no_grad` divided by
            the earlier one; ``ci_low``, ``ci_high`` and ``verdict`` belong to it. ``ratio`` and the counts have a twin
            with the suffix ``_before``.

        Raises:
            GradprobeError: if the two were measured under different conditions, unless ``force``.

        Example::

            changes = gradprobe.compare(model, x).against(gradprobe.Comparison.load("before.json"))
        """
        return regression.compare_outcomes(self._outcome, earlier._outcome, force=force)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the comparison to a JSON file.

        Args:
            path: file to write.
            force: overwrite an existing file (default: False).

        Raises:
            GradprobeError: if the file exists, unless ``force``, or cannot be written.

        Example::

            comparison.save("decode.json")
        """
        self._save(path, "json", force=force)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Comparison:
        """Read a comparison from a JSON file.

        Args:
            path: file that :meth:`save` or ``gradprobe compare -o FILE.json`` wrote.

        Returns:
            The comparison.

        Raises:
            GradprobeError: if the file cannot be read, is not a comparison, or is damaged.

        Example::

            comparison = gradprobe.Comparison.load("decode.json")
        """
        try:
            plain = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise GradprobeError(f"cannot read {path}: {error.strerror}; name an existing file") from None
        except (ValueError, RecursionError) as error:
            raise GradprobeError(
                f"cannot read {path}: it is not JSON ({error}); use a file that gradprobe compare -o wrote"
            ) from None
        return cls(parse_outcome(plain, str(path)))

    def to_json(self) -> str:
        """Return the comparison as a JSON object.

        Returns:
            The text that :meth:`save` writes. docs/compare.md describes its keys; its JSON Schema is installed with
            gradprobe.

        Example::

            json.loads(comparison.to_json())["workloads"]
        """
        return self._render("json")

    def to_markdown(self) -> str:
        """Return the report as Markdown, ready for a pull request.

        Returns:
            The text of the report.

        Example::

            Path("report.md").write_text(comparison.to_markdown())
        """
        return self._render("markdown")

    def to_html(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write the report to one HTML file, which needs no network.

        Args:
            path: file to write.
            force: overwrite an existing file (default: False).

        Raises:
            GradprobeError: if the file exists, unless ``force``, or cannot be written.

        Example::

            comparison.to_html("report.html")
        """
        self._save(path, "html", force=force)

    def to_csv(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write :attr:`table` to a CSV file.

        Args:
            path: file to write.
            force: overwrite an existing file (default: False).

        Raises:
            GradprobeError: if the file exists, unless ``force``, or cannot be written.

        Example::

            comparison.to_csv("table.csv")
        """
        self._save(path, "csv", force=force)

    def _repr_html_(self) -> str:
        from gradprobe.report.formats import html_page
        from gradprobe.report.sections import comparison_document

        return html_page.render_fragment(comparison_document.build_document(self._outcome))

    def _save(self, path: str | os.PathLike[str], name: str, *, force: bool) -> None:
        from gradprobe.report.formats.registry import find_format, save_report

        save_report(self._outcome, Path(path), find_format(name), force=force)

    def _render(self, name: str) -> str:
        from gradprobe.report.formats.registry import find_format, render_text

        return render_text(self._outcome, find_format(name))

    def __str__(self) -> str:
        return self._render("terminal").rstrip("\n")

    def __repr__(self) -> str:
        return f"<gradprobe.Comparison: {len(self._outcome.workloads)} workloads, {', '.join(self.settings['modes'])}>"


def _describe_arm(arm: ArmResult) -> str:
    ratio = "-" if math.isnan(arm.ratio) else f"{arm.ratio:.3f}"
    interval = "-" if math.isnan(arm.ci_low) else f"{arm.ci_low:.3f} to {arm.ci_high:.3f}"
    error = f"\n{arm.error}" if arm.error else ""
    return f"{ratio} of its time ({interval}), verdict {arm.verdict}{error}"
