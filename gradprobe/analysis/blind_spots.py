"""Blind spots of a recording in sentences, so that an unobserved thing does not pass for a zero."""

from __future__ import annotations

from collections.abc import Sequence

from gradprobe.history.process import Process
from gradprobe.recording.events import COMPILED_CALL
from gradprobe.recording.notes import NoteKind

_WHY_CUT_OFF = (
    "the program is still running or was killed, and up to its last second is missing; or the file could no longer be "
    "written, for example because the disk is full, and everything after that is missing"
)


def describe_blind_spots(processes: Sequence[Process]) -> list[str]:
    """Return one sentence for each thing that the tables do not show, in which processes that share it are named."""
    found: dict[str, list[str]] = {}
    for process in processes:
        for sentence in _describe_process(process):
            found.setdefault(sentence, []).append(str(process.pid))
    if len(processes) < 2:
        return list(found)
    return [
        f"{'process' if len(pids) == 1 else 'processes'} {_list_names(pids)}: {sentence}"
        for sentence, pids in found.items()
    ]


def _describe_process(process: Process) -> list[str]:
    notes, history, meta = process.contents.notes, process.history, process.contents.meta
    found = []
    if not history.complete:
        known = [text for kind, text, _ in notes if kind == NoteKind.CUT_OFF]
        found.append(f"the recording is incomplete: {known[-1] if known else _WHY_CUT_OFF}")
    threads = sorted(text for kind, text, _ in notes if kind == NoteKind.UNSEEN_THREAD)
    if threads:
        found.append(
            f"{_count(len(threads), 'thread')} never changed a mode, so their time is in no table: {_list_names(threads)}"
        )
    only_calls = bool(meta.get("only_calls"))
    inherited = (
        []
        if only_calls
        else [t for t in process.contents.threads.values() if t.inherited and _ran_before(process, t.id)]
    )
    if inherited:
        found.append(
            f"{_count(len(inherited), 'thread')} ran before the recording began, and are counted from their first change "
            f"of a mode: {', '.join(t.name for t in inherited[:5])}"
        )
    folded = sum(fold.count for fold in process.contents.folds)
    summed_ops = sum(fold.sums[1] for fold in process.contents.op_folds)
    if summed_ops:
        found.append(
            f"{_count(summed_ops, 'operator')} beyond the limit of {meta.get('limit', 0):,} events were aggregated per "
            "line: they are in the operators table, not in the regions table"
        )
    if process.counts_operators and not only_calls:
        marked = set(history.marks.thread[history.marks.op != COMPILED_CALL].tolist())
        unseen = [
            process.thread(lane.thread)
            for lane in history.timelines
            if not lane.is_watched and lane.thread not in marked
        ]
        blind = sorted({*unseen, *threads})
        if blind:
            found.append(
                f"{_count(len(blind), 'thread')} ran before the recording began, so their operators were not observed: "
                f"{_list_names(blind)}"
            )
    if folded:
        found.append(
            f"{_count(folded, 'finished block')} beyond the limit of {meta.get('limit', 0):,} events were aggregated per "
            "line: they are in the sites table and in the time by mode, not in the transitions and regions tables"
        )
    if history.hidden:
        found.append(
            f"{_count(history.hidden, 'transition')} of PyTorch's own code are hidden (--include-torch shows "
            "them; in Python, include_torch=True)"
        )
    for kind, text, count in notes:
        if kind == NoteKind.FAULT:
            found.append(f"an error inside gradprobe lost {_count(count, 'event')}: {text}")
        elif kind in (NoteKind.FULL, NoteKind.DEVICE):
            found.append(f"{text} ({count:,})")
        elif kind == NoteKind.LEVEL:
            found.append(text)
    return found


def _ran_before(process: Process, thread: int) -> bool:
    return any(lane.thread == thread and lane.began_ns > 0 for lane in process.history.timelines)


def _list_names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
