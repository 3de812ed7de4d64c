"""The tensors that the graph behind a tensor saved for backward, one by one, without unpacking any."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch.autograd.function import BackwardCFunction

from gradprobe.capture.autograd import graph, tensor_reader
from gradprobe.capture.autograd.base_tensor import BaseTensor
from gradprobe.capture.autograd.creation import REGISTRY, CreationSite, make_site
from gradprobe.capture.autograd.storages import storage_of

SAVED, HOOKED, FREED, UNREADABLE = "saved", "hooked", "freed", "unreadable"


class SavedTensor(NamedTuple):
    """A saved tensor in plain values, in the order of the columns of ``SAVED_TENSORS``."""

    node: str
    sequence: int
    name: str
    state: str
    shape: str | None = None
    dtype: str | None = None
    device: str | None = None
    nbytes: int | None = None
    storage: int | None = None
    shared_with: str = ""
    op: str | None = None
    file: str | None = None
    line: int | None = None
    function: str | None = None
    module: str | None = None


class _Entry:
    """A place where a node saves a tensor; ``tensor`` is None if it cannot be read, ``storage`` 0 if it has none."""

    __slots__ = ("name", "node", "sequence", "state", "storage", "tensor")

    def __init__(self, node: str, sequence: int, name: str, state: str, tensor: torch.Tensor | None) -> None:
        self.node, self.sequence, self.name, self.state, self.tensor = node, sequence, name, state, tensor
        self.storage = 0 if tensor is None else _find_storage(tensor)

    @property
    def title(self) -> str:
        return f"{self.node}.{self.name}"


def read_saved_tensors(root: torch.Tensor) -> list[SavedTensor]:
    """Return the tensors saved in the graph behind ``root``, from its own node to the leaves; it keeps none of them.

    Hooks of saved tensors do not run: what they packed is a row without a shape. Operands that no derivative needs, which
    a node has as empty saved tensors, are left out.
    """
    if torch.compiler.is_compiling():
        return []
    with torch._C.DisableTorchFunction(), torch._C._DisableTorchDispatch():
        nodes = graph.reachable_nodes([graph.history_of(root)])
        entries = [entry for node in nodes if not graph.is_leaf_node(node) for entry in _find_entries(node)]
        leaves = [node.variable for node in nodes if graph.is_leaf_node(node) and node.variable is not None]
        sharers = _name_sharers(root, leaves, entries)
        sites = _SiteFinder(entries)
        numbers: dict[int, int] = {}
        return [_read(entry, sharers, sites, numbers) for entry in entries]


def _find_entries(node: Any) -> Iterator[_Entry]:
    title, sequence = graph.name_of(node), int(type(node)._sequence_nr(node))
    for name, variable in _name_variables(node):
        state, tensor = _classify(variable)
        if state:
            yield _Entry(title, sequence, name, state, tensor)
    if isinstance(node, BackwardCFunction):
        for name, tensor in _find_on_context(vars(node)):
            yield _Entry(title, sequence, name, SAVED, tensor)
    if title == graph.COPY_SLICES:
        yield _Entry(title, sequence, "fn", UNREADABLE, None)


def _name_variables(node: Any) -> Iterator[tuple[str, Any]]:
    for raw in graph.raw_names(type(node)):
        name = raw.removeprefix(graph.PREFIX)
        try:
            value = getattr(node, raw)
        except RuntimeError:  # a freed list raises, whereas a freed single variable is empty
            value = None
        if isinstance(value, tuple | list):
            yield from ((f"{name}[{at}]", variable) for at, variable in enumerate(value))
        else:
            yield name, value


def _classify(variable: Any) -> tuple[str, torch.Tensor | None]:
    """Return the state of a saved variable and its tensor; no state if its operand was not needed."""
    if variable is None:
        return FREED, None
    if not graph.can_be_read(type(variable)):
        return UNREADABLE, None
    if variable.unpack_hook is not None:
        return HOOKED, None
    if variable.data is not None:
        return SAVED, variable.data
    return (FREED, None) if graph.was_freed(variable) else ("", None)


def _find_on_context(attributes: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that a custom function put on its ``ctx``, itself or in a list, tuple or dict."""
    for name, value in attributes.items():
        if tensor_reader.is_tensor(value):
            yield f"ctx.{name}", value
        elif type(value) in (list, tuple, dict):
            items = value.items() if type(value) is dict else enumerate(value)
            yield from ((f"ctx.{name}[{key!r}]", item) for key, item in items if tensor_reader.is_tensor(item))


def _name_sharers(root: torch.Tensor, leaves: list[Any], entries: list[_Entry]) -> dict[int, Counter[str]]:
    """Return by storage what has tensors over it, and how many: the inspected tensor, leaves, and saved tensors."""
    found: dict[int, Counter[str]] = defaultdict(Counter)
    found[_find_storage(root)]["this tensor"] += 1
    for leaf in leaves:
        found[_find_storage(leaf)]["a leaf"] += 1
    for entry in entries:
        found[entry.storage][entry.title] += 1
    return found


def _find_storage(tensor: Any) -> int:
    """Return the address of a tensor's storage, 0 if it has none of its own."""
    return 0 if tensor_reader.storage_nbytes(tensor) is None else storage_of(BaseTensor(tensor))


class _SiteFinder:
    """Creation sites of saved tensors.

    A node saves an operand as it is, and its own result as an alias that no operator returned. The site of the result is
    that of the tensor which brought the storage into being, if that tensor exists: saved by another node, or in the
    program.
    """

    def __init__(self, entries: list[_Entry]) -> None:
        self._by_storage: dict[int, CreationSite] = {}
        self._is_living_known = False
        for entry in entries:
            if entry.tensor is not None:
                self._add(entry.storage, REGISTRY.get(entry.tensor))

    def find(self, tensor: torch.Tensor, storage: int) -> CreationSite | None:
        """Return where a tensor was created, or its storage; None if no recorder saw it."""
        record = REGISTRY.get(tensor)
        if record is not None:
            return make_site(record)
        if storage and storage not in self._by_storage and not self._is_living_known:
            self._is_living_known = True
            for living in REGISTRY.living():
                made = living[0]()
                self._add(0 if made is None else _find_storage(made), living)
        return self._by_storage.get(storage)

    def _add(self, storage: int, record: Any) -> None:
        is_first_of_storage = record is not None and record[1] == record[6]
        if storage and is_first_of_storage:
            self._by_storage.setdefault(storage, make_site(record))


def _read(entry: _Entry, sharers: dict[int, Counter[str]], sites: _SiteFinder, numbers: dict[int, int]) -> SavedTensor:
    tensor, storage = entry.tensor, entry.storage
    if tensor is None:
        return SavedTensor(entry.node, entry.sequence, entry.name, entry.state)
    base, site = BaseTensor(tensor), sites.find(tensor, storage)
    others = [name for name, count in sharers[storage].items() if count > (name == entry.title)] if storage else []
    return SavedTensor(
        entry.node,
        entry.sequence,
        entry.name,
        entry.state,
        tensor_reader.describe_shape(tensor),
        str(base.dtype).removeprefix("torch."),
        str(base.device),
        tensor_reader.storage_nbytes(tensor),
        numbers.setdefault(storage, len(numbers)) if storage else None,
        ", ".join(others),
        *((site.op, site.file or None, site.line or None, site.function or None, site.module) if site else ()),
    )
