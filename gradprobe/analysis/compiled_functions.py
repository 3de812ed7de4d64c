"""Compiled functions of a recording, and why ``torch.compile`` compiled them again, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradprobe.history.process import Process
from gradprobe.recording.events import COMPILED_CALL
from gradprobe.recording.notes import Compilation, read_compilations


@dataclass
class CompiledFunction:
    """A function that ran compiled: its calls, and the graphs it was compiled to, each with how often."""

    name: str
    file: str | None
    line: int | None
    calls: int = 0
    graphs: list[tuple[Compilation, int]] = field(default_factory=list)


def list_compiled_functions(processes: Sequence[Process]) -> list[CompiledFunction]:
    """Return the functions that were compiled or ran compiled, the most often called first."""
    found: dict[tuple[str | None, int | None], CompiledFunction] = {}
    for process in processes:
        for mark in process.history.marks.of(COMPILED_CALL):
            file, line, name = process.place(mark.site)
            found.setdefault((file, line), CompiledFunction(name or "?", file, line)).calls += 1
        for compilation, count in read_compilations(process.contents.notes):
            at = compilation.function
            function = found.setdefault((at.file, at.line), CompiledFunction(at.function, at.file, at.line))
            function.graphs.append((compilation, count))
    return sorted(found.values(), key=lambda function: -function.calls)


_GRAPH = re.compile(r"^\d+/\d+: ")
_KEYS = re.compile(
    r"tensor '(?P<name>.+)' dispatch key set mismatch\. expected DispatchKeySet\((?P<expected>.*)\), "
    r"actual DispatchKeySet\((?P<actual>.*)\)"
)
_REQUIRES = re.compile(r"tensor '(?P<name>.+)' requires_grad mismatch\. expected requires_grad=(?P<expected>[01])")

_LOCAL = re.compile(r"^L\['(\w+)'\]")


def explain_recompilation(reason: str) -> str | None:
    """Return why a graph was not reused, or None if the reason is neither a mode nor a kind of tensor."""
    reason = _GRAPH.sub("", reason).strip()
    if reason.startswith("GLOBAL_STATE changed:"):
        changed = reason.removeprefix("GLOBAL_STATE changed:").split()
        return "grad mode was different at compilation" if "grad_mode" in changed else None
    keys = _KEYS.search(reason)
    if keys is not None:
        return _explain_keys(_strip_lookup(keys["name"]), _parse_keys(keys["expected"]), _parse_keys(keys["actual"]))
    requires = _REQUIRES.search(reason)
    if requires is not None:
        now, then = ("does not require", "did") if requires["expected"] == "1" else ("requires", "did not")
        return f"{_strip_lookup(requires['name'])} {now} grad, but {then} at compilation"
    return None


def _strip_lookup(name: str) -> str:
    """Return the name of a variable, which older versions of PyTorch write as a lookup: ``L['x']``."""
    return _LOCAL.sub(r"\1", name)


def _explain_keys(name: str, expected: frozenset[str], actual: frozenset[str]) -> str | None:
    normal_tensor_key = "ADInplaceOrView"
    if normal_tensor_key in expected and normal_tensor_key not in actual:
        return f"{name} is an inference tensor, but was a normal tensor at compilation"
    if normal_tensor_key in actual and normal_tensor_key not in expected:
        return f"{name} is a normal tensor, but was an inference tensor at compilation"
    autograd = {key for key in expected ^ actual if key.startswith("Autograd")}
    if autograd:
        now, then = ("inside", "outside") if autograd <= expected else ("outside", "inside")
        return f"{name} is used {now} inference mode, but was used {then} it at compilation"
    return None


def _parse_keys(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(","))
