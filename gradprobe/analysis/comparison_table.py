"""The table of a comparison: a row per workload and mode."""

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
    """Median time of a call in nanoseconds, ratio to `no_grad` with its 95 per cent interval, verdict, and what one call
    makes PyTorch do; NaN where something was not measured."""
    rows = [
        {
            "workload": compared.workload,
            "explained": compute_explained_share(compared, arm),
            **{field.name: getattr(arm, field.name) for field in dataclasses.fields(arm)},
        }
        for compared in outcome.workloads
        for arm in compared.arms
    ]
    table: pd.DataFrame = pd.DataFrame(rows, columns=COMPARISON_COLUMNS)
    return table
