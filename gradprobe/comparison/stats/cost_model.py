"""A cost for each mechanism, fitted from the suite of operators, and what these costs explain of a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gradprobe.comparison.measure.mechanisms import MECHANISM_NAMES


@dataclass(frozen=True)
class CostDifference:
    """Between two modes of one workload: by how many of each mechanism they differ, and by how many nanoseconds."""

    counts: Mapping[str, float]
    ns: float


@dataclass(frozen=True)
class MechanismCosts:
    """Nanoseconds of each mechanism on one machine. ``explained`` is the share of the differences fitted from."""

    ns: Mapping[str, float]
    explained: float
    workloads: int

    def of(self, counts: Mapping[str, float]) -> dict[str, float]:
        """Nanoseconds by mechanism of a difference in counts."""
        return {name: self.ns[name] * counts.get(name, 0.0) for name in MECHANISM_NAMES}


def fit_costs(differences: Sequence[CostDifference]) -> MechanismCosts:
    """The costs, none of them negative, that miss the differences by least, each relative to its size.

    Least squares over each set of mechanisms that may cost something, the best of those without a negative cost: with eight
    mechanisms these are 255 small systems, and no iteration that may not end.
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
    """One less the sum of what was missed over the sum of what was measured, both without sign."""
    whole = float(np.abs(measured).sum())
    return 1 - float(np.abs(measured - predicted).sum()) / whole if whole else float("nan")
