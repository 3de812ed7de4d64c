"""The tables of the ledgers say what an independent account of the same programs says, in memory and from files."""

from __future__ import annotations

import json
import runpy
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradprobe
from gradprobe.analysis.analyzed_tables import AnalyzedTables
from gradprobe.recording.contents import Contents
from gradprobe.recording.notes import NoteKind
from gradprobe.result import Recording
from gradprobe.stored_recordings import StoredRecording
from gradprobe.tables.columns import RECORDING_TABLES
from tests.thoroughness import IS_THOROUGH

TABLES = ("flow", "parameters", "graphs", "custody")
TRAIN = Path(__file__).parents[2] / "examples" / "train.py"
FILE = "random_flow.py"
LEAVES, INPUTS, RUNS = 2, 1, 3
FIRST = 2
"""Line of the first leaf of a random program."""

KINDS = {
    "add": ("{0} + {1}", "aten.add.Tensor"),
    "exp": ("{0}.exp()", "aten.exp"),
    "detach": ("{0}.detach()", "aten.detach"),
    "greater": ("{0}.gt(0.5)", "aten.gt.Scalar"),
}


@dataclass
class Value:
    """What the account knows of a tensor: the line that made it, whether it requires grad, the leaves behind it."""

    line: int
    requires_grad: bool
    leaves: frozenset[int]


@dataclass
class Statement:
    kind: str
    arguments: tuple[int, int]
    under_no_grad: bool


STATEMENTS = st.lists(
    st.builds(
        Statement,
        st.sampled_from([*KINDS, "backward"]),
        st.tuples(st.integers(0, 20), st.integers(0, 20)),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


def write_and_account(statements: list[Statement]) -> tuple[str, Counter[tuple[int, int, str, str]]]:
    """Return a random program, and how often tensors go from line to line in it, worked out without running it."""
    lines = ["def program():"]
    values: list[Value] = []
    for number in range(LEAVES + INPUTS):
        is_leaf = number < LEAVES
        lines.append(f"    t{number} = torch.ones(2){'.requires_grad_()' if is_leaf else ''}")
        values.append(Value(len(lines), is_leaf, frozenset([len(lines)] if is_leaf else [])))
    lines.append(f"    for _ in range({RUNS}):")
    expected: Counter[tuple[int, int, str, str]] = Counter()
    passes: list[tuple[int, frozenset[int]]] = []

    def take(value: Value, op: str, cut: str) -> None:
        passage = "without_grad" if not value.requires_grad else cut or "carried"
        expected[value.line, len(lines), op, passage] += RUNS

    for statement in statements:
        first, second = (index % len(values) for index in statement.arguments)
        second = second if second != first else (first + 1) % len(values)
        one, other = values[first], values[second]
        if statement.kind == "backward":
            if one.requires_grad:
                lines.append(f"        t{first}.sum().backward(retain_graph=True)")
                take(one, "aten.sum", "")
                expected[len(lines), len(lines), "backward", "carried"] += RUNS
                for leaf in one.leaves:
                    expected[leaf, len(lines), "backward", "carried"] += RUNS
                passes.append((len(lines), one.leaves))
            continue
        text, op = KINDS[statement.kind]
        code = f"t{len(values)} = {text.format(f't{first}', f't{second}')}"
        lines.append(f"        with torch.no_grad(): {code}" if statement.under_no_grad else f"        {code}")
        taken = [one, other] if statement.kind == "add" else [one]
        cut = {"detach": "detach", "greater": "not_differentiable"}.get(statement.kind, "")
        for value in taken:
            take(value, op, "no_grad" if statement.under_no_grad else cut)
        carries = not cut and not statement.under_no_grad and any(value.requires_grad for value in taken)
        leaves = frozenset().union(*(value.leaves for value in taken)) if carries else frozenset()
        values.append(Value(len(lines), carries, leaves))
    lines.append("        pass")
    gave: dict[int, int] = {}  # by leaf, the line of the pass that gave it the gradient which the next one adds to
    for line, leaves in passes * RUNS:
        for before in {gave[leaf] for leaf in leaves if leaf in gave}:
            expected[before, line, "backward", "written"] += 1
        gave.update(dict.fromkeys(leaves, line))
    return "\n".join(lines), expected


@settings(max_examples=150 if IS_THOROUGH else 25, deadline=None, derandomize=True)
@given(statements=STATEMENTS)
def test_the_flow_of_a_random_program_is_what_an_account_without_running_it_gives(statements: list[Statement]) -> None:
    text, expected = write_and_account(statements)
    names: dict[str, Any] = {"torch": torch}
    exec(compile(text, FILE, "exec"), names)
    with gradprobe.record(level="ops") as recording:
        names["program"]()
    rows = recording.flow
    rows = rows[(rows["target_line"] > FIRST + LEAVES + INPUTS - 1) & (rows["target_op"] != "aten.ones_like")]
    found: Counter[tuple[int, int, str, str]] = Counter()
    for row in rows.to_dict("records"):
        found[row["source_line"], row["target_line"], row["target_op"], row["passage"]] += row["count"]
    assert found == expected, text
    # The table of leaves sums up the same ways.
    leaves = recording.parameters.set_index("line")
    for line in leaves.index:
        taken = {key: n for key, n in expected.items() if key[0] == line and key[2] != "backward"}
        assert leaves.loc[line, "uses"] == sum(taken.values())
        assert leaves.loc[line, "uses_with_grad"] == sum(n for key, n in taken.items() if key[3] == "carried")
        reached = sum(
            n for key, n in expected.items() if key[0] == line and key[2] == "backward" and key[3] == "carried"
        )
        assert leaves.loc[line, "backward_passes"] == reached


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording of an example: an encoder under no_grad, and a list that keeps losses."""
    path = tmp_path_factory.mktemp("trained") / "train.gradprobe"
    names = runpy.run_path(str(TRAIN))
    with gradprobe.record(path, level="ops"):
        names["train"](names["Classifier"](), steps=20)
    return path


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(TRAIN.read_text(encoding="utf-8").splitlines(), 1) if text in line)


def test_parameters_say_which_gradients_arrive(trained: Path) -> None:
    found = gradprobe.load(trained).parameters.set_index("name")
    starved, fed = found.loc["Classifier.encoder.weight"], found.loc["Classifier.head.weight"]
    assert (starved["shape"], starved["optimizer"], starved["line"]) == ("16x8", "SGD", line_of("self.encoder = "))
    columns_ = ["uses", "uses_with_grad", "backward_passes", "steps_with_grad", "steps_without_grad"]
    assert starved[columns_].tolist() == [20, 0, 0, 0, 20]
    assert fed[columns_].tolist() == [20, 20, 20, 20, 0]
    assert (starved["writes"], fed["writes"]) == (0, 20)


def test_graphs_have_the_calls_that_lead_to_them_and_what_was_used(trained: Path) -> None:
    found = gradprobe.load(trained).graphs.set_index("line")
    head = found.loc[line_of("return self.head")]
    assert head["path"].endswith(f"train.py:{line_of('loss = ')} (train) > train.py:{head.name} (Classifier.forward)")
    assert (head["nodes"], head["reached_nodes"], head["unused_nodes"]) == (40, 40, 0)
    assert found["saved_bytes"].sum() > 0


def test_custody_has_the_holder_and_what_it_keeps(trained: Path) -> None:
    (row,) = gradprobe.load(trained).custody.to_dict("records")
    assert (row["holder"], row["kind"], row["line"]) == ("history[...]", "local", line_of("loss = "))
    assert row["op"] == "aten.cross_entropy_loss"
    assert row["nodes"] == 4 * row["tensors"]
    assert row["iterations"] >= 3


def test_custody_counts_the_bytes_of_graphs_beside_freed_ones() -> None:
    weight = torch.ones(64, requires_grad=True)
    used, kept = [], []
    with gradprobe.record(level="ops") as recording:
        for _ in range(6):
            loss = weight.exp().sigmoid().mean()
            loss.backward()
            used.append(loss)
            kept.append(weight.exp().sigmoid().sum())
    (row,) = recording.custody.query("op == 'aten.sum'").to_dict("records")
    # Of each graph: the results of `exp` and `sigmoid`, of 64 numbers of 4 bytes.
    assert (row["tensors"], row["nodes"], row["bytes"]) == (6, 3 * 6, 2 * 64 * 4 * 6)


def test_tables_are_the_same_from_a_file_and_saved_again(trained: Path, tmp_path: Path) -> None:
    loaded = gradprobe.load(trained)
    loaded.save(tmp_path / "again.gradprobe")
    again = gradprobe.load(tmp_path / "again.gradprobe")
    for name in TABLES:
        assert len(getattr(loaded, name))
        pd.testing.assert_frame_equal(getattr(loaded, name), getattr(again, name))


def test_the_flow_of_a_running_recording_is_up_to_date() -> None:
    weight = torch.ones(2, requires_grad=True)
    with gradprobe.record(level="ops") as recording:
        assert recording.flow.empty
        for number in (1, 2):
            weight.exp()
            assert recording.flow["count"].sum() == number


def test_several_files_are_one_table(trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gradprobe"
    weight = torch.ones(2, requires_grad=True)
    with gradprobe.record(other, level="ops"):
        (weight * 2).sum().backward()
    merged, parts = gradprobe.merge([trained, other]), [gradprobe.load(trained), gradprobe.load(other)]
    for name in TABLES:
        table = getattr(merged, name)
        assert len(table) == sum(len(getattr(part, name)) for part in parts)
        assert table.dtypes.to_dict() == getattr(parts[0], name).dtypes.to_dict()


DEEP = "[" * 100_000 + "]" * 100_000
HOSTILE = [
    (NoteKind.FLOW_SITE, [1, "a.py", 3, "f", "aten.mul", ""]),
    (NoteKind.FLOW_SITE, [2, None, -5, [], {}, "\ud800"]),
    (NoteKind.FLOW_SITE, [3, "a.py", 10**30, "f", "backward", ""]),
    (NoteKind.FLOW_SITE, [float("inf"), "a.py", 3, "f", "aten.mul", ""]),
    (NoteKind.FLOW_LEAF, [4, 99, "\x1b[2J", [10**30], "", True]),
    (NoteKind.FLOW_LEAF, [5, 5, "loop", "text", "", 1]),
    (NoteKind.FLOW_EDGE, [4, 1, "carried"]),
    (NoteKind.FLOW_EDGE, [4, 1, "other"]),
    (NoteKind.FLOW_EDGE, [7, 8, "carried"]),
    (NoteKind.FLOW_EDGE, [1, 1, "detach"]),
    (NoteKind.FLOW_EDGE, [5, 3, "carried"]),
    (NoteKind.GRAPH_PATH, [1, [["a.py", 3, "f"], ["a.py", float("inf"), "f"]]]),
    (NoteKind.GRAPH_PATH, [2, []]),
    (NoteKind.GRAPH_PATH, [3, [["a.py", -1, "f"]]]),
    *((NoteKind.GRAPH_COUNT, [number, name]) for number in (1, 2, 3, 4) for name in ("reached", "calls", "x", [])),
    (NoteKind.DETECTION, ["GP201", [["kept", "a.py", 3, "f"]], [], {"number": "many", "nodes": -1, "bytes": 1.5}]),
]


@pytest.fixture(scope="module")
def empty() -> Contents:
    with gradprobe.record(level="ops") as recording:
        pass
    return recording._tables.contents[0]


def test_notes_of_an_edited_file_make_rows_or_are_left_out(empty: Contents) -> None:
    notes = [(kind.value, json.dumps(values), 2**60) for kind, values in HOSTILE]
    notes += [(kind.value, text, 1) for kind in NoteKind for text in (DEEP, "", "{", "1", "[]", "{}", "null")]
    recording = Recording(StoredRecording([replace(empty, notes=notes)]))
    found = {name: getattr(recording, name) for name in TABLES}
    assert len(found["flow"]) == 4
    assert found["graphs"]["unused_nodes"].tolist() == [0, 0]
    assert found["custody"][["tensors", "nodes", "bytes"]].to_numpy().tolist() == [[0, 0, 0]]
    assert json.loads(recording.to_json())["flow"]
    assert set(recording.to_csv()) == {table.name for table in RECORDING_TABLES}
    assert isinstance(AnalyzedTables([replace(empty, notes=notes)], include_torch=None).findings, pd.DataFrame)
