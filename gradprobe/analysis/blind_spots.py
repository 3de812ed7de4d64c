"""What a recording could not see, said in sentences: nothing unseen may pass for a zero."""

from __future__ import annotations

from collections.abc import Sequence

from gradprobe.history.process import Process
from gradprobe.recording.events import COMPILED_CALL
from gradprobe.recording.notes import NoteKind

_WHY_CUT_OFF = (
    "the program still runs or was killed, and up to a second is missing; or its file could not be written any more, as "
    "on a full disk, and all after that is missing"
)


def describe_blind_spots(processes: Sequence[Process]) -> list[str]:
    """One sentence for each thing that the tables do not show."""
    found: list[str] = []
    for process in processes:
        where = f"process {process.pid}: " if len(processes) > 1 else ""
        found += [where + sentence for sentence in _of(process)]
    return found


def _of(process: Process) -> list[str]:
    notes, history, meta = process.contents.notes, process.history, process.contents.meta
    found = []
    if not history.complete:
        known = [text for kind, text, _ in notes if kind == NoteKind.CUT_OFF]
        found.append(f"the recording has no end: {known[-1] if known else _WHY_CUT_OFF}")
    threads = sorted(text for kind, text, _ in notes if kind == NoteKind.UNSEEN_THREAD)
    if threads:
        named = ", ".join(threads[:5]) + (f" and {len(threads) - 5} more" if len(threads) > 5 else "")
        found.append(f"{_count(len(threads), 'thread')} changed no mode, so their time is in no table: {named}")
    only_calls = bool(meta.get("only_calls"))
    inherited = (
        []
        if only_calls
        else [t for t in process.contents.threads.values() if t.inherited and _ran_before(process, t.id)]
    )
    if inherited:
        found.append(
            f"{_count(len(inherited), 'thread')} ran before the recording began, and count from their first change of "
            f"a mode: {', '.join(t.name for t in inherited[:5])}"
        )
    folded = sum(fold.count for fold in process.contents.folds)
    added_up = sum(fold.sums[1] for fold in process.contents.op_folds)
    if added_up:
        found.append(
            f"{_count(added_up, 'operator')} beyond the limit of {meta.get('limit', 0):,} events were added up per line: "
            "they are in the table of operators, not in that of regions"
        )
    if process.counts_operators and not only_calls:
        unseen = [
            process.thread(lane.thread)
            for lane in history.timelines
            if not lane.is_watched
            and not any(mark.thread == lane.thread and mark.op != COMPILED_CALL for mark in history.marks)
        ]
        blind = sorted({*unseen, *threads})
        if blind:
            named = ", ".join(blind[:5]) + (f" and {len(blind) - 5} more" if len(blind) > 5 else "")
            found.append(
                f"{_count(len(blind), 'thread')} ran before the recording began: operators there were not seen: {named}"
            )
    if folded:
        found.append(
            f"{_count(folded, 'finished block')} beyond the limit of {meta.get('limit', 0):,} events were added up per "
            "line: they are in the sites and in the time by mode, not among the transitions and regions"
        )
    if history.hidden:
        found.append(
            f"{_count(history.hidden, 'transition')} of PyTorch's own code are hidden (include_torch shows them)"
        )
    for kind, text, count in notes:
        if kind == NoteKind.FAULT:
            found.append(f"an error inside gradprobe cost {_count(count, 'event')}: {text}")
        elif kind in (NoteKind.FULL, NoteKind.DEVICE):
            found.append(f"{text} ({count:,})")
        elif kind == NoteKind.LEVEL:
            found.append(text)
    return found


def _ran_before(process: Process, thread: int) -> bool:
    return any(lane.thread == thread and lane.began_ns > 0 for lane in process.history.timelines)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
