"""Tables of a recording together with what the rules find in it."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from gradprobe.analysis.findings import build_finding_rows
from gradprobe.tables import columns
from gradprobe.tables.dataframes import make_dataframe
from gradprobe.tables.recording_tables import RecordingTables


class AnalyzedTables(RecordingTables):
    """Tables of one or several processes, with findings."""

    @cached_property
    def findings(self) -> pd.DataFrame:
        """DataFrame with one row per finding, the worst first."""
        return make_dataframe(columns.FINDINGS, build_finding_rows(self))
