"""Generator of ``docs/columns.md`` and of the rows in the JSON schemas, from the definitions of the columns.

Run ``python -m gradprobe.tables.column_reference`` in a source tree after a column has changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradprobe.tables.column_definition import Column, Table
from gradprobe.tables.columns import RECORDING_TABLES
from gradprobe.tables.comparison_columns import COMPARISON
from gradprobe.tables.inspection_columns import SAVED_TENSORS

PAGE = Path("docs/columns.md")
SCHEMAS = Path("gradprobe/report/schemas")
"""Folder of the JSON schemas in a source tree."""

CONTROL_MODE = "no_grad again"
"""Mode of the control of a comparison, which is in its JSON but not in its table."""

_JSON_TYPES = {
    "bool": "boolean",
    "int64": "integer",
    "Int64": "integer",
    "float64": "number",
    "str": "string",
    "object": "object",
}
_INTRODUCTION = """\
# Columns

Generated from the modules `gradprobe/tables/*_columns.py` by `make columns`.

What was not measured is missing, never 0: `NA` in `Int64` columns, `NaN` in others, null in JSON, an empty cell in CSV.
*Level* is the lowest recording level that fills a column. `str` columns have the dtype of text of the installed pandas:
`str` since pandas 3, `object` before.
"""


def describe_in_json(column: Column) -> dict[str, Any]:
    """Return the JSON schema of a value of ``column``."""
    if column.choices:
        found: dict[str, Any] = {"enum": [*column.choices]}
    else:
        kind = _JSON_TYPES[column.dtype]
        found = {"type": [kind, "null"] if column.can_be_missing else kind}
        if column.dtype not in ("bool", "str"):
            found.update(column.json)
    return {**found, "description": f"{column.meaning} Unit: {column.unit}." if column.unit else column.meaning}


def describe_rows_in_json(table: Table) -> dict[str, Any]:
    """Return the JSON schema of a list of rows of ``table``."""
    return {
        "description": table.row,
        "type": "array",
        "items": {
            "type": "object",
            "required": table.names,
            "additionalProperties": False,
            "properties": {column.name: describe_in_json(column) for column in table.columns},
        },
    }


def update_recording_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a recording with its tables as ``columns.py`` defines them."""
    rows = {table.name: describe_rows_in_json(table) for table in RECORDING_TABLES}
    found = {**schema, "properties": {**schema["properties"], **rows}}
    used = set(_find_references(found["properties"]))
    return {**found, "$defs": {name: value for name, value in schema["$defs"].items() if name in used}}


def update_comparison_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON schema of a comparison with the columns of its table as ``columns.py`` has them."""
    arm = schema["$defs"]["arm"]
    columns = {column.name: describe_in_json(column) for column in COMPARISON.columns}
    columns["mode"]["enum"].append(CONTROL_MODE)
    properties = {name: columns.get(name, value) for name, value in arm["properties"].items()}
    return {**schema, "$defs": {**schema["$defs"], "arm": {**arm, "properties": properties}}}


def _find_references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for one in value.values():
            yield from _find_references(one)
    elif isinstance(value, list):
        for one in value:
            yield from _find_references(one)


def render_page() -> str:
    """Return ``docs/columns.md``."""
    headings = [(f"recording.{table.name}", table) for table in RECORDING_TABLES]
    headings += [("Comparison.table", COMPARISON), ("gradprobe.inspect(tensor).saved_tensors", SAVED_TENSORS)]
    return "\n".join([_INTRODUCTION, *(_render_table(heading, table) for heading, table in headings)])


def _render_table(heading: str, table: Table) -> str:
    has_levels = any(column.level for column in table.columns)
    titles = ["column", "dtype", "unit", *(["level"] if has_levels else []), "meaning"]
    lines = [f"## `{heading}`", "", table.row, "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for column in table.columns:
        meaning = column.meaning
        if column.choices:
            meaning += f" One of {', '.join(f'`{choice}`' for choice in column.choices)}."
        cells = [f"`{column.name}`", f"`{column.dtype}`", column.unit, *([column.level] if has_levels else []), meaning]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def render_json(schema: Mapping[str, Any]) -> str:
    """Return the text of a schema's file."""
    return json.dumps(schema, indent=2) + "\n"


def main(root: Path) -> None:
    """Write the page and the schemas of the source tree at ``root``."""
    (root / PAGE).write_text(render_page(), encoding="utf-8")
    for name, update in (("recording", update_recording_schema), ("comparison", update_comparison_schema)):
        path = root / SCHEMAS / f"{name}.schema.json"
        path.write_text(render_json(update(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
