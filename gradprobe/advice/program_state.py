"""The state that a program leaves: hashes of the tensors and values that its variables reach, one pair per variable.

Tensors and plain values are hashed apart, because a program that keeps a time or an identity repeats its tensors and not
these. Whether a tensor is an inference tensor is left out: it is what the two runs are meant to differ in.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

_MAX_DEPTH = 12
_MAX_ITEMS = 20_000
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.Size, torch.layout)


class StateReader:
    """Reader of the state behind variables. Each object counts for the first variable that reaches it.

    Args:
        is_own: Whether a module of this name belongs to the program, so that all attributes of its objects count. Of other
            objects only the tensors, modules and containers count.
    """

    def __init__(self, is_own: Callable[[str], bool]) -> None:
        self._is_own = is_own
        self._seen: dict[int, object] = {}
        self._tensors = hashlib.sha256()
        self._plain = hashlib.sha256()
        self._has_tensors = False

    def read(self, variables: Mapping[str, object]) -> dict[str, tuple[str, str]]:
        """Return the hash of the tensors and the hash of the plain values behind each variable; "" if it has no tensors."""
        result = {}
        for name in sorted(variables):
            value = variables[name]
            if name.startswith("__") or isinstance(value, types.ModuleType):
                continue
            self._tensors, self._plain, self._has_tensors = hashlib.sha256(), hashlib.sha256(), False
            self._walk("", value, 0)
            result[name] = (self._tensors.hexdigest()[:16] if self._has_tensors else "", self._plain.hexdigest()[:16])
        return result

    def _walk(self, path: str, value: Any, depth: int) -> None:
        if isinstance(value, _PLAIN):
            self._add_plain(path, f"{type(value).__name__} {value!r}")
            return
        if id(value) in self._seen or depth > _MAX_DEPTH or len(self._seen) > _MAX_ITEMS:
            return
        self._seen[id(value)] = value
        if isinstance(value, torch.Tensor):
            self._add_tensor(path, value, depth)
            return
        for name, part in self._list_parts(value):
            self._walk(f"{path}{name}", part, depth + 1)

    def _list_parts(self, value: Any) -> Iterable[tuple[str, object]]:
        kind = type(value)
        if isinstance(value, Mapping) and isinstance(value, dict | types.MappingProxyType):
            return ((f"[{_name_key(key)}]", part) for key, part in list(value.items()))
        if isinstance(value, list | tuple | deque):
            return ((f"[{number}]", part) for number, part in enumerate(list(value)))
        if isinstance(value, set | frozenset):
            return ((f"{{{_name_key(part)}}}", part) for part in sorted(value, key=_name_key))
        if isinstance(value, torch.optim.Optimizer):
            return [("", value.state_dict())]
        if isinstance(value, types.FunctionType):
            return self._list_function(value) if self._is_own(value.__module__ or "") else ()
        if isinstance(value, types.MethodType):
            return [("", value.__self__), ("", value.__func__)]
        if isinstance(value, functools.partial):
            return [("", value.func), ("", value.args), ("", value.keywords)]
        if isinstance(value, type):
            return self._list_class(value) if self._is_own(value.__module__) else ()
        if isinstance(value, types.ModuleType):
            return ()
        if kind.__module__ == "numpy":
            return [(".numpy", bytes(value.tobytes()))] if hasattr(value, "tobytes") else ()
        return self._list_attributes(value)

    def _list_attributes(self, value: Any) -> Iterator[tuple[str, object]]:
        is_own = self._is_own(type(value).__module__)
        held = getattr(value, "__dict__", None)
        for name, part in list(held.items()) if isinstance(held, dict) else ():
            hidden = isinstance(value, torch.nn.Module) and name.startswith("_") and name not in _OF_MODULES
            if not hidden and (is_own or isinstance(value, torch.nn.Module) or _may_hold_tensors(part)):
                yield f".{name}", part
        for kind in type(value).__mro__ if is_own else ():
            for name in _list_slots(kind):
                if hasattr(value, name):
                    yield f".{name}", getattr(value, name)

    def _list_function(self, function: types.FunctionType) -> Iterator[tuple[str, object]]:
        for number, cell in enumerate(function.__closure__ or ()):
            try:
                yield f".closure[{number}]", cell.cell_contents
            except ValueError:
                continue  # not filled yet
        for number, part in enumerate(function.__defaults__ or ()):
            yield f".default[{number}]", part
        for name, part in (function.__kwdefaults__ or {}).items():
            yield f".default[{name}]", part
        for name, part in vars(function).items():
            yield f".{name}", part

    def _list_class(self, value: type) -> Iterator[tuple[str, object]]:
        for name, part in sorted(vars(value).items()):
            if not name.startswith("__") and not isinstance(part, property | types.GetSetDescriptorType):
                yield f".{name}", part.__func__ if isinstance(part, staticmethod | classmethod) else part

    def _add_tensor(self, path: str, tensor: torch.Tensor, depth: int) -> None:
        self._has_tensors = True
        facts = (path, type(tensor).__name__, tensor.dtype, tensor.layout, tuple(tensor.shape), tensor.requires_grad)
        self._tensors.update(" ".join(map(str, facts)).encode())
        try:
            self._tensors.update(read_bytes(tensor))
        except Exception as error:
            self._tensors.update(type(error).__name__.encode())
        if tensor.is_leaf and tensor.grad is not None:
            self._walk(f"{path}.grad", tensor.grad, depth + 1)
        for name, part in sorted(getattr(tensor, "__dict__", {}).items()):
            self._walk(f"{path}.{name}", part, depth + 1)

    def _add_plain(self, path: str, text: str) -> None:
        self._plain.update(f"{path} {text}\n".encode())


_OF_MODULES = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")


def read_bytes(tensor: torch.Tensor) -> bytes:
    """Return the values of a tensor as bytes, of any layout, device and kind of wrapper."""
    plain = tensor.detach()
    if type(plain) not in (torch.Tensor, torch.nn.Parameter):
        for inner in ("full_tensor", "dequantize"):
            if hasattr(plain, inner) and (inner != "dequantize" or plain.is_quantized):
                plain = getattr(plain, inner)()
    if plain.is_quantized:
        plain = plain.dequantize()
    if plain.layout is not torch.strided:
        plain = plain.to_dense()
    plain = plain.resolve_conj().resolve_neg().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def read_global_state() -> dict[str, str]:
    """Return the state of the process that operators depend on: random generators, the modes, defaults."""
    import random

    generator = hashlib.sha256(torch.get_rng_state().numpy().tobytes())
    cuda: Any = torch.cuda
    if cuda.is_available() and cuda.is_initialized():
        generator.update(cuda.get_rng_state().numpy().tobytes())
    return {
        "the random generator of torch": generator.hexdigest()[:16],
        "the random generator of Python": hashlib.sha256(repr(random.getstate()).encode()).hexdigest()[:16],
        "grad mode at the end": str(torch.is_grad_enabled()),
        "the default dtype": str(torch.get_default_dtype()),
    }


def _name_key(key: object) -> str:
    return repr(key) if isinstance(key, _PLAIN) else type(key).__name__


def _may_hold_tensors(value: object) -> bool:
    return isinstance(value, torch.Tensor | torch.nn.Module | dict | list | tuple | deque)


def _list_slots(kind: type) -> Iterable[str]:
    slots = kind.__dict__.get("__slots__", ())
    return (slots,) if isinstance(slots, str) else slots
