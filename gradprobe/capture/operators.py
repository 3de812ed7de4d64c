"""What watches every operator: a dispatch mode in each thread, below everything the program puts on the stack itself.

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
from collections import Counter
from collections.abc import Callable
from sys import _getframe
from types import CodeType, FrameType, MethodType
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gradprobe.capture.births import REGISTRY, Entry, Outliving, holders
from gradprobe.capture.execution import Tasks
from gradprobe.capture.kernels import Guard
from gradprobe.capture.modules import CALL, ModulePaths
from gradprobe.capture.patches import Patches
from gradprobe.capture.places import GRADPROBE, TORCH
from gradprobe.capture.plans import Plan, tensors
from gradprobe.capture.settling import TRACKED_VIEW, UNTRACKED_VIEW, Pending, Settler, Write
from gradprobe.capture.storages import STORAGES
from gradprobe.capture.versions import read_version, version_patches
from gradprobe.recording.accounts import BACKWARD, FORWARD, OPTIMIZER, Account
from gradprobe.recording.events import LEDGER, OPERATOR, OUTLIVED, Event

_SKIPPED, _USERS, _MODULE, _OPTIMIZER = range(4)
_DETACHES = 8
"""How many calls of ``detach`` may follow an operator that is pending: PyTorch makes one to save each of its outputs."""
_IN_OPTIMIZER = f"{TORCH}optim"

_NOTHING, _CALLED = Account(), Account(calls=1)
_NORMAL, _INFERENCE = Account(counters_created=1, normal_outputs=1), Account(inference_outputs=1)
_ONE_NORMAL, _ONE_INFERENCE = _CALLED + _NORMAL, _CALLED + _INFERENCE
_NORMAL_UNCOUNTED, _INFERENCE_COUNTED = Account(normal_without_counter=1), Account(inference_with_counter=1)
_INFERENCE_VIEW = Account(untracked_views=1, inference_outputs=1)
_ONE_TRACKED, _ONE_UNTRACKED = _CALLED + TRACKED_VIEW, _CALLED + UNTRACKED_VIEW
_ONE_INFERENCE_VIEW = _CALLED + _INFERENCE_VIEW


class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The mode of one thread. What is compiled stays out of it, so that it compiles as it would unwatched."""

    supports_higher_order_operators = True

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False


class Watcher(NamedTuple):
    """The account of one thread's operators."""

    dispatch: Callable[..., Any]
    settle: Callable[[], None]
    """Emits what is pending."""
    outliving: Outliving


class Codes:
    """What the frames of a call are to us; holds on to their code, whose identity would be reused otherwise."""

    def __init__(self) -> None:
        self.kinds: dict[int, int] = {}
        self.held: dict[int, CodeType] = {}

    def kind(self, code: CodeType) -> int:
        known = self.kinds.get(id(code))
        return self.learn(code) if known is None else known

    def learn(self, code: CodeType) -> int:
        file = code.co_filename
        if code is CALL:
            kind = _MODULE
        elif file.startswith(_IN_OPTIMIZER):
            kind = _OPTIMIZER
        else:
            kind = _SKIPPED if file.startswith((TORCH, GRADPROBE)) else _USERS
        self.held[id(code)] = code
        self.kinds[id(code)] = kind
        return kind


def watcher(
    emit: Callable[[Event], object],
    now: Callable[[], int],
    fault: Callable[[Exception], None],
    codes: Codes,
    paths: ModulePaths,
    tasks: Tasks,
    elsewhere: Callable[..., Any],
) -> Watcher:
    """What watches the thread that calls this; operators of other threads that reach it go ``elsewhere``."""
    owner = thread()
    plans: dict[Any, Plan] = {}
    entries, outliving = REGISTRY.entries, Outliving()
    settler, outlive = Settler(owner, emit), outliving.add
    waiting = settler.waiting
    kinds, learn, path_of, path_above = codes.kinds, codes.learn, paths.path, paths.path_above
    nodes, graph_task = torch.autograd._get_sequence_nr, torch._C._current_graph_task_id  # type: ignore[attr-defined]
    running_loop, label = asyncio.events._get_running_loop, tasks.label
    tensor_type, parameter_type, ref = torch.Tensor, torch.nn.Parameter, weakref.ref
    # Reading a property of a tensor is a call that function modes of the program hear, unless it is kept from them.
    are_functions_heard: Any = torch._C._is_torch_function_mode_enabled
    disable_functions: Any = torch._C.DisableTorchFunction
    pending: list[Pending] = []
    last = nodes()

    def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        nonlocal last
        if thread() != owner:
            return elsewhere(self, func, types, args, kwargs)
        writes: list[Write] | None = None
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
                plan = plans[func] = Plan(func)
            if pending and (not plan.is_detach or len(pending) > _DETACHES):
                settle_all(before)
            if plan.writes:
                writes = [Write(t) for t in plan.written(args, kwargs)]
            # The line of the program, and the module whose forward is running.
            frame = _getframe(1)
            while frame is not None:
                at = frame.f_code
                try:
                    kind = kinds[id(at)]
                except KeyError:
                    kind = learn(at)
                if kind:
                    if kind == _USERS:
                        code, offset = at, frame.f_lasti
                        break
                    if kind == _OPTIMIZER:
                        phase = OPTIMIZER
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
            account = _CALLED
            unsure = False  # whether the view is tracked shows only later
            if writes is not None:
                pass
            elif plan.tracks is not None and not plan.is_composite and type(result) is tensor_type:
                # What follows, for the view that most are.
                weak = ref(result)
                refs = (weak,)
                under = entries.get(id(args[0]))
                made = under[6] if under is not None and under[0]() is args[0] else -1
                entry = (weak, time, code, offset, plan.name, module, made, owner)
                entries[id(result)] = entry
                if result.is_inference():
                    account = _ONE_INFERENCE_VIEW
                    outlive(entry)
                else:
                    account = _ONE_TRACKED if plan.tracks else _ONE_UNTRACKED
            elif plan.is_view:
                outs = [result] if type(result) is tensor_type else list(tensors(result))
                refs = tuple(map(ref, outs))
                account = _NOTHING
                source = args[0] if args and isinstance(args[0], tensor_type) else None
                under = entries.get(id(source))
                made = under[6] if under is not None and under[0]() is source else -1
                for weak, out in zip(refs, outs, strict=True):
                    found, fresh, is_unsure = kind_of_view(plan, source, out)
                    account = found if account is _NOTHING else account + found
                    unsure = unsure or is_unsure
                    if out is not source:
                        entry = (weak, time, code, offset, plan.name, module, time if fresh else made, owner)
                        entries[id(out)] = entry
                        if found is _INFERENCE_VIEW or found is _INFERENCE:
                            outlive(entry)
                account += _CALLED
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
                outs = list(tensors(result))
                refs = tuple(map(ref, outs))
                for weak, out in zip(refs, outs, strict=True):
                    is_born_so = out.is_inference()
                    account += _INFERENCE if is_born_so else _NORMAL
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
            place = (0 if code is None else id(code), offset, plan.name, module, phase, task)
            if pending or writes is not None or unsure or before != last or after != before or waiting:
                pending.append(Pending(place, plan, last, before, after, refs, writes or (), account, unsure))
            else:
                emit((OPERATOR, owner, place, None, account, ()))
            last = after
        except Exception as error:
            fault(error)
        finally:
            if unheard is not None:
                unheard.__exit__(None, None, None)
        return result

    def settle_all(upto: int) -> None:
        while pending:
            one = pending.pop(0)
            settler.settle(one, pending[0].before if pending else upto)

    def settle() -> None:
        nonlocal last
        upto = nodes()
        if are_functions_heard():
            with disable_functions():
                settle_all(upto)
        else:
            settle_all(upto)
        settler.flush(last, upto)
        last = upto
        REGISTRY.sweep()

    skip_when_compiling(dispatch)
    return Watcher(dispatch, settle, outliving)


def kind_of_view(plan: Plan, source: Any, out: Any) -> tuple[Account, bool, bool]:
    """What a view operator returned; whether that is no view at all; whether its tracking is yet to be seen."""
    if out is source or source is None:
        return _NOTHING, False, False
    if out.is_inference():
        is_new = plan.is_composite and not _share(source, out)
        return _INFERENCE if is_new else _INFERENCE_VIEW, is_new, False
    if plan.is_composite:
        if out._is_view():
            return TRACKED_VIEW, False, False
        is_new = not _share(source, out)
        return _NORMAL if is_new else UNTRACKED_VIEW, is_new, False
    if plan.tracks is None:
        return _NOTHING, False, True
    return TRACKED_VIEW if plan.tracks else UNTRACKED_VIEW, False, False


def _share(one: Any, other: Any) -> bool:
    """Whether two tensors lie in one storage."""
    try:
        return bool(one.untyped_storage()._cdata == other.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # sparse and the like have none
        return False


class Operators:
    """The watchers of all threads, and the modes on their stacks."""

    def __init__(
        self,
        emit: Callable[[Event], object],
        now: Callable[[], int],
        fault: Callable[[Exception], None],
        tasks: Tasks,
    ) -> None:
        self._emit, self._now, self._fault, self._tasks = emit, now, fault, tasks
        self.codes = Codes()
        self.paths = ModulePaths()
        self._watchers: dict[int, Watcher] = {}
        self._modes: dict[int, tuple[Mode, int]] = {}
        self._outlived = Outliving()
        self._patches = Patches()

    def watch_thread(self) -> None:
        """Watches this thread from here on; calls nest."""
        ident = thread()
        mode, depth = self._modes.get(ident, (None, 0))
        if mode is None:
            mode = Mode()  # type: ignore[no-untyped-call]
            # An attribute of the object: each thread has its own function, whose variables are the thread's state.
            mode.__torch_dispatch__ = MethodType(self._watcher().dispatch, mode)  # type: ignore[method-assign]
            _insert(mode)
        if not self._patches.are_applied:
            self._patches.apply(version_patches(self._read_failed, self._put_up))
        self._modes[ident] = mode, depth + 1

    def unwatch_thread(self) -> None:
        """Undoes one ``watch_thread`` of this thread; the last one takes the mode from the stack."""
        ident = thread()
        mode, depth = self._modes.get(ident, (None, 0))
        if mode is None:
            return
        if depth > 1:
            self._modes[ident] = mode, depth - 1
            return
        del self._modes[ident]
        self.settle()
        _remove(mode)
        del mode.__torch_dispatch__  # it refers to the mode
        self._watchers.pop(ident, None)

    def stop(self) -> None:
        """Lets the modes that other threads still have pass everything through, until those threads end."""
        for mode, _ in self._modes.values():
            mode.__torch_dispatch__ = MethodType(_pass, mode)  # type: ignore[method-assign]
        self._modes.clear()
        self._watchers.clear()
        self._patches.restore()
        STORAGES.clear()

    def settle(self) -> None:
        """Emits what is pending in this thread: its modes are about to change."""
        known = self._watchers.get(thread())
        if known is not None:
            try:
                known.settle()
            except Exception as error:
                self._fault(error)

    def note_outliving(self) -> None:
        """Emits which inference tensors of this thread are alive as it leaves inference mode, by where they were born."""
        known = self._watchers.get(thread())
        entries = [] if known is None else known.outliving.take()
        groups: dict[tuple[Any, ...], list[int]] = {}
        for entry in entries:
            tensor = entry[0]()
            if tensor is not None:
                group = groups.setdefault(_born_at(entry), [entry[1], 0, 0])
                group[1] += 1
                with torch._C.DisableTorchFunction():
                    group[2] += _size(tensor)
                self._outlived.add(entry)
        for (code, offset, op, module, _), group in groups.items():
            marker = (OUTLIVED, self._now(), thread(), code, offset, (op, None, module, FORWARD))
            self._emit((LEDGER, "outliving", marker, [(*group, 0)]))

    def note_held(self) -> None:
        """Emits which inference tensors outlived inference mode and are alive now, and which modules hold them."""
        alive = [(entry, tensor) for entry in self._outlived.take() if (tensor := entry[0]()) is not None]
        names = holders(self.paths.roots(), {id(tensor) for _, tensor in alive})
        groups = Counter((*_born_at(entry), names.get(id(tensor))) for entry, tensor in alive)
        for (code, offset, op, module, owner, name), count in groups.items():
            marker = (OUTLIVED, self._now(), owner, code, offset, (op, name, module, FORWARD))
            self._emit((LEDGER, "outliving", marker, [(0, 0, 0, count)]))

    def _read_failed(self) -> None:
        self._note("Tensor._version", Account(calls=1, failed_version_reads=1))

    def _put_up(self, tensors: Any) -> None:
        number = 1 if isinstance(tensors, torch.Tensor) else len(list(tensors))
        self._note("increment_version", Account(calls=1, version_bumps=number))

    def _note(self, what: str, account: Account) -> None:
        """Emits what the program did to version counters other than by an operator, at the line where it did."""
        try:
            frame: FrameType | None = _getframe(2)
            while frame is not None and self.codes.kind(frame.f_code) != _USERS:
                frame = frame.f_back
            at = (0, 0) if frame is None else (id(frame.f_code), frame.f_lasti)
            self._emit((OPERATOR, thread(), (*at, what, "", FORWARD, None), None, account, ()))
        except Exception as error:
            self._fault(error)

    def _watcher(self) -> Watcher:
        known = self._watchers.get(thread())
        if known is None:
            known = watcher(self._emit, self._now, self._fault, self.codes, self.paths, self._tasks, self._elsewhere)
            self._watchers[thread()] = known
        return known

    def _elsewhere(self, mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """An operator of a thread that took the mode over from another, as those of autograd's engine do."""
        return self._watcher().dispatch(mode, func, types, args, kwargs)


def _born_at(entry: Entry) -> tuple[int, int, str, str, int]:
    _, _, code, offset, op, module, _, owner = entry
    return 0 if code is None else id(code), offset, op, module, owner


def _size(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())


def _pass(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
    return func(*args, **(kwargs or {}))


def _insert(mode: Mode) -> None:
    """Puts ``mode`` below the program's own modes, each of which takes whatever is on top for itself when it ends."""
    above = _take_down(None)
    torch._C._push_on_torch_dispatch_stack(mode)
    for other in reversed(above):
        torch._C._push_on_torch_dispatch_stack(other)


def _remove(mode: Mode) -> None:
    above = _take_down(mode)
    for other in reversed(above):
        torch._C._push_on_torch_dispatch_stack(other)


def _take_down(mode: Mode | None) -> list[Any]:
    """Takes the program's modes from the stack down to ``mode``, which goes too; gives those above it, the top first."""
    taken: list[Any] = []
    for _ in range(_own_modes()):
        top = torch._C._pop_torch_dispatch_stack(None)
        if top is mode:
            return taken
        taken.append(top)
    return taken


def _own_modes() -> int:
    """How many modes there are that are none of PyTorch's own infrastructure, which has places of its own."""
    stack = [torch._C._get_dispatch_stack_at(i) for i in range(torch._C._len_torch_dispatch_stack())]
    return sum(getattr(mode, "_mode_key", None) is None for mode in stack)


def skip_when_compiling(*functions: Any) -> None:
    """Keeps ``torch.compile`` from tracing into our functions, and into what they call."""
    frames: Any = torch._C._dynamo.eval_frame
    try:
        skip = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.SKIP)
        for function in functions:
            frames.set_code_exec_strategy(function.__code__, skip)
    except AttributeError:  # another version; the mode is then told apart by what it says of itself
        return
