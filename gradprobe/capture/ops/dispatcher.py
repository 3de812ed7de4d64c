"""What is done for each operator of a thread, by a dispatch mode that sees it below autograd.

A dispatch mode is called below autograd. What PyTorch does to the result above it comes later: the version counter of a
changed tensor goes up, the node is tied to its output, tensors are saved, a view is tracked. So the account of an operator
that constructed a node or wrote to a tensor stays pending, and is settled when the thread reaches its next operator or
its next change of a mode. Weak references lead there; nothing is kept alive.

Everything ``dispatch`` needs is a local variable of ``watcher``: that is the cheapest look-up Python has.
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

_EVENTS = 16_384
"""How many kinds of operators at a place a thread keeps the event of."""

_NOTHING = OpCounts()
_ONE_NORMAL, _ONE_INFERENCE = ONE_CALL + NORMAL_OUTPUT, ONE_CALL + INFERENCE_OUTPUT
_NORMAL_UNCOUNTED, _INFERENCE_COUNTED = OpCounts(normal_without_counter=1), OpCounts(inference_with_counter=1)
_ONE_TRACKED, _ONE_UNTRACKED = ONE_CALL + TRACKED_VIEW, ONE_CALL + UNTRACKED_VIEW
_ONE_INFERENCE_VIEW = ONE_CALL + INFERENCE_VIEW


class ThreadDispatcher(NamedTuple):
    """The account of one thread's operators."""

    dispatch: Callable[..., Any]
    resolve_pending: Callable[[], None]
    """Emits what is pending."""
    resolve_operators: Callable[[int], None]
    """Emits those operators that are pending; the thread's node counter is at that number. No stretch ends there."""
    outliving: LiveInferenceTensors
    detectors: ThreadDetectors
    core: NativeBridge


def make_dispatcher(
    emit: Callable[[Event], object],
    now: Callable[[], int],
    fault: Callable[[Exception], None],
    codes: FrameClassifier,
    paths: ModulePaths,
    tasks: TaskLabels,
    elsewhere: Callable[..., Any],
    detectors: ThreadDetectors,
    native: Any,
) -> ThreadDispatcher:
    """What watches the thread that calls this; operators of other threads that reach it go ``elsewhere``."""
    owner = thread()
    plans: dict[Any, OpPlan] = {}
    entries, outliving, made_view = REGISTRY.entries, LiveInferenceTensors(), REGISTRY.latest_views.append
    interest_cell, totals = detectors.interest_cell, detectors.totals
    settler, outlive = NodeAttributor(owner, emit, totals.on_node_created, detectors.changed.write), outliving.add
    waiting = settler.waiting
    kinds, learn, path_of, path_above = codes.kinds, codes.learn, paths.path, paths.path_above
    nodes, graph_task = torch.autograd._get_sequence_nr, torch._C._current_graph_task_id  # type: ignore[attr-defined]
    is_inference = torch.is_inference_mode_enabled
    running_loop, label = asyncio.events._get_running_loop, tasks.label
    tensor_type, parameter_type, ref = torch.Tensor, torch.nn.Parameter, weakref.ref
    # Reading a property of a tensor is a call that function modes of the program hear, unless it is kept from them.
    are_functions_heard: Any = torch._C._is_torch_function_mode_enabled
    disable_functions: Any = torch._C.DisableTorchFunction
    takes_functions, number_of_modes = torch._C._has_torch_function, torch._C._len_torch_dispatch_stack
    pending: list[PendingOp] = []
    events: dict[tuple[Any, ...], SharedEvent] = {}
    last = [nodes()]

    def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if thread() != owner:
            return elsewhere(self, func, types, args, kwargs)
        if takes_functions(args) and not types and func.namespace == "aten" and not number_of_modes():
            # An operator that C++ calls, in C++: nothing of the program hears of it, and must not by our calling it.
            with disable_functions():
                return dispatch(self, func, types, args, kwargs)
        writes: list[WrittenTensor] | None = None
        guard: Guard | None = None
        frame: FrameType | None = None
        code: CodeType | None = None
        offset, module, phase = 0, "", FORWARD
        plan = plans.get(func)
        before = nodes()
        unheard = disable_functions() if are_functions_heard() else None
        if unheard is not None:
            unheard.__enter__()
        try:
            if plan is None:
                plan = plans[func] = OpPlan(func)
            if pending and not ((plan.is_detach or plan.is_view) and must_defer(plan, args, pending)):
                resolve_all(before)
            if plan.writes:
                writes = [WrittenTensor(t) for t in plan.written(args, kwargs)]
            # The line of the program, and the module whose forward is running.
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
            if plan.surroundings is not None:
                guard = plan.surroundings(frame, args)
        except Exception as error:
            fault(error)
        finally:
            frame = None  # an error's traceback would hold on to it
            if unheard is not None:
                unheard.__exit__(None, None, None)
        if plan is None:
            return func(*args, **(kwargs or {}))
        call = plan.call
        try:
            if guard is not None:
                with guard:
                    result = call(*args, **(kwargs or {}))
            else:
                result = call(*args, **kwargs) if kwargs else call(*args)
        except BaseException:
            del args, kwargs, types  # the error's traceback would keep them alive
            raise
        if unheard is not None:
            unheard = disable_functions()
            unheard.__enter__()
        try:
            if graph_task() != -1:
                phase = BACKWARD
            task = None if running_loop() is None else label()

            # What came out.
            time = now()
            refs: tuple[weakref.ref[Any], ...] = ()
            account = ONE_CALL
            unsure = False  # whether the view is tracked shows only later
            if writes is not None:
                # The first that is seen of a module's parameter is what fills it.
                if type(result) is parameter_type and result.is_inference() and REGISTRY.get(result) is None:
                    filled: CreationRecord = (ref(result), time, code, offset, plan.name, module, time, owner)
                    entries[id(result)] = filled
                    outlive(filled)
            elif plan.tracks is not None and not plan.is_composite and type(result) is tensor_type:
                # What follows, for the view that most are.
                weak = ref(result)
                refs = (weak,)
                under = entries.get(id(args[0]))
                made = under[6] if under is not None and under[0]() is args[0] else -1
                entry = (weak, time, code, offset, plan.name, module, made, owner)
                entries[id(result)] = entry
                made_view(entry)
                if result.is_inference():
                    account = _ONE_INFERENCE_VIEW
                    outlive(entry)
                else:
                    account = _ONE_TRACKED if plan.tracks else _ONE_UNTRACKED
            elif plan.is_view:
                outs = [result] if type(result) is tensor_type else list(iter_tensors(result))
                refs = tuple(map(ref, outs))
                account = _NOTHING
                source = args[0] if args and isinstance(args[0], tensor_type) else None
                under = entries.get(id(source))
                made = under[6] if under is not None and under[0]() is source else -1
                for weak, out in zip(refs, outs, strict=True):
                    found, fresh, is_tracking_unknown = classify_view(plan, source, out)
                    account = found if account is _NOTHING else account + found
                    unsure = unsure or is_tracking_unknown
                    if out is not source:
                        entry = (weak, time, code, offset, plan.name, module, time if fresh else made, owner)
                        entries[id(out)] = entry
                        made_view(entry)
                        if found is INFERENCE_VIEW or found is INFERENCE_OUTPUT:
                            outlive(entry)
                account += ONE_CALL
            elif type(result) is tensor_type or type(result) is parameter_type:
                weak = ref(result)
                refs = (weak,)
                entry = (weak, time, code, offset, plan.name, module, time, owner)
                entries[id(result)] = entry
                if result.is_inference():
                    account = _ONE_INFERENCE
                    outlive(entry)
                else:
                    account = _ONE_NORMAL
            else:
                outs = list(iter_tensors(result))
                refs = tuple(map(ref, outs))
                for weak, out in zip(refs, outs, strict=True):
                    is_born_so = out.is_inference()
                    account += INFERENCE_OUTPUT if is_born_so else NORMAL_OUTPUT
                    entry = (weak, time, code, offset, plan.name, module, time, owner)
                    entries[id(out)] = entry
                    if is_born_so:
                        outlive(entry)
            for value in args:
                if type(value) is parameter_type:
                    try:
                        read_version(value)
                        is_counted = True
                    except RuntimeError:
                        is_counted = False
                    if value.is_inference() is is_counted:
                        account += _INFERENCE_COUNTED if is_counted else _NORMAL_UNCOUNTED
            after = nodes()
            if interest_cell:
                detectors.look(plan.name, args, result, code, offset, before != last[0])
            elif types and plan.is_view and is_inference():
                detectors.on_subclass_view()
            if plan.is_sum and before != last[0]:
                totals.look(args, result, code, offset, before - 1)
            if pending or writes is not None or unsure or before != last[0] or after != before or waiting:
                place = (0 if code is None else id(code), offset, plan.name, module, phase, task)
                pending.append(PendingOp(place, plan, last[0], before, after, refs, writes or (), account, unsure))
            else:
                # By identity: the event holds on to its account, and codes to theirs.
                key = (id(code), offset, plan, module, phase, task, id(account))
                event = events.get(key)
                if event is None:
                    if len(events) >= _EVENTS:
                        events.clear()
                    place = (0 if code is None else id(code), offset, plan.name, module, phase, task)
                    event = events[key] = SharedEvent((OPERATOR, owner, place, None, account))
                emit(event)
            last[0] = after
        except Exception as error:
            fault(error)
        finally:
            if unheard is not None:
                unheard.__exit__(None, None, None)
        return result

    def resolve_all(upto: int) -> None:
        while pending:
            one = pending.pop(0)
            settler.resolve_pending(one, pending[0].before if pending else upto)

    def resolve_pending() -> None:
        core.flush()
        upto = nodes()
        if pending:
            if are_functions_heard():
                with disable_functions():
                    resolve_all(upto)
            else:
                resolve_all(upto)
        if waiting or upto != last[0]:
            settler.flush(last[0], upto)
            last[0] = upto
        REGISTRY.sweep()

    core = NativeBridge(
        native,
        owner,
        plans,
        pending,
        last,
        resolve_pending=resolve_all,
        waiting=waiting,
        interest_cell=interest_cell,
        learn=learn,
        paths=paths.known,
        path=path_of,
        call=MODULE_CALL_CODE,
        running_loop=running_loop,
        label=label,
        now=now,
        entries=entries,
        made_view=made_view,
        outlive=outlive,
        emit=emit,
        fault=fault,
    )
    skip_when_compiling(dispatch)
    return ThreadDispatcher(dispatch, resolve_pending, resolve_all, outliving, detectors, core)


def classify_view(plan: OpPlan, source: Any, out: Any) -> tuple[OpCounts, bool, bool]:
    """What a view operator returned; whether that is no view at all; whether its tracking is yet to be seen."""
    if out is source or source is None:
        return _NOTHING, False, False
    if out.is_inference():
        is_new = plan.is_composite and not _share(source, out)
        return INFERENCE_OUTPUT if is_new else INFERENCE_VIEW, is_new, False
    if plan.is_composite:
        if out._is_view():
            return TRACKED_VIEW, False, False
        is_new = not _share(source, out)
        return NORMAL_OUTPUT if is_new else UNTRACKED_VIEW, is_new, False
    if plan.tracks is None:
        return _NOTHING, False, True
    return TRACKED_VIEW if plan.tracks else UNTRACKED_VIEW, False, False


def _share(one: Any, other: Any) -> bool:
    """Whether two tensors lie in one storage."""
    try:
        return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse and the like have none
        return False
