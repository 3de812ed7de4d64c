"""Gains of an exchange: times of the block under both managers, taken by chance in one run of the program."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gradprobe._counted_nouns import pluralize
from gradprobe.advice.manager_sites import Site
from gradprobe.advice.run_request import TIMES_FILE

_MIN_BLOCKS = 12
"""Fewer blocks of either kind give no interval worth showing."""
_SMALLEST_EFFECT = 0.01
_RESAMPLES = 400


def site_label(site: Site) -> str:
    """Return the text that names a site in a timed run."""
    return f"{site.file}:{site.line}:{site.start}"


def read_gains(folder: Path, sites: Sequence[Site]) -> dict[Site, dict[str, Any]]:
    """Return what each site gains by ``inference_mode``, by the times of a timed run.

    ``ratio`` is the time under ``inference_mode`` by that under ``no_grad``, with an interval of 95 %.
    """
    times: dict[str, dict[str, list[int]]] = {}
    file = folder / TIMES_FILE
    for line in file.read_text().splitlines() if file.exists() else ():
        label, manager, nanoseconds = json.loads(line)
        times.setdefault(label, {}).setdefault(manager, []).append(nanoseconds)
    return {site: _estimate(times.get(site_label(site), {})) for site in sites}


def _estimate(times: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    normal, inference = times.get("no_grad", []), times.get("inference_mode", [])
    count = len(normal) + len(inference)
    if min(len(normal), len(inference)) < _MIN_BLOCKS:
        text = f"not measured: the block ran {pluralize(count, 'time')} in the timed run"
        return {
            "verdict": "not measured",
            "blocks": count,
            "ratio": None,
            "ci_low": None,
            "ci_high": None,
            "text": text,
        }
    ratio = statistics.median(inference) / statistics.median(normal)
    low, high = _bootstrap(normal, inference)
    is_clear = high < 1 - _SMALLEST_EFFECT or low > 1 + _SMALLEST_EFFECT
    verdict = ("faster" if ratio < 1 else "slower") if is_clear else "not worth it"
    text = f"{ratio:.3f} of the time under no_grad ({low:.3f} to {high:.3f}, {count} blocks)"
    if not is_clear:
        text = f"not worth it: {text}"
    return {
        "verdict": verdict,
        "blocks": count,
        "ratio": round(ratio, 4),
        "ci_low": round(low, 4),
        "ci_high": round(high, 4),
        "text": text,
    }


def _bootstrap(normal: Sequence[int], inference: Sequence[int]) -> tuple[float, float]:
    """Return the interval of 95 % of the ratio of medians, by resampling."""
    draw = random.Random(0)
    ratios = sorted(
        math.log(statistics.median(draw.choices(inference, k=len(inference))))
        - math.log(statistics.median(draw.choices(normal, k=len(normal))))
        for _ in range(_RESAMPLES)
    )
    edge = round(0.025 * _RESAMPLES)
    return math.exp(ratios[edge]), math.exp(ratios[-edge - 1])
