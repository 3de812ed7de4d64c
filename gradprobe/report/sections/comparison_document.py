"""What the report of a comparison says: pure functions from its records to the neutral document."""

from __future__ import annotations

import math
from collections.abc import Mapping

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
    FormattedNumber,
    escape_unprintable,
    format_bytes,
    format_count,
    format_duration,
    format_percentage,
    pluralize,
)


def build_document(outcome: ComparisonOutcome) -> Document:
    """The report of a comparison: advice first, then ratios, the account, the reason, and how it was measured."""
    sections = [
        _ratios(outcome),
        _account(outcome),
        _reason(outcome),
        _processes(outcome),
        _remarks(outcome),
        _how(outcome),
        _environment(outcome),
    ]
    return Document(
        "gradprobe: no_grad against the other modes", _verdict(outcome), [s for s in sections if s is not None]
    )


def _verdict(outcome: ComparisonOutcome) -> list[str]:
    told = [
        f"{escape_unprintable(compared.workload)}: {escape_unprintable(write_advice(compared))}"
        for compared in outcome.workloads[:_FEW]
    ]
    if len(outcome.workloads) > _FEW:
        told = _tally(outcome)
    return [*told, *map(escape_unprintable, find_noise_warnings(outcome))]


_FEW = 12


def _tally(outcome: ComparisonOutcome) -> list[str]:
    lines = []
    for mode in outcome.settings["modes"]:
        if mode == BASELINE:
            continue
        said = [arm.verdict for compared in outcome.workloads for arm in compared.arms if arm.mode == mode]
        tally = ", ".join(f"{said.count(verdict)} {verdict}" for verdict in dict.fromkeys(sorted(said)))
        lines.append(f"{mode} against no_grad, on {pluralize(len(said), 'workload')}: {tally}.")
    return lines


def _ratios(outcome: ComparisonOutcome) -> Section:
    rows = []
    for compared in outcome.workloads:
        rows += [
            (escape_unprintable(compared.workload), *_ratio_cells(arm, escape_unprintable(arm.mode)))
            for arm in compared.arms
        ]
        if compared.control is not None:
            control = compared.control
            rows.append(
                (escape_unprintable(compared.workload), *_ratio_cells(control, "no_grad again"))[:5] + ("(control)",)
            )
    columns = ("workload", "mode", "time of a call", "to no_grad", "95 % interval", "verdict")
    sentences = [
        "Ratios are to no_grad; below 1 is faster. no_grad again is no_grad measured against itself in the same run: what "
        "it shows is noise, and no verdict claims less than that, nor less than one per cent."
    ]
    table = Table(columns, rows, frozenset(columns[2:5]))
    return Section("Time", sentences, table, chart=_intervals(outcome))


def _intervals(outcome: ComparisonOutcome) -> Chart | None:
    rows = [
        {
            "workload": escape_unprintable(compared.workload),
            "mode": mode,
            "ratio": arm.ratio,
            "low": arm.ci_low,
            "high": arm.ci_high,
            "shown": " ".join(_ratio_cells(arm, "")[2:4]),
        }
        for compared in outcome.workloads
        for mode, arm in _against(compared)
        if not math.isnan(arm.ratio) and arm.ci_low > 0
    ]
    caption = "Time of a call as a ratio to no_grad, with 95 per cent intervals; grey: what no verdict claims."
    return Chart("ratios", "intervals", caption, rows) if rows else None


def _against(compared: WorkloadResult) -> list[tuple[str, ArmResult]]:
    """What was measured against the baseline, the baseline itself among it."""
    control = [] if compared.control is None else [("no_grad again", compared.control)]
    return [
        (escape_unprintable(arm.mode), arm) for arm in compared.arms if arm.mode != BASELINE and not arm.error
    ] + control


def _processes(outcome: ComparisonOutcome) -> Section | None:
    rows = [
        {
            "workload": escape_unprintable(compared.workload),
            "mode": mode,
            "ratio": ratio,
            "shown": f"{ratio:.3f}",
        }
        for compared in outcome.workloads
        for mode, arm in _against(compared)
        for ratio in arm.process_ratios
        if math.isfinite(ratio)
    ]
    if not rows:
        return None
    caption = "What each process found by itself."
    table = Table(
        ("workload", "mode", "of each process"),
        [
            (escape_unprintable(compared.workload), mode, ", ".join(f"{ratio:.3f}" for ratio in arm.process_ratios))
            for compared in outcome.workloads
            for mode, arm in _against(compared)
        ],
    )
    return Section("Distributions", table=table, folded=True, chart=Chart("processes", "points", caption, rows))


def _ratio_cells(arm: ArmResult, mode: str) -> tuple[str, ...]:
    if arm.error:
        return mode, "-", "-", "-", arm.verdict
    interval = "-" if math.isnan(arm.ci_low) else f"{arm.ci_low:.3f} to {arm.ci_high:.3f}"
    ratio = "-" if math.isnan(arm.ratio) else FormattedNumber(f"{arm.ratio:.3f}", arm.ratio)
    if arm.mode == BASELINE:
        ratio, interval = FormattedNumber("1", 1), "-"
    return mode, "-" if math.isnan(arm.median_ns) else format_duration(arm.median_ns), ratio, interval, arm.verdict


def _account(outcome: ComparisonOutcome) -> Section:
    rows = [
        (escape_unprintable(compared.workload), arm.mode)
        + tuple(map(format_count, (arm.nodes, arm.counters_created, arm.tracked_views, arm.version_bumps)))
        + (format_bytes(arm.saved_bytes), format_count(arm.inference_tensors), format_count(arm.instructions))
        for compared in outcome.workloads
        for arm in compared.arms
        if not arm.error
    ]
    numbers = ("nodes", "counters", "tracked views", "bumps", "saved", "inference tensors", "instructions")
    sentence = "Of one call, counted in a pass that was not timed."
    return Section(
        "What a call makes PyTorch do",
        [sentence],
        Table(("workload", "mode", *numbers), rows, frozenset(numbers)),
        folded=True,
    )


def _reason(outcome: ComparisonOutcome) -> Section | None:
    if not outcome.costs_ns:
        return None
    rows = [
        _reason_cells(compared, arm, baseline)
        for compared in outcome.workloads
        for baseline in [compared.arm(BASELINE)]
        for arm in compared.arms
        if baseline is not None and arm.explained_ns and not math.isnan(arm.ratio)
    ]
    columns = ("workload", "mode", "measured", "explained", "left over", "share", "most of it by")
    costs = ", ".join(f"{name} {format_duration(ns)}" for name, ns in outcome.costs_ns.items() if ns)
    sentences = [
        f"Costs on this machine, fitted from mixtures of small operators: {escape_unprintable(costs)}.",
        "Explained is what these costs make of the difference in counts to no_grad, per call; a share is left out where "
        "the difference is within noise.",
    ]
    table = Table(columns, rows, frozenset(columns[2:6]))
    return Section("Where the difference comes from", sentences, table, folded=True, chart=_parts(outcome))


def _parts(outcome: ComparisonOutcome) -> Chart | None:
    """Per workload and mode, what each mechanism makes of the difference, and what none of them explains."""
    rows = []
    for compared in outcome.workloads:
        baseline = compared.arm(BASELINE)
        for mode, arm in _against(compared):
            if baseline is None or not arm.explained_ns or math.isnan(arm.ratio):
                continue
            left = arm.measured_ns(baseline.median_ns) - sum(arm.explained_ns.values())
            rows += [
                {
                    "workload": f"{escape_unprintable(compared.workload)}, {mode}",
                    "part": escape_unprintable(part),
                    "percent": 100 * ns / baseline.median_ns,
                    "shown": _signed(ns),
                }
                for part, ns in {**arm.explained_ns, UNEXPLAINED: left}.items()
                if ns
            ]
    caption = "The difference to no_grad by mechanism, in per cent of a call: to the left saved, to the right added."
    return Chart("parts", "parts", caption, rows) if rows else None


def _reason_cells(compared: WorkloadResult, arm: ArmResult, baseline: ArmResult) -> tuple[str, ...]:
    measured, explained = arm.measured_ns(baseline.median_ns), sum(arm.explained_ns.values())
    known = compute_explained_share(compared, arm) if arm.verdict in ("faster", "slower") else math.nan
    parts = sorted(arm.explained_ns.items(), key=lambda part: -abs(part[1]))[:2]
    return (
        escape_unprintable(compared.workload),
        arm.mode,
        _signed(measured),
        _signed(explained),
        _signed(measured - explained),
        "-" if math.isnan(known) else format_percentage(max(known, 0.0)),
        ", ".join(f"{name} {_signed(ns)}" for name, ns in parts),
    )


def _signed(ns: float) -> str:
    return FormattedNumber(("+" if ns > 0 else "") + format_duration(ns), ns)


def _remarks(outcome: ComparisonOutcome) -> Section | None:
    told = [f"{c.workload} {note}." for c in outcome.workloads for note in c.notes]
    told += [
        f"{c.workload} under {arm.mode}: {(arm.error or arm.difference).rstrip('.')}."
        for c in outcome.workloads
        for arm in c.arms
        if arm.error or arm.difference
    ]
    told += [f"{_bound(c.issued)}: {c.workload}." for c in outcome.workloads if c.issued is not None]
    told += [f"{note[:1].upper()}{note[1:]}." for note in outcome.notes]
    return Section("Remarks", list(map(escape_unprintable, told))) if told else None


def _bound(issued: float) -> str:
    kind = "Launch-bound" if issued > 0.9 else "Kernel-bound"
    return f"{kind} (the host issues work for {format_percentage(issued)} of the time)"


def _how(outcome: ComparisonOutcome) -> Section:
    settings = outcome.settings
    rounds = [arm.rounds for c in outcome.workloads for arm in c.arms if arm.mode == BASELINE and arm.rounds]
    managers = ", ".join(f"{mode} {format_duration(ns)}" for mode, ns in outcome.managers_ns.items())
    sentences = [
        f"Processes: {outcome.environment['processes']}. Rounds: {_range(rounds)}, each of one block of "
        f"calls per mode in random order (seed {settings['seed']})."
        if rounds
        else "Nothing was measured.",
        "Intervals are over processes, or of one process over stretches of its rounds: bootstrapped standard error, "
        "Student's t.",
        f"Entering and leaving the manager, which is not in these times: {managers}." if managers else "",
        f"Stopped at a half width of {format_percentage(settings['precision'])} or after {format_duration(settings['budget_s'] * 1e9)}; "
        f"took {format_duration(settings['took_s'] * 1e9)}.",
    ]
    return Section(
        "How it was measured", [escape_unprintable(sentence) for sentence in sentences if sentence], folded=True
    )


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _environment(outcome: ComparisonOutcome) -> Section:
    environment: Mapping[str, object] = outcome.environment
    rows = [
        (escape_unprintable(key), "-" if value is None else escape_unprintable(str(value)))
        for key, value in environment.items()
    ]
    return Section("Environment", table=Table(("", "value"), rows), folded=True)
