"""Audit of the inference tensors that a program keeps: where each came from, and which of its later uses will fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import RelatedLine
from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.analysis.findings.tensor_lifecycle.kept_inference import KeptTensor, iter_kept_tensors
from gradprobe.analysis.findings.tensor_lifecycle.later_uses import LaterUse, fails_in, find_uses
from gradprobe.analysis.findings.tensor_lifecycle.program import Function, Program
from gradprobe.analysis.findings.tensor_lifecycle.tensor_paths import TensorPaths
from gradprobe.history.process import Process
from gradprobe.history.row_groups import group_rows
from gradprobe.recording.events import TALLY

_MAX_FILES, _MAX_STORES = 200, 2
_REFUSED = "GP401"


@dataclass(frozen=True)
class KeptTensorAudit:
    """Kept inference tensor with what the source says about it.

    Attributes:
        kept: The tensor.
        stores: Lines that put it into its holder.
        uses: Later uses that may run in a mode in which they fail, and of which none was seen to succeed.
        is_guarded: True if the program asks whether it is an inference tensor, to rebuild it.
        has_failed: True if the recording has the exception already.
    """

    kept: KeptTensor
    stores: tuple[RelatedLine, ...]
    uses: tuple[LaterUse, ...]
    is_guarded: bool
    has_failed: bool

    @property
    def origin(self) -> tuple[RelatedLine, ...]:
        """Lines that kept it and that entered the mode."""
        main = (self.kept.created.file, self.kept.created.line)
        stores = tuple(line for line in self.stores if (line.file, line.line) != main)
        return *stores, *self.kept.located.related


_AUDITS: WeakKeyDictionary[Evidence, list[KeptTensorAudit]] = WeakKeyDictionary()


def audit_kept_tensors(evidence: Evidence) -> list[KeptTensorAudit]:
    """Return the audit of each inference tensor that is kept."""
    known = _AUDITS.get(evidence)
    if known is None:
        known = _AUDITS[evidence] = list(_audit(evidence))
    return known


def _audit(evidence: Evidence) -> Iterator[KeptTensorAudit]:
    kept_tensors = list(iter_kept_tensors(evidence))
    if not kept_tensors:
        return
    program = Program([file for name in evidence.program_files[:_MAX_FILES] if (file := parse_file(name)) is not None])
    failed = {
        (line.file, line.line)
        for located in evidence.select_detections(_REFUSED)
        for line in (*located.lines, *located.related)
    }
    succeeded = {id(process): _find_successes(process) for process in evidence.processes}
    for kept in kept_tensors:
        paths = TensorPaths(program, kept)
        uses = [
            use
            for use in ([] if paths.is_renewed() else find_uses(paths))
            if any(fails_in(use, modes) for modes in _modes_at(program, use))
            and (not use.needs_grad or program.trains)
            and succeeded[id(kept.located.process)].get((use.function.file.file, use.line), -1) < kept.created_ns
        ]
        yield KeptTensorAudit(
            kept,
            tuple(_find_stores(paths)),
            tuple(sorted(uses, key=lambda use: (use.needs_grad, use.function.file.file, use.line))),
            paths.is_guarded(),
            (kept.created.file, kept.created.line) in failed,
        )


def _modes_at(program: Program, use: LaterUse) -> set[tuple[bool, bool]]:
    return {program.modes_inside(use.function, use.line, modes) for modes in program.modes_of(use.function)}


def find_stores(evidence: Evidence, file: str, line: int) -> tuple[RelatedLine, ...]:
    """Return the lines that put the tensor which a line created into its holder."""
    for audit in audit_kept_tensors(evidence):
        if (audit.kept.created.file, audit.kept.created.line) == (file, line):
            return audit.stores
    return ()


def _find_stores(paths: TensorPaths) -> Iterator[RelatedLine]:
    """Yield the lines that keep a tensor: in the function that created it, or else those that call it, or any."""
    created = paths.kept.created
    stores = paths.find_stores()

    def distance(store: tuple[Function, int]) -> tuple[bool, bool, int]:
        function, line = store
        is_around = (
            getattr(function.node, "lineno", 1) <= created.line <= (getattr(function.node, "end_lineno", 0) or 0)
        )
        is_same = function.file.file == created.file
        return not (is_same and is_around), not is_same, abs(line - created.line)

    nearest = sorted(stores, key=distance)
    local = [store for store in nearest if not distance(store)[0]]
    for function, line in local[:1] or nearest[:_MAX_STORES]:
        yield RelatedLine(function.file.file, line, f"kept by `{paths.kept.variable}` here")


def _find_successes(process: Process) -> dict[tuple[str | None, int | None], int]:
    """Return when each line last ran operators outside of inference mode, since the recording began."""
    found: dict[tuple[str | None, int | None], int] = {}
    marks, regions = process.history.marks, process.history.regions.columns
    is_inference = np.append(regions.inside & 2 != 0, False)[marks.region]  # the last is that of -1
    chosen = (marks.op == TALLY) & ~is_inference
    sites, times = marks.site[chosen], marks.time_ns[chosen]
    for numbers in group_rows(sites):
        file, line, _ = process.place(int(sites[numbers[0]]))
        found[file, line] = max(int(times[numbers].max()), found.get((file, line), 0))
    return found
