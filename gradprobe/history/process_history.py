"""History of a process: what its events mean."""

from __future__ import annotations

from dataclasses import dataclass

from gradprobe.history.mark_table import MarkTable
from gradprobe.history.phase_timeline import PhaseBuilder
from gradprobe.history.records import ProbedCall, ThreadTimeline
from gradprobe.history.region_table import RegionTable
from gradprobe.history.transition_table import TransitionTable


@dataclass
class History:
    """Events of one process, interpreted. Times are nanoseconds since the recording began."""

    transitions: TransitionTable
    regions: RegionTable
    calls: list[ProbedCall]
    marks: MarkTable
    timelines: list[ThreadTimeline]
    hidden: int
    phases: PhaseBuilder
    end_ns: int
    complete: bool
