"""What ``torch.compile`` made of which function, and why it had to make it again, in sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradprobe.history.process import Process
from gradprobe.recording.events import COMPILED_CALL
from gradprobe.recording.notes import Compilation, read_compilations

Line = tuple[str | None, int | None]


@dataclass
class CompiledFunction:
    """A function that ran compiled: its calls, and the graphs that were made of it."""

    name: str
    file: str | None
    line: int | None
    calls: int = 0
    graphs: list[tuple[Compilation, int]] = field(default_factory=list)


def list_compiled_functions(processes: Sequence[Process]) -> list[CompiledFunction]:
    """Those that were called or compiled, the most often called first."""
    found: dict[Line, CompiledFunction] = {}
    for process in processes:
        for mark in process.history.marks:
            if mark.op == COMPILED_CALL:
                file, line, name = process.place(mark.site)
                found.setdefault((file, line), CompiledFunction(name or "?", file, line)).calls += 1
        for made, count in read_compilations(process.contents.notes):
            where = made.function
            known = found.setdefault((where.file, where.line), CompiledFunction(where.function, where.file, where.line))
            known.graphs.append((made, count))
    return sorted(found.values(), key=lambda function: -function.calls)


_GRAPH = re.compile(r"^\d+/\d+: ")
_KEYS = re.compile(
    r"tensor '(?P<name>.+)' dispatch key set mismatch\. expected DispatchKeySet\((?P<expected>.*)\), "
    r"actual DispatchKeySet\((?P<actual>.*)\)"
)
_REQUIRES = re.compile(r"tensor '(?P<name>.+)' requires_grad mismatch\. expected requires_grad=(?P<expected>[01])")

_LOCAL = re.compile(r"^L\['(\w+)'\]")


def explain_recompilation(reason: str) -> str | None:
    """Why a graph that was there did not do, where a mode or a kind of tensor is why; None where something else is."""
    reason = _GRAPH.sub("", reason).strip()
    if reason.startswith("GLOBAL_STATE changed:"):
        changed = reason.removeprefix("GLOBAL_STATE changed:").split()
        return "gradients were switched the other way at its compilation" if "grad_mode" in changed else None
    keys = _KEYS.search(reason)
    if keys is not None:
        return _of_keys(_plain(keys["name"]), _set(keys["expected"]), _set(keys["actual"]))
    requires = _REQUIRES.search(reason)
    if requires is not None:
        does, did = ("does not require", "required") if requires["expected"] == "1" else ("requires", "did not require")
        return f"{_plain(requires['name'])} {does} grad, and {did} it at its compilation"
    return None


def _plain(name: str) -> str:
    """The name of a variable, which older versions write as they look it up."""
    return _LOCAL.sub(r"\1", name)


def _of_keys(name: str, expected: frozenset[str], actual: frozenset[str]) -> str | None:
    counted = "ADInplaceOrView"
    if counted in expected and counted not in actual:
        return f"{name} is an inference tensor, and was a normal one at its compilation"
    if counted in actual and counted not in expected:
        return f"{name} is a normal tensor, and was an inference tensor at its compilation"
    autograd = {key for key in expected ^ actual if key.startswith("Autograd")}
    if autograd:
        now, then = ("inside", "outside") if autograd <= expected else ("outside", "inside")
        return f"{name} comes {now} inference mode, and came {then} of it at its compilation"
    return None


def _set(text: str) -> frozenset[str]:
    return frozenset(part.strip() for part in text.split(","))
