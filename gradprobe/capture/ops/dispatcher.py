"""The ``__torch_dispatch__`` closure of one thread, which observes each operator below autograd.

A dispatch mode is called below autograd. What PyTorch does to the result above it comes later: it bumps the version counter
of a tensor modified in place, ties the node to its output, saves tensors, tracks a view. So an operator that constructed a
node or wrote to a tensor stays pending, and is resolved when the thread reaches its next operator or mode change. Pending
operators hold weak references only; they keep no tensor alive.

Everything ``dispatch`` needs is a local variable of ``make_dispatcher``: that is Python's cheapest look-up.
"""

from __future__ import annotations

import asyncio.events
import weakref
from _thread import get_ident as thread
from collections.abc import Callable
from sys import _getframe
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord, LiveInferenceTensors
from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.capture.autograd.version_counters import read_version
from gradprobe.capture.detectors.thread_detectors import ThreadDetectors
from gradprobe.capture.location.frames import MODULE_CALL_CODE, OPTIMIZER, USER, FrameClassifier
from gradprobe.capture.location.module_paths import ModulePaths
from gradprobe.capture.location.tasks import TaskLabels
from gradprobe.capture.ops.attribution import (
    INFERENCE_OUTPUT,
    INFERENCE_VIEW,
    NORMAL_OUTPUT,
    ONE_CALL,
    TRACKED_VIEW,
    UNTRACKED_VIEW,
    NodeAttributor,
    PendingOp,
    WrittenTensor,
    must_defer,
)
from gradprobe.capture.ops.dispatch_keys import Guard
from gradprobe.capture.ops.native.bridge import NativeBridge
from gradprobe.capture.ops.op_schema import OpPlan
from gradprobe.capture.patching.compile_skip import skip_when_compiling
from gradprobe.recording.events import OPERATOR, Event, SharedEvent
from gradprobe.recording.op_rows import BACKWARD, FORWARD, IN_OPTIMIZER, OpCounts

_MAX_EVENTS = 16_384
"""Maximum number of distinct events that a thread keeps for reuse."""

_NOTHING = OpCounts()
_ONE_NORMAL, _ONE_INFERENCE = ONE_CALL + NORMAL_OUTPUT, ONE_CALL + INFERENCE_OUTPUT
_NORMAL_UNCOUNTED, _INFERENCE_COUNTED = OpCounts(normal_without_counter=1), OpCounts(inference_with_counter=1)
_ONE_TRACKED, _ONE_UNTRACKED = ONE_CALL + TRACKED_VIEW, ONE_CALL + UNTRACKED_VIEW
_ONE_INFERENCE_VIEW = ONE_CALL + INFERENCE_VIEW


class ThreadDispatcher(NamedTuple):
    """The dispatch function of one thread, and the state it shares with the thread registry."""

    dispatch: Callable[..., Any]
    resolve_pending: Callable[[], None]
    """Emit the pending operators and the nodes that none of them claimed."""
    resolve_operators: Callable[[int], None]
    """Emit the pending operators only, given the thread's node counter; the operator sequence goes on."""
    live_inference: LiveInferenceTensors
    detectors: ThreadDetectors
    core: NativeBridge


def make_dispatcher(
    emit: Callable[[Event], object],
    now: Callable[[], int],
    fault: Callable[[Exception], None],
    codes: FrameClassifier,
    paths: ModulePaths,
    tasks: TaskLabels,
    foreign_thread_handler: Callable[..., Any],
    detectors: ThreadDetectors,
    native: Any,
) -> ThreadDispatcher:
    """Build the dispatcher of the calling thread.

    Operators of other threads that reach it go to ``foreign_thread_handler``.
    """
    owner = thread()
    plans: dict[Any, OpPlan] = {}
    entries, live_inference, on_view_created = REGISTRY.entries, LiveInferenceTensors(), REGISTRY.latest_views.append
    interest_cell, totals = detectors.interest_cell, detectors.totals
    attributor = NodeAttributor(owner, emit, totals.on_node_created, detectors.modified_saved.on_storage_written)
    on_inference_tensor_created = live_inference.add
    unclaimed = attributor.unclaimed
    kinds, learn, path_of, path_above = codes.kinds, codes.learn, paths.path, paths.path_above
    nodes, graph_task = torch.autograd._get_sequence_nr, torch._C._current_graph_task_id  # type: ignore[attr-defined]
    is_inference = torch.is_inference_mode_enabled
    running_loop, label = asyncio.events._get_running_loop, tasks.label
    tensor_type, parameter_type, ref = torch.Tensor, torch.nn.Parameter, weakref.ref
    # Reading a property of a tensor calls the program's function modes, unless those are disabled meanwhile.
    has_function_modes: Any = torch._C._is_torch_function_mode_enabled
    disable_functions: Any = torch._C.DisableTorchFunction
    has_torch_function, count_modes = torch._C._has_torch_function, torch._C._len_torch_dispatch_stack
    pending: list[PendingOp] = []
    events: dict[tuple[Any, ...], SharedEvent] = {}
    last = [nodes()]

    def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if thread() != owner:
            return foreign_thread_handler(self, func, types, args, kwargs)
        if has_torch_function(args) and not types and func.namespace == "aten" and not count_modes():
            # An operator that C++ calls from C++: no function mode of the program sees it, so none may see our call.
            with disable_functions():
                return dispatch(self, func, types, args, kwargs)
        writes: list[WrittenTensor] | None = None
        guard: Guard | None = None
        frame: FrameType | None = None
        code: CodeType | None = None
        offset, module, phase = 0, "", FORWARD
        plan = plans.get(func)
        before = nodes()
        functions_disabled = disable_functions() if has_function_modes() else None
        if functions_disabled is not None:
            functions_disabled.__enter__()
        try:
            if plan is None:
                plan = plans[func] = OpPlan(func)
            if pending and not ((plan.is_detach or plan.is_view) and must_defer(plan, args, pending)):
                resolve_all(before)
            if plan.writes:
                writes = [WrittenTensor(t) for t in plan.written(args, kwargs)]
            # Phase 1: the line of the program, and the module whose forward is running.
            frame = _getframe(1)
            while frame is not None:
                at = frame.f_code
                try:
                    kind = kinds[id(at)]
                except KeyError:
                    kind = learn(at)
                if kind:
                    if kind == USER:
                        code, offset = at, frame.f_lasti
                        break
                    if kind == OPTIMIZER:
                        phase = IN_OPTIMIZER
                    elif not module:
                        module = path_of(frame)
                frame = frame.f_back
            if not module and frame is not None:
                module = path_above(frame)
            if plan.make_guard is not None:
                guard = plan.make_guard(frame, args)
        except Exception as error:
            fault(error)
        finally:
            frame = None  # an error's traceback would keep it alive
            if functions_disabled is not None:
                functions_disabled.__exit__(None, None, None)
        if plan is None:
            return func(*args, **(kwargs or {}))
        call = plan.call
        # Phase 2: the call.
        try:
            if guard is not None:
                with guard:
                    result = call(*args, **(kwargs or {}))
            else:
                result = call(*args, **kwargs) if kwargs else call(*args)
        except BaseException:
            del args, kwargs, types  # the error's traceback would keep them alive
            raise
        if functions_disabled is not None:
            functions_disabled = disable_functions()
            functions_disabled.__enter__()
        try:
            if graph_task() != -1:
                phase = BACKWARD
            task = None if running_loop() is None else label()

            # Phase 3: records of the results, and counts.
            time = now()
            refs: tuple[weakref.ref[Any], ...] = ()
            counts = ONE_CALL
            tracking_unknown = False  # it shows only later whether the view is tracked
            if writes is not None:
                # The operator that fills a module's parameter is the first one seen to touch it.
                if type(result) is parameter_type and result.is_inference() and REGISTRY.get(result) is None:
                    filled: CreationRecord = (ref(result), time, code, offset, plan.name, module, time, owner)
                    entries[id(result)] = filled
                    on_inference_tensor_created(filled)
            elif plan.tracks is not None and not plan.is_composite and type(result) is tensor_type:
                # A fast path of the next branch, for the most frequent kind of view.
                weak = ref(result)
                refs = (weak,)
                under = entries.get(id(args[0]))
                made = under[6] if under is not None and under[0]() is args[0] else -1
                entry = (weak, time, code, offset, plan.name, module, made, owner)
                entries[id(result)] = entry
                on_view_created(entry)
                if result.is_inference():
                    counts = _ONE_INFERENCE_VIEW
                    on_inference_tensor_created(entry)
                else:
                    counts = _ONE_TRACKED if plan.tracks else _ONE_UNTRACKED
            elif plan.is_view:
                outs = [result] if type(result) is tensor_type else list(iter_tensors(result))
                refs = tuple(map(ref, outs))
                counts = _NOTHING
                source = args[0] if args and isinstance(args[0], tensor_type) else None
                under = entries.get(id(source))
                made = under[6] if under is not None and under[0]() is source else -1
                for weak, out in zip(refs, outs, strict=True):
                    found, fresh, is_tracking_unknown = classify_view(plan, source, out)
                    counts = found if counts is _NOTHING else counts + found
                    tracking_unknown = tracking_unknown or is_tracking_unknown
                    if out is not source:
                        entry = (weak, time, code, offset, plan.name, module, time if fresh else made, owner)
                        entries[id(out)] = entry
                        on_view_created(entry)
                        if found is INFERENCE_VIEW or found is INFERENCE_OUTPUT:
                            on_inference_tensor_created(entry)
                counts += ONE_CALL
            elif type(result) is tensor_type or type(result) is parameter_type:
                weak = ref(result)
                refs = (weak,)
                entry = (weak, time, code, offset, plan.name, module, time, owner)
                entries[id(result)] = entry
                if result.is_inference():
                    counts = _ONE_INFERENCE
                    on_inference_tensor_created(entry)
                else:
                    counts = _ONE_NORMAL
            else:
                outs = list(iter_tensors(result))
                refs = tuple(map(ref, outs))
                for weak, out in zip(refs, outs, strict=True):
                    is_inference_output = out.is_inference()
                    counts += INFERENCE_OUTPUT if is_inference_output else NORMAL_OUTPUT
                    entry = (weak, time, code, offset, plan.name, module, time, owner)
                    entries[id(out)] = entry
                    if is_inference_output:
                        on_inference_tensor_created(entry)
            # Phase 4: parameters whose kind and version counter disagree.
            for value in args:
                if type(value) is parameter_type:
                    try:
                        read_version(value)
                        is_counted = True
                    except RuntimeError:
                        is_counted = False
                    if value.is_inference() is is_counted:
                        counts += _INFERENCE_COUNTED if is_counted else _NORMAL_UNCOUNTED
            # Phase 5: detectors, and the event, now or once the operator can be resolved.
            after = nodes()
            if interest_cell:
                detectors.on_operator(plan.name, args, result, code, offset, before != last[0])
            elif types and plan.is_view and is_inference():
                detectors.on_subclass_view()
            if plan.is_sum and before != last[0]:
                totals.on_sum(args, result, code, offset, before - 1)
            if pending or writes is not None or tracking_unknown or before != last[0] or after != before or unclaimed:
                place = (0 if code is None else id(code), offset, plan.name, module, phase, task)
                pending.append(
                    PendingOp(place, plan, last[0], before, after, refs, writes or (), counts, tracking_unknown)
                )
            else:
                # By identity: the event keeps its counts alive, and `codes` its code objects.
                key = (id(code), offset, plan, module, phase, task, id(counts))
                event = events.get(key)
                if event is None:
                    if len(events) >= _MAX_EVENTS:
                        events.clear()
                    place = (0 if code is None else id(code), offset, plan.name, module, phase, task)
                    event = events[key] = SharedEvent((OPERATOR, owner, place, None, counts))
                emit(event)
            last[0] = after
        except Exception as error:
            fault(error)
        finally:
            if functions_disabled is not None:
                functions_disabled.__exit__(None, None, None)
        return result

    def resolve_all(limit: int) -> None:
        while pending:
            one = pending.pop(0)
            attributor.resolve_pending(one, pending[0].before if pending else limit)

    def resolve_pending() -> None:
        core.flush()
        limit = nodes()
        if pending:
            if has_function_modes():
                with disable_functions():
                    resolve_all(limit)
            else:
                resolve_all(limit)
        if unclaimed or limit != last[0]:
            attributor.flush(last[0], limit)
            last[0] = limit
        REGISTRY.sweep()

    core = NativeBridge(
        native,
        owner,
        plans,
        pending,
        last,
        resolve_pending=resolve_all,
        unclaimed=unclaimed,
        interest_cell=interest_cell,
        learn=learn,
        module_paths=paths.known,
        find_module_path=path_of,
        module_call_code=MODULE_CALL_CODE,
        running_loop=running_loop,
        task_label=label,
        now=now,
        entries=entries,
        on_view_created=on_view_created,
        on_inference_tensor_created=on_inference_tensor_created,
        emit=emit,
        fault=fault,
    )
    skip_when_compiling(dispatch)
    return ThreadDispatcher(dispatch, resolve_pending, resolve_all, live_inference, detectors, core)


def classify_view(plan: OpPlan, source: Any, out: Any) -> tuple[OpCounts, bool, bool]:
    """Classify a result of a view operator.

    Returns:
        The counts of this output, whether it is a new tensor instead of a view, and whether its tracking is unknown yet.
    """
    if out is source or source is None:
        return _NOTHING, False, False
    if out.is_inference():
        is_new = plan.is_composite and not _share_storage(source, out)
        return INFERENCE_OUTPUT if is_new else INFERENCE_VIEW, is_new, False
    if plan.is_composite:
        if out._is_view():
            return TRACKED_VIEW, False, False
        is_new = not _share_storage(source, out)
        return NORMAL_OUTPUT if is_new else UNTRACKED_VIEW, is_new, False
    if plan.tracks is None:
        return _NOTHING, False, True
    return TRACKED_VIEW if plan.tracks else UNTRACKED_VIEW, False, False


def _share_storage(one: Any, other: Any) -> bool:
    """Return whether two tensors share one storage."""
    try:
        return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse tensors, for example, have no storage
        return False
