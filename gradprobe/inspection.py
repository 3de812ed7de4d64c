"""``gradprobe.inspect``: kind of a tensor, what it keeps alive, what will fail and how to fix it."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from gradprobe.analysis import tensor_problems
from gradprobe.analysis.tensor_problems import Problem
from gradprobe.errors import InvalidArgument

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from gradprobe.capture.autograd.creation import CreationSite
    from gradprobe.capture.autograd.saved_tensors import SavedTensor


class TensorKind(str, Enum):
    """Kind of a tensor: normal or inference, with or without a version counter.

    Members are strings, so they compare with, format as and hash like their values.

    Attributes:
        NORMAL: ``"normal"``. Autograd can record it, and its version counter notices in-place modifications.
        INFERENCE: ``"inference"``. Created in inference mode, without a version counter; it cannot be saved for backward.
        INFERENCE_COUNTED: ``"inference with a version counter"``. A normal tensor that was given inference data.
        NORMAL_UNCOUNTED: ``"normal without a version counter"``. An inference tensor that was given normal data.

    Example::

        >>> gradprobe.inspect(torch.ones(2)).kind == "normal"
        True
        >>> gradprobe.inspect(torch.ones(2)).kind is gradprobe.TensorKind.NORMAL
        True
    """

    NORMAL = "normal"
    INFERENCE = "inference"
    INFERENCE_COUNTED = "inference with a version counter"
    NORMAL_UNCOUNTED = "normal without a version counter"

    # Enum's own would format a member as "TensorKind.NORMAL".
    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, format_spec: str) -> str:
        return format(str(self.value), format_spec)


_MEANING = {
    TensorKind.NORMAL: "autograd can record it, and its version counter notices when it is modified in place",
    TensorKind.INFERENCE: "created in inference mode: it has no version counter, and autograd cannot use it later",
    TensorKind.INFERENCE_COUNTED: (
        "its data was created in inference mode (by .to() or .data =), so autograd cannot use it, although it kept the "
        "version counter that it was created with"
    ),
    TensorKind.NORMAL_UNCOUNTED: (
        "created in inference mode and then given normal data, so is_inference() is False, but it has no version counter"
    ),
}
_HEADINGS = {
    TensorKind.NORMAL: "A normal tensor",
    TensorKind.INFERENCE: "An inference tensor",
    TensorKind.INFERENCE_COUNTED: "An inference tensor with a version counter",
    TensorKind.NORMAL_UNCOUNTED: "A normal tensor without a version counter",
}
_TRAITS = {
    "parameter": "a parameter",
    "buffer": "a buffer",
    "subclass": "of a subclass",
    "wrapper": "a subclass that implements the operators itself",
    "fake": "a fake tensor, without data",
    "meta": "on the meta device, without data",
    "sparse": "sparse",
    "nested": "nested",
    "jagged": "nested, in the jagged layout",
    "quantized": "quantized",
    "opaque": "in an opaque layout",
    "complex": "complex",
    "empty": "without elements",
    "overlapping": "expanded: several elements share one memory location",
    "part": "over a part of a larger storage",
    "vmap": "the view that one sample has of a batch inside torch.vmap",
    "transform": "tracked by a torch.func transform",
    "dual": "a dual number of forward-mode differentiation",
}


@dataclass(frozen=True)
class Inspection:
    """State of a tensor, and what that state allows.

    It consists of plain values and keeps neither the tensor nor its graph alive. ``str(inspection)`` is the report, and a
    notebook shows it as HTML.

    Attributes:
        description (str): type, shape, dtype and device.
        kind (TensorKind): one of four kinds, which compare equal to their strings.
        traits (tuple of str): further kinds that it belongs to, such as ``"parameter"``, ``"sparse"`` or ``"subclass"``.
        requires_grad (bool): value of ``tensor.requires_grad``.
        is_leaf (bool): value of ``tensor.is_leaf``.
        is_view (bool): True if it is a view that autograd tracks, or covers only a part of a larger storage.
        view_tracked (bool): True if autograd tracks it as a view of ``base``.
        base (str or None): description of the tensor it is a tracked view of; None if it is not one.
        version (int or None): value of its version counter; None if it has none.
        version_reason (str or None): reason why it has no version counter; None if it has one.
        grad_fn (str or None): name of the autograd node that created it; None if it has no history.
        nodes (int): number of autograd nodes in the graph behind it.
        saved_bytes (int): bytes of the unique storages that this graph saved for backward.
        graph_bytes (int): part of ``saved_bytes``, in bytes, that only the graph keeps alive.
        hooked (int): number of saved tensors that went to saved-tensor hooks; they are not in the two sizes.
        unread (int): number of saved tensors that could not be read; they are not in the two sizes.
        storage_bytes (int or None): size in bytes of the memory that the tensor itself keeps alive; None if other tensors
            hold its data.
        born (CreationSite or None): operator, line and module that created it; None unless a recorder at level ``"ops"``
            saw it.
        problems (list of Problem): operations that will fail, each as ``(what, error, fix)``; empty if none will.

    Example::

        with torch.inference_mode():
            features = model(batch)
        seen = gradprobe.inspect(features)
        print(seen)       # the whole report
        print(seen.fix)   # what to do about the first problem
    """

    description: str
    kind: TensorKind
    traits: tuple[str, ...]
    requires_grad: bool
    is_leaf: bool
    is_view: bool
    view_tracked: bool
    base: str | None
    version: int | None
    version_reason: str | None
    grad_fn: str | None
    nodes: int
    saved_bytes: int
    graph_bytes: int
    hooked: int
    unread: int
    storage_bytes: int | None
    born: CreationSite | None
    problems: list[Problem]
    _saved: tuple[SavedTensor, ...] = field(default=(), repr=False)

    @property
    def fix(self) -> str | None:
        """Fix of the first problem, in one line.

        Returns:
            str or None: the fix, or None if nothing will fail.

        Example::

            >>> gradprobe.inspect(torch.ones(2, requires_grad=True)).fix is None
            True
        """
        return self.problems[0].fix if self.problems else None

    @property
    def saved_tensors(self) -> pd.DataFrame:
        """Table of what the graph behind the tensor saved for backward: one row per saved tensor.

        No saved-tensor hook runs. ``bytes`` is the size of the whole storage; rows with the same ``storage`` share theirs,
        and ``shared_with`` names what else has a tensor over it. The page ``docs/columns.md`` describes every column.

        Returns:
            pandas.DataFrame: the table, from the node of the tensor to the leaves; empty without a graph.

        Example::

            saved = gradprobe.inspect(loss).saved_tensors
            saved.drop_duplicates("storage").nlargest(5, "bytes")[["node", "name", "shape", "bytes"]]
        """
        from gradprobe.tables.column_frames import make_dataframe
        from gradprobe.tables.inspection_columns import SAVED_TENSORS

        return make_dataframe(SAVED_TENSORS, self._saved)

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self._rows())
        lines = [self.description, f"{self._heading()}:", f"  {_MEANING[self.kind]}", ""]
        lines += [f"  {name:{width}}  {value}" for name, value in self._rows()]
        if self.problems:
            lines += ["", "What will fail:"]
        for problem in self.problems:
            lines += [f"  {problem.what}", f"    error: {_first_line(problem.error)}", f"    fix:   {problem.fix}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in self._rows()
        )
        failing = "".join(
            "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in problem) + "</tr>" for problem in self.problems
        )
        table = "<table><tr><th>What will fail</th><th>Error</th><th>Fix</th></tr>" + failing + "</table>"
        return (
            f"<p><b>{html.escape(self.description)}</b><br>{html.escape(self._heading())}: "
            f"{html.escape(_MEANING[self.kind])}</p><table>{rows}</table>{table if failing else ''}"
        )

    def _heading(self) -> str:
        return ", ".join([_HEADINGS[self.kind], *(_TRAITS[name] for name in _TRAITS if name in self.traits)])

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "requires grad", "yes: a backward pass can reach it" if self.requires_grad else "no"
        yield "leaf", "yes: no operation that autograd recorded computed it" if self.is_leaf else "no"
        yield "view", self._view()
        yield "version", str(self.version) if self.version is not None else f"none: {self.version_reason}"
        yield "grad_fn", self.grad_fn or "none: no history behind it"
        least = "at least " if self.unread else ""
        yield "graph", f"{_many(self.nodes, 'autograd node')}, {least}{self.saved_bytes:,} bytes saved for backward"
        yield "graph alone", f"keeps {self.graph_bytes:,} of those bytes alive{self._uncounted()}"
        yield "memory", f"{self.storage_bytes:,} bytes" if self.storage_bytes is not None else "in other tensors"
        yield "created", self._creation_site()

    def _view(self) -> str:
        if self.view_tracked:
            return f"of {self.base}; autograd tracks it"
        return "of a larger storage; autograd does not track it as a view" if self.is_view else "no"

    def _uncounted(self) -> str:
        notes = []
        if self.hooked:
            notes.append(f"{_many(self.hooked, 'saved tensor')} passed to hooks, not counted")
        if self.unread:
            notes.append(f"{_many(self.unread, 'saved tensor')} could not be read")
        return f" ({'; '.join(notes)})" if notes else ""

    def _creation_site(self) -> str:
        if self.born is None:
            return "unknown: no recorder saw it"
        module = f" in module {self.born.module}" if self.born.module else ""
        return f"{self.born.file}:{self.born.line} in {self.born.function}, by {self.born.op}{module}"


def inspect(tensor: torch.Tensor) -> Inspection:
    """Report the kind of a tensor, what it keeps alive, what will fail with it and how to fix that.

    It modifies nothing and keeps nothing alive. The user's function modes and tensor subclasses do not see its reads.

    Args:
        tensor (torch.Tensor): tensor of any kind: dense, sparse, nested, quantized, fake, a subclass, or traced by a
            transform.

    Returns:
        Inspection: its state, in plain values.

    Raises:
        InvalidArgument: ``tensor`` is not a ``torch.Tensor``.

    .. note::
        The creation site is known if the tensor was created while a recording at level ``"ops"`` was open.

    Example::

        with torch.inference_mode():
            features = model(batch)
        print(gradprobe.inspect(features))
    """
    from gradprobe.capture.autograd import creation, tensor_reader
    from gradprobe.capture.autograd.graph import read_graph
    from gradprobe.capture.autograd.saved_tensors import read_saved_tensors

    if not tensor_reader.is_tensor(tensor):
        raise InvalidArgument(_reject(tensor))
    graph = read_graph([tensor])
    facts = tensor_reader.read_facts(tensor, graph)
    return Inspection(
        description=tensor_reader.describe_tensor(tensor),
        kind=TensorKind(facts.kind),
        traits=tuple(sorted(facts.traits)),
        requires_grad=facts.requires_grad,
        is_leaf=facts.is_leaf,
        is_view=facts.is_view or "part" in facts.traits,
        view_tracked=facts.is_view,
        base=tensor_reader.describe_base(tensor),
        version=facts.version,
        version_reason=tensor_problems.explain_missing_version(facts),
        grad_fn=facts.grad_fn,
        nodes=graph.nodes,
        saved_bytes=graph.saved_bytes,
        graph_bytes=graph.graph_bytes,
        hooked=graph.hooked,
        unread=graph.unread,
        storage_bytes=tensor_reader.storage_nbytes(tensor),
        born=creation.creation_site(tensor),
        problems=tensor_problems.find_problems(facts),
        _saved=tuple(read_saved_tensors(tensor)),
    )


def _reject(value: Any) -> str:
    """Return the error for something that is not a tensor, with a fix for its type."""
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    library = kind.__module__.split(".")[0]
    if library == "numpy":
        advice = "convert it with torch.from_numpy() or torch.as_tensor()"
    elif issubclass(kind, list | tuple | dict | set):
        advice = "inspect its tensors one by one"
    elif any(base.__module__.startswith("torch.nn.modules") for base in kind.__mro__):
        advice = "inspect one of its parameters() or buffers()"
    elif hasattr(kind, "__dlpack__"):
        advice = "convert it with torch.from_dlpack()"
    else:
        advice = "pass a torch.Tensor"
    return f"tensor must be a torch.Tensor, got a {name}; {advice}"


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
