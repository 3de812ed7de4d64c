"""Attributes of modules and parameters that are meant to be ``requires_grad`` and are not."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gradprobe.recording.flow import MISSPELT_FLAGS, REQUIRES_GRAD


def list_futile_flags(root: torch.nn.Module, root_name: str) -> Iterator[tuple[str, str]]:
    """Yield the dotted name of each module or parameter with such an attribute that is False, and the attribute's name."""
    waiting, seen = [(root_name, root)], {id(root)}
    while waiting:
        name, module = waiting.pop()
        members = vars(module)
        yield from ((name, flag) for flag in (REQUIRES_GRAD, *MISSPELT_FLAGS) if members.get(flag) is False)
        for key, parameter in list(members.get("_parameters", {}).items()):
            attributes = getattr(parameter, "__dict__", {})
            yield from ((f"{name}.{key}", flag) for flag in MISSPELT_FLAGS if attributes.get(flag) is False)
        for key, child in list(members.get("_modules", {}).items()):
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{name}.{key}", child))
