"""Rules about checkpointed functions, which run in the forward pass and again in the backward pass."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator

import pandas as pd

from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine, times
from gradprobe.analysis.findings.flow_lines import shorten_op
from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.recording.flow import Frame

_MAX_LINES = 3
_RANDOM = ("bernoulli", "rand", "normal", "multinomial", "poisson", "uniform_", "exponential_", "rrelu", "gumbel")
_DROPOUT = ("dropout", "alpha_dropout", "feature_dropout", "native_dropout")


def find_other_random_numbers(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP504: the line that draws random numbers in both passes, and the call that does not restore their state."""
    ops = evidence.tables.ops
    for (file, function), rows in _group_recomputed(ops):
        # PyTorch stops the second run within the last operator, which then is not seen there.
        random = rows[rows.apply(_draws_numbers, axis=1) & (rows["phase"] == "forward")]
        source = parse_file(file)
        calls = [] if source is None or random.empty else _find_calls_without_state(source.tree)
        if not calls:
            continue
        line, count = int(random["line"].iloc[0]), int(random["count"].sum())
        message = (
            "This line draws random numbers in a checkpointed function, which runs again in the backward pass and draws "
            "different ones there, because of `preserve_rng_state=False`: the gradients are those of another result."
        )
        related = tuple(RelatedLine(file, number, "checkpointed here") for number in calls[:_MAX_LINES])
        evidence_text = f"random numbers drawn {times(count)} in a function that runs again"
        yield Finding("GP504", message, file, line, function, count, related, "", evidence_text)


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


def _draws_numbers(row: pd.Series) -> bool:
    op = shorten_op(str(row["op"]))
    return op.startswith(_RANDOM) or (op.startswith(_DROPOUT) and int(row["nodes"]) > 0)


def _find_calls_without_state(tree: ast.Module) -> list[int]:
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for word in node.keywords
        if word.arg == "preserve_rng_state" and isinstance(word.value, ast.Constant) and word.value.value is False
    ]


def _find_callers(evidence: Evidence, file: str, function: str) -> Iterator[RelatedLine]:
    """Yield the line that called a function through ``checkpoint``, as far as the source shows it."""
    for ledger in evidence.flows:
        for path in ledger.paths:
            for inner, outer in itertools.pairwise(path):
                if (inner.file, inner.function) == (file, function) and _mentions_checkpoint(outer):
                    yield RelatedLine(outer.file, outer.line, "checkpointed here")
                    return


def _mentions_checkpoint(frame: Frame) -> bool:
    source = parse_file(frame.file)
    span = None if source is None else source.find_statement(frame.line)
    if source is None or span is None:
        return False
    return any(
        isinstance(node, ast.Call)
        and "checkpoint" in ast.unparse(node.func).rsplit(".", 1)[-1]
        and span[0] <= node.lineno <= span[1]
        for node in ast.walk(source.tree)
    )


RULES = (find_other_random_numbers,)
"""Rules of this family; a recording is checked against each."""
