"""From what was found of several versions to the table of docs/versions.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

from gradprobe.capture.capabilities import OPTIONAL_TORCH_FEATURES, PYTHON_FEATURES

BEGIN, END = "<!-- table -->", "<!-- end of the table -->"
OF_THE_MACHINE = {"CUDA device", "level ops"}
CONSEQUENCES = {
    **OPTIONAL_TORCH_FEATURES,
    **{name: without for name, (_, without) in PYTHON_FEATURES.items()},
    "calls of compiled code": "only compilations are counted",
    "autograd node counter": "nodes are not counted",
    "thread start": "threads may be confused",
}
"""What gradprobe does without a part, in the words of today's code."""
_MANAGERS = ("torch.no_grad.", "torch.enable_grad.", "torch.set_grad_enabled.", "torch.inference_mode.")


def written(page: str, environments: Sequence[dict[str, Any]]) -> str:
    """``page`` with the table of these environments."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n\n{table(environments)}\n\n{END}{after}"


def table(environments: Sequence[dict[str, Any]]) -> str:
    """Return a column per environment, a row per part or program, and the reasons of gaps by their numbers."""
    reasons: dict[str, int] = {}
    programs = dict.fromkeys(name for one in environments for name in one["programs"])
    parts = dict.fromkeys(name for one in environments for name in one["capabilities"])
    rows = [
        *([name, *(_program(one, name, reasons) for one in environments)] for name in programs),
        ["methods of PyTorch's context managers reimplemented", *(_managers(one, reasons) for one in environments)],
        *(
            [f"`{name}`" if "." in name else name, *(_part(one, name, reasons) for one in environments)]
            for name in parts
            if name not in OF_THE_MACHINE and not name.startswith(_MANAGERS)
        ),
    ]
    headings = ["", *(f"PyTorch {one['torch']}, Python {one['python']}" for one in environments)]
    notes = [f"{number}. {reason}" for reason, number in reasons.items()]
    return "\n".join(
        [tabulate(rows, headings, tablefmt="github", disable_numparse=True), *(["", *notes] if notes else [])]
    )


def _gap(reason: str, reasons: dict[str, int]) -> str:
    return f"no ({reasons.setdefault(reason, len(reasons) + 1)})"


def _program(one: dict[str, Any], name: str, reasons: dict[str, int]) -> str:
    if name not in one["programs"]:
        return "not run"
    error = one["programs"][name]
    if error is None:
        return "yes"
    needed = one["needs"].get(name)
    if needed is not None and not one["capabilities"].get(needed, True):
        return _gap(_missing(one, needed), reasons)
    return _gap(f"A fault: {error}", reasons)


def _missing(one: dict[str, Any], name: str) -> str:
    """Return the sentence on a part that an environment lacks."""
    if name == "level ops":
        return f"Level `ops` is refused: {one['refusal']}."
    shown = f"`{name}` is missing" if "." in name else name
    return f"{shown}: {CONSEQUENCES[name]}."


def _managers(one: dict[str, Any], reasons: dict[str, int]) -> str:
    other = [f"`{name}`" for name, there in one["capabilities"].items() if name.startswith(_MANAGERS) and not there]
    return _gap(f"{', '.join(other)}: wrapped, which is slower.", reasons) if other else "yes"


def _part(one: dict[str, Any], name: str, reasons: dict[str, int]) -> str:
    if name not in one["capabilities"]:
        return "not known"
    return "yes" if one["capabilities"][name] else _gap(_missing(one, name), reasons)
