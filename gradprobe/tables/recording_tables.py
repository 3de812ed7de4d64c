"""Tables of a recording: its processes on one time axis, and each table, built when it is first read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import pandas as pd

from gradprobe.history.process import Process, interpret_processes
from gradprobe.history.row_queue import ProgressIterator
from gradprobe.recording.contents import Contents
from gradprobe.tables import dataframes, ledger_tables, region_frames
from gradprobe.tables.column_frames import make_dataframe
from gradprobe.tables.finding_columns import FINDINGS
from gradprobe.tables.mode_columns import MODES
from gradprobe.tables.mode_rows import build_mode_rows
from gradprobe.tables.module_tree import build_modules
from gradprobe.tables.phase_columns import LIFECYCLE


class RecordingTables:
    """Tables of one or several processes.

    ``include_torch`` shows blocks of PyTorch's own code; if it is None, they are shown as the recordings ask for it.
    ``watch`` wraps the rows while they are interpreted, to show progress.
    """

    def __init__(
        self, contents: Sequence[Contents], *, include_torch: bool | None, watch: ProgressIterator = iter
    ) -> None:
        self.contents = list(contents)
        self._watch = watch
        self._include_torch = include_torch

    @cached_property
    def processes(self) -> list[Process]:
        """Interpreted processes, in the order of ``contents``."""
        shown = self._include_torch
        if shown is None:
            shown = any(c.meta.get("include_torch") for c in self.contents)
        return interpret_processes(self.contents, include_torch=bool(shown), watch=self._watch)

    @property
    def is_complete(self) -> bool:
        """True if every process came to the end of its recording."""
        return all("ended_ns" in c.meta for c in self.contents)

    def read_rows(self, name: str, rows: slice) -> pd.DataFrame:
        """Return some rows of a table. The long tables are not built for it."""
        if name == "transitions":
            return region_frames.build_transitions(self.processes, rows)
        if name == "regions":
            return region_frames.build_regions(self.processes, rows)
        frame: pd.DataFrame = getattr(self, name).iloc[rows]
        return frame

    def count_rows(self, name: str) -> int:
        """Return the number of rows of a table."""
        if name == "transitions":
            return sum(len(process.history.transitions) for process in self.processes)
        if name == "regions":
            return sum(len(process.history.regions) for process in self.processes)
        return len(getattr(self, name))

    @cached_property
    def transitions(self) -> pd.DataFrame:
        """DataFrame with one row per enter, exit and set of a mode."""
        return region_frames.build_transitions(self.processes)

    @cached_property
    def regions(self) -> pd.DataFrame:
        """DataFrame with one row per block, and per plain call with what followed it."""
        return region_frames.build_regions(self.processes)

    @cached_property
    def sites(self) -> pd.DataFrame:
        """DataFrame with one row per context manager and source line."""
        return dataframes.build_sites(self.processes)

    @cached_property
    def modes(self) -> pd.DataFrame:
        """DataFrame with one row per line and way in which a mode came about."""
        return make_dataframe(MODES, build_mode_rows(self.processes))

    @cached_property
    def phases(self) -> pd.DataFrame:
        """DataFrame with one row per run of a phase."""
        return dataframes.build_phases(self.processes)

    @cached_property
    def calls(self) -> pd.DataFrame:
        """DataFrame with one row per call of a probed function."""
        return dataframes.build_calls(self.processes)

    @cached_property
    def ops(self) -> pd.DataFrame:
        """DataFrame with one row per region, operator, source line and module."""
        return dataframes.build_ops(self.processes)

    @cached_property
    def births(self) -> pd.DataFrame:
        """DataFrame with one row per place where inference tensors were created that escaped inference mode."""
        return dataframes.build_births(self.processes)

    @cached_property
    def flow(self) -> pd.DataFrame:
        """DataFrame with one row per way that tensors took, and per thing that became of gradient on it."""
        return ledger_tables.build_flow(self.processes)

    @cached_property
    def parameters(self) -> pd.DataFrame:
        """DataFrame with one row per leaf."""
        return ledger_tables.build_parameters(self.processes)

    @cached_property
    def modules(self) -> pd.DataFrame:
        """DataFrame with one row per module, as a tree."""
        return build_modules(self.processes)

    @cached_property
    def graphs(self) -> pd.DataFrame:
        """DataFrame with one row per path of calls that constructed nodes."""
        return ledger_tables.build_graphs(self.processes)

    @cached_property
    def graph_memory(self) -> pd.DataFrame:
        """DataFrame with one row per moment and line whose results held graphs."""
        return ledger_tables.build_graph_memory(self.processes)

    @cached_property
    def custody(self) -> pd.DataFrame:
        """DataFrame with one row per holder that keeps graphs."""
        return ledger_tables.build_custody(self.processes)

    @cached_property
    def lifecycle(self) -> pd.DataFrame:
        """DataFrame of kept inference tensors, empty: the source is read in a layer above, as for findings."""
        return make_dataframe(LIFECYCLE, ())

    @cached_property
    def findings(self) -> pd.DataFrame:
        """DataFrame of findings, empty: rules are in a layer above, where ``AnalyzedTables`` applies them."""
        return make_dataframe(FINDINGS, ())
