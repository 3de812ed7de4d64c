"""The parts of the tree of calls that no backward pass has reached, from counts made by hand."""

from __future__ import annotations

from gradprobe.analysis.call_tree import UnusedCalls, build_call_tree, find_unused_calls
from gradprobe.recording.flow import Frame, PathCounts
from tests.analysis.ledgers import FILE, built, frames


def unused(*entries: tuple[tuple[Frame, ...], PathCounts]) -> list[UnusedCalls]:
    return find_unused_calls(build_call_tree(dict(entries)))


def lines(frames_of: tuple[Frame, ...]) -> list[int]:
    return [frame.line for frame in frames_of]


def test_counts_of_a_line_include_those_of_the_lines_inside_its_call() -> None:
    root = build_call_tree(
        {
            frames("main:1", "train:5", "forward:20"): built(4, 4, saved_bytes=100),
            frames("main:1", "train:5", "forward:21"): built(6, 2, saved_bytes=60),
            frames("main:1", "train:6"): built(1, 1),
        }
    )
    (main,) = root.children.values()
    train = main.children[Frame(FILE, 5, "train")]
    assert (root.built, main.built, train.built, train.reached, train.unused) == (11, 11, 10, 6, 4)
    assert train.saved_bytes == 60 * 4 / 6  # the share of what was not used
    assert [leaf.built for leaf in main.leaves()] == [4, 6, 1]
    assert [node.own_built for node in main.walk()] == [0, 0, 4, 6, 1]


def test_all_lines_used_leaves_nothing() -> None:
    assert unused((frames("main:1", "train:5"), built(4, 4))) == []


def test_a_validation_is_found_beside_a_training_that_is_used() -> None:
    (found,) = unused(
        (frames("main:1", "train:5", "forward:20"), built(40, 40)),
        (frames("main:2", "validate:9", "forward:20"), built(7, saved_bytes=50)),
        (frames("main:2", "validate:9", "forward:21"), built(9)),
    )
    assert lines(found.path) == [2, 9]
    assert [node.frame.line for node in found.lines if node.frame] == [21, 20]  # the most nodes first
    assert (found.unused, found.saved_bytes) == (16, 50)
    assert lines(tuple(found.innermost)) == [21, 20]


def test_a_line_inside_a_function_that_is_used_otherwise_is_found_alone() -> None:
    (found,) = unused(
        (frames("main:1", "step:5"), built(8, 8)),
        (frames("main:1", "step:6"), built(3)),
    )
    assert (lines(found.path), [node.frame.line for node in found.lines if node.frame]) == ([1], [6])


def test_nodes_that_are_not_judged_count_as_neither() -> None:
    assert unused((frames("main:1"), built(5, forgotten=5))) == []


def test_the_largest_part_is_first() -> None:
    found = unused(
        (frames("main:1", "train:5"), built(1, 1)),
        (frames("main:2", "log:8"), built(2)),
        (frames("main:3", "validate:9"), built(20)),
    )
    assert [calls.unused for calls in found] == [20, 2]


def test_recursion_has_a_node_for_each_depth() -> None:
    (found,) = unused(
        (frames("main:1", "walk:4", "walk:4", "walk:5"), built(2)),
        (frames("main:1", "walk:4", "walk:5"), built(2)),
        (frames("main:2"), built(1, 1)),
    )
    assert found.unused == 4
    assert lines(found.path) == [1, 4]
