"""Measures a workload under no_grad, inference_mode and grad, and says which is faster, by how much and why.

MODULE:FUNCTION or FILE.py:FUNCTION is called without arguments: what it returns is measured if that can be called,
otherwise the function itself is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gradprobe._files import check_writable
from gradprobe.errors import GradprobeError
from gradprobe.report.formats import registry
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.units import escape_unprintable

if TYPE_CHECKING:
    from gradprobe.comparison.comparison_result import Comparison
    from gradprobe.comparison.workloads.sources import WorkloadSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "target", nargs="?", metavar="TARGET", help="MODULE:FUNCTION, FILE.py:FUNCTION, or hf:MODEL of transformers"
    )
    parser.add_argument("--suite", choices=("ops", "models", "all"), help="the workloads that come with gradprobe")
    parser.add_argument(
        "--modes", metavar="MODE,...", help="of grad, no_grad, inference_mode, inference_mode+parameters"
    )
    parser.add_argument("--device", metavar="D", help="where the work runs (cpu)")
    parser.add_argument("--precision", type=float, default=0.02, metavar="P", help="half width to reach (%(default)s)")
    parser.add_argument("--budget", type=float, metavar="S", help="seconds, in all (20, and 6 more for each workload)")
    parser.add_argument("--processes", type=int, default=5, metavar="N", help="fresh processes (%(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of torch in each (as torch chooses)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the order, inputs and resamples (%(default)s)"
    )
    parser.add_argument(
        "--instructions", action="store_true", help="count the instructions of a call by valgrind as well"
    )
    parser.add_argument("--against", type=Path, metavar="FILE", help="a comparison saved as JSON, to be compared with")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="OUT",
        help="write .html, .md, .json, .csv or .txt; repeatable",
    )
    parser.add_argument("--charts", choices=("svg", "png"), help="with Markdown: charts as files beside OUT")
    parser.add_argument("--force", action="store_true", help="overwrite OUT; compare with FILE whatever differs")


def execute(options: argparse.Namespace) -> int:
    if (options.target is None) == (options.suite is None):
        raise GradprobeError("name what to compare: MODULE:FUNCTION, FILE.py:FUNCTION, or --suite ops|models|all")
    for path in options.output:
        registry.find_format_of_path(path, registry.COMPARISON_FORMATS)
        check_writable(path, force=options.force)
    from gradprobe.comparison.comparison_result import Comparison

    earlier = None if options.against is None else Comparison.load(options.against)
    comparison = _compared(options)
    # Before it is shown: whoever reads may have seen enough, and close the pipe.
    for path in options.output:
        used = registry.find_format_of_path(path, registry.COMPARISON_FORMATS)
        for file in registry.save_report(
            comparison._outcome, path, used, RenderOptions(charts=options.charts), force=options.force
        ):
            print(f"wrote {escape_unprintable(str(file))}", file=sys.stderr)
    print(comparison)
    if earlier is not None:
        changes = comparison.against(earlier, force=options.force)
        print(f"\n{changes.to_string(index=False, float_format='{:.3f}'.format)}")
    return 0


def _compared(options: argparse.Namespace) -> Comparison:
    try:
        from gradprobe.comparison.compare import compare_sources
        from gradprobe.comparison.measured_modes import DEFAULT_MODES
        from gradprobe.comparison.settings import validate_settings
    except ModuleNotFoundError as error:
        raise GradprobeError(f"there is no {error.name} in {sys.executable}; install it there first") from None
    settings = validate_settings(
        modes=options.modes or DEFAULT_MODES,
        precision=options.precision,
        budget_s=options.budget,
        seed=options.seed,
        device=options.device,
        processes=options.processes,
        threads=options.threads,
        instructions=options.instructions,
    )
    with _Progress() as tell:
        return compare_sources(_sources(options), settings, on_progress=tell)


def _sources(options: argparse.Namespace) -> list[WorkloadSource]:
    from gradprobe.comparison.workloads.sources import SUITE_NAMES, WorkloadSource

    if options.suite is not None:
        return [WorkloadSource("suite", name) for name in (SUITE_NAMES if options.suite == "all" else (options.suite,))]
    if options.target.startswith("hf:"):
        return [WorkloadSource("hf", options.target.removeprefix("hf:"))]
    return [WorkloadSource("name", options.target)]


class _Progress:
    """A bar on standard error that fills as the budget goes; nothing where that is no terminal."""

    def __enter__(self) -> Callable[[str, float], None]:
        from tqdm import tqdm

        hidden = True if sys.stderr is None else None
        self._bar = tqdm(total=100, bar_format="{desc:40.40} {bar} {percentage:3.0f} %", leave=False, disable=hidden)
        return self._tell

    def _tell(self, what: str, share: float) -> None:
        self._bar.set_description_str(escape_unprintable(what), refresh=False)
        self._bar.update(max(0.0, 100 * share - self._bar.n))

    def __exit__(self, *_: object) -> None:
        self._bar.close()
