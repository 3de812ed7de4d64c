"""Attribution of autograd nodes, writes and views to operators, once PyTorch has finished with each.

A dispatch mode sees an operator below autograd, before its node is tied to its output and before version counters go up. So
an operator stays pending until the thread's next operator or mode change, and is resolved then.
"""

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
"""Identity of the code object, instruction offset, operator, module path, phase and task."""

AUTOGRAD_FUNCTION, NO_OPERATOR = "autograd.Function", "(no operator)"
COPY_SLICES, IN_COPY_SLICES = "CopySlices", "(in CopySlices)"
NO_PLACE: OpPlace = (0, 0, NO_OPERATOR, "", 0, None)
_MAX_OPS_UNCLAIMED = 64
"""Maximum number of operators for which a node may wait for the output that shows its origin."""
_MAX_DEFERRED = 8
"""Maximum number of pending operators that PyTorch's own calls may leave unresolved."""
_MAX_EVENTS = 4_096
"""Maximum number of distinct events kept for reuse."""
_PLAIN_TYPES = {torch.Tensor, torch.nn.Parameter}

ONE_CALL = OpCounts(calls=1)
NORMAL_OUTPUT, INFERENCE_OUTPUT = OpCounts(counters_created=1, normal_outputs=1), OpCounts(inference_outputs=1)
INFERENCE_VIEW = OpCounts(untracked_views=1, inference_outputs=1)
TRACKED_VIEW = OpCounts(tracked_views=1, normal_outputs=1)
UNTRACKED_VIEW = OpCounts(untracked_views=1, normal_outputs=1)


class WrittenTensor:
    """A tensor about to be modified in place, and its version; None if it has no version counter."""

    __slots__ = ("is_inference", "is_view", "storage", "tensor", "version")

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = weakref.ref(tensor)
        self.version = version_of(tensor)
        self.is_inference = tensor.is_inference()
        self.is_view = tensor._is_view()
        self.storage = storage_of(tensor)

    def bumps(self) -> int:
        """Return the number of version bumps: 1 if the tensor is gone, which the operator must have made."""
        if self.version is None:
            return 0
        tensor = self.tensor()
        now = None if tensor is None else version_of(tensor)
        return 1 if now is None else now - self.version


class PendingOp(NamedTuple):
    """An operator that has run, with the values of the thread's node counter around it.

    ``core.cpp`` reads ``writes`` by its index.
    """

    place: OpPlace
    plan: OpPlan
    first: int
    """Node counter at the end of the operator before."""
    before: int
    """Node counter when the operator reached the dispatch mode."""
    after: int
    """Node counter when the dispatch mode returned."""
    outputs: Sequence[weakref.ref[Any]]
    writes: Sequence[WrittenTensor]
    counts: OpCounts
    is_tracking_unknown: bool
    """True if it is not known yet whether autograd tracks the returned view."""


class NodeAttributor:
    """Attribution of each autograd node of a thread to one operator, line and node name, exactly once.

    An operator's own node is the last one constructed before it is dispatched. An operator that writes to a view
    constructs more nodes after it was dispatched. The node of a custom ``autograd.Function`` is constructed before all
    operators of its forward, and becomes visible at the output of the last of them.
    """

    def __init__(
        self,
        owner: int,
        emit: Callable[[Event], object],
        on_node_created: Callable[[int, int, int], object],
        on_storage_written: Callable[[int, int, int], object],
    ) -> None:
        self._owner = owner
        self._emit = emit
        # Called with the sequence number of a node and the code and offset that constructed it.
        self._on_node_created = on_node_created
        # Called with the address of a storage and the code and offset that wrote to it.
        self._on_storage_written = on_storage_written
        self.unclaimed: dict[int, tuple[OpPlace, int]] = {}
        """Nodes not attributed yet: the place of the operator after them, and the operator count then."""
        self._attributed = 0  # all nodes below this number have been attributed
        self._op_count = 0
        self._events: dict[tuple[OpPlace, str | None, int], SharedEvent] = {}

    def resolve_pending(self, pending: PendingOp, limit: int) -> None:
        """Emit the counts of ``pending``; the thread's node counter is at ``limit`` now."""
        if not pending.writes and not self.unclaimed and len(pending.outputs) == 1 and self._resolve_simple(pending):
            return
        alive = [tensor for ref in pending.outputs if (tensor := ref()) is not None]
        written = [tensor for write in pending.writes if (tensor := write.tensor()) is not None]
        if {type(tensor) for tensor in alive or written} <= _PLAIN_TYPES:
            self._resolve(pending, limit, alive, written)
        else:
            with torch._C.DisableTorchFunctionSubclass():
                self._resolve(pending, limit, alive, written)

    def _resolve_simple(self, pending: PendingOp) -> bool:
        """Resolve an operator with one output and one node, the most frequent kind, on a fast path.

        Return False, without having done anything, if ``pending`` is not of that kind.
        """
        place, _, first, before, after, (output,), _, counts, is_tracking_unknown = pending
        tensor, number = output(), before - 1
        if (
            tensor is None
            or type(tensor) not in _PLAIN_TYPES
            or is_tracking_unknown
            or after != before
            or max(first, self._attributed) != number
        ):
            return False
        node = tensor.grad_fn if tensor.requires_grad else None
        if node is None or node._sequence_nr() != number or isinstance(node, BackwardCFunction):
            return False
        self._op_count += 1
        self._attributed = after
        self._on_node_created(number, place[0], place[1])
        saved, hooked = SAVED_STORAGES.saved_by(node, [tensor])
        self._emit_counts(place, node.name(), counts + _count_nodes(1, hooked), saved)
        return True

    def _resolve(self, pending: PendingOp, limit: int, alive: list[Any], written: list[Any]) -> None:
        place, plan, first, before, after, _, writes, counts, is_tracking_unknown = pending
        self._op_count += 1
        for write in writes:
            self._on_storage_written(write.storage, place[0], place[1])
        unclaimed = list(range(max(first, self._attributed), before))
        nodes, name, hooked = after - before, None, 0
        saved: tuple[SavedStorage, ...] = ()
        if unclaimed or self.unclaimed:
            # Of several views written at once, reading `grad_fn` of any but the last would construct a node.
            node = _first_node(alive or [t for t in written if len(writes) == 1 or not t._is_view()])
            if node is not None and isinstance(node, BackwardCFunction):
                self._add_unclaimed(unclaimed, place)
                self._claim(node, alive)
                unclaimed = []
            elif unclaimed and _is_own_node(node, before - 1, alive or written, bool(writes)):
                unclaimed.pop()
                nodes += 1
                if node is not None and node._sequence_nr() == before - 1:
                    name = node.name()
                    self._on_node_created(before - 1, place[0], place[1])
                    saved, hooked = SAVED_STORAGES.saved_by(node, alive or written)
                elif writes:
                    name = IN_COPY_SLICES
            self._add_unclaimed(unclaimed, place)
        self._attributed = max(self._attributed, after)
        if writes:
            counts += _count_writes(writes)
        if is_tracking_unknown:
            counts += _count_views(plan, alive, len(pending.outputs))
        if nodes or hooked:
            counts += _count_nodes(nodes, hooked)
        self._emit_counts(place, name, counts, saved)
        if writes and limit > after:
            self._after_writes(place, after, limit, writes, written)
        if self.unclaimed:
            for number in [
                n for n, (_, since) in self.unclaimed.items() if self._op_count - since > _MAX_OPS_UNCLAIMED
            ]:
                self._abandon(number)

    def _emit_counts(self, place: OpPlace, name: str | None, counts: OpCounts, saved: tuple[SavedStorage, ...]) -> None:
        key = (place, name, id(counts))
        known = self._events.get(key)
        if known is None:
            if len(self._events) >= _MAX_EVENTS:
                self._events.clear()
            known = self._events[key] = SharedEvent((OPERATOR, self._owner, place, name, counts))
        self._emit((SAVING, self._owner, known, saved) if saved else known)

    def flush(self, last: int, limit: int) -> None:
        """Emit the nodes that no operator claimed, and those constructed since the last operator ran."""
        for number in list(self.unclaimed):
            self._abandon(number)
        since = limit - max(last, self._attributed)
        if since > 0:
            self._emit((OPERATOR, self._owner, NO_PLACE, None, OpCounts(nodes=since)))
        self._attributed = limit

    def _after_writes(
        self, place: OpPlace, after: int, limit: int, writes: Sequence[WrittenTensor], written: list[Any]
    ) -> None:
        """Attribute the nodes constructed after an operator that wrote to views.

        Writing to a view with a graph ends in two nodes: ``CopySlices``, and the view's own, which is constructed again.
        """
        views = [t for t in written if t._is_view() and t.requires_grad]
        if not views:
            return
        end = after + 2 * len(views)
        if len(writes) == 1:
            node = views[0].grad_fn
            end = node._sequence_nr() + 1 if node is not None and after <= node._sequence_nr() < limit else after
        self._attributed = min(end, limit)
        if self._attributed > after:
            self._emit((OPERATOR, self._owner, place, COPY_SLICES, OpCounts(nodes=self._attributed - after)))

    def _add_unclaimed(self, numbers: list[int], place: OpPlace) -> None:
        for number in numbers:
            self.unclaimed[number] = place, self._op_count

    def _claim(self, node: Any, outputs: list[Any]) -> None:
        unclaimed = self.unclaimed.pop(node._sequence_nr(), None)
        if unclaimed is not None:
            code, offset, _, module, phase, task = unclaimed[0]
            place = code, offset, AUTOGRAD_FUNCTION, module, phase, task
            saved, hooked = SAVED_STORAGES.saved_by(node, outputs)
            counts = OpCounts(calls=1, nodes=1, hooked=hooked)
            self._emit_counts(place, node.name(), counts, saved)

    def _abandon(self, number: int) -> None:
        (code, offset, _, *rest), _ = self.unclaimed.pop(number)
        counts = OpCounts(nodes=1)
        self._emit((OPERATOR, self._owner, (code, offset, NO_OPERATOR, *rest), None, counts))


def _first_node(tensors: Sequence[Any]) -> Any:
    """Return the node of the first tensor that has one."""
    for tensor in tensors:
        if tensor.requires_grad:
            node = tensor.grad_fn
            if node is not None:
                return node
    return None


def _is_own_node(node: Any, number: int, left: list[Any], writes: bool) -> bool:
    """Return whether the node constructed just before the operator was dispatched belongs to it."""
    if node is not None:
        return writes or node._sequence_nr() == number
    # No tensor is left that could show it, or a transform of torch.func has wrapped it.
    return not left or _is_transformed()


def _is_transformed() -> bool:
    peek = getattr(torch._C._functorch, "peek_interpreter_stack", None)
    return peek is not None and peek() is not None


@lru_cache(256)
def _count_nodes(nodes: int, hooked: int) -> OpCounts:
    return OpCounts(nodes=nodes, hooked=hooked)


@lru_cache(256)
def _make_write_counts(bumps: int, uncounted: int, normal: int, inference: int) -> OpCounts:
    return OpCounts(
        version_bumps=bumps,
        uncounted_writes=uncounted,
        normal_without_counter=normal,
        inference_with_counter=inference,
    )


def _count_writes(writes: Sequence[WrittenTensor]) -> OpCounts:
    """Count the effects on the tensors that an operator wrote to."""
    uncounted = sum(write.version is None for write in writes)
    normal = sum(write.version is None and not write.is_inference for write in writes)
    inference = sum(write.version is not None and write.is_inference for write in writes)
    return _make_write_counts(_count_bumps(writes), uncounted, normal, inference)


def _count_bumps(writes: Sequence[WrittenTensor]) -> int:
    """Return the number of bumps of the version counters behind ``writes``, counting each counter once."""
    if len(writes) == 1:
        return writes[0].bumps()
    by_storage: dict[int, list[int]] = defaultdict(list)
    for index, write in enumerate(writes):
        by_storage[write.storage or -index - 1].append(write.bumps())
    # Views share one counter, which is bumped once for each; unrelated tensors over one storage have their own counters.
    return sum(max(b) if max(b) >= len(b) else sum(b) for b in by_storage.values())


def _count_views(plan: OpPlan, alive: list[Any], number: int) -> OpCounts:
    """Count the views that an operator returned, and note in its plan whether autograd tracks them."""
    found = TRACKED_VIEW.times(number - len(alive))  # of the tensors that are gone: most views are tracked
    for tensor in alive:
        plan.tracks = tensor._is_view()
        found += TRACKED_VIEW if plan.tracks else UNTRACKED_VIEW
    return found


def must_defer(plan: OpPlan, args: Any, pending: list[PendingOp]) -> bool:
    """Return whether PyTorch itself may be calling this operator while it runs one of ``pending``.

    Those must not be resolved then. PyTorch calls ``detach`` to save an output. It also recreates a view that was modified
    in place, and locks that view meanwhile: reading the view's node at that time, as resolving does, would deadlock.
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
