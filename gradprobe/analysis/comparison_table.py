"""Table of a comparison, with one row per workload and mode."""

from __future__ import annotations

import dataclasses

import pandas as pd

from gradprobe.analysis.comparison_outcome import ComparisonOutcome, compute_explained_share

COMPARISON_COLUMNS = [
    "workload",
    "mode",
    "median_ns",
    "ratio",
    "ci_low",
    "ci_high",
    "verdict",
    "nodes",
    "counters_created",
    "version_bumps",
    "tracked_views",
    "saved_bytes",
    "instructions",
    "saved_tensors",
    "inference_tensors",
    "operators",
    "explained",
    "rounds",
    "difference",
    "error",
]


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
    table: pd.DataFrame = pd.DataFrame(rows, columns=COMPARISON_COLUMNS)
    return table
