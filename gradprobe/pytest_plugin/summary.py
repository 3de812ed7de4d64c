"""Summary of a run of tests: in the terminal at its end, and in the report files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from gradprobe._counted_nouns import pluralize
from gradprobe._files import write_atomically
from gradprobe.analysis.findings.catalogue import ERROR, SEVERITIES
from gradprobe.analysis.findings.finding import Finding
from gradprobe.errors import GradprobeError
from gradprobe.pytest_plugin.options import PluginOptions, ReportTarget
from gradprobe.pytest_plugin.results import MODE, MeasuredTest, RunResults
from gradprobe.report.document import Document, Section, Table
from gradprobe.report.formats import html_page, markdown
from gradprobe.report.formats.findings_text import format_concisely
from gradprobe.report.formats.terminal import format_item
from gradprobe.report.formats.text_columns import format_table
from gradprobe.report.formats.text_style import TextStyle
from gradprobe.report.sections import findings_section
from gradprobe.report.units import (
    MISSING,
    FormattedLocation,
    escape_unprintable,
    format_bytes,
    format_count,
    format_duration,
    format_location,
)
from gradprobe.tables.finding_columns import FINDINGS

if TYPE_CHECKING:
    import pytest

SCHEMA = 1
_ALL_ROWS = 1_000_000
_DEFAULT = {"html": "gradprobe.html", "json": "gradprobe.json", "markdown": "gradprobe.md"}


def build_document(results: RunResults, top: int, before: Mapping[str, Mapping[str, Any]]) -> Document:
    """Build the report of a run of tests."""
    sections = [
        _broken(results, top),
        _leaks(results, top),
        _settings(results, top),
        _findings(results, top),
        _comparisons(results, top),
        _changes(results, top, before),
        _tests("Graphs that no backward reached", _without_backward(results.outcomes), top),
        _tests("Most autograd nodes", sorted(results.outcomes, key=lambda one: -(one.nodes or 0)), top),
        _tests("Most bytes saved for backward", _by_bytes(results.outcomes), top),
    ]
    return Document("gradprobe: gradient modes under test", _verdict(results), [s for s in sections if s is not None])


def _verdict(results: RunResults) -> list[str]:
    nodes = sum(one.nodes or 0 for one in results.outcomes)
    unused = _without_backward(results.outcomes)
    lines = [f"{pluralize(len(results.outcomes), 'test')} recorded: {pluralize(nodes, 'autograd node')} constructed."]
    if unused:
        lines.append(f"{pluralize(len(unused), 'test')} built a graph and ran no backward.")
    if results.broken:
        lines.append(f"{pluralize(len(results.broken), 'budget')} exceeded.")
    modes = sum(leak.what == MODE for _, leak in results.leaks)
    if modes:
        lines.append(f"{pluralize(modes, 'mode')} left changed.")
    if len(results.leaks) > modes:
        lines.append(f"{pluralize(len(results.leaks) - modes, 'global setting')} left changed.")
    if results.findings:
        lines.append(f"{pluralize(len(_by_place(results)), 'finding')}: {', '.join(_severities(results))}.")
    return [*lines, *(escape_unprintable(f"{note[:1].upper()}{note[1:]}.") for note in results.notes)]


def _without_backward(outcomes: Sequence[MeasuredTest]) -> list[MeasuredTest]:
    return sorted((one for one in outcomes if one.nodes and not one.had_backward), key=lambda one: -(one.nodes or 0))


def _by_bytes(outcomes: Sequence[MeasuredTest]) -> list[MeasuredTest]:
    return sorted((one for one in outcomes if one.saved_bytes), key=lambda one: -(one.saved_bytes or 0))


def _tests(title: str, outcomes: Sequence[MeasuredTest], top: int) -> Section | None:
    shown = [one for one in outcomes[:top] if one.nodes or one.saved_bytes]
    if not shown:
        return None
    columns = ("test", "nodes", "most of it at", "by", "saved", "bumps", "backward", "time")
    rows = [
        (
            _name_test(one.test),
            format_count(one.nodes),
            *_most(one),
            format_bytes(one.saved_bytes),
            format_count(one.version_bumps),
        )
        + ("yes" if one.had_backward else "no", format_duration(one.duration_ns))
        for one in shown
    ]
    table = Table(columns, rows, frozenset({"nodes", "saved", "bumps", "time"}), max(len(outcomes) - top, 0))
    return Section(title, table=table)


def _most(outcome: MeasuredTest) -> tuple[str, str]:
    """Return the line that constructed most nodes, and its operator."""
    if not outcome.places:
        return MISSING, MISSING
    first = outcome.places[0]
    return format_location(first.file, first.line), escape_unprintable(first.op.strip("()"))


def _broken(results: RunResults, top: int) -> Section | None:
    if not results.broken:
        return None
    rows = [
        (_name_test(test), escape_unprintable(text.splitlines()[0].removeprefix("gradprobe: ")))
        for test, text in results.broken
    ]
    return Section("Exceeded budgets", table=Table(("test", "what"), rows[:top], left_out=max(len(rows) - top, 0)))


def _leaks(results: RunResults, top: int) -> Section | None:
    found = [(test, leak) for test, leak in results.leaks if leak.what == MODE]
    if not found:
        return None
    rows = [
        (
            _name_test(test),
            format_location(leak.file, leak.line),
            leak.before,
            leak.after,
            f"{leak.by} {escape_unprintable(leak.name)}",
        )
        for test, leak in found
    ]
    columns = ("detected in", "line", "before", "after", "left by")
    return Section("Modes left changed", table=Table(columns, rows[:top], left_out=max(len(rows) - top, 0)))


def _settings(results: RunResults, top: int) -> Section | None:
    """Build the section of other global state that was left changed."""
    found = [leak for _, leak in results.leaks if leak.what != MODE]
    if not found:
        return None
    lines = [
        escape_unprintable(
            f"{leak.by} {leak.name} left {leak.what} at {leak.after} instead of {leak.before}: "
            f"{format_location(leak.file, leak.line)}"
        )
        for leak in found[:top]
    ]
    lines += [f"{pluralize(len(found) - top, 'more setting')} left out."] if len(found) > top else []
    return Section("Settings left changed", lines)


def _findings(results: RunResults, top: int) -> Section | None:
    """Build the section of findings, each listed once with the tests that triggered it."""
    groups = _by_place(results)
    if not groups:
        return None
    items = []
    for group in groups[:top]:
        test, finding = group[0]
        others = f" and {pluralize(len(group) - 1, 'other test')}" if len(group) > 1 else ""
        row = dict(zip(FINDINGS.names, finding.make_row(), strict=True))
        items.append(
            findings_section.build_item({**row, "count": 1, "message": f"{finding.message} In {test}{others}."})
        )
    left_out = [f"{pluralize(len(groups) - top, 'more finding')} left out."] if len(groups) > top else []
    return Section("Findings", left_out, items=items)


def _by_place(results: RunResults) -> list[list[tuple[str, Finding]]]:
    """Group the findings by rule and place, the most severe first."""
    groups: dict[tuple[Any, ...], list[tuple[str, Finding]]] = {}
    for test, finding in results.findings:
        groups.setdefault((finding.rule, finding.file, finding.line), []).append((test, finding))
    return sorted(groups.values(), key=lambda group: (SEVERITIES.index(group[0][1].severity), -len(group)))


def _severities(results: RunResults) -> Iterator[str]:
    found = [group[0][1].severity for group in _by_place(results)]
    return (pluralize(found.count(severity), severity) for severity in SEVERITIES if severity in found)


def _comparisons(results: RunResults, top: int) -> Section | None:
    if not results.comparisons:
        return None
    columns = ("test", "mode", "to no_grad", "95 % interval", "verdict", "workload")
    rows = [
        (
            _name_test(test),
            *(escape_unprintable(str(one[name])) for name in ("mode", "ratio", "interval", "verdict", "workload")),
        )
        for test, one in results.comparisons
    ]
    return Section("Comparisons", table=Table(columns, rows[:top], frozenset(columns[2:4]), max(len(rows) - top, 0)))


def _changes(results: RunResults, top: int, before: Mapping[str, Mapping[str, Any]]) -> Section | None:
    """Build the section of tests whose counts differ from the baseline."""
    rows = []
    for one in results.outcomes:
        known = before.get(one.test)
        if known is None:
            continue
        for name, show in (("nodes", format_count), ("saved_bytes", format_bytes), ("version_bumps", format_count)):
            old, new = known.get(name), getattr(one, name)
            if old is not None and new is not None and old != new:
                rows.append((_name_test(one.test), name, show(old), show(new)))
    if not rows:
        return None
    columns = ("test", "count", "baseline", "now")
    table = Table(columns, rows[:top], frozenset(columns[2:]), max(len(rows) - top, 0))
    return Section("Changes since the baseline", table=table)


def to_json_object(results: RunResults) -> dict[str, Any]:
    """Return the results as JSON values; a count that was not measured is null."""
    return {
        "schema": SCHEMA,
        "kind": "tests",
        "tests": [asdict(one) for one in results.outcomes],
        "leaks": [{"test": test, **asdict(leak)} for test, leak in results.leaks],
        "broken": [{"test": test, "message": text} for test, text in results.broken],
        "comparisons": [{"test": test, **one} for test, one in results.comparisons],
        "findings": [
            {"test": test} | dict(zip(FINDINGS.names, one.make_row(), strict=True)) for test, one in results.findings
        ],
        "notes": results.notes,
    }


def write_reports(
    results: RunResults, options: PluginOptions, config: pytest.Config, before: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Write the requested files, and yield a note on each."""
    for report in options.report:
        if report.type == "term":
            continue
        path = config.invocation_params.dir / (report.destination or _default(report))
        shown = build_document(results, _ALL_ROWS if report.type == "html" else options.top, before)
        try:
            if report.type == "html":
                write_atomically(path, html_page.render_page(shown))
            elif report.type == "json":
                write_atomically(path, json.dumps(to_json_object(results), indent=1) + "\n")
            else:
                text = markdown.render_document(shown)
                is_appended = report.type == "markdown-append" and path.exists()
                write_atomically(path, f"{path.read_text(encoding='utf-8')}\n{text}" if is_appended else text)
        except (GradprobeError, OSError) as error:
            yield str(error)
        else:
            yield f"wrote {path}"


def _default(report: ReportTarget) -> str:
    return _DEFAULT.get(report.type.removesuffix("-append"), "gradprobe.md")


def print_summary(
    terminal: pytest.TerminalReporter,
    results: RunResults,
    options: PluginOptions,
    before: Mapping[str, Mapping[str, Any]],
) -> None:
    """Print the summary: nothing if only markers were used, one line and the errors with -q, every row with -v."""
    if not (options.records_every_test or results.comparisons):
        return
    verbosity = terminal.config.get_verbosity()
    shown = build_document(results, options.top if verbosity <= 0 else _ALL_ROWS, before)
    if verbosity < 0:
        terminal.write_line(f"gradprobe: {shown.verdict[0]}")
        for group in _by_place(results):
            test, finding = group[0]
            if finding.severity == ERROR:
                terminal.write_line(f"{format_concisely(finding)} In {escape_unprintable(test)}.")
        return
    terminal.write_sep("-", "gradprobe")
    for line in shown.verdict:
        terminal.write_line(line)
    width = terminal._tw.fullwidth
    for section in shown.sections:
        if verbosity == 0 and section.title.startswith("Most") and not options.enabled:
            continue
        terminal.write_line("")
        terminal.write_line(section.title, bold=True)
        for line in (*section.sentences, *(line for item in section.items for line in format_item(item, width))):
            terminal.write_line(line)
        if section.table is not None:
            for line in _lines(section.table, width):
                terminal.write_line(line)


def _lines(table: Table, width: int) -> list[str]:
    """Return the lines of a table without its empty columns; what does not fit the width continues below."""
    kept = [at for at, _ in enumerate(table.columns) if any(row[at] != MISSING for row in table.rows)]
    columns, rows = [table.columns[at] for at in kept], [[row[at] for at in kept] for row in table.rows]
    style = TextStyle(width, is_terminal=True, shows_all=True)
    lines = format_table(replace(table, columns=columns, rows=rows), style)
    return [*lines, f"({pluralize(table.left_out, 'more row')} left out)"] if table.left_out else lines


def _name_test(test: str) -> FormattedLocation:
    return FormattedLocation(escape_unprintable(test))
