"""Observation of ``torch.compile``: graphs of functions, the mode changes in them, and their calls.

Compiled code is not touched: a graph is read on its way to the backend, and a call is noticed where Dynamo decides what
to do with it. After the recording Dynamo and the code it compiled are as they were.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from _thread import get_ident
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch

from gradprobe.capture.autograd.creation import REGISTRY
from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.location.callers import unwrap_code
from gradprobe.capture.location.frames import find_frame, read_local
from gradprobe.capture.location.identity_cache import cache_by_identity
from gradprobe.capture.patching.patches import Patch, Patches
from gradprobe.capture.patching.post_import import PostImportHook
from gradprobe.phases import COMPILATION, OpenPhase, begin, end
from gradprobe.recording.events import COMPILED_CALL, DECORATED, NOT_READ, Event, mode_name
from gradprobe.recording.notes import Compilation, NoteKind, SourceLocation, TracedModeChange

_MAX_NOTES, _MAX_ERROR = 1_000, 300
"""Maximum number of compilations, and of functions with reasons, kept between two flushes."""
_WRAPPERS = ("compile_wrapper", "_fn")
"""Names of Dynamo's wrapper around a compiled function, in newer and in older versions."""
_COMPILER = "convert_frame.py"
_REASON_FUNCTIONS = ("get_and_maybe_log_recompilation_reasons", "get_and_maybe_log_recompilation_reason")
"""Names of the same function in newer and in older versions."""
_CALL_DECISION = "_callback_from_stance"
_CALL_START, _CALL_END = "_is_skip_guard_eval_unsafe_stance", "_maybe_set_eval_frame"
"""Functions that Dynamo's wrapper calls before it looks at the thread's keys, and when it sets the evaluation of frames:
for its own callback, and at the end as it was before."""
_STAND_IN = "external_utils.py"
"""The file with the function that Dynamo compiles in place of a module's own call."""
_MODE_CALLS = {"_set_grad_enabled": "set_grad_enabled", "_enter_inference_mode": "inference_mode"}
_RAISED = re.compile(r"^\w+(?:Error|Exception): .+$", re.MULTILINE)
_STACK_LINE = re.compile(r'File "(.+)", line (\d+), in ')


def can_observe_calls() -> bool:
    """Return whether Dynamo has the function that decides about a call.

    It is looked up in the source, since importing Dynamo takes seconds.
    """
    file = Path(torch.__file__).parent / "_dynamo" / "eval_frame.py"
    try:
        return f"def {_CALL_DECISION}(" in file.read_text(encoding="utf-8")
    except OSError:
        return False


class DynamoObserver:
    """Observer of Dynamo, from the moment when the program imports it.

    Importing it takes seconds, so gradprobe never does.
    """

    def __init__(
        self,
        detection_log: DetectionLog,
        fault: Callable[[Exception], None],
        now: Callable[[], int],
        emit: Callable[[Event], object],
        label: Callable[[], str | None],
    ) -> None:
        self._detection_log, self._fault = detection_log, fault
        self._now, self._emit, self._label = now, emit, label
        self._patches = Patches()
        self._import_hook = PostImportHook("torch._dynamo", self._install)
        self._is_active = False
        self._reasons: dict[CodeType, list[str]] = {}
        self._notes: list[tuple[str, str]] = []
        self._find_code = cache_by_identity(_code_behind)
        self._called: dict[int, CodeType | None] = {}
        self._modes_at_start: dict[int, tuple[str, bool]] = {}
        self._starts: list[Any] | None = None
        self._ends: list[Any] | None = None
        self._phase: OpenPhase | None = None
        self._unobserved: dict[int, list[FrameType]] = {}
        """The running calls of compiled code by thread, while the thread's operators are not observed."""

    def begin(self) -> None:
        """Start observing now, or as soon as the program imports ``torch._dynamo``."""
        self._is_active = True
        self._import_hook.begin()

    def stop(self) -> None:
        """Stop observing and restore Dynamo."""
        self._is_active = False
        self._import_hook.stop()
        self._patches.restore()
        for callbacks, callback in ((self._starts, self._on_compile_start), (self._ends, self._on_compile_end)):
            if callbacks is not None and callback in callbacks:
                callbacks.remove(callback)
        self._starts = self._ends = None
        self._on_compile_end()
        self._find_code = cache_by_identity(_code_behind)
        for known in (self._reasons, self._called, self._modes_at_start, self._unobserved):
            known.clear()

    def take(self) -> list[tuple[str, str]]:
        """Return the notes since the last call, as pairs of kind and text."""
        taken, self._notes = self._notes, []
        return taken

    def _install(self) -> None:
        if not self._is_active or self._patches.are_applied:
            return
        dynamo = {
            name: sys.modules.get(f"torch._dynamo.{name}") for name in ("output_graph", "convert_frame", "eval_frame")
        }
        graphs = getattr(dynamo["output_graph"], "OutputGraph", None)
        wanted = (
            (graphs, "call_user_compiler", self._wrap_backend_call),
            *((dynamo["convert_frame"], name, self._wrap_reasons) for name in _REASON_FUNCTIONS),
            (dynamo["eval_frame"], _CALL_DECISION, self._wrap_call_decision),
            (dynamo["eval_frame"], _CALL_START, self._wrap_call_start),
            (dynamo["eval_frame"], _CALL_END, self._wrap_call_end),
        )
        if not hasattr(dynamo["eval_frame"], _CALL_DECISION):
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
            self._ends = getattr(handler, "end_callbacks", None)
            if self._starts is not None and self._ends is not None:
                self._starts.append(self._on_compile_start)
                self._ends.append(self._on_compile_end)
        except Exception as error:
            self._fault(error)

    def _on_compile_start(self, *_: Any) -> None:
        """Note the modes at the start of a compilation. Dynamo sets modes of its own while it compiles."""
        try:
            mode = mode_name(torch.is_grad_enabled(), torch.is_inference_mode_enabled())
            self._modes_at_start[get_ident()] = mode, _takes_inference(sys._getframe(1))
            if self._phase is None:
                self._phase = begin(OpenPhase(COMPILATION, None, 0, is_automatic=True))
        except Exception as error:
            self._fault(error)

    def _on_compile_end(self, *_: Any) -> None:
        phase, self._phase = self._phase, None
        if phase is not None:
            end(phase)

    def _wrap_backend_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call_user_compiler(graph: Any, module: Any, *arguments: Any, **named: Any) -> Any:
            try:
                self._note(graph.root_tx.f_code, module.graph.nodes)
            except Exception as error:
                self._fault(error)
            try:
                return original(graph, module, *arguments, **named)
            except Exception as error:
                self._note_failure(module, error)
                raise

        return call_user_compiler

    def _note_failure(self, module: Any, error: Exception) -> None:
        """Report that the backend could not compile a graph in which inference mode is entered."""
        try:
            entered = [at for at in _list_mode_changes(list(module.graph.nodes)) if at.manager == "inference_mode"]
            if any(at.enabled for at in entered) and (first := entered[0]).line:
                inside = SourceLocation("runs in inference mode here", first.file, first.line, "")
                called = self._detection_log.locate_frame("compiled for this call", sys._getframe(2))
                cause = error.__cause__ or error
                self._detection_log.add(
                    "GP304", [inside, called], error=f"{type(cause).__name__}: {cause}"[:_MAX_ERROR]
                )
        except Exception as fault:
            self._fault(fault)

    def _wrap_reasons(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def reasons_of(entries: Any, frame: Any, *arguments: Any, **named: Any) -> Any:
            reasons = original(entries, frame, *arguments, **named)
            if len(self._reasons) < _MAX_NOTES:
                self._reasons[frame.f_code] = list(reasons)
            return reasons

        return reasons_of

    def _wrap_call_decision(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def callback_from_stance(callback: Any) -> Any:
            try:
                if callback is not None and (frame := sys._getframe(1)).f_code.co_name in _WRAPPERS:
                    code = self._called[get_ident()] = self._find_code(read_local(frame, "fn"))
                    unread = (NOT_READ,) * 4
                    self._emit((COMPILED_CALL, self._now(), get_ident(), code, DECORATED, *unread, 0, self._label()))
            except Exception as error:
                self._fault(error)
            return original(callback)

        return callback_from_stance

    # Dynamo's guards include the keys of the thread, and the observer's key is one of them: compiled code would be compiled
    # again wherever a recording begins or ends.

    def _wrap_call_start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def start() -> Any:
            try:
                library, frame = REGISTRY.library, sys._getframe(1)
                if library is not None and frame.f_code.co_name in _WRAPPERS and library.is_key_included():
                    library.include_key(False)
                    self._unobserved.setdefault(get_ident(), []).append(frame)
            except Exception as error:
                self._fault(error)
            return original()

        return start

    def _wrap_call_end(self, original: Callable[..., Any]) -> Callable[..., Any]:
        unobserved = self._unobserved

        def set_eval_frame(callback: Any) -> Any:
            if not unobserved:
                return original(callback)
            try:
                ends = self._ends_call(callback, sys._getframe(1))
            except Exception as error:
                self._fault(error)
                ends = False
            # Nothing but this may run while Dynamo's callback is set: Dynamo would compile it.
            result = original(callback)
            if ends:
                REGISTRY.library.include_key(True)
            return result

        return set_eval_frame

    def _ends_call(self, callback: Any, frame: FrameType) -> bool:
        """Return whether Dynamo's wrapper, which runs in ``frame``, sets the callback of the code around the call again."""
        calls = self._unobserved.get(get_ident())
        if not calls or calls[-1] is not frame or callback is not read_local(frame, "prior"):
            return False
        calls.pop()
        if not calls:
            del self._unobserved[get_ident()]
        return True

    def _note(self, code: CodeType, nodes: Any) -> None:
        if len(self._notes) >= _MAX_NOTES:
            return
        listed = list(nodes)
        folded = _list_mode_changes(listed)
        operators = sum(node.op in ("call_function", "call_method", "call_module") for node in listed)
        reasons = tuple(self._reasons.pop(code, ()))
        if code.co_filename.endswith(_STAND_IN):
            code = self._called.get(get_ident()) or code
        mode, takes_inference = self._modes_at_start.get(get_ident(), ("", False))
        found = Compilation(
            SourceLocation(
                "compiled function", code.co_filename, code.co_firstlineno, getattr(code, "co_qualname", code.co_name)
            ),
            self._detection_log.locate_frame("compiled for this call", sys._getframe(2)),
            mode,
            operators - len(folded) - sum(getattr(n.target, "__name__", "") == "_exit_inference_mode" for n in listed),
            tuple(folded),
            reasons,
            takes_inference,
        )
        self._notes.append((NoteKind.COMPILATION, found.text()))


def _list_mode_changes(nodes: list[Any]) -> list[TracedModeChange]:
    """Return the mode changes among the nodes of a graph."""
    found = []
    for index, node in enumerate(nodes):
        manager = _MODE_CALLS.get(getattr(node.target, "__name__", "")) if node.op == "call_function" else None
        if manager is not None and node.args:
            file, line = _first_line(nodes[index + 1 :])
            found.append(TracedModeChange(manager, bool(node.args[0]), file, line))
    return found


def _takes_inference(frame: FrameType | None) -> bool:
    """Return whether a variable of the function that is being compiled is an inference tensor."""
    compiler = find_frame(frame, lambda f: f.f_code.co_name == "_compile" and f.f_code.co_filename.endswith(_COMPILER))
    given = {} if compiler is None else compiler.f_locals.get("locals") or {}
    return any(isinstance(value, torch.Tensor) and value.is_inference() for value in given.values())


def _code_behind(function: Any) -> CodeType | None:
    """Return the code of a compiled function, or of the ``forward`` of a compiled module."""
    target = inspect.unwrap(function)
    owner = target if isinstance(target, torch.nn.Module) else getattr(target, "__self__", None)
    return unwrap_code(owner.forward if isinstance(owner, torch.nn.Module) else target)


def _first_line(nodes: list[Any]) -> tuple[str, int]:
    """Return file and line of the first operator that has a stack, its innermost line."""
    for node in nodes:
        places = _STACK_LINE.findall(getattr(node, "stack_trace", None) or "")
        if places:
            return str(places[-1][0]), int(places[-1][1])
    return "", 0
