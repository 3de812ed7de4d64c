"""Names of functions, methods and attributes, by what they do with tensors."""

from __future__ import annotations


def _read_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALIASING = _read_words(
    """
    view view_as reshape reshape_as t T mT H mH transpose permute squeeze unsqueeze expand expand_as flatten
    unflatten chunk split unbind narrow select detach to contiguous float double half bfloat16 cuda cpu type type_as
    data real imag movedim swapaxes swapdims diagonal unfold tensor_split hsplit vsplit dsplit ravel values indices
    alias requires_grad_ __getitem__ grad pin_memory share_memory_
    """
)
"""Methods and attributes of a tensor whose result shares its memory or may be the tensor itself."""

CONTAINER_READS = _read_words(
    """
    get pop popleft items values keys setdefault copy index __getitem__ most_common
    """
)
"""Methods that hand out what a container has."""

CONTAINER_WRITES = _read_words(
    """
    append appendleft extend extendleft add insert update put put_nowait setdefault send
    """
)
"""Methods that put their arguments into a container."""

PLAIN_CALLS = _read_words(
    """
    item tolist numpy size dim numel nelement element_size stride data_ptr storage_offset is_contiguous get_device
    is_floating_point is_complex is_inference hexdigest format join
    """
)
"""Methods whose results are no tensors."""

PLAIN_FUNCTIONS = _read_words(
    """
    len int float bool str repr range isinstance issubclass type id hash print format round abs sum callable hasattr
    """
)
"""Functions whose results are no tensors."""

PLAIN_ATTRIBUTES = _read_words(
    """
    shape dtype device ndim layout requires_grad is_leaf grad_fn itemsize nbytes is_cuda training _version
    """
)
"""Attributes of a tensor that are no tensors."""

PASSING = _read_words(
    """
    list tuple dict set frozenset zip enumerate sorted reversed iter next max min filter map deque namedtuple cast
    chain
    """
)
"""Functions whose results have what their arguments have."""

NEEDS_GRAD = _read_words(
    """
    enable_grad set_grad_enabled backward grad jvp vjp jacobian hessian jacrev jacfwd hvp vhp make_dual dual_level
    functional_call requires_grad_ linearize
    """
)
"""Functions and methods that need autograd."""

HARMLESS_METHODS = _read_words(
    """
    item tolist numpy size dim numel nelement element_size stride data_ptr is_contiguous get_device clone any all
    argmax argmin argsort eq ne gt lt ge le isnan isinf isfinite nonzero bool int long storage_offset
    is_floating_point is_inference bincount unique sort topk count_nonzero equal allclose
    """
)
"""Methods that neither modify a tensor nor let autograd save it."""

HARMLESS_FUNCTIONS = _read_words(
    """
    print len str repr isinstance issubclass type id format join float int bool list tuple dict set frozenset zip
    enumerate sorted reversed iter next any all hash hasattr dumps dump save deepcopy asarray array range callable
    is_tensor
    """
)
"""Functions that neither modify their arguments nor let autograd save them."""
