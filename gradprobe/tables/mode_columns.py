"""Columns of the tables about modes: every transition, and how each mode came about."""

from __future__ import annotations

from gradprobe.tables.column_definition import (
    PROCESS,
    RANK,
    SOURCE,
    Table,
    count_column,
    flag_column,
    optional_count_column,
    optional_text_column,
    text_column,
    time_column,
)
from gradprobe.tables.phase_columns import PHASE

MANAGERS = ("no_grad", "enable_grad", "set_grad_enabled", "inference_mode", "unknown")
FORMS = ("with", "decorator", "generator", "call")
OWNERS = ("program", "library", "torch")

THREAD = text_column(
    "thread", "Name of the thread, with a number if an earlier thread of the process had the same name."
)
TASK = optional_text_column("task", "Name of the asyncio task; missing outside of one.")
WHERE = (PROCESS, RANK, THREAD, TASK)
MANAGER = text_column(
    "manager",
    "Context manager that set the mode; `unknown` if the mode was found changed and no context manager had announced it.",
    choices=MANAGERS,
)
FORM = text_column(
    "form",
    "How the context manager was used: in a `with` statement, as a decorator of a function or of a generator function, "
    "or as a plain call of `set_grad_enabled`.",
    choices=FORMS,
)

TRANSITIONS = Table(
    "transitions",
    "One row per enter, exit and set of a mode, in the order in which they happened.",
    (
        count_column("order", "Position of the transition in the recording, from 0."),
        time_column("time_ns", "Time since the recording began."),
        *WHERE,
        MANAGER,
        FORM,
        text_column(
            "event",
            "Whether a block was entered or exited, or a plain call set the mode.",
            choices=("enter", "exit", "set"),
        ),
        flag_column("grad_before", "Grad mode before the transition."),
        flag_column("inference_before", "Inference mode before the transition."),
        flag_column("grad_after", "Grad mode after the transition."),
        flag_column("inference_after", "Inference mode after the transition."),
        flag_column("redundant", "Whether both modes are the same before and after."),
        count_column("depth", "Number of blocks that were open around it in its thread and task."),
        optional_count_column(
            "region", "Row of `regions` that the transition begins or ends; missing if it does neither."
        ),
        *SOURCE,
        PHASE,
    ),
)

MODES = Table(
    "modes",
    "One row per line and way in which a mode came about: a change of the mode, or what a thread or process began with.",
    (
        PROCESS,
        RANK,
        text_column("thread", "Name of the thread that was in the mode; of a thread or process that began, its own."),
        text_column(
            "origin",
            "What set the mode: a block of one of the forms, a plain call, or the beginning of a thread or process, which "
            "does not take over the mode of the one that started it.",
            choices=(*FORMS, "thread", "process"),
        ),
        text_column("manager", "Context manager that set the mode; `unknown` where there is none.", choices=MANAGERS),
        *SOURCE,
        text_column("owner", "Whose code the line is.", choices=OWNERS),
        flag_column(
            "grad_before", "Grad mode before; of a thread or process that began, in the thread that started it."
        ),
        flag_column(
            "inference_before",
            "Inference mode before; of a thread or process that began, in the one that started it.",
        ),
        flag_column("grad", "Grad mode from then on."),
        flag_column("inference", "Inference mode from then on."),
        count_column(
            "count", "Number of times; blocks that were added up because the recording reached its limit do not count."
        ),
        flag_column("outlived", "Whether the mode was found active after its function had returned or was suspended."),
        optional_text_column(
            "lost_file", "File of the first line found to lose a gradient then; missing if none was found."
        ),
        optional_count_column("lost_line", "That line."),
    ),
)
