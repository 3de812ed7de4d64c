"""What a call reads and may change: what is within its reach, kept and put back."""

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
"""Beyond this, tensors are watched by their version counters alone, and no copy of them is kept."""


class CallState:
    """The state that a call starts from. ``look`` after a first call finds what it changes; ``restore`` puts that back."""

    def __init__(self, call: Callable[[], object], seed: int) -> None:
        self.call = call
        self.is_random = False
        self._seed = seed
        self._kept: dict[int, TensorState] = {}
        self._holders: dict[int, ContainerState] = {}
        self._changing: set[int] = set()
        self._growing = False
        self._reach()
        self._at_first = {key: holder.held for key, holder in self._holders.items()}
        self.reseed()
        self._before = _generators()

    def _reach(self) -> None:
        """Takes up what is within reach of the call and was not before."""
        reach = ReachableState(self.call)
        new = [tensor for key, tensor in reach.tensors.items() if key not in self._kept]
        copies = (
            sum(map(compute_copy_bytes, (*new, *(kept.tensor for kept in self._kept.values())))) <= MAX_COPIED_BYTES
        )
        self._kept.update((id(tensor), TensorState(tensor, copies=copies)) for tensor in new)
        for key, holder in reach.holders.items():
            self._holders.setdefault(key, holder)

    def look(self, again: Callable[[], object] | None = None) -> None:
        """Compares with the beginning, after one call.

        ``again`` calls once more where something holds other values than before: what further calls leave as the first one
        left it was set up once, as caches and compiled code are, and stays.
        """
        self.is_random = self.is_random or not _same_generators(self._before, _generators())
        found = self._differing()
        if found and again is not None:
            again()
            after = self._differing()
            settled = {key: held for key, held in found.items() if key in after and is_same_content(held, after[key])}
            if not self._settle(settled, again):
                settled = {}
            found = {key: held for key, held in after.items() if key not in settled}
        self._note(found)
        for kept in self._kept.values():
            kept.look()

    def _settle(self, settled: dict[int, ContainerValues], again: Callable[[], object]) -> bool:
        """Takes what was set up as given, unless what is in it changes with every call."""
        holders, kept = self._holders, self._kept
        self._holders, self._kept = dict(holders), dict(kept)
        self._reach()
        again()
        new_holders = [holder for key, holder in self._holders.items() if key not in holders]
        new_tensors = [one for key, one in self._kept.items() if key not in kept]
        if any(not is_same_content(holder.held, holder.now()) for holder in new_holders) or any(
            kept.differs() for kept in new_tensors
        ):
            self._holders, self._kept = holders, kept
            return False
        for key, held in settled.items():
            self._holders[key].held = held
        return True

    def _differing(self) -> dict[int, ContainerValues]:
        """What those hold now that held other values at the beginning, and are not known to change."""
        held = {key: holder.now() for key, holder in self._holders.items() if key not in self._changing}
        return {key: now for key, now in held.items() if not is_same_content(self._holders[key].held, now)}

    def _note(self, changing: dict[int, ContainerValues]) -> None:
        self._changing |= set(changing)
        self._growing = self._growing or any(has_grown(self._holders[key].held, held) for key, held in changing.items())

    @property
    def changes(self) -> int:
        """How many tensors, and holders of other values, it changes."""
        return sum(kept.changed for kept in self._kept.values()) + len(self._changing)

    @property
    def lost(self) -> int:
        """How many of the tensors that it changes cannot be put back: there is no copy of them."""
        return sum(kept.changed and not kept.has_copy for kept in self._kept.values())

    @property
    def grows(self) -> bool:
        """Whether what it changes grows from call to call."""
        return self._growing

    def restore(self) -> Callable[[], object]:
        """Puts back what the call changes, and gives the call to make next."""
        for key in self._changing:
            self._holders[key].restore_values(self._holders[key].held)
        for kept in self._kept.values():
            if kept.changed:
                kept.restore_values()
        if self.is_random:
            self.reseed()
        return self.call

    def leave(self) -> None:
        """Puts everything back to the beginning, what was set up once as well."""
        self.restore()
        for key, held in self._at_first.items():
            if not is_same_content(held, self._holders[key].now()):
                self._holders[key].restore_values(held)

    def reseed(self) -> None:
        """Starts the generators of torch, random and NumPy at the seed."""
        torch.manual_seed(self._seed)
        random.seed(self._seed)
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed(self._seed % 2**32)


def _generators() -> tuple[object, ...]:
    numpy = sys.modules.get("numpy")
    states: list[object] = [torch.get_rng_state(), random.getstate()]
    states.append(str(numpy.random.get_state()) if numpy is not None else None)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states += torch.cuda.get_rng_state_all()
    return tuple(states)


def _same_generators(before: tuple[object, ...], after: tuple[object, ...]) -> bool:
    return len(before) == len(after) and all(
        torch.equal(one, other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other
        for one, other in zip(before, after, strict=True)
    )
