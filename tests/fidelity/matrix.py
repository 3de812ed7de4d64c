"""Run cases with and without a recording and list the differences.

As a script it writes the table of docs/fidelity.md:

python -m tests.fidelity.matrix [--share N]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch.utils import _pytree

import gradprobe
from tests.fidelity.cases import FAMILIES, Case

LEVELS = ("modes", "graph", "ops")
PAGE = Path(__file__).parents[2] / "docs" / "fidelity.md"
BEGIN, END = "<!-- table -->", "<!-- end of the table -->"
SPARE_BYTES = 8_192
"""Maximum increase of the peak of tensor memory while recording; the state of a random generator takes 5,056 bytes."""


@dataclass
class Outcome:
    """The visible effects of a run: results as bits and traits, or the error; warnings; live tensors."""

    traits: list[Any] = field(default_factory=list)
    bits: list[bytes] = field(default_factory=list)
    error: tuple[str, str] | None = None
    warnings: list[tuple[str, str]] = field(default_factory=list)
    alive: int = 0


def run(case: Callable[[], Any], watch: Any) -> Outcome:
    """Run ``case`` once from the same seed."""
    found = Outcome()
    torch.manual_seed(0)
    before = _alive()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with watch:
                result = case()
        except Exception as error:
            found.error = type(error).__name__, str(error)
        else:
            leaves = _pytree.tree_leaves(result)
            found.traits = [traits(leaf) for leaf in leaves]
            found.bits = [_bits(leaf) for leaf in leaves if isinstance(leaf, torch.Tensor)]
            del leaves, result
    found.warnings = [(one.category.__name__, str(one.message)) for one in caught]
    found.alive = _alive() - before
    return found


def _alive() -> int:
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def traits(value: Any) -> Any:
    """All that a program can ask of a tensor but its numbers."""
    if not isinstance(value, torch.Tensor):
        return value if isinstance(value, str | int | float | bool | bytes | type(None)) else type(value).__name__
    return (
        _asked(lambda: value._version),
        value._is_view(),
        value.requires_grad,
        value.is_inference(),
        value.is_leaf,
        _asked(lambda: type(value.grad_fn).__name__),
        _asked(lambda: (value.shape, value.stride(), value.storage_offset(), value.dtype, value.layout)),
    )


def _asked(question: Callable[[], Any]) -> Any:
    try:
        return question()
    except (RuntimeError, NotImplementedError) as error:
        return type(error).__name__


def _bits(tensor: torch.Tensor) -> bytes:
    with torch.no_grad():
        if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
            return b""
        plain = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        return bytes(plain.reshape(-1).view(torch.uint8).numpy().tobytes()) if plain.numel() else b""


@dataclass
class Compared:
    """The outcome of a family of cases at a level."""

    cases: int = 0
    unrepeatable: list[str] = field(default_factory=list)
    """Cases that differ from themselves, so that nothing can be said."""
    differing: list[str] = field(default_factory=list)


def compared(cases: list[Case], level: str) -> Compared:
    """Runs each case alone and watched."""
    found = Compared()
    with _frozen():
        _compare(cases, level, found)
    return found


@contextlib.contextmanager
def _frozen() -> Iterator[None]:
    """Freeze existing objects, so that the collector need not search them for tensors each time."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.freeze()


def _compare(cases: list[Case], level: str, found: Compared) -> None:
    for name, case in cases:
        run(case, contextlib.nullcontext())  # some warnings come once per process
        gc.freeze()  # and so do imports, whose objects each later look for tensors would go through
        alone = run(case, contextlib.nullcontext())
        watched = run(case, gradprobe.record(level=level))
        found.cases += 1
        if alone != watched:
            again = run(case, contextlib.nullcontext())
            if again.alive != alone.alive:  # what a compiler keeps grows with each run
                for one in (alone, watched, again):
                    one.alive = 0
            if alone != watched:
                (found.differing if again == alone else found.unrepeatable).append(name)


def peak(case: Callable[[], Any]) -> int:
    """The most bytes that tensors held at once, as PyTorch's own profiler counts them."""
    torch.manual_seed(0)
    gc.collect()  # what an earlier run left would be freed in the middle of this one, and lower its peak
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        with contextlib.suppress(Exception):
            case()
    events = profiler.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def higher_peaks(cases: list[Case], level: str) -> list[tuple[str, int, int]]:
    """Return the cases with a higher peak while recording than alone, with both peaks."""
    with _frozen():
        return list(_higher_peaks(cases, level))


def _higher_peaks(cases: list[Case], level: str) -> Iterator[tuple[str, int, int]]:
    for name, case in cases:
        peak(case)  # the caches that a first run fills belong to neither
        gc.freeze()
        alone = peak(case)

        def watched(case: Callable[[], Any] = case) -> None:
            with gradprobe.record(level=level):
                case()

        while_watched = peak(watched)
        if while_watched > alone + SPARE_BYTES:
            yield name, alone, while_watched


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=int, default=1, help="one case in so many of those from the databases")
    options = parser.parse_args()
    rows, seen = [], []
    begin = time.perf_counter()
    for family, cases_of in FAMILIES.items():
        cases = list(cases_of(options.share))
        row: list[Any] = [family, f"{len(cases):,}"]
        for level in LEVELS:
            result = compared(cases, level)
            higher = higher_peaks(cases, level)
            row.append(f"{len(result.differing)} ({len(result.unrepeatable)})")
            seen += [f"- level `{level}`: {name}" for name in result.differing]
            seen += [f"- level `{level}`: {name}: peak {more:,} bytes, alone {less:,}" for name, less, more in higher]
            print(
                f"{family}, {level}: {row[-1]}",
                *result.differing,
                *higher,
                "|",
                *result.unrepeatable,
                file=sys.stderr,
            )
        rows.append(row)
    table = tabulate(rows, ["family", "cases", *(f"differ at `{one}`" for one in LEVELS)], tablefmt="github")
    print(table, *seen, sep="\n")
    print(f"{time.perf_counter() - begin:.0f} s", file=sys.stderr)
    if options.share == 1:
        text = PAGE.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        middle = "\n".join([BEGIN, "", table, "", *seen, *([""] if seen else []), END])
        PAGE.write_text(f"{before}{middle}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
