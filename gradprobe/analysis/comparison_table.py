"""Table of a comparison, with one row per workload and mode."""

from __future__ import annotations

import dataclasses

import pandas as pd

from gradprobe.analysis.comparison_outcome import ComparisonOutcome, compute_explained_share
from gradprobe.tables.column_frames import make_dataframe
from gradprobe.tables.comparison_columns import COMPARISON


def build_comparison_table(outcome: ComparisonOutcome) -> pd.DataFrame:
    """Build the table: times in nanoseconds per call, ratios to `no_grad`, verdicts, and counts of one call.

    Numbers that were not measured are NaN.
    """
    rows = [
        {
            "workload": result.workload,
            "explained": compute_explained_share(result, arm),
            **{field.name: getattr(arm, field.name) for field in dataclasses.fields(arm)},
        }
        for result in outcome.workloads
        for arm in result.arms
    ]
    return make_dataframe(COMPARISON, [[row[name] for name in COMPARISON.names] for row in rows])
