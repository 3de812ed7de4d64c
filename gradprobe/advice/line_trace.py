"""Lines of the program that ran, under which mode each, and the exceptions that passed through them.

Written as they are seen, each once, because a process may end without its exit handlers.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from gradprobe.advice.block_edges import BlockEdges, may_hold_tensor

FIRST_VIRTUAL_LINE = 10_000_000
"""Parts of a line that may run or not get line numbers of their own, from here on."""
_LINES_PER_PART = 1_000
GRAD, INFERENCE = 1, 2
AFTER = 4
"""Set for lines that ran once a block of inference mode had been left, and so could meet what it left."""


@dataclass
class Trace:
    """Trace of a run: the modes of each line that ran as a set of bits, and exceptions in order."""

    lines: dict[tuple[str, int], set[int]] = field(default_factory=dict)
    exceptions: list[tuple[str, int, str, str]] = field(default_factory=list)
    """File, line, type and the message: its first line, and what it says of inference tensors."""
    survivors: list[dict[str, Any]] = field(default_factory=list)
    edges: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    """Number of calls, and hash of the results, of each function that has a site, by its file and first line."""
    tensor_results: set[tuple[str, int]] = field(default_factory=set)
    """File and first line of each function that returned something that is or may hold a tensor."""
    failed_elsewhere: set[tuple[str, int, str]] = field(default_factory=set)
    """Exceptions of other processes than the first one."""
    was_replaced: bool = False
    """Set if another tool took the interpreter's trace function away."""


class LineTracer:
    """Tracer of the lines of the program's own files.

    Args:
        path: File to append to.
        is_own: Whether a file belongs to the program.
        edges: Takes what functions return.
    """

    def __init__(self, path: Path, is_own: Callable[[str], bool], edges: BlockEdges) -> None:
        self._edges = edges
        self._process = os.getpid()
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._is_own = is_own
        self._own: dict[str, bool] = {}
        self._seen: set[tuple[str, int, int]] = set()
        self._failed: set[tuple[str, int, str]] = set()
        self._gave_tensors: set[tuple[str, int]] = set()
        self._after = 0

    def start(self) -> None:
        """Trace this thread and those that start from now on."""
        threading.settrace(self._trace_call)
        sys.settrace(self._trace_call)

    def stop(self) -> None:
        """Stop tracing this thread, and note whether it was still traced."""
        if getattr(sys.gettrace(), "__func__", None) is not LineTracer._trace_call:
            self.write({"replaced": True})
        sys.settrace(None)
        threading.settrace(None)
        for row in self._edges.list_rows():
            self.write(row)

    def note_exit(self, frame: FrameType | None) -> None:
        """Note that a block of inference mode has been left; lines that are calling go on after it."""
        self._after = AFTER
        while frame is not None:
            if self._own.get(frame.f_code.co_filename):
                self._note_line(frame)
            frame = frame.f_back

    def write(self, row: dict[str, Any]) -> None:
        """Append a row."""
        os.write(self._file, json.dumps(row).encode() + b"\n")

    def _trace_call(self, frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        own = self._own.get(file)
        if own is None:
            own = self._own[file] = self._is_own(file)
        if not own:
            return None
        return self._trace_line

    def _trace_line(self, frame: FrameType, event: str, argument: Any) -> Any:
        file, line = frame.f_code.co_filename, frame.f_lineno
        if event == "line":
            self._note_line(frame)
        elif event == "return":
            function = (file, frame.f_code.co_firstlineno)
            self._edges.add(function, argument)
            if function not in self._gave_tensors and may_hold_tensor(argument):
                self._gave_tensors.add(function)
                self.write({"gives": function})
        elif event == "exception":
            self._note_exception(file, line, argument[0], argument[1])
        return self._trace_line

    def _note_line(self, frame: FrameType) -> None:
        key = (frame.f_code.co_filename, frame.f_lineno, _read_modes() | self._after)
        if key not in self._seen:
            self._seen.add(key)
            self.write({"file": key[0], "line": key[1], "modes": key[2]})

    def _note_exception(self, file: str, line: int, kind: type[BaseException], error: Any) -> None:
        if issubclass(kind, StopIteration | StopAsyncIteration | GeneratorExit):
            return
        first, *others = str(error).strip().splitlines() or [""]
        # The error of a load has the exception of each tensor below its first line.
        text = " ".join([first, *(each.strip() for each in others if "nference" in each)])[:600]
        if (file, line, text) not in self._failed and len(self._failed) < 1_000:
            self._failed.add((file, line, text))
            row = {"file": file, "line": line, "error": kind.__name__, "text": text}
            self.write(row if os.getpid() == self._process else {**row, "elsewhere": True})


def number_parts(file: str, tree: ast.Module) -> ast.Module:
    """Give each part of an expression that may be skipped a line number of its own, which the tracer then sees."""
    number = FIRST_VIRTUAL_LINE
    for part, _ in list_parts(tree):
        number += _LINES_PER_PART
        first = getattr(part, "lineno", 0)
        for node in ast.walk(part):
            if isinstance(node, ast.expr | ast.arg | ast.keyword) and node.lineno < FIRST_VIRTUAL_LINE:
                node.end_lineno = number + (node.end_lineno or node.lineno) - first
                node.lineno = number + node.lineno - first
    return tree


def list_parts(tree: ast.AST) -> list[tuple[ast.expr, int]]:
    """Return the parts of expressions that may be skipped, inner ones first, with their lines."""
    parts: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.IfExp):
            parts += [node.body, node.orelse]
        elif isinstance(node, ast.BoolOp):
            parts += node.values[1:]
        elif isinstance(node, ast.Lambda):
            parts.append(node.body)
        elif isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            parts.append(node.elt)
        elif isinstance(node, ast.DictComp):
            parts.append(node.value)
    parts.reverse()
    return [(part, part.lineno) for part in parts]


def part_number(line: int) -> int:
    """Return the position in ``list_parts`` of the part that a line number belongs to."""
    return (line - FIRST_VIRTUAL_LINE) // _LINES_PER_PART - 1


def read_trace(path: Path) -> Trace:
    """Read what tracers of any number of processes appended to one file."""
    trace = Trace()
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(text)
        except ValueError:
            continue  # cut off by the end of a process
        if "modes" in row:
            trace.lines.setdefault((row["file"], row["line"]), set()).add(row["modes"])
        elif "error" in row:
            trace.exceptions.append((row["file"], row["line"], row["error"], row["text"]))
            if "elsewhere" in row:
                trace.failed_elsewhere.add((row["file"], row["line"], row["text"]))
        elif "edge" in row:
            trace.edges[row["edge"][0], row["edge"][1]] = (row["calls"], row["hash"])
        elif "gives" in row:
            trace.tensor_results.add((row["gives"][0], row["gives"][1]))
        elif "survivor" in row:
            trace.survivors.append(row["survivor"])
        else:
            trace.was_replaced = True
    return trace


def _read_modes() -> int:
    torch = sys.modules.get("torch")
    try:
        return (GRAD if torch.is_grad_enabled() else 0) | (INFERENCE if torch.is_inference_mode_enabled() else 0)  # type: ignore[union-attr]
    except AttributeError:
        return GRAD  # torch is not imported, or not completely
