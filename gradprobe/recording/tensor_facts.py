"""The facts that PyTorch reports about one tensor."""

from __future__ import annotations

from dataclasses import dataclass

NORMAL = "normal"
INFERENCE = "inference"
INFERENCE_COUNTED = "inference with a version counter"
NORMAL_UNCOUNTED = "normal without a version counter"


@dataclass(frozen=True)
class TensorFacts:
    """Facts that PyTorch reports about a tensor; strings and numbers, nothing that keeps it alive.

    ``traits`` are the further kinds it belongs to: ``parameter``, ``buffer``, ``subclass``, ``wrapper``, ``fake``,
    ``meta``, ``sparse``, ``nested``, ``jagged``, ``quantized``, ``opaque``, ``complex``, ``empty``, ``overlapping``,
    ``part`` (of a larger storage), ``vmap``, ``transform``, ``dual``. ``made_as`` is autograd's account of how a tracked
    view was created, ``history_error`` the error that PyTorch raises instead of returning ``grad_fn``.
    """

    is_inference: bool
    version: int | None
    requires_grad: bool
    is_leaf: bool
    traits: frozenset[str] = frozenset()
    layout: str = "strided"
    dtype: str = "float32"
    can_require_grad: bool = True
    is_view: bool = False
    made_as: str = "DEFAULT"
    is_base_leaf: bool = False
    grad_fn: str | None = None
    output_number: int = 0
    history_error: str | None = None
    freed: bool = False

    @property
    def kind(self) -> str:
        """One of four kinds: an inference tensor may have a version counter, and a normal tensor may lack one."""
        if self.is_inference:
            return INFERENCE if self.version is None else INFERENCE_COUNTED
        return NORMAL_UNCOUNTED if self.version is None else NORMAL

    @property
    def is_plain(self) -> bool:
        """Return whether it stores its values itself, in the usual layout; other tensors may fail in other ways."""
        special = {"sparse", "nested", "jagged", "quantized", "opaque", "wrapper", "fake", "vmap", "transform"}
        return not special & self.traits
