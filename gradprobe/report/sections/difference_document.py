"""Document of the difference of two recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.difference.recording_difference import LINE_NUMBERS, SITE_NUMBERS, Change, RecordingDifference
from gradprobe.analysis.difference.time_change import BETWEEN_RUNS, MIN_BLOCKS
from gradprobe.analysis.findings.catalogue import SEVERITIES
from gradprobe.analysis.findings.finding import Finding
from gradprobe.report.document import Document, Section, Table
from gradprobe.report.sections.findings_section import build_finding_item
from gradprobe.report.units import (
    MISSING,
    FormattedNumber,
    escape_unprintable,
    format_bytes,
    format_count,
    format_duration,
    format_location,
    format_text,
)

_TOTALS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "nodes": ("autograd nodes", format_count),
    "saved_bytes": ("saved for backward", format_bytes),
    "version_bumps": ("version bumps", format_count),
    "inference_outputs": ("inference tensors", format_count),
}
_NUMBERS: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "count": ("count", format_count),
    "nodes": ("nodes", format_count),
    "saved_bytes": ("saved bytes", format_bytes),
    "version_bumps": ("version bumps", format_count),
    "inference_tensors": ("inference tensors", format_count),
    "inference_outputs": ("inference tensors", format_count),
}
_ENVIRONMENT = ("program", "level", "torch", "python", "platform", "cpus", "torch_threads", "accelerator", "gradprobe")
"""Facts without which numbers cannot be compared."""


def build_document(found: RecordingDifference, names: tuple[str, str], *, top: int) -> Document:
    """Build the report of a difference between the recordings called ``names``."""
    sections = [
        _build_findings("New findings", found.new, top),
        _build_findings("Findings that are gone", found.gone, top, has_source=False),
        _build_totals(found),
        _build_changes("Sites", found.sites, top, SITE_NUMBERS),
        _build_changes("Operators by line", found.lines, top, LINE_NUMBERS),
        _build_modes(found),
        _build_kept(found.kept, top),
        _build_environment(found),
    ]
    before, after = map(escape_unprintable, names)
    return Document(
        f"gradprobe: from {before} to {after}", _summarize(found), [one for one in sections if one is not None]
    )


def _summarize(found: RecordingDifference) -> list[str]:
    lines = [f"New findings: {_count_findings(found.new)}. Gone: {len(found.gone):,}. In both: {len(found.kept):,}."]
    if not found.new and not found.gone:
        lines = [f"The same findings in both: {len(found.kept):,}." if found.kept else "No findings in either."]
    for name, (label, show) in _TOTALS.items():
        before, after = found.totals[name]
        if before is not None and after is not None and before != after:
            lines.append(f"{label[:1].upper()}{label[1:]}: {_format_step(before, after, show)}{_rate(before, after)}.")
    unknown = [
        label
        for name, (label, _) in _TOTALS.items()
        if (found.totals[name][0] is None) != (found.totals[name][1] is None)
    ]
    if unknown:
        lines.append(f"Measured in one recording only, and not compared: {', '.join(unknown)}.")
    unchanged = [
        label
        for name, (label, _) in _TOTALS.items()
        if None not in found.totals[name] and len(set(found.totals[name])) == 1
    ]
    if unchanged:
        lines.append(f"Unchanged: {', '.join(unchanged)}.")
    lines.append(_summarize_times(found.sites))
    return lines


def _count_findings(findings: Sequence[Finding]) -> str:
    counts = [(sum(f.severity == severity for f in findings), severity) for severity in SEVERITIES]
    return ", ".join(pluralize(number, severity) for number, severity in counts if number) or "none"


def _summarize_times(sites: Sequence[Change]) -> str:
    """Say which blocks took another time, and how many of the others cannot be judged."""
    both = [site for site in sites if site.before is not None and site.after is not None]
    slower, faster, same = (
        sum(site.time.verdict == verdict for site in both) for verdict in ("slower", "faster", "same")
    )
    unknown = len(both) - slower - faster - same
    return (
        f"Time per block, at {pluralize(len(both), 'site')} in both: {slower} slower, {faster} faster, {same} the same "
        f"within the {BETWEEN_RUNS:.0%} that runs of one program differ by; of {unknown} the blocks are too few or too "
        "uneven to say."
        if both
        else "No site is in both recordings, so no times can be compared."
    )


def _build_findings(title: str, findings: Sequence[Finding], top: int, *, has_source: bool = True) -> Section | None:
    if not findings:
        return None
    items = [build_finding_item(finding, has_source=has_source) for finding in findings[:top]]
    left_out = [f"{pluralize(len(findings) - top, 'more finding')} left out."] if len(findings) > top else []
    return Section(title, left_out, items=items)


def _build_kept(findings: Sequence[Finding], top: int) -> Section | None:
    if not findings:
        return None
    rows = [
        (format_location(f.file, f.line), f.severity, escape_unprintable(f.rule), escape_unprintable(f.message))
        for f in findings[:top]
    ]
    table = Table(("site", "severity", "rule", "message"), rows, left_out=max(len(findings) - top, 0))
    return Section("Findings in both", table=table, folded=True)


def _build_totals(found: RecordingDifference) -> Section | None:
    rows = [
        (label, show(before), show(after), _format_change(before, after, show))
        for name, (label, show) in _TOTALS.items()
        for before, after in [found.totals[name]]
        if before is not None or after is not None
    ]
    if not rows:
        return None
    return Section(
        "Totals", table=Table(("", "before", "after", "change"), rows, frozenset(("before", "after", "change")))
    )


def _build_changes(title: str, changes: Sequence[Change], top: int, names: Sequence[str]) -> Section | None:
    if not changes:
        return None
    shown = [change for change in changes if change.status != "same"]
    same = len(changes) - len(shown)
    noun = "site" if title == "Sites" else "line"
    sentences = [f"{pluralize(same, noun)} unchanged."] if same else []
    if not shown:
        return Section(title, sentences)
    names = [name for name in names if name in _NUMBERS and any(c.difference(name) for c in shown)]
    has_managers, has_times = any(c.shown.manager for c in shown), any(c.time.ratio is not None for c in shown)
    columns = ["site", "", *(["manager"] if has_managers else []), *(_NUMBERS[name][0] for name in names)]
    rows = [
        [_format_place(c), c.status]
        + ([_format_managers(c)] if has_managers else [])
        + [_format_step(*c.numbers(name), _NUMBERS[name][1]) for name in names]
        + ([_format_time(c)] if has_times else [])
        for c in shown[:top]
    ]
    columns += ["time per block"] if has_times else []
    numeric = frozenset([*(_NUMBERS[name][0] for name in names), "time per block"])
    return Section(title, sentences, Table(columns, rows, numeric, max(len(shown) - top, 0)))


def _format_place(change: Change) -> str:
    place = format_location(*change.shown.place)
    if change.before is None or change.after is None or change.before.place == change.after.place:
        return place
    was = change.before
    return f"{place} (was {was.line if was.file == change.after.file else format_location(*was.place)})"


def _format_managers(change: Change) -> str:
    managers = [entry.manager for entry in (change.before, change.after) if entry is not None]
    return " -> ".join(dict.fromkeys(managers))


def _format_time(change: Change) -> str:
    time = change.time
    if time.ratio is None or time.low is None or time.high is None:
        return MISSING if change.before is None or change.after is None else f"fewer than {MIN_BLOCKS} blocks"
    verdict = {"unknown": "not clear", "same": "same"}.get(time.verdict, time.verdict)
    return FormattedNumber(f"{time.ratio:.3g}x ({time.low:.3g} to {time.high:.3g}), {verdict}", time.ratio)


def _build_modes(found: RecordingDifference) -> Section | None:
    rows = [(mode, format_duration(before), format_duration(after)) for mode, (before, after) in found.modes.items()]
    sentence = (
        "One run each: what else the machine did is in these times too. gradprobe compare measures with an interval."
    )
    table = Table(("mode", "before", "after"), rows, frozenset(("before", "after")))
    return Section("Time by mode", [sentence], table, folded=True) if rows else None


def _build_environment(found: RecordingDifference) -> Section | None:
    """Show the facts that differ between the recordings, and nothing if none does."""
    rows = [
        (key, *values)
        for key in _ENVIRONMENT
        for values in [[_join(environments, key) for environments in found.environments]]
        if values[0] != values[1]
    ]
    return Section("Recorded under other conditions", table=Table(("", "before", "after"), rows)) if rows else None


def _join(environments: Sequence[Mapping[str, Any]], key: str) -> str:
    return ", ".join(dict.fromkeys(format_text(one.get(key)) for one in environments))


def _format_step(before: int | None, after: int | None, show: Callable[[Any], str]) -> str:
    if before == after:
        return show(after)
    value = 0 if before is None or after is None else after - before
    return FormattedNumber(f"{show(before)} -> {show(after)}", value)


def _format_change(before: int | None, after: int | None, show: Callable[[Any], str]) -> str:
    if before is None or after is None:
        return MISSING
    change = after - before
    sign = "+" if change > 0 else "-" if change < 0 else ""
    return FormattedNumber(f"{sign}{show(abs(change))}{_rate(before, after)}", change)


def _rate(before: int, after: int) -> str:
    return f" ({(after - before) / before:+.1%})" if before and before != after else ""
