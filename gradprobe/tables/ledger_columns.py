"""Columns of the tables of the ledgers: gradient flow, parameters, graphs by path of calls, their memory, kept graphs."""

from __future__ import annotations

from dataclasses import replace

from gradprobe.recording.flow import PASSAGES
from gradprobe.recording.graph_memory import MOMENTS
from gradprobe.tables.column_definition import (
    FUNCTION,
    PROCESS,
    RANK,
    SOURCE,
    Column,
    Table,
    count_column,
    flag_column,
    optional_count_column,
    optional_text_column,
    size_column,
    text_column,
    time_column,
)


def _at_level_ops(*columns: Column) -> tuple[Column, ...]:
    return tuple(replace(column, level="ops") for column in columns)


_CREATED = (
    optional_text_column("file", "Source file of the line that created it; missing if it is older than the recording."),
    optional_count_column("line", "Line that created it; missing if it is older than the recording."),
    FUNCTION,
)

FLOW = Table(
    "flow",
    "One row per way that tensors took through the program, from the operator or leaf that made them to the operator that "
    "took them, and per thing that became of gradient on it; empty below level `ops`.",
    _at_level_ops(
        optional_text_column(
            "source_file", "Source file of the line that made the tensors; missing if it is not known."
        ),
        optional_count_column("source_line", "Line that made the tensors, or created the leaf; missing if not known."),
        optional_text_column("source_function", "Qualified name of the function that contains that line."),
        optional_text_column(
            "source_op", "Operator that made the tensors; missing for a leaf, and for tensors of unknown origin."
        ),
        text_column("source_module", "Dotted path of the module in which they were made; empty if there was none."),
        optional_text_column(
            "leaf",
            "Name of the leaf that the way begins at, or its shape if it has no name; missing for other tensors.",
        ),
        optional_text_column("target_file", "Source file of the line that took the tensors."),
        optional_count_column("target_line", "Line that took the tensors."),
        optional_text_column("target_function", "Qualified name of the function that contains that line."),
        text_column(
            "target_op",
            "Operator that took the tensors; or `backward`, `autograd.grad` or `optimizer.step`.",
        ),
        text_column("target_module", "Dotted path of the module in which they were taken; empty if there was none."),
        text_column(
            "passage",
            "What became of gradient: `carried` if a node was constructed, `without_grad` if the tensor does not "
            "require grad, `written` if it was written in place without a node, or else what cut the graph. From a leaf "
            "to a backward pass, `carried` counts passes that reached it, `without_grad` those that began at it, and "
            "`written` those whose gradient was cleared before a step; to "
            "a step, `carried` counts steps that found a gradient, and `without_grad` those that found none.",
            choices=PASSAGES,
        ),
        Column("count", "int64", "Number of times.", json={"minimum": 1}),
        PROCESS,
        RANK,
    ),
)

PARAMETERS = Table(
    "parameters",
    "One row per leaf: a parameter, or another tensor that requires grad and that no operator computed; empty below level "
    "`ops`.",
    _at_level_ops(
        text_column("name", "Dotted name, such as `Net.fc.weight`; empty if none is known."),
        text_column("shape", "Shape, such as `4x3`; empty if it is not known or the leaf is a scalar."),
        text_column("optimizer", "Class of the optimizer that has it; empty if none does."),
        flag_column("is_parameter", "Whether it is a `torch.nn.Parameter`."),
        *_CREATED,
        count_column("uses", "Number of times that operators took it, outside of backward passes and optimizers."),
        count_column("uses_with_grad", "Number of those times at which a node was constructed for it."),
        count_column("backward_passes", "Number of calls of `backward` that reached it."),
        count_column("grad_passes", "Number of calls of `torch.autograd.grad` that reached it."),
        count_column("steps_with_grad", "Number of steps of its optimizer that found a gradient."),
        count_column("steps_without_grad", "Number of steps of its optimizer that found none."),
        count_column(
            "writes", "Number of operators that wrote it in place without a node, after the line that created it."
        ),
        PROCESS,
        RANK,
    ),
)

MODULES = Table(
    "modules",
    "One row per module in whose call operators ran, or in a module in it, as a tree: a module precedes those in it. "
    "Columns named `self_...` leave out the modules in it; the others are totals. Empty below level `ops`.",
    _at_level_ops(
        text_column("module", "Dotted path of the module, as in `ops`; empty for what ran outside of modules."),
        text_column("name", "Last step of the path."),
        text_column("parent", "Dotted path of the module around it; empty if there is none."),
        count_column("depth", "Number of modules around it."),
        text_column("root_class", "Class of the outermost module around it; empty outside of modules."),
        count_column("count", "Number of operators."),
        count_column("self_count", "Number of operators that ran in its own code."),
        count_column("nodes", "Autograd nodes constructed."),
        count_column("self_nodes", "Autograd nodes constructed by its own code."),
        size_column("saved_bytes", "Bytes saved for backward, as in `ops`."),
        size_column("self_saved_bytes", "Bytes that its own code saved for backward."),
        count_column("parameters", "Number of its parameters that required grad, with those of the modules in it."),
        count_column("reached_parameters", "Number of those that a backward pass reached."),
        PROCESS,
        RANK,
    ),
)

GRAPHS = Table(
    "graphs",
    "One row per path of calls in which autograd nodes were constructed; empty below level `ops`.",
    _at_level_ops(
        *SOURCE,
        text_column(
            "path", "Lines that were running, from the outermost inwards, as `train.py:9 (main) > net.py:4 (forward)`."
        ),
        count_column("nodes", "Autograd nodes constructed."),
        count_column("reached_nodes", "Nodes that a backward pass has gone through."),
        count_column(
            "unused_nodes",
            "Nodes that no backward pass has gone through, without those whose iteration ended by an exception.",
        ),
        count_column("operators", "Operators that constructed them."),
        size_column(
            "saved_bytes",
            "Bytes that they saved for backward, without inputs and parameters, nor views of parameters.",
        ),
        PROCESS,
        RANK,
    ),
)

GRAPH_MEMORY = Table(
    "graph_memory",
    "One row per moment and line whose results held autograd graphs; a row without a line sums up further lines, or says "
    "that no graph was held. The longer a program has run, the rarer the moments. Empty below level `ops`.",
    _at_level_ops(
        time_column("time_ns", "Time of the moment since the recording began."),
        text_column(
            "moment",
            "`backward` as a call of `backward` begins, when the graph of the iteration is complete; `between` at another "
            "operator, and at the end.",
            choices=MOMENTS,
        ),
        count_column(
            "iteration",
            "Number of calls of `backward` that had begun in the process while its operators were observed.",
        ),
        text_column("phase", "Phase of the program in the thread that looked; empty if there was none."),
        *SOURCE,
        text_column("op", "Operator that computed the tensors at this line; empty without a line."),
        count_column("tensors", "Number of tensors whose graphs were alive."),
        count_column("nodes", "Autograd nodes of these graphs. A node counts for the latest tensor that leads to it."),
        count_column(
            "bytes",
            "Size of the storages that these nodes had saved for backward, without those of parameters; each storage "
            "counts once per moment.",
            unit="bytes",
        ),
        PROCESS,
        RANK,
    ),
)

CUSTODY = Table(
    "custody",
    "One row per holder that keeps autograd graphs beyond their use; empty below level `ops`.",
    _at_level_ops(
        text_column("holder", "Variable, attribute or container that keeps the tensors; empty if none was found."),
        text_column(
            "kind",
            "Kind of the holder: `local`, `global`, `attribute`, `closure`, `cache`, `traceback`, `generator` or "
            "`other`; empty if none was found.",
        ),
        *SOURCE,
        text_column("op", "Operator that computed the tensors at this line."),
        count_column("tensors", "Number of tensors that were kept at once."),
        count_column("nodes", "Autograd nodes that they keep alive."),
        size_column("bytes", "Bytes saved for backward that only these graphs keep alive."),
        count_column("iterations", "Number of iterations whose graphs were alive although they had ended."),
        PROCESS,
        RANK,
    ),
)
