"""The accelerator that the program uses, by the same calls for CUDA, XPU and MPS.

Nothing here initialises the accelerator before the program does.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class DeviceEvent(Protocol):
    """A point in a stream, with the time at which the device passes it."""

    def record(self) -> None: ...
    def synchronize(self) -> None: ...
    def elapsed_time(self, end_event: Any) -> float: ...


class Accelerator(Protocol):
    """The calls that timing a device needs.

    ``event`` returns an event that can be recorded in the current stream of the calling thread.
    """

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
        # Asking whether a device is available may initialise it, and then no forked process can use it.
        in_use: Any = getattr(module, "is_initialized", None) or getattr(module, "is_available", bool)
        self._is_initialized = in_use
        self._is_capturing: Any = getattr(module, "is_current_stream_capturing", bool)
        self._index: Any = torch.accelerator.current_device_index
        self._stream: Any = torch.accelerator.current_stream
        self._stats: Any = getattr(torch._C, "_accelerator_getDeviceStats", None)

    def is_in_use(self) -> bool:
        """Return whether the program has initialised the accelerator."""
        return bool(self._is_initialized())

    def is_capturing(self) -> bool:
        """Return whether the current stream is being captured into a graph."""
        return bool(self._is_capturing())

    def where(self) -> tuple[int, int]:
        """Return the index of the current device and the id of its current stream."""
        index = int(self._index())
        return index, int(self._stream(index).stream_id)

    def event(self, device: int) -> DeviceEvent:
        """Return a timing event on ``device``."""
        return torch.Event(torch.device(self._kind, device), enable_timing=True)

    def memory(self, device: int) -> tuple[int, int]:
        """Return the current and the peak bytes of tensors on ``device``, -1 if it does not report them."""
        if self._stats is None:
            return -1, -1
        try:
            allocated = self._stats(device)["allocated_bytes"]["all"]
            return int(allocated["current"]), int(allocated["peak"])
        except (KeyError, RuntimeError):  # MPS keeps no such statistics
            return -1, -1


def current_accelerator() -> Accelerator | None:
    """Return the accelerator that this PyTorch is built for, present or not, or None."""
    if not hasattr(torch, "accelerator") or not hasattr(torch, "Event"):
        return None
    found = torch.accelerator.current_accelerator()
    return None if found is None or found.type == "cpu" else TorchAccelerator(found.type)
