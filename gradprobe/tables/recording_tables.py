"""A recording read: its processes on one time axis, and its tables, each made when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import pandas as pd

from gradprobe.history.interpreter import ProgressIterator
from gradprobe.history.process import Process, interpret_processes
from gradprobe.recording.contents import Contents
from gradprobe.tables import columns, dataframes


class RecordingTables:
    """What one or several processes recorded, read once."""

    def __init__(
        self,
        contents: Sequence[Contents],
        *,
        include_torch: bool | None,
        watch: ProgressIterator = iter,
        find: Callable[[RecordingTables], Sequence[Sequence[Any]]] = lambda _: [],
    ) -> None:
        """``find`` gives the rows of ``findings``."""
        self.contents = list(contents)
        self._find = find
        self._watch = watch
        self._include_torch = include_torch

    @cached_property
    def processes(self) -> list[Process]:
        shown = self._include_torch
        if shown is None:
            shown = any(c.meta.get("include_torch") for c in self.contents)
        return interpret_processes(self.contents, include_torch=bool(shown), watch=self._watch)

    @property
    def is_complete(self) -> bool:
        """Whether every process came to the end of its recording."""
        return all("ended_ns" in c.meta for c in self.contents)

    @cached_property
    def transitions(self) -> pd.DataFrame:
        return dataframes.transitions(self.processes)

    @cached_property
    def regions(self) -> pd.DataFrame:
        return dataframes.regions(self.processes)

    @cached_property
    def sites(self) -> pd.DataFrame:
        return dataframes.sites(self.processes)

    @cached_property
    def calls(self) -> pd.DataFrame:
        return dataframes.calls(self.processes)

    @cached_property
    def ops(self) -> pd.DataFrame:
        return dataframes.ops(self.processes)

    @cached_property
    def births(self) -> pd.DataFrame:
        return dataframes.births(self.processes)

    @cached_property
    def findings(self) -> pd.DataFrame:
        """What the rules find wrong, the worst first."""
        return dataframes.table(columns.FINDINGS, self._find(self))
