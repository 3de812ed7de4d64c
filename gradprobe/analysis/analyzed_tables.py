"""Tables of a recording together with what the rules find in it."""

from __future__ import annotations

from functools import cached_property

import pandas as pd

from gradprobe.analysis.findings import build_finding_rows
from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.tensor_lifecycle.life_events import build_lifecycle_rows
from gradprobe.tables.column_frames import make_dataframe
from gradprobe.tables.finding_columns import FINDINGS
from gradprobe.tables.phase_columns import LIFECYCLE
from gradprobe.tables.recording_tables import RecordingTables


class AnalyzedTables(RecordingTables):
    """Tables of one or several processes, with findings."""

    @cached_property
    def findings(self) -> pd.DataFrame:
        """DataFrame with one row per finding, the worst first."""
        return make_dataframe(FINDINGS, build_finding_rows(self))

    @cached_property
    def lifecycle(self) -> pd.DataFrame:
        """DataFrame with one row per event in the life of an inference tensor that the program keeps."""
        return make_dataframe(LIFECYCLE, build_lifecycle_rows(Evidence(self)))
