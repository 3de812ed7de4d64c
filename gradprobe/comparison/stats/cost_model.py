"""Cost model: nanoseconds of each mechanism, fitted from small operators, and the differences that they explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gradprobe.comparison.measure.mechanisms import MECHANISM_NAMES


@dataclass(frozen=True)
class CostDifference:
    """Difference between two modes of one workload: counts of mechanisms, and nanoseconds."""

    counts: Mapping[str, float]
    ns: float


@dataclass(frozen=True)
class MechanismCosts:
    """Nanoseconds of each mechanism on one machine."""

    ns: Mapping[str, float]
    explained: float
    """Share that the costs explain of the differences from which they were fitted."""
    workloads: int

    def apply_to(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Return nanoseconds by mechanism for a difference in counts."""
        return {name: self.ns[name] * counts.get(name, 0.0) for name in MECHANISM_NAMES}


def fit_costs(differences: Sequence[CostDifference]) -> MechanismCosts:
    """Return the costs, none negative, with the smallest squared errors relative to the size of each difference.

    Least squares is solved for each subset of mechanisms, and the best solution without a negative cost is taken: with
    eight mechanisms these are 255 small systems, and there is no iteration that may fail to converge.
    """
    counts = np.array([[d.counts.get(name, 0.0) for name in MECHANISM_NAMES] for d in differences])
    ns = np.array([d.ns for d in differences])
    weight = 1 / (np.abs(ns) + np.median(np.abs(ns)))
    best, least = np.zeros(len(MECHANISM_NAMES)), float(np.sum((weight * ns) ** 2))
    for number in range(1, len(MECHANISM_NAMES) + 1):
        for chosen in map(list, combinations(range(len(MECHANISM_NAMES)), number)):
            costs, *_ = np.linalg.lstsq(counts[:, chosen] * weight[:, None], ns * weight, rcond=None)
            missed = float(np.sum((weight * (counts[:, chosen] @ costs - ns)) ** 2))
            if (costs >= 0).all() and missed < least:
                best, least = np.zeros(len(MECHANISM_NAMES)), missed
                best[chosen] = costs
    explained = score_prediction(ns, counts @ best)
    return MechanismCosts(dict(zip(MECHANISM_NAMES, map(float, best), strict=True)), explained, len(differences))


def score_prediction(measured: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Return 1 minus the sum of absolute errors divided by the sum of absolute measured values."""
    whole = float(np.abs(measured).sum())
    return 1 - float(np.abs(measured - predicted).sum()) / whole if whole else float("nan")
