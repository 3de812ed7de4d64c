"""State that a call reads and may change: it is copied before the first call and restored between calls."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from gradprobe.comparison.state.containers import ContainerState, ContainerValues, has_grown, is_same_content
from gradprobe.comparison.state.reachable import ReachableState
from gradprobe.comparison.state.tensor_state import TensorState, compute_copy_bytes

MAX_COPIED_BYTES = 1 << 30
"""Maximum number of bytes to copy. Beyond it only version counters show which tensors change, and none is restored."""


class CallState:
    """Initial state of a call. ``detect_changes`` finds what a call changed, ``restore`` undoes it before the next call."""

    def __init__(self, call: Callable[[], object], seed: int) -> None:
        self.call = call
        self.is_random = False
        self._seed = seed
        self._tensors: dict[int, TensorState] = {}
        self._containers: dict[int, ContainerState] = {}
        self._changing: set[int] = set()
        self._growing = False
        self._add_reachable()
        self._initial_values = {key: container.values for key, container in self._containers.items()}
        self.reseed()
        self._initial_generators = _read_generators()

    def _add_reachable(self) -> None:
        """Add the tensors and containers that the call can reach and that are not known yet."""
        reachable = ReachableState(self.call)
        new = [tensor for key, tensor in reachable.tensors.items() if key not in self._tensors]
        known = (state.tensor for state in self._tensors.values())
        copies = sum(map(compute_copy_bytes, (*new, *known))) <= MAX_COPIED_BYTES
        self._tensors.update((id(tensor), TensorState(tensor, copies=copies)) for tensor in new)
        for key, container in reachable.containers.items():
            self._containers.setdefault(key, container)

    def detect_changes(self, call_again: Callable[[], object] | None = None) -> None:
        """Compare with the initial state, after a call.

        ``call_again`` is called if a container has other values than before. Values that a further call leaves alone were
        set up once by the first one, as caches and compiled code are, and stay.
        """
        self.is_random = self.is_random or not _is_same_generators(self._initial_generators, _read_generators())
        changed = self._find_changed_containers()
        if changed and call_again is not None:
            call_again()
            after = self._find_changed_containers()
            settled = {
                key: values for key, values in changed.items() if key in after and is_same_content(values, after[key])
            }
            if not self._accept_settled(settled, call_again):
                settled = {}
            changed = {key: values for key, values in after.items() if key not in settled}
        self._record_changes(changed)
        for state in self._tensors.values():
            state.detect_change()

    def _accept_settled(self, settled: dict[int, ContainerValues], call_again: Callable[[], object]) -> bool:
        """Make values that were set up once part of the initial state, unless each call changes what is inside them."""
        containers, tensors = self._containers, self._tensors
        self._containers, self._tensors = dict(containers), dict(tensors)
        self._add_reachable()
        call_again()
        new_containers = [container for key, container in self._containers.items() if key not in containers]
        new_tensors = [state for key, state in self._tensors.items() if key not in tensors]
        if any(not is_same_content(container.values, container.read()) for container in new_containers) or any(
            state.differs() for state in new_tensors
        ):
            self._containers, self._tensors = containers, tensors
            return False
        for key, values in settled.items():
            self._containers[key].values = values
        return True

    def _find_changed_containers(self) -> dict[int, ContainerValues]:
        """Return the present values of containers that have other ones than initially and are not known to change."""
        present = {key: container.read() for key, container in self._containers.items() if key not in self._changing}
        return {key: now for key, now in present.items() if not is_same_content(self._containers[key].values, now)}

    def _record_changes(self, changed: dict[int, ContainerValues]) -> None:
        self._changing |= set(changed)
        self._growing = self._growing or any(
            has_grown(self._containers[key].values, values) for key, values in changed.items()
        )

    @property
    def changes(self) -> int:
        """Number of tensors, and of containers of other values, that a call changes."""
        return sum(state.changed for state in self._tensors.values()) + len(self._changing)

    @property
    def unrestorable(self) -> int:
        """Number of changed tensors that cannot be restored because there is no copy of them."""
        return sum(state.changed and not state.has_copy for state in self._tensors.values())

    @property
    def grows(self) -> bool:
        """True if the changed values grow from call to call."""
        return self._growing

    def restore(self) -> Callable[[], object]:
        """Restore what the call changes and return the call."""
        for key in self._changing:
            self._containers[key].restore_values(self._containers[key].values)
        for state in self._tensors.values():
            if state.changed:
                state.restore_values()
        if self.is_random:
            self.reseed()
        return self.call

    def restore_initial(self) -> None:
        """Restore everything, including what the first call set up once."""
        self.restore()
        for key, values in self._initial_values.items():
            if not is_same_content(values, self._containers[key].read()):
                self._containers[key].restore_values(values)

    def reseed(self) -> None:
        """Seed the generators of torch, random and NumPy."""
        torch.manual_seed(self._seed)
        random.seed(self._seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(self._seed % 2**32)


def _read_generators() -> tuple[object, ...]:
    numpy = sys.modules.get("numpy")
    states: list[object] = [torch.get_rng_state(), random.getstate()]
    states.append(str(numpy.random.get_state()) if numpy is not None else None)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return tuple(states)


def _is_same_generators(before: tuple[object, ...], after: tuple[object, ...]) -> bool:
    return len(before) == len(after) and all(
        torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other
        for one, other in zip(before, after, strict=True)
    )
