"""Tallies of operators with their marks, and the storages that they saved, joined by their keys."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gradprobe.history.edge_pairs import Column
from gradprobe.history.process_history import History
from gradprobe.history.row_groups import number_groups
from gradprobe.recording.contents import Contents
from gradprobe.recording.events import TALLY
from gradprobe.recording.op_rows import INPUTS, SAVED, TALLIES


class Tallies(NamedTuple):
    """Tallies in the order of their events."""

    marks: Column
    """Number of the mark of each tally."""
    rows: Column


class SavedRows(NamedTuple):
    """Storages saved for backward, each in the first tally of its region that saved it."""

    tally: Column
    region: Column
    storage: Column
    size: Column
    made_ns: Column
    """Time of its allocation since the recording began, -1 if before."""
    is_of_graph: Column
    """True if only the graph keeps it alive. Outside of regions, all but inputs count as such."""


def find_tallies(contents: Contents, history: History) -> Tallies:
    """Find the rows of all tallies whose events the history has."""
    rows = contents.accounts.get("tallies", np.empty(0, TALLIES))
    marks = np.flatnonzero(history.marks.op == TALLY)
    mark, row = _match_keys(history.marks.key[marks], rows["key"])
    is_whole = len(row) == len(rows) and bool((row[1:] > row[:-1]).all())
    return Tallies(marks[mark], rows if is_whole else rows[row])  # there may be a million, of a hundred bytes each


def find_saved(contents: Contents, history: History, tallies: Tallies) -> SavedRows:
    """Find the storages that each region saved, and those that were saved outside of all regions."""
    rows = contents.accounts.get("saved", np.empty(0, SAVED))
    tally, row = _match_keys(tallies.rows["key"], rows["key"])
    rows = rows[row]
    region = history.marks.region[tallies.marks[tally]]
    # A storage that a region saves again is there already, as is one that is saved again outside of all of them.
    _, firsts = number_groups(region, rows["storage"])
    tally, region, rows = tally[firsts], region[firsts], rows[firsts]
    made = np.where(rows["made_ns"] >= 0, rows["made_ns"] - int(contents.meta.get("began_ns", 0)), -1)
    inputs = contents.accounts.get("inputs", np.empty(0, INPUTS))
    is_new = (made >= 0) & ~np.isin(rows["storage"], inputs["storage"])
    starts = history.regions.columns.start_ns
    is_of_graph = np.where(region < 0, is_new, made >= np.append(starts, 0)[region])
    return SavedRows(tally, region, rows["storage"], rows["bytes"], made, is_of_graph.astype(bool))


def _match_keys(wanted: Column, keys: Column) -> tuple[Column, Column]:
    """Return the place of each key among the wanted ones and its own, for those that are wanted, in that order."""
    order = np.argsort(wanted, kind="stable")
    at = np.searchsorted(wanted[order], keys)
    is_wanted = at < len(wanted)
    is_wanted[is_wanted] = wanted[order[at[is_wanted]]] == keys[is_wanted]
    rows = np.flatnonzero(is_wanted)
    places = order[at[rows]]
    by_place = np.argsort(places, kind="stable")
    return places[by_place], rows[by_place]
