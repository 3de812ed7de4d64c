"""Table of a comparison, with one row per workload and mode."""

from __future__ import annotations

import dataclasses

import pandas as pd

from gradprobe.analysis.comparison_outcome import ComparisonOutcome, compute_explained_share
from gradprobe.tables.columns import COMPARISON
from gradprobe.tables.dataframes import make_dataframe


def build_comparison_table(outcome: ComparisonOutcome) -> pd.DataFrame:
    """Build the DataFrame of a comparison; what was not measured is NaN."""
    rows = [
        {
            "workload": compared.workload,
            "explained": compute_explained_share(compared, arm),
            **{field.name: getattr(arm, field.name) for field in dataclasses.fields(arm)},
        }
        for compared in outcome.workloads
        for arm in compared.arms
    ]
    return make_dataframe(COMPARISON, [[row[name] for name in COMPARISON.names] for row in rows])
