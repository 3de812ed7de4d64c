"""From what was found of several versions to the table of docs/versions.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

BEGIN, END = "<!-- table -->", "<!-- end of the table -->"
OF_THE_MACHINE = {"CUDA device", "native core"}
_MANAGERS = ("torch.no_grad.", "torch.enable_grad.", "torch.set_grad_enabled.", "torch.inference_mode.")


def written(page: str, environments: Sequence[dict[str, Any]]) -> str:
    """``page`` with the table of these environments."""
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return f"{before}{BEGIN}\n\n{table(environments)}\n\n{END}{after}"


def table(environments: Sequence[dict[str, Any]]) -> str:
    """A column per environment, a row per thing that works or does not; then the reasons, by their numbers."""
    reasons: dict[str, int] = {}
    programs = dict.fromkeys(name for one in environments for name in one["programs"])
    parts = dict.fromkeys(name for one in environments for name, _, _ in one["capabilities"])
    folders = sorted({folder for one in environments for folder in one["tests"]})
    rows = [
        *([name, *(_program(one, name, reasons) for one in environments)] for name in programs),
        ["methods of PyTorch's managers reimplemented", *(_managers(one, reasons) for one in environments)],
        *(
            [f"`{name}`" if "." in name else name, *(_part(one, name, reasons) for one in environments)]
            for name in parts
            if name not in OF_THE_MACHINE and not name.startswith(_MANAGERS)
        ),
        *([f"`tests/{folder}`", *(_tests(one, folder, reasons) for one in environments)] for folder in folders),
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
    missing = one["needs"].get(name)
    told = {name: what for name, there, what in one["capabilities"] if not there}
    return _gap(_missing(missing, told[missing]) if missing in told else f"A fault: {error}", reasons)


def _missing(name: str, what: str) -> str:
    shown = f"`{name}` is not there" if "." in name else name
    return f"{shown}: {what}."


def _managers(one: dict[str, Any], reasons: dict[str, int]) -> str:
    other = [f"`{name}`" for name, there, _ in one["capabilities"] if name.startswith(_MANAGERS) and not there]
    return _gap(f"{', '.join(other)}: wrapped (slower).", reasons) if other else "yes"


def _part(one: dict[str, Any], name: str, reasons: dict[str, int]) -> str:
    for known, there, what in one["capabilities"]:
        if known == name:
            return "yes" if there else _gap(_missing(name, what), reasons)
    return "not asked"


def _tests(one: dict[str, Any], folder: str, reasons: dict[str, int]) -> str:
    counts = one["tests"].get(folder)
    if counts is None:
        return "not run"
    told = ", ".join(
        f"{counts[name]:,} {name}" for name in ("passed", "failed", "error", "skipped") if counts.get(name)
    )
    failing = ", ".join(f"`{name}`" for name in counts["failing"])
    return f"{told} ({reasons.setdefault(f'Fails: {failing}.', len(reasons) + 1)})" if failing else told
