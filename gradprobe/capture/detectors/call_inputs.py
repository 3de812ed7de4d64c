"""What the result of a running function may depend on: its arguments, and the tensors and modules that it can reach."""

from __future__ import annotations

from collections.abc import Iterator
from types import FrameType
from typing import Any

import torch

from gradprobe.capture.location.frames import forget_locals

_MAX_ITEMS = 64


def read_inputs(frame: FrameType) -> tuple[list[Any], list[Any]]:
    """Return the arguments of a running function, and what else it may reach by names: tensors, modules and settings."""
    code = frame.f_code
    number = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & 4) + bool(code.co_flags & 8)
    local = frame.f_locals
    arguments = [local.get(name) for name in code.co_varnames[:number]]
    others = [local.get(name) for name in code.co_freevars]
    del local
    forget_locals([frame])
    others += [frame.f_globals.get(name) for name in code.co_names]
    for value in arguments:
        if not isinstance(value, torch.Tensor | torch.nn.Module):
            others += _list_attributes(value)
    kinds = torch.Tensor | torch.nn.Module | bool | float | str  # whole numbers may count calls
    reached = [item for value in others for item in _iter_items(value) if isinstance(item, kinds)]
    return [item for value in arguments for item in _iter_items(value)], reached


def _list_attributes(value: Any) -> list[Any]:
    """Return the values of an object's attributes, without code of its class."""
    try:
        attributes = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return []
    return list(attributes.values()) if isinstance(attributes, dict) else []


def _iter_items(value: Any) -> Iterator[Any]:
    """Yield a value, or the items of a list, tuple or dict one by one after their number."""
    if isinstance(value, list | tuple):
        yield len(value)
        yield from value[:_MAX_ITEMS]
    elif isinstance(value, dict):
        yield len(value)
        yield from list(value.values())[:_MAX_ITEMS]
    else:
        yield value


def describe_module(module: torch.nn.Module) -> tuple[Any, ...]:
    """Return what the results of a module depend on: whether it and its children train, versions, plain settings."""
    versions, training, settings = 0, [], []
    waiting, seen = [module], {id(module)}
    while waiting:
        current = waiting.pop()
        members = vars(current)
        training.append(members.get("training"))
        for name in ("_parameters", "_buffers"):
            for tensor in list(members.get(name, {}).values()):
                if tensor is not None:
                    versions += 0 if tensor.is_inference() else tensor._version + 1
        settings += [value for value in members.values() if isinstance(value, float)]
        for child in list(members.get("_modules", {}).values()):
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)
    return versions, tuple(training), tuple(settings)
