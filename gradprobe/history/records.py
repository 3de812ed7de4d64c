"""Records of a history: transitions, regions, probed calls, and the timeline of each thread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gradprobe.recording.events import NOT_COUNTED
from gradprobe.recording.rows import Modes

# Texts of ``Region.irregular``.
REENTERED = "entered again while open"
OUT_OF_ORDER = "left out of order"
OTHER_THREAD = "left on another thread"
ENTERED_EARLIER = "entered before the recording"
UNFINISHED = "never left"
HELD_ACROSS_TASKS = "held while other tasks ran"

MODES: Sequence[Modes] = ((False, False), (True, False), (False, True), (True, True))
"""Modes by their code in a column: grad mode in the first bit, inference mode in the second."""


def encode_modes(modes: Modes) -> int:
    """Return the code of ``modes`` in a column."""
    return modes[0] | modes[1] << 1


class _WeaklyReferable:
    __slots__ = ("__weakref__",)


@dataclass(eq=False, slots=True)
class Region(_WeaklyReferable):
    """A block from enter to exit, or what follows a plain call until something else takes over."""

    number: int
    manager: str
    form: str
    site: int
    thread: int
    task: str | None
    start_ns: int
    before: Modes
    inside: Modes
    parent: Region | None
    depth: int
    internal: bool = False
    end_ns: int | None = None
    start_nodes: int = NOT_COUNTED
    end_nodes: int = NOT_COUNTED
    child_ns: int = 0
    child_nodes: int = 0
    error: str = ""
    irregular: list[str] = field(default_factory=list)
    reentrant_regions: list[Region] = field(default_factory=list)
    """Blocks for which its context manager object was entered while it was open."""
    closed: bool = False
    phase: str = ""
    """Name of the phase that it began in; empty if there was none."""
    is_shared: bool = False
    """True if other asyncio tasks of the thread ran blocks while it was open."""

    @property
    def nodes(self) -> int | None:
        """Number of autograd nodes constructed; None if not counted, or if several tasks share the count."""
        if self.is_shared or NOT_COUNTED in (self.start_nodes, self.end_nodes):
            return None
        return self.end_nodes - self.start_nodes


@dataclass(eq=False, slots=True)
class Transition:
    """A change of the modes, or the attempt."""

    time_ns: int
    thread: int
    task: str | None
    manager: str
    form: str
    event: str
    before: Modes
    after: Modes
    depth: int
    region: Region | None
    site: int
    phase: str = ""


class Change(NamedTuple):
    """Event that enters, exits or sets a mode, as far as it is known."""

    time_ns: int
    task: str | None
    site: int
    internal: bool
    before: Modes
    after: Modes
    nodes: int


@dataclass(eq=False)
class ProbedCall:
    """Call of a probed function. ``active_ns`` and ``nodes`` leave out the time it is suspended."""

    key: int
    site: int
    thread: int
    task: str | None
    start_ns: int
    last_resumed_ns: int
    last_resumed_nodes: int
    active_ns: int = 0
    nodes: int | None = 0
    steps: int = 1
    error: str = ""
    closed: bool = False


@dataclass
class ThreadTimeline:
    """Time and nodes of one thread, by mode. ``hidden_ns`` passed in modes that PyTorch's own code set."""

    thread: int
    began_ns: int
    state: Modes | None
    last_ns: int
    ended_ns: int | None = None
    ns_by_state: dict[Modes, int] = field(default_factory=lambda: defaultdict(int))
    nodes_by_state: dict[Modes, int] = field(default_factory=lambda: defaultdict(int))
    hidden_ns: int = 0
    has_jumped: bool = False  # the modes were found changed, at an event that is hidden
    visible: Modes | None = None  # what the last visible event left
    open_internal_blocks: int = 0
    left_by_program: Modes | None = None  # what the last event outside of PyTorch's own code left
    is_changed_by_torch: bool = False  # PyTorch's own code has set other modes since
    last_nodes: int = NOT_COUNTED
    running_calls: int = 0  # probed calls that run in it
    is_watched: bool = False  # its operators are observed, at a level that observes any
    doubtful: Transition | None = None  # the last transition, if the event after it must show which modes it left

    def advance(self, time_ns: int, nodes: int) -> None:
        """Charge the time and the nodes since the last event to the modes of the thread."""
        passed = max(time_ns - self.last_ns, 0)
        if self.state is not None:
            self.ns_by_state[self.state] += passed
            if self.open_internal_blocks or self.is_changed_by_torch:
                self.hidden_ns += passed
            if NOT_COUNTED not in (nodes, self.last_nodes):
                self.nodes_by_state[self.state] += nodes - self.last_nodes
        self.last_ns = time_ns
        if nodes != NOT_COUNTED:
            self.last_nodes = nodes


@dataclass(frozen=True)
class EventMark:
    """A place in the stream of events to which rows of another table belong, by their key."""

    op: int
    key: int
    region: Region | None
    thread: int
    site: int
    time_ns: int
    phase: str = ""
