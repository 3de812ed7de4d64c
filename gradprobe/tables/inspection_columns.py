"""Columns of the table of an inspected tensor: what the graph behind it saved for backward."""

from __future__ import annotations

from gradprobe.tables.column_definition import (
    SOURCE,
    Table,
    count_column,
    optional_count_column,
    optional_text_column,
    size_column,
    text_column,
)

STATES = ("saved", "hooked", "freed", "unreadable")

SAVED_TENSORS = Table(
    "saved_tensors",
    "One row per tensor that a node of the graph saved for backward, from the node of the inspected tensor to the leaves.",
    (
        text_column("node", "Name of the autograd node, such as `MulBackward0`.", level=""),
        count_column(
            "sequence", "Sequence number of the node: of two nodes of a thread the later one has more.", level=""
        ),
        text_column(
            "name",
            "Name by which the node has the tensor, such as `self`, `result`, or `ctx.x` for what a custom function put on "
            "its `ctx`.",
            level="",
        ),
        text_column(
            "state",
            "`saved`; `hooked` if a saved-tensor hook of the program packed it, still packed; `freed` by a backward "
            "pass; `unreadable` inside an in-place operation on a view.",
            choices=STATES,
            level="",
        ),
        optional_text_column(
            "shape", "Shape, such as `4x3`; empty for a scalar, missing unless it is saved.", level=""
        ),
        optional_text_column("dtype", "dtype, such as `float32`.", level=""),
        optional_text_column("device", "Device, such as `cuda:0`.", level=""),
        size_column("bytes", "Size of the whole storage behind it.", level=""),
        optional_count_column(
            "storage", "Number of the storage in this table: rows with the same number share their memory.", level=""
        ),
        text_column(
            "shared_with",
            "What else has a tensor over this storage: other saved tensors as `node.name`, `a leaf`, or `this tensor`.",
            level="",
        ),
        optional_text_column("op", "Operator that created it, if a recorder at level `ops` saw it.", level=""),
        *SOURCE,
        optional_text_column("module", "Path of the module that was running then; empty outside of modules.", level=""),
    ),
)
