"""What an operator turns out to have done, read once PyTorch has finished with it."""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.autograd.function import BackwardCFunction

from gradprobe.capture.autograd.saved_storages import SAVED_STORAGES, SavedStorage, storage_of
from gradprobe.capture.autograd.version_counters import version_of
from gradprobe.capture.ops.op_schema import OpPlan
from gradprobe.recording.events import OPERATOR, SAVING, Event, SharedEvent
from gradprobe.recording.op_rows import OpCounts

OpPlace = tuple[int, int, str, str, int, "str | None"]
"""Code, offset, operator, module, phase and task."""

FUNCTION, NO_OPERATOR = "autograd.Function", "(no operator)"
COPY_SLICES, IN_COPY_SLICES = "CopySlices", "(in CopySlices)"
NO_PLACE: OpPlace = (0, 0, NO_OPERATOR, "", 0, None)
_PATIENCE = 64
"""For how many operators a node may wait for the output that tells whose it is."""
_MAX_DEFERRED = 8
"""Maximum number of pending operators that may be followed by another one of PyTorch's own before they are resolved."""
_EVENTS = 4_096
"""How many events that say the same are kept to be used again."""
_PLAIN = {torch.Tensor, torch.nn.Parameter}

ONE_CALL = OpCounts(calls=1)
NORMAL_OUTPUT, INFERENCE_OUTPUT = OpCounts(counters_created=1, normal_outputs=1), OpCounts(inference_outputs=1)
INFERENCE_VIEW = OpCounts(untracked_views=1, inference_outputs=1)
TRACKED_VIEW = OpCounts(tracked_views=1, normal_outputs=1)
UNTRACKED_VIEW = OpCounts(untracked_views=1, normal_outputs=1)


class WrittenTensor:
    """A tensor about to be changed in place, and its version; None where it has no counter."""

    __slots__ = ("is_inference", "is_view", "storage", "tensor", "version")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = weakref.ref(tensor)
        self.version = version_of(tensor)
        self.is_inference = tensor.is_inference()
        self.is_view = tensor._is_view()
        self.storage = storage_of(tensor)

    def bumps(self) -> int:
        """By how much the version has gone up; of a tensor that is gone, what the operator must have done."""
        if self.version is None:
            return 0
        tensor = self.tensor()
        now = None if tensor is None else version_of(tensor)
        return 1 if now is None else now - self.version


class PendingOp(NamedTuple):
    """An operator that has run, and the thread's node counter: at the end of the one before, then before and after it."""

    place: OpPlace
    plan: OpPlan
    first: int
    before: int
    after: int
    outputs: Sequence[weakref.ref[Any]]
    writes: Sequence[WrittenTensor]
    account: OpCounts
    is_tracking_unknown: bool
    """Whether it is yet to be seen that autograd tracks the view it returned."""


class NodeAttributor:
    """Gives each node of a thread to the operator, the line and the name that it belongs to, each exactly once.

    An operator's own node is the last to be constructed before it is dispatched. One that changes a view constructs more
    after it was dispatched. A custom function's node comes before all operators of its forward, and shows at the output
    of the last of them.
    """

    def __init__(
        self,
        owner: int,
        emit: Callable[[Event], object],
        on_node_created: Callable[[int, int, int], object],
        changes: Callable[[int, int, int], object],
    ) -> None:
        self._owner = owner
        self._emit = emit
        self._originates = (
            on_node_created  # called with the number of a node and the code and offset that constructed it
        )
        self._changes = changes  # called with the address of a storage and the code and offset that changed it
        self.waiting: dict[int, tuple[OpPlace, int]] = {}
        """Nodes that belong to no operator yet: where they showed, and when."""
        self._given = 0  # nodes below this number have been given away
        self._count = 0
        self._events: dict[tuple[OpPlace, str | None, int], SharedEvent] = {}

    def resolve_pending(self, pending: PendingOp, upto: int) -> None:
        """Emits the account of ``pending``; the thread's node counter is at ``upto`` now."""
        if not pending.writes and not self.waiting and len(pending.outputs) == 1 and self._settle_one(pending):
            return
        alive = [tensor for ref in pending.outputs if (tensor := ref()) is not None]
        changed = [tensor for write in pending.writes if (tensor := write.tensor()) is not None]
        if {type(tensor) for tensor in alive or changed} <= _PLAIN:
            self._settle(pending, upto, alive, changed)
        else:
            with torch._C.DisableTorchFunctionSubclass():
                self._settle(pending, upto, alive, changed)

    def _settle_one(self, pending: PendingOp) -> bool:
        """What ``_settle`` does, for the many operators that returned one tensor and constructed its node; whether it is
        one of them."""
        place, _, first, before, after, (output,), _, account, is_tracking_unknown = pending
        tensor, number = output(), before - 1
        if (
            tensor is None
            or type(tensor) not in _PLAIN
            or is_tracking_unknown
            or after != before
            or max(first, self._given) != number
        ):
            return False
        node = tensor.grad_fn if tensor.requires_grad else None
        if node is None or node._sequence_nr() != number or isinstance(node, BackwardCFunction):
            return False
        self._count += 1
        self._given = after
        self._originates(number, place[0], place[1])
        saved, hooked = SAVED_STORAGES.saved_by(node, [tensor])
        self._emit_event(place, node.name(), account + _of_nodes(1, hooked), saved)
        return True

    def _settle(self, pending: PendingOp, upto: int, alive: list[Any], changed: list[Any]) -> None:
        place, plan, first, before, after, _, writes, account, is_tracking_unknown = pending
        self._count += 1
        for write in writes:
            self._changes(write.storage, place[0], place[1])
        unclaimed = list(range(max(first, self._given), before))
        nodes, name, hooked = after - before, None, 0
        saved: tuple[SavedStorage, ...] = ()
        if unclaimed or self.waiting:
            # Of several views written at once each but the last would construct a node if it were asked for its own.
            node = _node_of(alive or [t for t in changed if len(writes) == 1 or not t._is_view()])
            if node is not None and isinstance(node, BackwardCFunction):
                self._wait(unclaimed, place)
                self._claim(node, alive)
                unclaimed = []
            elif unclaimed and _is_own(node, before - 1, alive or changed, bool(writes)):
                unclaimed.pop()
                nodes += 1
                if node is not None and node._sequence_nr() == before - 1:
                    name = node.name()
                    self._originates(before - 1, place[0], place[1])
                    saved, hooked = SAVED_STORAGES.saved_by(node, alive or changed)
                elif writes:
                    name = IN_COPY_SLICES
            self._wait(unclaimed, place)
        self._given = max(self._given, after)
        if writes:
            account += _of_writes(writes)
        if is_tracking_unknown:
            account += _of_views(plan, alive, len(pending.outputs))
        if nodes or hooked:
            account += _of_nodes(nodes, hooked)
        self._emit_event(place, name, account, saved)
        if writes and upto > after:
            self._after_writes(place, after, upto, writes, changed)
        if self.waiting:
            for number in [n for n, (_, since) in self.waiting.items() if self._count - since > _PATIENCE]:
                self._give_up(number)

    def _emit_event(self, place: OpPlace, name: str | None, account: OpCounts, saved: tuple[SavedStorage, ...]) -> None:
        key = (place, name, id(account))
        known = self._events.get(key)
        if known is None:
            if len(self._events) >= _EVENTS:
                self._events.clear()
            known = self._events[key] = SharedEvent((OPERATOR, self._owner, place, name, account))
        self._emit((SAVING, self._owner, known, saved) if saved else known)

    def flush(self, last: int, upto: int) -> None:
        """Emits the nodes that no operator claimed, and those constructed since the last one ran."""
        for number in list(self.waiting):
            self._give_up(number)
        since = upto - max(last, self._given)
        if since > 0:
            self._emit((OPERATOR, self._owner, NO_PLACE, None, OpCounts(nodes=since)))
        self._given = upto

    def _after_writes(
        self, place: OpPlace, after: int, upto: int, writes: Sequence[WrittenTensor], changed: list[Any]
    ) -> None:
        """An in-place change of a view with a graph ends in two nodes: ``CopySlices``, and the view's own, made anew."""
        views = [t for t in changed if t._is_view() and t.requires_grad]
        if not views:
            return
        end = after + 2 * len(views)
        if len(writes) == 1:
            node = views[0].grad_fn
            end = node._sequence_nr() + 1 if node is not None and after <= node._sequence_nr() < upto else after
        self._given = min(end, upto)
        if self._given > after:
            self._emit((OPERATOR, self._owner, place, COPY_SLICES, OpCounts(nodes=self._given - after)))

    def _wait(self, numbers: list[int], place: OpPlace) -> None:
        for number in numbers:
            self.waiting[number] = place, self._count

    def _claim(self, node: Any, outputs: list[Any]) -> None:
        waiting = self.waiting.pop(node._sequence_nr(), None)
        if waiting is not None:
            code, offset, _, module, phase, task = waiting[0]
            place = code, offset, FUNCTION, module, phase, task
            saved, hooked = SAVED_STORAGES.saved_by(node, outputs)
            account = OpCounts(calls=1, nodes=1, hooked=hooked)
            self._emit_event(place, node.name(), account, saved)

    def _give_up(self, number: int) -> None:
        (code, offset, _, *rest), _ = self.waiting.pop(number)
        account = OpCounts(nodes=1)
        self._emit((OPERATOR, self._owner, (code, offset, NO_OPERATOR, *rest), None, account))


def _node_of(tensors: Sequence[Any]) -> Any:
    """The node that the first tensor with one came from."""
    for tensor in tensors:
        if tensor.requires_grad:
            node = tensor.grad_fn
            if node is not None:
                return node
    return None


def _is_own(node: Any, number: int, left: list[Any], writes: bool) -> bool:
    """Whether the node constructed just before the operator was dispatched is the operator's."""
    if node is not None:
        return writes or node._sequence_nr() == number
    # Nothing is left that could tell, or what could is wrapped by a transform of torch.func.
    return not left or _transforms()


def _transforms() -> bool:
    peek = getattr(torch._C._functorch, "peek_interpreter_stack", None)
    return peek is not None and peek() is not None


@lru_cache(256)
def _of_nodes(nodes: int, hooked: int) -> OpCounts:
    return OpCounts(nodes=nodes, hooked=hooked)


@lru_cache(256)
def _of_counts(bumps: int, uncounted: int, normal: int, inference: int) -> OpCounts:
    return OpCounts(
        version_bumps=bumps,
        uncounted_writes=uncounted,
        normal_without_counter=normal,
        inference_with_counter=inference,
    )


def _of_writes(writes: Sequence[WrittenTensor]) -> OpCounts:
    """What became of the tensors that an operator wrote to."""
    uncounted = sum(write.version is None for write in writes)
    normal = sum(write.version is None and not write.is_inference for write in writes)
    inference = sum(write.version is not None and write.is_inference for write in writes)
    return _of_counts(_bumps(writes), uncounted, normal, inference)


def _bumps(writes: Sequence[WrittenTensor]) -> int:
    """By how much the counters behind ``writes`` have gone up, each counted once."""
    if len(writes) == 1:
        return writes[0].bumps()
    by_storage: dict[int, list[int]] = defaultdict(list)
    for index, write in enumerate(writes):
        by_storage[write.storage or -index - 1].append(write.bumps())
    # Views share one counter, which then went up once for each of them; other tensors over one storage have their own.
    return sum(max(b) if max(b) >= len(b) else sum(b) for b in by_storage.values())


def _of_views(plan: OpPlan, alive: list[Any], number: int) -> OpCounts:
    """What the views are that a view operator returned; its plan remembers for the next time."""
    found = TRACKED_VIEW.times(number - len(alive))  # most are, and of these it can no longer be asked
    for tensor in alive:
        plan.tracks = tensor._is_view()
        found += TRACKED_VIEW if plan.tracks else UNTRACKED_VIEW
    return found


def must_defer(plan: OpPlan, args: Any, pending: list[PendingOp]) -> bool:
    """Return whether ``pending`` must wait because PyTorch itself may be calling this operator while it runs one of them.

    PyTorch calls ``detach`` to save an output. It also recreates a view that was modified in place, and locks that view
    meanwhile: asking for the view's node at that time, as resolving does, would deadlock.
    """
    if len(pending) > _MAX_DEFERRED:
        return False
    if plan.is_detach:
        return True
    if not any(one.writes for one in pending) or not args or not isinstance(args[0], torch.Tensor):
        return False
    base = args[0]._base if args[0]._is_view() else args[0]
    return any(
        tensor is not None and tensor._is_view() and tensor._base is base and _is_recreated_by_an_operator(tensor)
        for one in pending
        for tensor in (*(ref() for ref in one.outputs), *(write.tensor() for write in one.writes))
    )


def _is_recreated_by_an_operator(view: torch.Tensor) -> bool:
    """Return whether PyTorch needs more than the strides to get from the base to the view."""
    base = view._base
    is_strided = view.layout is torch.strided and base is not None and view.dtype == base.dtype
    return not is_strided or view.is_conj() or view.is_neg() or type(view) is not torch.Tensor or _replays_views()


def _replays_views() -> bool:
    is_enabled = getattr(torch._C, "_is_view_replay_enabled", None)
    return is_enabled is not None and bool(is_enabled())
