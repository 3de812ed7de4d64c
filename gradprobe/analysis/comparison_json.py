"""JSON form of a comparison, and its validation: an edited or damaged file is refused when it is read."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

from gradprobe.analysis.comparison_outcome import NAN, ArmResult, ComparisonOutcome, WorkloadResult
from gradprobe.errors import GradprobeError

COMPARISON_SCHEMA: Final = 1
_MAX_NUMBER: Final = 1e18
"""Largest magnitude of a number in a sound file. Far larger ones overflow in the arithmetic of reports and charts."""
_MAX_POSITIVE: Final = {"median_ns": _MAX_NUMBER, "ratio": 1e9, "ci_low": 1e300, "ci_high": 1e300}
"""Largest values of numbers that are above 0 in a sound file. An interval from two observations may be very wide."""
_NUMBERS: Final = frozenset(field.name for field in dataclasses.fields(ArmResult) if field.type == "float")
_TEXTS: Final = ("mode", "verdict", "difference", "error")


def build_json(outcome: ComparisonOutcome) -> dict[str, Any]:
    """Return the JSON form of an outcome. Numbers that were not measured are null."""
    return {"schema": COMPARISON_SCHEMA, "kind": "comparison", **_replace_nonfinite(dataclasses.asdict(outcome))}


def parse_outcome(plain: Mapping[str, Any], where: str) -> ComparisonOutcome:
    """Return the outcome from its JSON form. ``where`` names the file in errors.

    Raises ``GradprobeError`` for anything that is not a sound comparison of this schema.
    """
    if not isinstance(plain, dict) or plain.get("kind") != "comparison":
        raise GradprobeError(f"cannot read {where}: it is not a comparison; use a file that gradprobe compare -o wrote")
    if plain.get("schema") != COMPARISON_SCHEMA:
        raise GradprobeError(
            f"cannot read {where}: it has schema {plain.get('schema')!r:.40}, this version reads {COMPARISON_SCHEMA}; "
            "compare again"
        )
    try:
        return ComparisonOutcome(
            tuple(_parse_workload(one) for one in _as_list(plain["workloads"])),
            _parse_environment(plain["environment"]),
            _parse_settings(plain["settings"]),
            costs_ns=_parse_numbers(plain["costs_ns"]),
            managers_ns=_parse_numbers(plain["managers_ns"]),
            notes=_parse_texts(plain["notes"]),
        )
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        cause = f"{type(error).__name__}: {error}".splitlines()[0]
        raise GradprobeError(f"cannot read {where}: it is damaged ({cause}); compare again") from None


def _parse_workload(plain: dict[str, Any]) -> WorkloadResult:
    issued = plain["issued"]
    return WorkloadResult(
        **{
            **plain,
            "workload": _as_text(plain["workload"]),
            "arms": tuple(_parse_arm(arm) for arm in _as_list(plain["arms"])),
            "control": None if plain["control"] is None else _parse_arm(plain["control"]),
            "calls": _as_count(plain["calls"]),
            "processes": _as_count(plain["processes"]),
            "issued": None if issued is None else _as_number(issued),
            "notes": _parse_texts(plain["notes"]),
        }
    )


def _parse_arm(plain: dict[str, Any]) -> ArmResult:
    numbers = {
        name: NAN if plain[name] is None else _as_number(plain[name], _MAX_POSITIVE.get(name, _MAX_NUMBER))
        for name in _NUMBERS & set(plain)
    }
    for name, most in _MAX_POSITIVE.items():
        value = numbers.get(name, NAN)
        if not math.isnan(value) and not 1 / most <= value <= most:
            raise ValueError(f"{name} is {value!r:.40}")
    if not isinstance(plain["differs"], bool):
        raise TypeError(f"differs is {plain['differs']!r:.40}")
    ratios = [NAN if ratio is None else _as_number(ratio) for ratio in _as_list(plain["process_ratios"])]
    return ArmResult(
        **{
            **plain,
            **numbers,
            **{name: _as_text(plain[name]) for name in _TEXTS},
            "rounds": _as_count(plain["rounds"]),
            "process_ratios": tuple(map(float, ratios)),
            # A number that is not finite was written as null.
            "explained_ns": _parse_numbers({k: ns for k, ns in plain["explained_ns"].items() if ns is not None}),
        }
    )


def _parse_environment(plain: dict[str, Any]) -> dict[str, Any]:
    environment = dict(plain.items())
    _as_count(environment["processes"])
    for name in ("load_average", "cpus"):
        if environment.get(name) is not None:
            _as_number(environment[name])
    return environment


def _parse_settings(plain: dict[str, Any]) -> dict[str, Any]:
    settings = dict(plain.items())
    settings["modes"] = list(_parse_texts(settings["modes"]))
    for name in ("precision", "budget_s", "took_s"):
        _as_number(settings[name])
    if isinstance(settings["seed"], bool) or not isinstance(settings["seed"], int) or abs(settings["seed"]) >= 2**64:
        raise ValueError(f"seed is {type(settings['seed']).__name__}")
    return settings


def _parse_numbers(plain: dict[str, Any]) -> dict[str, float]:
    return {_as_text(name): float(_as_number(value)) for name, value in plain.items()}


def _parse_texts(plain: Any) -> tuple[str, ...]:
    return tuple(map(_as_text, _as_list(plain)))


def _as_list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise TypeError(f"{value!r:.40} is not a list")
    return list(value)


def _as_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not a string")
    return value


def _as_number(value: Any, most: float = _MAX_NUMBER) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -most <= value <= most:
        raise ValueError(f"{_shorten(value)} is not a finite number")
    return value


def _as_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
        raise ValueError(f"{_shorten(value)} is not a count")
    return value


def _shorten(value: Any) -> str:
    """Return a short form of a value. Python refuses to print integers of more than 4300 digits."""
    is_huge = isinstance(value, int) and abs(value) > _MAX_NUMBER
    return "an integer out of range" if is_huge else f"{value!r:.40}"


def _replace_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_nonfinite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nonfinite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
