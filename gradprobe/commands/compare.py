"""Measure a workload under no_grad, inference_mode and grad: which is faster, by how much and why.

MODULE:FUNCTION or FILE.py:FUNCTION is called without arguments. If it returns a callable, that is measured, otherwise the
function itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gradprobe._files import check_writable
from gradprobe.commands.messages import print_message
from gradprobe.errors import GradprobeError
from gradprobe.report.formats import registry
from gradprobe.report.formats.rendered import RenderOptions
from gradprobe.report.units import escape_unprintable

if TYPE_CHECKING:
    from gradprobe.comparison.comparison_result import Comparison
    from gradprobe.comparison.workloads.sources import WorkloadSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``compare``."""
    parser.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="measure MODULE:FUNCTION, FILE.py:FUNCTION, or hf:MODEL of transformers",
    )
    parser.add_argument("--suite", choices=("ops", "models", "all"), help="measure workloads that come with gradprobe")
    parser.add_argument(
        "--modes",
        metavar="MODE,...",
        help="measure these modes, out of grad, no_grad, inference_mode and inference_mode+parameters "
        "(default: grad,no_grad,inference_mode)",
    )
    parser.add_argument("--device", metavar="DEVICE", help="run the workload on this torch device (default: cpu)")
    parser.add_argument(
        "--precision",
        type=float,
        default=0.02,
        metavar="FRACTION",
        help="stop when the 95 %% CI half-width is below FRACTION (default: %(default)s)",
    )
    parser.add_argument(
        "--max-time",
        "--budget",
        dest="budget",
        type=float,
        metavar="SECONDS",
        help="maximum measuring time in seconds (default: 20 + 6 per workload)",
    )
    parser.add_argument(
        "--processes", type=int, default=5, metavar="N", help="measure in N fresh processes (default: %(default)s)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="use N torch threads in each process (default: torch's own choice)"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed the order of the modes, the inputs and the resampling (default: %(default)s)",
    )
    parser.add_argument(
        "--instructions", action="store_true", help="also count the instructions of a call, with valgrind"
    )
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with an earlier result, saved as JSON")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        action="append",
        default=[],
        metavar="OUT",
        help="write the report to OUT, a .html, .md, .json, .csv or .txt file; repeatable",
    )
    parser.add_argument("--charts", choices=("svg", "png"), help="with Markdown, write charts as files beside OUT")
    parser.add_argument(
        "--force", action="store_true", help="overwrite OUT; compare with FILE even if the conditions differ"
    )


def execute(options: argparse.Namespace) -> int:
    """Measure, write and print the comparison."""
    if (options.target is None) == (options.suite is None):
        raise GradprobeError(
            "cannot compare: one target is needed; name MODULE:FUNCTION, FILE.py:FUNCTION, or --suite ops|models|all"
        )
    for path in options.output:
        registry.find_format_of_path(path, registry.COMPARISON_FORMATS)
        check_writable(path, force=options.force)
    from gradprobe.comparison.comparison_result import Comparison

    earlier = None if options.against is None else Comparison.load(options.against)
    comparison = _measure(options)
    # Written before it is printed, because a reader that has seen enough may close the pipe.
    for path in options.output:
        used = registry.find_format_of_path(path, registry.COMPARISON_FORMATS)
        for file in registry.save_report(
            comparison._outcome, path, used, RenderOptions(charts=options.charts), force=options.force
        ):
            print_message(f"wrote {file}")
    print(comparison)
    if earlier is not None:
        changes = comparison.against(earlier, force=options.force)
        print(f"\n{changes.to_string(index=False, float_format='{:.3f}'.format)}")
    return 0


def _measure(options: argparse.Namespace) -> Comparison:
    try:
        from gradprobe.comparison.compare import compare_sources
        from gradprobe.comparison.measured_modes import DEFAULT_MODES
        from gradprobe.comparison.settings import validate_settings
    except ModuleNotFoundError as error:
        raise GradprobeError(
            f"cannot compare: {error.name} is not installed for {sys.executable}; install it there"
        ) from None
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
    with _Progress() as update:
        return compare_sources(_list_sources(options), settings, on_progress=update)


def _list_sources(options: argparse.Namespace) -> list[WorkloadSource]:
    from gradprobe.comparison.workloads.sources import SUITE_NAMES, WorkloadSource

    if options.suite is not None:
        return [WorkloadSource("suite", name) for name in (SUITE_NAMES if options.suite == "all" else (options.suite,))]
    if options.target.startswith("hf:"):
        return [WorkloadSource("hf", options.target.removeprefix("hf:"))]
    return [WorkloadSource("name", options.target)]


class _Progress:
    """Progress bar of the share of the budget that is used; shown if standard error is a terminal."""

    def __enter__(self) -> Callable[[str, float], None]:
        from tqdm import tqdm

        hidden = True if sys.stderr is None else None
        self._bar = tqdm(total=100, bar_format="{desc:40.40} {bar} {percentage:3.0f} %", leave=False, disable=hidden)
        return self._update

    def _update(self, activity: str, share: float) -> None:
        self._bar.set_description_str(escape_unprintable(activity), refresh=False)
        self._bar.update(max(0.0, 100 * share - self._bar.n))

    def __exit__(self, *_: object) -> None:
        self._bar.close()
