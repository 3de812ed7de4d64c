"""``torch.compile``: which graphs it makes of which functions, which mode changes are part of them, and each call of one.

Nothing of what is compiled is touched: the graph is read on its way to the backend, and the calls are noticed where
Dynamo itself decides what to do with one. When the recording ends Dynamo is as it was, and so is what it compiled.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import sys
import weakref
from _thread import get_ident
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.location.callers import unwrap_code
from gradprobe.capture.patching.patches import Patch, Patches
from gradprobe.capture.patching.post_import import PostImportHook
from gradprobe.recording.events import COMPILED_CALL, DECORATED, NOT_READ, Event, mode_name
from gradprobe.recording.notes import Compilation, NoteKind, SourceLocation, TracedModeChange

_MOST = 1_000
_WRAPPERS = ("compile_wrapper", "_fn")
"""What Dynamo puts around a compiled function, as newer and as older versions call it."""
_COMPILER = "convert_frame.py"
_TELL_REASONS = ("get_and_maybe_log_recompilation_reasons", "get_and_maybe_log_recompilation_reason")
"""The one function, as newer and as older versions call it."""
_DECIDES = "_callback_from_stance"
_STAND_IN = "external_utils.py"
"""Where the function is that Dynamo compiles in place of a module's own call."""
_CHANGES = {"_set_grad_enabled": "set_grad_enabled", "_enter_inference_mode": "inference_mode"}
_PLACE = re.compile(r'File "(.+)", line (\d+), in ')


def can_observe_calls() -> bool:
    """Whether this PyTorch has the function in which Dynamo decides about a call; by its source, as importing it takes
    seconds."""
    file = Path(torch.__file__).parent / "_dynamo" / "eval_frame.py"
    try:
        return f"def {_DECIDES}(" in file.read_text(encoding="utf-8")
    except OSError:
        return False


class DynamoObserver:
    """Listens to Dynamo from when the program has imported it: importing it takes seconds, and is the program's to do."""

    def __init__(
        self,
        sightings: DetectionLog,
        fault: Callable[[Exception], None],
        now: Callable[[], int],
        emit: Callable[[Event], object],
        label: Callable[[], str | None],
    ) -> None:
        self._sightings, self._fault = sightings, fault
        self._now, self._emit, self._label = now, emit, label
        self._patches = Patches()
        self._awaited = PostImportHook("torch._dynamo", self._listen)
        self._is_on = False
        self._reasons: dict[CodeType, list[str]] = {}
        self._notes: list[tuple[str, str]] = []
        self._codes: dict[int, tuple[weakref.ref[Any], CodeType | None]] = {}
        self._called: dict[int, CodeType | None] = {}
        self._begun: dict[int, tuple[str, bool]] = {}
        self._starts: list[Any] | None = None

    def begin(self) -> None:
        """From here on, or from when there is something to listen to."""
        self._is_on = True
        self._awaited.begin()

    def stop(self) -> None:
        """Leaves Dynamo as it was."""
        self._is_on = False
        self._awaited.stop()
        self._patches.restore()
        if self._starts is not None and self._begins in self._starts:
            self._starts.remove(self._begins)
        self._starts = None
        for known in (self._reasons, self._codes, self._called, self._begun):
            known.clear()

    def take(self) -> list[tuple[str, str]]:
        """What was noted since this was last called."""
        taken, self._notes = self._notes, []
        return taken

    def _listen(self) -> None:
        if not self._is_on or self._patches.are_applied:
            return
        dynamo = {
            name: sys.modules.get(f"torch._dynamo.{name}") for name in ("output_graph", "convert_frame", "eval_frame")
        }
        graphs = getattr(dynamo["output_graph"], "OutputGraph", None)
        wanted = (
            (graphs, "call_user_compiler", self._reading_graph),
            *((dynamo["convert_frame"], name, self._reading_reasons) for name in _TELL_REASONS),
            (dynamo["eval_frame"], _DECIDES, self._noticing_call),
        )
        if not hasattr(dynamo["eval_frame"], _DECIDES):
            text = f"torch {torch.__version__} does not show when compiled code is called: such calls are not counted"
            self._notes.append((NoteKind.LEVEL, text))
        try:
            self._patches.apply(
                [
                    Patch(owner, name, functools.wraps(original)(make(original)))
                    for owner, name, make in wanted
                    if (original := getattr(owner, name, None)) is not None
                ]
            )
            handler = getattr(sys.modules.get("torch._dynamo.callback"), "callback_handler", None)
            self._starts = getattr(handler, "start_callbacks", None)
            if self._starts is not None:
                self._starts.append(self._begins)
        except Exception as error:
            self._fault(error)

    def _begins(self, *_: Any) -> None:
        """A compilation begins. Later on its modes are Dynamo's own."""
        try:
            mode = mode_name(torch.is_grad_enabled(), torch.is_inference_mode_enabled())
            self._begun[get_ident()] = mode, _takes_inference(sys._getframe(1))
        except Exception as error:
            self._fault(error)

    def _reading_graph(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call_user_compiler(graph: Any, module: Any, *arguments: Any, **named: Any) -> Any:
            try:
                self._note(graph.root_tx.f_code, module.graph.nodes)
            except Exception as error:
                self._fault(error)
            return original(graph, module, *arguments, **named)

        return call_user_compiler

    def _reading_reasons(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def reasons_of(entries: Any, frame: Any, *arguments: Any, **named: Any) -> Any:
            reasons = original(entries, frame, *arguments, **named)
            if len(self._reasons) < _MOST:
                self._reasons[frame.f_code] = list(reasons)
            return reasons

        return reasons_of

    def _noticing_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def callback_from_stance(callback: Any) -> Any:
            try:
                frame = sys._getframe(1)
                if frame.f_code.co_name in _WRAPPERS and callback is not None:
                    code = self._called[get_ident()] = self._code_in(frame)
                    unread = (NOT_READ,) * 4
                    self._emit((COMPILED_CALL, self._now(), get_ident(), code, DECORATED, *unread, 0, self._label()))
            except Exception as error:
                self._fault(error)
            return original(callback)

        return callback_from_stance

    def _code_in(self, frame: FrameType) -> CodeType | None:
        """The code of the function that a wrapper of Dynamo's calls."""
        names = frame.f_locals
        function = names.get("fn")
        if sys.version_info < (3, 13):
            names.clear()  # the snapshot would keep alive what the frame lets go meanwhile
        known = self._codes.get(id(function))
        if known is not None and known[0]() is function:
            return known[1]
        code = _code_behind(function)
        with contextlib.suppress(TypeError):
            key = id(function)
            self._codes[key] = weakref.ref(function, lambda _: self._codes.pop(key, None)), code
        return code

    def _note(self, code: CodeType, nodes: Any) -> None:
        if len(self._notes) >= _MOST:
            return
        listed = list(nodes)
        folded = []
        for index, node in enumerate(listed):
            manager = _CHANGES.get(getattr(node.target, "__name__", "")) if node.op == "call_function" else None
            if manager is not None and node.args:
                file, line = _place_after(listed[index + 1 :])
                folded.append(TracedModeChange(manager, bool(node.args[0]), file, line))
        operators = sum(node.op in ("call_function", "call_method", "call_module") for node in listed)
        reasons = tuple(self._reasons.pop(code, ()))
        if code.co_filename.endswith(_STAND_IN):
            code = self._called.get(get_ident()) or code
        mode, takes_inference = self._begun.get(get_ident(), ("", False))
        found = Compilation(
            SourceLocation(
                "compiled function", code.co_filename, code.co_firstlineno, getattr(code, "co_qualname", code.co_name)
            ),
            self._sightings.locate_frame("compiled for this call", sys._getframe(2)),
            mode,
            operators - len(folded) - sum(getattr(n.target, "__name__", "") == "_exit_inference_mode" for n in listed),
            tuple(folded),
            reasons,
            takes_inference,
        )
        self._notes.append((NoteKind.COMPILATION, found.text()))


def _takes_inference(frame: FrameType | None) -> bool:
    """Whether an argument or variable of the function that Dynamo compiles, somewhere above, is an inference tensor."""
    while frame is not None and not (
        frame.f_code.co_name == "_compile" and frame.f_code.co_filename.endswith(_COMPILER)
    ):
        frame = frame.f_back
    given = {} if frame is None else frame.f_locals.get("locals") or {}
    return any(isinstance(value, torch.Tensor) and value.is_inference() for value in given.values())


def _code_behind(function: Any) -> CodeType | None:
    target = inspect.unwrap(function)
    owner = target if isinstance(target, torch.nn.Module) else getattr(target, "__self__", None)
    return unwrap_code(owner.forward if isinstance(owner, torch.nn.Module) else target)


def _place_after(nodes: list[Any]) -> tuple[str, int]:
    """The innermost line of the first operator that has one."""
    for node in nodes:
        places = _PLACE.findall(getattr(node, "stack_trace", None) or "")
        if places:
            return str(places[-1][0]), int(places[-1][1])
    return "", 0
