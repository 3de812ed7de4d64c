"""What is wrong in a recording: rules, a file per family, and the findings that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gradprobe.analysis.findings import (
    compile_rules,
    graph_rules,
    mode_rules,
    process_rules,
    tensor_rules,
    thread_rules,
    waste_rules,
)
from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding, united
from gradprobe.analysis.findings.suppression import Suppression
from gradprobe.tables.recording_tables import Tables

RULES_OF_A_RUN: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    mode_rules.mode_left_changed,
    mode_rules.manager_reentered,
    mode_rules.gradients_in_inference_mode,
    mode_rules.graph_cut_by_decorator,
    mode_rules.override_loses_decorator,
    graph_rules.running_totals,
    graph_rules.hooks_that_store,
    graph_rules.cycles,
    graph_rules.built_and_dropped,
    tensor_rules.sighted,
    tensor_rules.saved_tensors_changed,
    tensor_rules.modules_built_in_inference_mode,
    compile_rules.recompilations,
    compile_rules.scripted,
    thread_rules.modes_that_do_not_reach,
    thread_rules.decorated_coroutines,
    thread_rules.modes_held_across_yield,
    thread_rules.modes_held_across_await,
    thread_rules.left_out_of_order,
    process_rules.modes_that_do_not_reach_processes,
    waste_rules.redundant_managers,
    process_rules.graphs_on_some_ranks_only,
    process_rules.modes_that_differ_where_ranks_meet,
)


def everything(tables: Tables) -> list[Finding]:
    """All that the rules find in a recording, the worst first."""
    evidence = Evidence(tables)
    return united(finding for rule in RULES_OF_A_RUN for finding in rule(evidence))


def rows(tables: Tables) -> list[tuple[Any, ...]]:
    """The findings that no comment of the program silences, as rows of the table of that name."""
    return [finding.row() for finding in Suppression().split(everything(tables))[0]]
