"""Rules about checkpointed functions, which run in the forward pass and again in the backward pass."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import TypeGuard

import pandas as pd

from gradprobe._counted_nouns import pluralize, times
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import get_last_name, parse_file, walk_scope
from gradprobe.analysis.flow_graph import shorten_op
from gradprobe.recording.flow import CUT_BY_NO_GRAD, Frame

_HARMLESS = "harmless here: grad is disabled"
_MAX_LINES = 3
_RANDOM = ("bernoulli", "rand", "normal", "multinomial", "poisson", "uniform_", "exponential_", "rrelu", "gumbel")
_DROPOUT = ("dropout", "alpha_dropout", "feature_dropout", "native_dropout")


def find_other_random_numbers(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP504: the line that draws random numbers in both passes, and the call that does not restore their state."""
    for (file, function), rows in _group_recomputed(evidence.tables.ops):
        random = _select_recomputed(rows)
        random = random[random.apply(_draws_numbers, axis=1)]
        calls = [] if random.empty else list(_find_calls_without_state(evidence, file, function))
        if not calls:
            continue
        line, count = int(random["line"].iloc[0]), int(random["count"].sum())
        message = (
            "This line draws random numbers in a checkpointed function, which runs again in the backward pass and draws "
            "different ones there, because of `preserve_rng_state=False`: the gradients are those of another result."
        )
        evidence_text = f"random numbers drawn {times(count)} in a function that runs again"
        yield Finding("GP504", message, file, line, function, count, tuple(calls[:_MAX_LINES]), "", evidence_text)


def find_differing_lines(evidence: Evidence) -> Iterator[RelatedLine]:
    """Yield the lines of checkpointed functions that ran in one of the two passes only, and what called the functions."""
    ops = evidence.tables.ops
    for (file, function), rows in _group_recomputed(ops):
        lines = {phase: list(dict.fromkeys(rows[rows["phase"] == phase]["line"])) for phase in ("forward", "backward")}
        again = [line for line in lines["backward"] if line not in lines["forward"]]
        first = [line for line in lines["forward"] if line not in lines["backward"]]
        for line in again[:1]:
            yield RelatedLine(file, int(line), "runs only in the backward pass")
        for line in first[:1]:
            yield RelatedLine(file, int(line), "runs only in the forward pass")
        if again or first:
            yield from _find_callers(evidence, file, function)


def find_checkpoints_without_inputs(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP526: the call of the checkpoint, and calls with the same warning that are harmless."""
    seen = evidence.select_detections("GP526")
    harmless = [located for located in seen if located.main.role.startswith(_HARMLESS)]
    for located in seen:
        if located in harmless or is_library(located.main.file):
            continue
        number, module = located.detection.read_count("number"), located.detection.facts.get("module", "the function")
        message = (
            "No input of this reentrant checkpoint requires grad. It is connected to the graph through its inputs only, so "
            f"its result has no graph, and {pluralize(number, 'parameter')} of {module} inside it get no gradient."
        )
        same = [RelatedLine(each.main.file, each.main.line, _HARMLESS) for each in harmless]
        blocks = [line for each in harmless for line in each.related]
        inside = list(itertools.islice(_list_cut_lines(evidence, located.main.file), _MAX_LINES))
        main = (located.main.file, located.main.line)
        lines = {(at.file, at.line): at for at in (*blocks, *same, *inside) if (at.file, at.line) != main}
        finding = located.make_finding(message, tuple(reversed(lines.values())))
        yield replace(finding, evidence=f"{times(located.count)} without a graph")


def _list_cut_lines(evidence: Evidence, file: str) -> Iterator[RelatedLine]:
    """Yield the lines of a file that apply parameters which are cut there each time."""
    for graph in evidence.flow_graphs:
        cut = dict.fromkeys(n for use in graph.uses.values() if not use.carried for n in use.sites)
        sites = (graph.sites[n] for n in cut if any(c.passage == CUT_BY_NO_GRAD for c in graph.cuts_at(n)))
        yield from dict.fromkeys(
            RelatedLine(file, s.line, "runs without grad inside it") for s in sites if s.file == file
        )


def _group_recomputed(ops: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield the rows of each function of the program of which lines ran in the forward and in the backward pass."""
    if ops.empty or not (ops["phase"] == "backward").any():
        return
    rows = ops[ops["line"].notna() & ops["phase"].isin(("forward", "backward"))]
    for (file, function), group in rows.groupby(["file", "function"], sort=False):
        kinds = {phase: set(zip(part["line"], part["op"], strict=True)) for phase, part in group.groupby("phase")}
        built = group[(group["phase"] == "backward") & (group["nodes"] > 0)]
        runs_again = kinds.keys() == {"forward", "backward"} and kinds["forward"] & kinds["backward"]
        if runs_again and not built.empty and not is_library(file):
            yield (str(file), str(function)), group


def _select_recomputed(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the forward pass whose lines run again.

    PyTorch stops the second run within the last operator, which then is not seen there.
    """
    forward = rows[rows["phase"] == "forward"]
    again = forward["line"].isin(rows[rows["phase"] == "backward"]["line"])
    selected: pd.DataFrame = forward if forward[~again]["line"].nunique() <= 1 else forward[again]
    return selected


def _draws_numbers(row: pd.Series) -> bool:
    op = shorten_op(str(row["op"]))
    return op.startswith(_RANDOM) or (op.startswith(_DROPOUT) and int(row["nodes"]) > 0)


def _find_calls_without_state(evidence: Evidence, file: str, function: str) -> Iterator[RelatedLine]:
    """Yield the lines that checkpoint a function without restoring the state of the random generators."""
    found = {(outer.file, _find_call_without_state(outer)) for outer in _list_outer_frames(evidence, file, function)}
    for source, line in sorted((source, line) for source, line in found if line is not None):
        yield RelatedLine(source, line, "checkpointed here")


def _find_call_without_state(frame: Frame) -> int | None:
    """Return the line of a call with ``preserve_rng_state=False``.

    It is in a frame's statement, or where what the statement calls was made.
    """
    source = parse_file(frame.file)
    span = None if source is None else source.find_statement(frame.line)
    if source is None or span is None:
        return None
    calls = [node for node in source.nodes if _is_call_within(node, span)]
    called = {get_last_name(call.func) for call in calls}
    for scope in source.list_scopes_around(frame.line):
        for made in walk_scope(scope, ast.Assign):
            if isinstance(made, ast.Assign) and called & set(map(get_last_name, made.targets)):
                calls += (node for node in ast.walk(made.value) if isinstance(node, ast.Call))
    return next((call.lineno for call in calls if _keeps_no_state(call)), None)


def _keeps_no_state(call: ast.Call) -> bool:
    values = (word.value for word in call.keywords if word.arg == "preserve_rng_state")
    return any(isinstance(value, ast.Constant) and value.value is False for value in values)


def _find_callers(evidence: Evidence, file: str, function: str) -> Iterator[RelatedLine]:
    """Yield the line that called a function through ``checkpoint``, as far as the source shows it."""
    callers = (outer for outer in _list_outer_frames(evidence, file, function) if _mentions_checkpoint(outer))
    yield from (RelatedLine(outer.file, outer.line, "checkpointed here") for outer in itertools.islice(callers, 1))


def _list_outer_frames(evidence: Evidence, file: str, function: str) -> list[Frame]:
    """Return the frames from which a function was called where it constructed nodes, from the inside out."""
    found: dict[Frame, None] = {}
    for path in itertools.chain.from_iterable(ledger.paths for ledger in evidence.flows):
        inside = [number for number, frame in enumerate(path) if (frame.file, frame.function) == (file, function)]
        found.update(dict.fromkeys(path[inside[0] + 1 :] if inside else ()))
    return list(found)


def _mentions_checkpoint(frame: Frame) -> bool:
    source = parse_file(frame.file)
    span = None if source is None else source.find_statement(frame.line)
    if source is None or span is None:
        return False
    return any(_is_call_within(node, span) and "checkpoint" in get_last_name(node.func) for node in source.nodes)


def _is_call_within(node: ast.AST, span: tuple[int, int]) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and span[0] <= node.lineno <= span[1]


RULES = (find_other_random_numbers, find_checkpoints_without_inputs)
"""Rules of this family; a recording is checked against each."""
