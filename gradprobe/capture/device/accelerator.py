"""The accelerator that the program uses, by the same calls for CUDA, XPU and MPS; never the first to initialise it."""

from __future__ import annotations

from typing import Any, Protocol

import torch


class DeviceEvent(Protocol):
    """A point in a stream, which the device passes at some time."""

    def record(self) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, end_event: Any) -> float: ...


class Accelerator(Protocol):
    """What is asked of a device. ``event`` gives one that can be recorded on the stream of the thread that calls."""

    def is_in_use(self) -> bool: ...
    def is_capturing(self) -> bool: ...
    def where(self) -> tuple[int, int]: ...
    def event(self, device: int) -> DeviceEvent: ...
    def memory(self, device: int) -> tuple[int, int]: ...


class TorchAccelerator:
    """The accelerator that this PyTorch is built for."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        module: Any = torch.get_device_module(kind)
        # Asking whether a device is there may be what initialises it, and then no fork has one any more.
        in_use: Any = getattr(module, "is_initialized", None) or getattr(module, "is_available", bool)
        self._is_initialized = in_use
        self._is_capturing: Any = getattr(module, "is_current_stream_capturing", bool)
        self._index: Any = torch.accelerator.current_device_index
        self._stream: Any = torch.accelerator.current_stream
        self._stats: Any = getattr(torch._C, "_accelerator_getDeviceStats", None)

    def is_in_use(self) -> bool:
        """Whether the program has initialised it."""
        return bool(self._is_initialized())

    def is_capturing(self) -> bool:
        """Whether the current stream is being captured into a graph."""
        return bool(self._is_capturing())

    def where(self) -> tuple[int, int]:
        """The index of the current device, and the number of its current stream."""
        index = int(self._index())
        return index, int(self._stream(index).stream_id)

    def event(self, device: int) -> DeviceEvent:
        """An event that takes the time, on ``device``."""
        return torch.Event(torch.device(self._kind, device), enable_timing=True)

    def memory(self, device: int) -> tuple[int, int]:
        """Bytes that tensors hold on ``device``, now and at the most so far; -1 where it does not tell."""
        if self._stats is None:
            return -1, -1
        try:
            held = self._stats(device)["allocated_bytes"]["all"]
            return int(held["current"]), int(held["peak"])
        except (KeyError, RuntimeError):  # MPS has no such account
            return -1, -1


def current_accelerator() -> Accelerator | None:
    """The accelerator that this PyTorch is built for, whether or not there is one; None where it is built for none."""
    if not hasattr(torch, "accelerator") or not hasattr(torch, "Event"):
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None or found.type == "cpu" else TorchAccelerator(found.type)
