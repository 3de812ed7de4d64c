"""Names of functions, methods and attributes, by what they do with tensors."""

from __future__ import annotations

import torch

TENSOR_METHODS = frozenset(dir(torch.Tensor))
PURE_MODULES = ("torch.", "torch.nn.functional.", "torch.linalg.", "torch.special.", "torch.fft.", "torch.Tensor.")
_CONTAINERS = (dict, list, set, str, tuple, frozenset, bytes)
CONTAINER_METHODS = frozenset(name for kind in _CONTAINERS for name in dir(kind))
ACCESSORS = ("__getattr__", "__getattribute__")
"""Methods that give attributes of any name."""


def _read_words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ALIASING = _read_words(
    """
    view view_as reshape reshape_as t T mT H mH transpose permute squeeze unsqueeze expand expand_as flatten
    unflatten chunk split unbind narrow select detach to contiguous float double half bfloat16 cuda cpu type type_as
    data real imag movedim swapaxes swapdims diagonal unfold tensor_split hsplit vsplit dsplit ravel values indices
    alias requires_grad_ __getitem__ grad pin_memory share_memory_ swapaxes_ adjoint broadcast_to as_strided positive
    resolve_conj resolve_neg split_with_sizes unsafe_chunk unsafe_split coalesce rename as_subclass to_dense
    crow_indices col_indices align_to refine_names conj
    """
)
"""Methods and attributes of a tensor whose result shares its memory or may be the tensor itself."""

CONVERSIONS = _read_words("double half float bfloat16 cuda cpu to type to_empty xpu share_memory")
"""Methods of a module that give it other parameters, if the tensors have to change."""

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

ALIASING_FUNCTIONS = ALIASING | _read_words(
    """
    as_tensor asarray atleast_1d atleast_2d atleast_3d broadcast_tensors meshgrid view_as_real view_as_complex from_dlpack
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout pad unsqueeze_copy
    """
)
"""Functions of PyTorch whose results may be their arguments or share their memory."""

PLAIN_CALLS = _read_words(
    """
    item tolist numpy size dim numel nelement element_size stride data_ptr storage_offset is_contiguous get_device
    is_floating_point is_complex is_inference hexdigest format join
    """
)
"""Methods whose results are no tensors."""

QUIET_METHODS = _read_words(
    """
    parameters named_parameters modules named_modules children named_children train eval zero_grad state_dict buffers
    named_buffers get_submodule get_parameter keys
    """
)
"""Methods of modules and containers that create no tensor."""

SEVERAL_RESULTS = _read_words(
    """
    max min sort topk split chunk unbind median nanmedian mode kthvalue cummax cummin aminmax frexp std_mean var_mean
    unique unique_consecutive tensor_split hsplit vsplit dsplit split_with_sizes unsafe_chunk unsafe_split slogdet
    svd qr eig eigh lu lu_unpack lstsq triangular_solve geqrf histogram histogramdd broadcast_tensors meshgrid
    atleast_1d atleast_2d atleast_3d nonzero where multi_head_attention_forward max_pool1d max_pool2d max_pool3d
    adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d fractional_max_pool2d fractional_max_pool3d inv_ex
    cholesky_ex lu_factor lu_factor_ex ldl_factor ldl_factor_ex solve_ex batch_norm_stats to apply load vmap compile
    values indices pop get copy items keys update clear index count
    """
)
"""Operators that may give more than one tensor, and names that other objects than tensors have as well."""

TENSOR_QUESTIONS = _read_words(
    """
    is_tensor is_grad_enabled is_inference_mode_enabled device manual_seed numel set_num_threads get_num_threads
    is_available synchronize seed initial_seed dtype Size is_floating_point is_complex are_deterministic_algorithms_enabled
    """
)
"""Functions of PyTorch that create no tensor."""

WRITING_FUNCTIONS = _read_words(
    """
    batch_norm instance_norm vector_to_parameters clip_grad_norm clip_grad_value embedding_bag embedding
    """
)
"""Functions of PyTorch that may write into an argument, or need it for gradients, whatever they are given."""

PLAIN_MODULES = _read_words("time math os sys json logging re datetime warnings pathlib string numpy np")
"""Modules whose functions return no tensors and keep none."""

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
    is_floating_point bincount unique sort topk count_nonzero equal allclose
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

PURE_PASSING = _read_words(
    """
    zip_longest repeat islice starmap product count cycle accumulate defaultdict OrderedDict Counter partial chain
    deque pairwise tee groupby takewhile dropwhile filterfalse nlargest nsmallest itemgetter
    """
)
"""Functions of Python's library that hand on what they are given, and call no more than one of their arguments."""

KNOWN_ROOTS = _read_words(
    """
    torch copy pickle cloudpickle dill joblib json numpy array itertools functools collections heapq operator typing
    """
)
"""Libraries whose functions do what their names say."""

NO_CONTAINERS = _read_words(
    """
    object ABC Generic Protocol Module Dataset IterableDataset Enum IntEnum Thread Process TestCase Function Optimizer
    LRScheduler _LRScheduler Callback Sampler Distribution Transform Warning
    """
)
"""Bases of classes whose objects have no items."""

NO_TENSORS = _read_words(
    """
    dict list tuple set frozenset str int float bytes NamedTuple TypedDict OrderedDict defaultdict deque UserDict
    UserList Counter Mapping MutableMapping Sequence MutableSequence Iterator Iterable Exception ValueError
    RuntimeError local Sequential ModuleList ModuleDict Linear Sampler BatchSampler StrEnum Flag IntFlag BaseModel
    """
)
"""Bases of classes whose objects are no tensors themselves, but may have some as items."""
