"""Findings of a recording: the rules, a module per family, and the catalogue that describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gradprobe.analysis.findings import (
    alias_rules,
    checkpoint_rules,
    cleared_gradient_rules,
    compile_rules,
    decorator_rules,
    freezing_rules,
    function_rules,
    gradient_order_rules,
    gradient_rules,
    graph_rules,
    held_graph_rules,
    hook_rules,
    lifecycle_rules,
    loss_term_rules,
    manager_rules,
    mode_dependence_rules,
    mode_rules,
    old_gradient_rules,
    optimizer_rules,
    parallel_way_rules,
    process_rules,
    refusal_rules,
    tensor_rules,
    thread_rules,
    unused_graph_rules,
    update_rules,
    value_rules,
    waste_rules,
    zero_gradient_rules,
)
from gradprobe.analysis.findings.consequences import drop_consequences, link_repetitions
from gradprobe.analysis.findings.evidence import Evidence
from gradprobe.analysis.findings.finding import Finding, merge_duplicates
from gradprobe.analysis.findings.finding_phases import name_phases
from gradprobe.analysis.findings.harm import sort_by_harm
from gradprobe.analysis.findings.mode_changes import complete_modes
from gradprobe.analysis.findings.suppression import Suppression
from gradprobe.tables.recording_tables import RecordingTables

RECORDING_RULES: tuple[Callable[[Evidence], Iterator[Finding]], ...] = (
    *mode_rules.RULES,
    *manager_rules.RULES,
    *graph_rules.RULES,
    *held_graph_rules.RULES,
    *unused_graph_rules.RULES,
    *decorator_rules.RULES,
    *gradient_rules.RULES,
    *zero_gradient_rules.RULES,
    *mode_dependence_rules.RULES,
    *alias_rules.RULES,
    *value_rules.RULES,
    *optimizer_rules.RULES,
    *freezing_rules.RULES,
    *cleared_gradient_rules.RULES,
    *gradient_order_rules.RULES,
    *old_gradient_rules.RULES,
    *hook_rules.RULES,
    *parallel_way_rules.RULES,
    *update_rules.RULES,
    *loss_term_rules.RULES,
    *tensor_rules.RULES,
    *refusal_rules.RULES,
    *checkpoint_rules.RULES,
    *function_rules.RULES,
    *lifecycle_rules.RULES,
    *compile_rules.RULES,
    *thread_rules.RULES,
    *process_rules.RULES,
    *waste_rules.RULES,
)


def find_all(tables: RecordingTables) -> list[Finding]:
    """Return the findings of all rules in a recording, the most harmful first."""
    evidence = Evidence(tables)
    found = drop_consequences(finding for rule in RECORDING_RULES for finding in rule(evidence))
    merged = link_repetitions(merge_duplicates(map(complete_modes, found)))
    return list(name_phases(sort_by_harm(merged, tables), evidence))


def build_finding_rows(tables: RecordingTables) -> list[tuple[Any, ...]]:
    """Return the rows of the findings table, without the findings that comments in the source suppress."""
    return [finding.make_row() for finding in Suppression().split(find_all(tables))[0]]
