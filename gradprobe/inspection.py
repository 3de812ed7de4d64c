"""``gradprobe.inspect``: what kind of tensor one holds, what it keeps alive, what will fail with it and what to do."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradprobe.analysis import tensor_problems as rules
from gradprobe.analysis.tensor_problems import Problem
from gradprobe.errors import GradprobeError

if TYPE_CHECKING:
    import torch

    from gradprobe.capture.autograd.creation import CreationSite

_MEANING = {
    rules.NORMAL: "autograd can follow it, and a version counter notices when it is changed in place",
    rules.INFERENCE: "made in inference mode: no version counter, and autograd can not use it later",
    rules.INFERENCE_COUNTED: (
        "its data was made in inference mode (by .to() or .data =), so autograd can not use it, though it has the version "
        "counter it was born with"
    ),
    rules.NORMAL_UNCOUNTED: (
        "made in inference mode and then given normal data, so it calls itself normal, but has no version counter"
    ),
}
_TRAITS = {
    "parameter": "a parameter",
    "buffer": "a buffer",
    "subclass": "of a subclass",
    "wrapper": "a subclass that does the operators itself",
    "fake": "a fake tensor, without numbers",
    "meta": "on the meta device, without numbers",
    "sparse": "sparse",
    "nested": "nested",
    "jagged": "nested, in the jagged layout",
    "quantized": "quantized",
    "opaque": "in an opaque layout",
    "complex": "complex",
    "empty": "without elements",
    "overlapping": "expanded: several elements are one in memory",
    "part": "over a part of a larger storage",
    "vmap": "one sample's view of a batch inside torch.vmap",
    "transform": "tracked by a torch.func transform",
    "dual": "a dual number of forward-mode differentiation",
}


@dataclass(frozen=True)
class Inspection:
    """What a tensor is and allows. Plain values: it keeps neither the tensor nor its graph alive.

    ``kind`` is ``normal``, ``inference``, ``inference with a version counter`` or ``normal without a version counter``;
    ``traits`` the further kinds it belongs to. ``view_tracked`` says that autograd knows it as a view (of ``base``);
    ``is_view`` is also True for what covers but a part of a larger storage. ``version`` is None where there is no counter,
    and ``version_reason`` says why. ``nodes``, ``saved_bytes`` and ``graph_bytes`` are those of the graph behind it:
    autograd nodes, bytes of the unique storages saved for backward, and the part of them that nothing but the graph keeps
    alive; ``hooked`` and ``unread`` count saved tensors that are in neither. ``storage_bytes`` is the size of the memory it
    keeps alive itself. ``born`` is where it was made, if a recorder saw it. ``problems`` says what will fail, each as
    (what, the error's text, the fix).
    """

    description: str
    kind: str
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

    @property
    def fix(self) -> str | None:
        """What to do about the first problem; None where nothing is wrong."""
        return self.problems[0].fix if self.problems else None

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
        kind = {
            rules.NORMAL: "A normal tensor",
            rules.INFERENCE: "An inference tensor",
            rules.INFERENCE_COUNTED: "An inference tensor with a version counter",
            rules.NORMAL_UNCOUNTED: "A normal tensor without a version counter",
        }[self.kind]
        return ", ".join([kind, *(_TRAITS[name] for name in _TRAITS if name in self.traits)])

    def _rows(self) -> Iterator[tuple[str, str]]:
        yield "requires grad", "yes: a backward can reach it" if self.requires_grad else "no"
        yield "leaf", "yes: it was not computed by operations that autograd recorded" if self.is_leaf else "no"
        yield "view", self._view()
        yield "version", str(self.version) if self.version is not None else f"none: {self.version_reason}"
        yield "grad_fn", self.grad_fn or "none: no history behind it"
        least = "at least " if self.unread else ""
        yield "graph", f"{_many(self.nodes, 'autograd node')}, {least}{self.saved_bytes:,} bytes saved for backward"
        yield "graph alone", f"keeps {self.graph_bytes:,} of those bytes alive{self._unseen()}"
        yield "memory", f"{self.storage_bytes:,} bytes" if self.storage_bytes is not None else "in other tensors"
        yield "made", self._birth()

    def _view(self) -> str:
        if self.view_tracked:
            return f"of {self.base}; autograd knows it"
        return "of a larger storage; autograd does not know it as a view" if self.is_view else "no"

    def _unseen(self) -> str:
        notes = []
        if self.hooked:
            notes.append(f"{_many(self.hooked, 'saved tensor')} handed to hooks, not counted")
        if self.unread:
            notes.append(f"{_many(self.unread, 'saved tensor')} could not be read")
        return f" ({'; '.join(notes)})" if notes else ""

    def _birth(self) -> str:
        if self.born is None:
            return "not known: no recorder saw it"
        module = f" in module {self.born.module}" if self.born.module else ""
        return f"{self.born.file}:{self.born.line} in {self.born.function}, by {self.born.op}{module}"


def inspect(tensor: torch.Tensor) -> Inspection:
    """What ``tensor`` is and what that allows; changes nothing and keeps nothing alive.

    Raises ``GradprobeError`` for what is no tensor.
    """
    from gradprobe.capture.autograd import creation, tensor_reader
    from gradprobe.capture.autograd.graph import read_graph

    if not tensor_reader.is_tensor(tensor):
        raise GradprobeError(_no_tensor(tensor))
    graph = read_graph([tensor])
    facts = tensor_reader.read_facts(tensor, graph)
    return Inspection(
        description=tensor_reader.describe_tensor(tensor),
        kind=facts.kind,
        traits=tuple(sorted(facts.traits)),
        requires_grad=facts.requires_grad,
        is_leaf=facts.is_leaf,
        is_view=facts.is_view or "part" in facts.traits,
        view_tracked=facts.is_view,
        base=tensor_reader.describe_base(tensor),
        version=facts.version,
        version_reason=rules.explain_missing_version(facts),
        grad_fn=facts.grad_fn,
        nodes=graph.nodes,
        saved_bytes=graph.saved_bytes,
        graph_bytes=graph.graph_bytes,
        hooked=graph.hooked,
        unread=graph.unread,
        storage_bytes=tensor_reader.storage_nbytes(tensor),
        born=creation.creation_site(tensor),
        problems=rules.find_problems(facts),
    )


def _no_tensor(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    library = kind.__module__.split(".")[0]
    if library == "numpy":
        advice = "make a tensor of it with torch.from_numpy() or torch.as_tensor()"
    elif issubclass(kind, list | tuple | dict | set):
        advice = "inspect its tensors one by one"
    elif any(base.__module__.startswith("torch.nn.modules") for base in kind.__mro__):
        advice = "inspect one of its parameters() or buffers()"
    elif hasattr(kind, "__dlpack__"):
        advice = "make a tensor of it with torch.from_dlpack()"
    else:
        advice = "give it a torch.Tensor"
    return f"gradprobe.inspect() was given a {name}, which is no PyTorch tensor: {advice}"


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""


def _many(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
