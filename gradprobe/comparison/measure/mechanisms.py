"""Mechanisms of PyTorch that one call uses, counted in a pass that is not timed.

Nodes come from the thread's sequence number, saved tensors from hooks. The rest is counted by a dispatch mode that
decomposes composite operators in every mode: below autograd, inference mode would otherwise show fewer operators than
``no_grad``. A recording observes above autograd, where they are whole in every mode (`counting_passes` says why both
count). Tracked views and version counters then follow from the kind of tensor: PyTorch, Autograd mechanics, Inference
Mode, https://docs.pytorch.org/docs/stable/notes/autograd.html.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from gradprobe.capture.autograd.values import iter_tensors
from gradprobe.comparison.measure.op_schema import OpSchema

MECHANISM_TITLES: Final = {
    "nodes": "autograd node",
    "leaf_nodes": "node that accumulates a gradient",
    "saved_tensors": "saved tensor",
    "counters": "version counter",
    "tracked_views": "tracked view",
    "bumps": "version bump",
    "dispatch_steps": "step of dispatch through autograd",
    "normal_inputs": "operator on normal tensors",
}
MECHANISM_NAMES: Final = tuple(MECHANISM_TITLES)


def count_mechanisms(call: Callable[[], object]) -> dict[str, float]:
    """Return the counts of one call under the current mode. Errors of the call are raised."""
    mode = _Counting()
    sequence_number: Callable[[], int] = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]
    saved = [0]

    def pack(tensor: Tensor) -> Tensor:
        saved[0] += 1
        # A detached copy: an output that its own node saves would otherwise keep that node alive, and be kept by it.
        with torch._C._DisableTorchDispatch():
            return tensor.detach()

    before = sequence_number()
    with saved_tensors_hooks(pack, lambda tensor: tensor), mode:
        call()
    nodes = sequence_number() - before
    return {
        "nodes": float(nodes),
        "saved_tensors": float(saved[0]),
        "leaf_nodes": float(len(mode.leaves)),
        **mode.counts,
    }


@cache
def _plan(func: Any) -> OpSchema:
    return OpSchema(func)


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counter of operators below autograd. Decomposes operators that inference mode dispatches whole."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = dict.fromkeys(("counters", "tracked_views", "bumps", "dispatch_steps", "normal_inputs"), 0.0)
        self.leaves: dict[int, Tensor] = {}
        # References to the storages keep their addresses from being reused.
        self._normal: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        plan = _plan(func)
        inference = torch.is_inference_mode_enabled()
        if plan.is_composite and inference:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        taken = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        base_is_normal = bool(taken) and self._is_normal(taken[0])
        written = list(plan.written(args, kwargs))
        self.counts["bumps"] += sum(map(self._is_normal, written))
        self.counts["dispatch_steps"] += bool(taken) and not inference
        self.counts["normal_inputs"] += any(map(self._is_normal, taken))
        if torch.is_grad_enabled():
            self.leaves.update((id(tensor), tensor) for tensor in taken if tensor.requires_grad and tensor.is_leaf)
        result = func(*args, **kwargs)
        for made in iter_tensors(result):
            if plan.is_view and base_is_normal:
                self.counts["tracked_views"] += 1
                if inference and _has_storage(made):
                    self._normal[made.untyped_storage()._cdata] = made.untyped_storage()
            elif not plan.is_view and not inference and not any(made is tensor for tensor in written):
                self.counts["counters"] += 1
        return result

    def _is_normal(self, tensor: Tensor) -> bool:
        """Return whether PyTorch tracks versions and views of a tensor.

        Below autograd a view of a normal tensor looks like an inference tensor.
        """
        return not tensor.is_inference() or (_has_storage(tensor) and tensor.untyped_storage()._cdata in self._normal)


def _has_storage(tensor: Tensor) -> bool:
    try:
        tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # a sparse tensor, or one without data
        return False
    return True
