"""Columns of regions: groups, exact sums, and regions that are made on request."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gradprobe.history import regular_blocks
from gradprobe.history.edge_pairs import match_pairs
from gradprobe.history.interpreter import interpret
from gradprobe.history.region_table import TextColumn, add_up, make_column
from gradprobe.history.row_groups import group_rows
from tests.history.test_regular_blocks import make_contents
from tests.thoroughness import examples


def test_enters_and_exits_are_matched_as_by_a_stack() -> None:
    for seed in range(examples(3_000)):
        chance = random.Random(seed)
        group = sorted(chance.randint(0, 4) for _ in range(chance.randint(0, 30)))
        is_enter = [chance.random() < 0.5 for _ in group]
        partner, depth = [-1] * len(group), [0] * len(group)
        stacks: dict[int, list[int]] = {}
        for index, (number, enters) in enumerate(zip(group, is_enter, strict=True)):
            stack = stacks.setdefault(number, [])
            depth[index] = len(stack)
            if enters:
                stack.append(index)
            elif stack:
                partner[index] = stack.pop()
                partner[partner[index]] = index
        found = match_pairs(np.array(group, np.int64), np.array(is_enter, bool))
        matched = [index for index, enters in enumerate(is_enter) if enters or partner[index] >= 0]
        assert found.partner.tolist() == partner
        assert found.depth[matched].tolist() == [depth[index] for index in matched]


@pytest.mark.parametrize(
    "numbers", [[3, 1, 3, 2, 1], [1 << 60, -(1 << 60), 1 << 60, 0, 5], [1 << 70, 1, 1 << 70, 2, 1]]
)
def test_rows_are_grouped_in_the_order_of_their_first(numbers: list[int]) -> None:
    texts = ["a", "b", "a", "a", "b"]
    groups = group_rows(make_column(numbers), TextColumn.of(texts), make_column(number * 2 for number in numbers))
    known: dict[tuple[int, str], list[int]] = {}
    for row, key in enumerate(zip(numbers, texts, strict=True)):
        known.setdefault(key, []).append(row)
    assert [group.tolist() for group in groups] == list(known.values())


def test_sums_may_have_more_than_64_bits() -> None:
    assert add_up(np.full(8, (1 << 61) + 1)) == 8 * ((1 << 61) + 1)
    assert add_up(np.array([-5, 3])) == -2
    assert add_up(make_column([1 << 80, 1])) == (1 << 80) + 1


def test_a_region_is_one_object_as_long_as_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regular_blocks, "MIN_EVENTS", 2)
    regions = interpret(make_contents(0), include_torch=False).regions
    kept = list(regions)
    assert all(regions[region.number] is region for region in kept)
    assert all(region.parent is None or region.parent is kept[region.parent.number] for region in kept)
    assert regions[-1] is kept[-1]
    assert regions[2:4] == kept[2:4]
    with pytest.raises(IndexError):
        regions[len(regions)]
