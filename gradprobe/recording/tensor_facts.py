"""Facts about one tensor, shared by the code that reads them and the code that judges them."""

from __future__ import annotations

from dataclasses import dataclass

NORMAL = "normal"
INFERENCE = "inference"
INFERENCE_COUNTED = "inference with a version counter"
NORMAL_UNCOUNTED = "normal without a version counter"


@dataclass(frozen=True)
class TensorFacts:
    """State of one tensor as PyTorch reports it, in plain values that do not keep the tensor alive.

    Args:
        is_inference: Answer of ``tensor.is_inference()``.
        version: Value of the version counter, or None if the tensor has none.
        requires_grad: Answer of ``tensor.requires_grad``.
        is_leaf: Answer of ``tensor.is_leaf``; False if the history cannot be read.
        traits: Further kinds that the tensor belongs to: ``parameter``, ``buffer``, ``subclass``, ``wrapper``, ``fake``,
            ``meta``, ``sparse``, ``nested``, ``jagged``, ``quantized``, ``opaque``, ``complex``, ``empty``,
            ``overlapping``, ``part`` (of a larger storage), ``vmap``, ``transform``, ``dual``.
        layout: Name of the layout, without ``torch.``.
        dtype: Name of the dtype, without ``torch.``.
        can_require_grad: True for floating point and complex dtypes.
        is_view: True if autograd tracks the tensor as a view.
        creation_meta: Name of autograd's ``CreationMeta`` of a tracked view: the mode or function that created it.
        is_base_leaf: True if the base of the view is a leaf.
        grad_fn: Name of the autograd node that computed the tensor.
        output_number: Position of the tensor among the outputs of that node.
        history_error: Text of the error that reading ``grad_fn`` raised.
        freed: True if a backward pass has freed the graph behind the tensor.
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
    creation_meta: str = "DEFAULT"
    is_base_leaf: bool = False
    grad_fn: str | None = None
    output_number: int = 0
    history_error: str | None = None
    freed: bool = False

    @property
    def kind(self) -> str:
        """Kind of the tensor, one of four: an inference tensor may have a version counter, a normal one none."""
        if self.is_inference:
            return INFERENCE if self.version is None else INFERENCE_COUNTED
        return NORMAL_UNCOUNTED if self.version is None else NORMAL

    @property
    def is_plain(self) -> bool:
        """Return whether the tensor stores its own elements in the usual layout; others fail in other ways."""
        special = {"sparse", "nested", "jagged", "quantized", "opaque", "wrapper", "fake", "vmap", "transform"}
        return not special & self.traits
