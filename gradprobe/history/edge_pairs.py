"""Pairs of enters and exits, matched in columns: an exit belongs to the innermost enter of its group that is still open."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Column = np.ndarray[Any, Any]
"""Array with one value per event."""


class Nesting(NamedTuple):
    """Partner of each event, -1 if it has none, and the number of open enters of its group before it."""

    partner: Column
    depth: Column


def match_pairs(group: Column, is_enter: Column) -> Nesting:
    """Match the enters and exits of each group, which ``group`` has side by side and in the order of their events.

    An exit of a group in which nothing is open has no partner.
    """
    size = len(group)
    positions = np.arange(size, dtype=np.int32)
    is_first = np.ones(size, bool)
    is_first[1:] = group[1:] != group[:-1]
    number = np.cumsum(is_first, dtype=np.int32) - 1
    is_in_turn = is_enter == ((positions - positions[is_first][number]) % 2 == 0)
    # Nearly all groups are those of objects that are entered and exited in turns.
    takes_turns = np.ones(int(number[-1]) + 1 if size else 0, bool)
    takes_turns[number[~is_in_turn]] = False
    is_paired = takes_turns[number]
    partner = np.where(is_enter, positions + 1, positions - 1)
    partner[:-1][is_enter[:-1] & is_first[1:]] = -1
    if size and is_enter[-1]:
        partner[-1] = -1
    depth = (~is_enter).astype(np.int32)
    others = np.flatnonzero(~is_paired)
    if len(others):
        nested = _match_levels(number[others], is_enter[others])
        partner[others] = np.where(nested.partner >= 0, others[nested.partner], -1)
        depth[others] = nested.depth
    return Nesting(partner, depth)


def _match_levels(group: Column, is_enter: Column) -> Nesting:
    """Match the edges of groups that nest. There may be a million: columns are narrow, and go when they are used."""
    size = len(group)
    is_first = np.ones(size, bool)
    is_first[1:] = group[1:] != group[:-1]
    number = np.cumsum(is_first, dtype=np.int32) - np.int32(1)
    step = np.where(is_enter, 1, -1).astype(np.int8)
    balance = np.cumsum(step, dtype=np.int32)
    balance -= (balance[is_first] - step[is_first])[number]
    # The lowest balance so far in the group: below zero are the exits that found nothing open. Each group begins lower
    # than all before it, so that one pass over all groups finds the lowest of each.
    apart = number * np.int64(size + 1)
    lowest_apart = np.minimum(balance, 0) - apart
    np.minimum.accumulate(lowest_apart, out=lowest_apart)
    lowest_apart += apart
    lowest = lowest_apart.astype(np.int32)
    del apart, lowest_apart
    before = np.roll(lowest, 1)
    before[is_first] = 0
    is_matched = is_enter | (before == lowest)
    del before
    after = balance
    after -= lowest
    del lowest
    # An enter and its exit are neighbours among the events of their level.
    levels = int(after.max()) + 2
    top = (int(number[-1]) + 1) * levels
    level = number.astype(np.uint16 if top < 1 << 16 else np.int32 if top < 1 << 31 else np.int64)
    level *= level.dtype.type(levels)
    level += np.where(is_matched, after + ~is_enter, 0).astype(level.dtype)
    order = np.argsort(level, kind="stable").astype(np.int32)
    one, other = order[:-1], order[1:]
    are_pair = (level[one] == level[other]) & is_enter[one] & ~is_enter[other]
    partner = np.full(size, -1, np.int32)
    partner[one[are_pair]], partner[other[are_pair]] = other[are_pair], one[are_pair]
    return Nesting(partner, after - step)
