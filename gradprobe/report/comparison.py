"""What the report of a comparison says: pure functions from its records to the neutral document."""

from __future__ import annotations

import math
from collections.abc import Mapping

from gradprobe.analysis.comparisons import BASELINE, Arm, Compared, Outcome, advice, explained_share, warnings
from gradprobe.report.document import Document, Section, Table
from gradprobe.report.units import count, duration, many, printable, share, size


def document(outcome: Outcome) -> Document:
    """The report of a comparison: advice first, then ratios, the account, the reason, and how it was measured."""
    sections = [
        _ratios(outcome),
        _account(outcome),
        _reason(outcome),
        _remarks(outcome),
        _how(outcome),
        _environment(outcome),
    ]
    return Document(
        "gradprobe: no_grad against the other modes", _verdict(outcome), [s for s in sections if s is not None]
    )


def _verdict(outcome: Outcome) -> list[str]:
    told = [f"{printable(compared.workload)}: {printable(advice(compared))}" for compared in outcome.workloads[:_FEW]]
    if len(outcome.workloads) > _FEW:
        told = _tally(outcome)
    return [*told, *map(printable, warnings(outcome))]


_FEW = 12


def _tally(outcome: Outcome) -> list[str]:
    lines = []
    for mode in outcome.settings["modes"]:
        if mode == BASELINE:
            continue
        said = [arm.verdict for compared in outcome.workloads for arm in compared.arms if arm.mode == mode]
        tally = ", ".join(f"{said.count(verdict)} {verdict}" for verdict in dict.fromkeys(sorted(said)))
        lines.append(f"{mode} against no_grad, on {many(len(said), 'workload')}: {tally}.")
    return lines


def _ratios(outcome: Outcome) -> Section:
    rows = []
    for compared in outcome.workloads:
        rows += [(printable(compared.workload), *_ratio_cells(arm, printable(arm.mode))) for arm in compared.arms]
        if compared.control is not None:
            control = compared.control
            rows.append((printable(compared.workload), *_ratio_cells(control, "no_grad again"))[:5] + ("(control)",))
    columns = ("workload", "mode", "time of a call", "to no_grad", "95 % interval", "verdict")
    sentences = [
        "Ratios are to no_grad; below 1 is faster. no_grad again is no_grad measured against itself in the same run: what "
        "it shows is noise, and no verdict claims less than that, nor less than one per cent."
    ]
    return Section("Time", sentences, Table(columns, rows, frozenset(columns[2:5])))


def _ratio_cells(arm: Arm, mode: str) -> tuple[str, ...]:
    if arm.error:
        return mode, "-", "-", "-", arm.verdict
    interval = "-" if math.isnan(arm.ci_low) else f"{arm.ci_low:.3f} to {arm.ci_high:.3f}"
    ratio = "-" if math.isnan(arm.ratio) else f"{arm.ratio:.3f}"
    if arm.mode == BASELINE:
        ratio, interval = "1", "-"
    return mode, "-" if math.isnan(arm.median_ns) else duration(arm.median_ns), ratio, interval, arm.verdict


def _account(outcome: Outcome) -> Section:
    rows = [
        (printable(compared.workload), arm.mode)
        + tuple(map(count, (arm.nodes, arm.counters_created, arm.tracked_views, arm.version_bumps)))
        + (size(arm.saved_bytes), count(arm.inference_tensors), count(arm.instructions))
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


def _reason(outcome: Outcome) -> Section | None:
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
    costs = ", ".join(f"{name} {duration(ns)}" for name, ns in outcome.costs_ns.items() if ns)
    sentences = [
        f"Costs on this machine, fitted from mixtures of small operators: {printable(costs)}.",
        "Explained is what these costs make of the difference in counts to no_grad, per call; a share is left out where "
        "the difference is within noise.",
    ]
    return Section(
        "Where the difference comes from", sentences, Table(columns, rows, frozenset(columns[2:6])), folded=True
    )


def _reason_cells(compared: Compared, arm: Arm, baseline: Arm) -> tuple[str, ...]:
    measured, explained = arm.measured_ns(baseline.median_ns), sum(arm.explained_ns.values())
    known = explained_share(compared, arm) if arm.verdict in ("faster", "slower") else math.nan
    parts = sorted(arm.explained_ns.items(), key=lambda part: -abs(part[1]))[:2]
    return (
        printable(compared.workload),
        arm.mode,
        _signed(measured),
        _signed(explained),
        _signed(measured - explained),
        "-" if math.isnan(known) else share(max(known, 0.0)),
        ", ".join(f"{name} {_signed(ns)}" for name, ns in parts),
    )


def _signed(ns: float) -> str:
    return ("+" if ns > 0 else "") + duration(ns)


def _remarks(outcome: Outcome) -> Section | None:
    told = [f"{c.workload} {note}." for c in outcome.workloads for note in c.notes]
    told += [
        f"{c.workload} under {arm.mode}: {(arm.error or arm.difference).rstrip('.')}."
        for c in outcome.workloads
        for arm in c.arms
        if arm.error or arm.difference
    ]
    told += [f"{_bound(c.issued)}: {c.workload}." for c in outcome.workloads if c.issued is not None]
    told += [f"{note[:1].upper()}{note[1:]}." for note in outcome.notes]
    return Section("Remarks", list(map(printable, told))) if told else None


def _bound(issued: float) -> str:
    kind = "Launch-bound" if issued > 0.9 else "Kernel-bound"
    return f"{kind} (the host issues work for {share(issued)} of the time)"


def _how(outcome: Outcome) -> Section:
    settings = outcome.settings
    rounds = [arm.rounds for c in outcome.workloads for arm in c.arms if arm.mode == BASELINE and arm.rounds]
    managers = ", ".join(f"{mode} {duration(ns)}" for mode, ns in outcome.managers_ns.items())
    sentences = [
        f"Processes: {outcome.environment['processes']}. Rounds: {_range(rounds)}, each of one block of "
        f"calls per mode in random order (seed {settings['seed']})."
        if rounds
        else "Nothing was measured.",
        "Intervals are over processes, or of one process over stretches of its rounds: bootstrapped standard error, "
        "Student's t.",
        f"Entering and leaving the manager, which is not in these times: {managers}." if managers else "",
        f"Stopped at a half width of {share(settings['precision'])} or after {duration(settings['budget_s'] * 1e9)}; "
        f"took {duration(settings['took_s'] * 1e9)}.",
    ]
    return Section("How it was measured", [printable(sentence) for sentence in sentences if sentence], folded=True)


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _environment(outcome: Outcome) -> Section:
    environment: Mapping[str, object] = outcome.environment
    rows = [(printable(key), "-" if value is None else printable(str(value))) for key, value in environment.items()]
    return Section("Environment", table=Table(("", "value"), rows), folded=True)
