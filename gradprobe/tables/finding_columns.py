"""Columns of the table of findings."""

from __future__ import annotations

from dataclasses import replace

from gradprobe.tables.column_definition import SOURCE, Column, Table, text_column
from gradprobe.tables.phase_columns import PHASE

FINDINGS = Table(
    "findings",
    "One row per finding, the worst first.",
    (
        text_column("rule", "Code of the rule, such as `GP101`."),
        text_column("severity", "Severity of the finding.", choices=("error", "warning", "note")),
        text_column("message", "What happens, under which mode, and what it costs."),
        *SOURCE,
        Column("count", "int64", "Number of times it happened.", json={"minimum": 1}),
        Column(
            "related",
            "object",
            "Other lines that belong to the finding, each a dict of `file`, `line` and `role`.",
            json={
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["file", "line", "role"],
                    "additionalProperties": False,
                    "properties": {
                        "file": {"type": ["string", "null"]},
                        "line": {"type": ["integer", "null"], "minimum": 0},
                        "role": {"type": "string"},
                    },
                },
            },
        ),
        text_column("fix", "What to write instead."),
        text_column("evidence", "What was seen, in numbers; empty if the message says it."),
        replace(PHASE, meaning=f"Phases in which it happened, separated by commas. {PHASE.meaning}"),
    ),
)
