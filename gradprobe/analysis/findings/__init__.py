"""What is wrong in a recording: rules, a file per family, and the findings that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gradprobe.analysis.findings import compiled, graphs, modes, processes, tensors, threads, waste
from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding, united
from gradprobe.analysis.findings.suppression import Suppression
from gradprobe.recording.tables import Tables

RULES_OF_A_RUN: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    modes.mode_left_changed,
    modes.manager_reentered,
    modes.gradients_in_inference_mode,
    modes.graph_cut_by_decorator,
    modes.override_loses_decorator,
    graphs.running_totals,
    graphs.hooks_that_store,
    graphs.cycles,
    graphs.built_and_dropped,
    tensors.sighted,
    tensors.saved_tensors_changed,
    tensors.modules_built_in_inference_mode,
    compiled.recompilations,
    compiled.scripted,
    threads.modes_that_do_not_reach,
    threads.decorated_coroutines,
    threads.modes_held_across_yield,
    threads.modes_held_across_await,
    threads.left_out_of_order,
    processes.modes_that_do_not_reach_processes,
    waste.redundant_managers,
    processes.graphs_on_some_ranks_only,
    processes.modes_that_differ_where_ranks_meet,
)


def everything(tables: Tables) -> list[Finding]:
    """All that the rules find in a recording, the worst first."""
    evidence = Evidence(tables)
    return united(finding for rule in RULES_OF_A_RUN for finding in rule(evidence))


def rows(tables: Tables) -> list[tuple[Any, ...]]:
    """The findings that no comment of the program silences, as rows of the table of that name."""
    return [finding.row() for finding in Suppression().split(everything(tables))[0]]
