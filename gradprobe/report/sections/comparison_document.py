"""Document of a comparison, built by pure functions from its outcome."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.comparison_advice import find_noise_warnings, write_advice
from gradprobe.analysis.comparison_outcome import (
    BASELINE,
    ArmResult,
    ComparisonOutcome,
    WorkloadResult,
    compute_explained_share,
)
from gradprobe.report.document import UNEXPLAINED, Chart, Document, Section, Table
from gradprobe.report.units import (
    MISSING,
    FormattedNumber,
    escape_unprintable,
    format_bytes,
    format_count,
    format_duration,
    format_percentage,
    format_text,
)

_MAX_ADVICE = 12
"""Number of workloads up to which the summary gives advice on each instead of counting verdicts."""

_CONTROL = "no_grad again"


def build_document(outcome: ComparisonOutcome) -> Document:
    """Build the report of a comparison: advice first, then ratios, work, causes and method."""
    sections = [
        _build_ratios(outcome),
        _build_work(outcome),
        _build_causes(outcome),
        _build_process_ratios(outcome),
        _build_remarks(outcome),
        _build_method(outcome),
        _build_environment(outcome),
    ]
    return Document(
        "gradprobe: no_grad compared with other modes",
        _summarize(outcome),
        [section for section in sections if section is not None],
    )


def _summarize(outcome: ComparisonOutcome) -> list[str]:
    if len(outcome.workloads) > _MAX_ADVICE:
        lines = _count_verdicts(outcome)
    else:
        lines = [f"{compared.workload}: {write_advice(compared)}" for compared in outcome.workloads]
    return [escape_unprintable(line) for line in (*lines, *find_noise_warnings(outcome))]


def _count_verdicts(outcome: ComparisonOutcome) -> list[str]:
    lines = []
    for mode in outcome.settings["modes"]:
        if mode == BASELINE:
            continue
        verdicts = [arm.verdict for compared in outcome.workloads for arm in compared.arms if arm.mode == mode]
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(sorted(verdicts)))
        lines.append(f"{mode} compared with no_grad on {pluralize(len(verdicts), 'workload')}: {counts}.")
    return lines


def _build_ratios(outcome: ComparisonOutcome) -> Section:
    rows = []
    for compared in outcome.workloads:
        workload = escape_unprintable(compared.workload)
        rows += [(workload, *_format_ratio(arm, escape_unprintable(arm.mode))) for arm in compared.arms]
        if compared.control is not None:
            rows.append((workload, *_format_ratio(compared.control, _CONTROL))[:5] + ("(control)",))
    columns = ("workload", "mode", "time per call", "ratio to no_grad", "95 % CI", "verdict")
    sentences = [
        "Ratios are relative to no_grad; below 1 is faster. The control, no_grad again, is no_grad measured against itself "
        "in the same run: its deviation from 1 is noise, and no verdict claims a difference below that or below 1 %."
    ]
    table = Table(columns, rows, frozenset(columns[2:5]))
    return Section("Time", sentences, table, chart=_build_interval_chart(outcome))


def _build_interval_chart(outcome: ComparisonOutcome) -> Chart | None:
    rows = [
        {
            "workload": escape_unprintable(compared.workload),
            "mode": mode,
            "ratio": arm.ratio,
            "low": arm.ci_low,
            "high": arm.ci_high,
            "shown": " ".join(_format_ratio(arm, "")[2:4]),
        }
        for compared in outcome.workloads
        for mode, arm in _list_compared(compared)
        if not math.isnan(arm.ratio) and arm.ci_low > 0
    ]
    caption = "Time per call as a ratio to no_grad, with 95 % confidence intervals; grey: too small for any verdict."
    return Chart("ratios", "intervals", caption, rows) if rows else None


def _list_compared(compared: WorkloadResult) -> list[tuple[str, ArmResult]]:
    """Return the modes that were compared with the baseline, and the baseline's control."""
    control = [] if compared.control is None else [(_CONTROL, compared.control)]
    others = [arm for arm in compared.arms if arm.mode != BASELINE and not arm.error]
    return [(escape_unprintable(arm.mode), arm) for arm in others] + control


def _build_process_ratios(outcome: ComparisonOutcome) -> Section | None:
    rows = [
        {
            "workload": escape_unprintable(compared.workload),
            "mode": mode,
            "ratio": ratio,
            "shown": f"{ratio:.3f}",
        }
        for compared in outcome.workloads
        for mode, arm in _list_compared(compared)
        for ratio in arm.process_ratios
        if math.isfinite(ratio)
    ]
    if not rows:
        return None
    caption = "Ratio to no_grad in each process."
    table = Table(
        ("workload", "mode", "ratio in each process"),
        [
            (
                escape_unprintable(compared.workload),
                mode,
                ", ".join(f"{ratio:.3f}" for ratio in arm.process_ratios),
            )
            for compared in outcome.workloads
            for mode, arm in _list_compared(compared)
        ],
    )
    return Section("Ratios by process", table=table, folded=True, chart=Chart("processes", "points", caption, rows))


def _format_ratio(arm: ArmResult, mode: str) -> tuple[str, ...]:
    if arm.error:
        return mode, MISSING, MISSING, MISSING, arm.verdict
    interval = MISSING if math.isnan(arm.ci_low) else f"{arm.ci_low:.3f} to {arm.ci_high:.3f}"
    ratio = MISSING if math.isnan(arm.ratio) else FormattedNumber(f"{arm.ratio:.3f}", arm.ratio)
    if arm.mode == BASELINE:
        ratio, interval = FormattedNumber("1", 1), MISSING
    time = MISSING if math.isnan(arm.median_ns) else format_duration(arm.median_ns)
    return mode, time, ratio, interval, arm.verdict


def _build_work(outcome: ComparisonOutcome) -> Section:
    rows = [
        (escape_unprintable(compared.workload), arm.mode)
        + tuple(map(format_count, (arm.nodes, arm.counters_created, arm.tracked_views, arm.version_bumps)))
        + (format_bytes(arm.saved_bytes), format_count(arm.inference_tensors), format_count(arm.instructions))
        for compared in outcome.workloads
        for arm in compared.arms
        if not arm.error
    ]
    numbers = (
        "nodes",
        "version counters",
        "tracked views",
        "version bumps",
        "saved bytes",
        "inference tensors",
        "instructions",
    )
    table = Table(("workload", "mode", *numbers), rows, frozenset(numbers))
    return Section("Work per call", ["Counted for one call, in a pass that was not timed."], table, folded=True)


def _build_causes(outcome: ComparisonOutcome) -> Section | None:
    if not outcome.costs_ns:
        return None
    rows = [
        _format_causes(compared, arm, baseline)
        for compared in outcome.workloads
        for baseline in [compared.arm(BASELINE)]
        for arm in compared.arms
        if baseline is not None and arm.explained_ns and not math.isnan(arm.ratio)
    ]
    columns = ("workload", "mode", "measured", "explained", UNEXPLAINED, "share explained", "largest parts")
    costs = ", ".join(f"{name} {format_duration(ns)}" for name, ns in outcome.costs_ns.items() if ns)
    sentences = [
        f"Cost of each mechanism on this machine, fitted from mixtures of small operators: {escape_unprintable(costs)}.",
        "Explained is the difference to no_grad per call that follows from these costs and the counts. The share is left "
        "out if the difference is within noise.",
    ]
    table = Table(columns, rows, frozenset(columns[2:6]))
    chart = _build_parts_chart(outcome)
    return Section("Causes of the difference", sentences, table, folded=True, chart=chart)


def _build_parts_chart(outcome: ComparisonOutcome) -> Chart | None:
    """Build the chart of the difference per workload and mode, split by mechanism."""
    rows = []
    for compared in outcome.workloads:
        baseline = compared.arm(BASELINE)
        for mode, arm in _list_compared(compared):
            if baseline is None or not arm.explained_ns or math.isnan(arm.ratio):
                continue
            rest = arm.measured_ns(baseline.median_ns) - sum(arm.explained_ns.values())
            rows += [
                {
                    "workload": f"{escape_unprintable(compared.workload)}, {mode}",
                    "part": escape_unprintable(part),
                    "percent": 100 * ns / baseline.median_ns,
                    "shown": _format_difference(ns),
                }
                for part, ns in {**arm.explained_ns, UNEXPLAINED: rest}.items()
                if ns
            ]
    caption = "Difference to no_grad by mechanism, in % of a call: savings to the left, costs to the right."
    return Chart("parts", "parts", caption, rows) if rows else None


def _format_causes(compared: WorkloadResult, arm: ArmResult, baseline: ArmResult) -> tuple[str, ...]:
    measured, explained = arm.measured_ns(baseline.median_ns), sum(arm.explained_ns.values())
    known = compute_explained_share(compared, arm) if arm.verdict in ("faster", "slower") else math.nan
    parts = sorted(arm.explained_ns.items(), key=lambda part: -abs(part[1]))[:2]
    return (
        escape_unprintable(compared.workload),
        arm.mode,
        _format_difference(measured),
        _format_difference(explained),
        _format_difference(measured - explained),
        MISSING if math.isnan(known) else format_percentage(max(known, 0.0)),
        ", ".join(f"{name} {_format_difference(ns)}" for name, ns in parts),
    )


def _format_difference(ns: float) -> str:
    return FormattedNumber(("+" if ns > 0 else "") + format_duration(ns), ns)


def _build_remarks(outcome: ComparisonOutcome) -> Section | None:
    remarks = [f"{compared.workload} {note}." for compared in outcome.workloads for note in compared.notes]
    remarks += [
        f"{compared.workload} under {arm.mode}: {(arm.error or arm.difference).rstrip('.')}."
        for compared in outcome.workloads
        for arm in compared.arms
        if arm.error or arm.difference
    ]
    remarks += [
        f"{_describe_bound(compared.issued)}: {compared.workload}."
        for compared in outcome.workloads
        if compared.issued is not None
    ]
    remarks += [f"{note[:1].upper()}{note[1:]}." for note in outcome.notes]
    return Section("Remarks", list(map(escape_unprintable, remarks))) if remarks else None


def _describe_bound(issued: float) -> str:
    kind = "Launch-bound" if issued > 0.9 else "Kernel-bound"
    return f"{kind} (the host issues work for {format_percentage(issued)} of the time)"


def _build_method(outcome: ComparisonOutcome) -> Section:
    settings = outcome.settings
    rounds = [arm.rounds for c in outcome.workloads for arm in c.arms if arm.mode == BASELINE and arm.rounds]
    managers = ", ".join(f"{mode} {format_duration(ns)}" for mode, ns in outcome.managers_ns.items())
    budget, took = format_duration(settings["budget_s"] * 1e9), format_duration(settings["took_s"] * 1e9)
    sentences = [
        f"Processes: {outcome.environment['processes']}. Rounds: {_format_range(rounds)}, each with one block of calls per "
        f"mode in random order (seed {settings['seed']})."
        if rounds
        else "Nothing was measured.",
        "Confidence intervals are over processes, or for a single process over segments of its rounds: bootstrapped "
        "standard error, Student's t.",
        f"Entering and exiting the context manager is not part of these times; it takes: {managers}."
        if managers
        else "",
        f"Stopped when the half-width of the interval was below {format_percentage(settings['precision'])}, or after "
        f"{budget}; took {took}.",
    ]
    return Section(
        "How it was measured", [escape_unprintable(sentence) for sentence in sentences if sentence], folded=True
    )


def _format_range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _build_environment(outcome: ComparisonOutcome) -> Section:
    environment: Mapping[str, object] = outcome.environment
    rows = [(escape_unprintable(key), format_text(value)) for key, value in environment.items()]
    return Section("Environment", table=Table(("", "value"), rows), folded=True)
