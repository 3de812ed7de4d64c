"""Findings of a recording: the rules, a module per family, and the catalogue that describes them."""

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
from gradprobe.analysis.findings.finding import Finding, merge_duplicates
from gradprobe.analysis.findings.suppression import Suppression
from gradprobe.tables.recording_tables import RecordingTables

RECORDING_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    mode_rules.find_leaked_modes,
    mode_rules.find_reentered_managers,
    mode_rules.find_enable_grad_in_inference_mode,
    mode_rules.find_cut_graphs,
    mode_rules.find_undecorated_overrides_that_ran,
    graph_rules.find_running_totals,
    graph_rules.find_storing_hooks,
    graph_rules.find_gradient_cycles,
    graph_rules.find_unused_graphs,
    tensor_rules.report_detections,
    tensor_rules.find_modified_saved_tensors,
    tensor_rules.find_inference_modules,
    compile_rules.find_recompilations,
    compile_rules.find_scripted_modes,
    thread_rules.find_unpropagated_thread_modes,
    thread_rules.find_decorated_coroutines,
    thread_rules.find_modes_held_across_yield,
    thread_rules.find_modes_held_across_await,
    thread_rules.find_exits_out_of_order,
    process_rules.find_unpropagated_process_modes,
    waste_rules.find_redundant_managers,
    process_rules.find_rank_graph_differences,
    process_rules.find_rank_mode_differences,
)


def find_all(tables: RecordingTables) -> list[Finding]:
    """Return the findings of all rules in a recording, the most serious first."""
    evidence = Evidence(tables)
    return merge_duplicates(finding for rule in RECORDING_RULES for finding in rule(evidence))


def build_finding_rows(tables: RecordingTables) -> list[tuple[Any, ...]]:
    """Return the rows of the findings table, without the findings that comments in the source suppress."""
    return [finding.make_row() for finding in Suppression().split(find_all(tables))[0]]
