"""What a history consists of: transitions, regions, probed calls, and the lane of each thread."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from gradprobe.recording.events import NOT_COUNTED, NOT_READ

RawRow = tuple[int, int, int, int, int, int, int, int]
Modes = tuple[bool, bool]  # grad mode, inference mode
INITIAL_MODES: Modes = (True, False)

# How generators and coroutines end and are put away: no failures.
GENERATOR_EXITS = frozenset({"StopIteration", "StopAsyncIteration", "GeneratorExit"})


def is_failure(error: str) -> bool:
    """Whether an exception's name tells of more than a generator's or a coroutine's usual end."""
    return bool(error) and error not in GENERATOR_EXITS


REENTERED = "entered again while open"
OUT_OF_ORDER = "left out of order"
OTHER_THREAD = "left on another thread"
ENTERED_EARLIER = "entered before the recording"
UNFINISHED = "never left"
HELD_ACROSS_TASKS = "held while other tasks ran"


@dataclass(eq=False, slots=True)
class Region:
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
    """Blocks that its manager object was entered for while it was open."""
    closed: bool = False
    is_shared: bool = False
    """Whether other asyncio tasks of the thread ran blocks while it was open."""

    @property
    def nodes(self) -> int | None:
        """Autograd nodes that the thread constructed; None where they were not counted, or are those of several tasks."""
        if self.is_shared or NOT_COUNTED in (self.start_nodes, self.end_nodes):
            return None
        return self.end_nodes - self.start_nodes


@dataclass(eq=False, slots=True)
class Transition:
    """One change of the modes, or the attempt."""

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


@dataclass(eq=False)
class ProbedCall:
    """A call of a probed function. ``active_ns`` and ``nodes`` leave out the time a generator or coroutine waited."""

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
    """One thread's time and autograd nodes, by mode. ``hidden_ns`` passed under what PyTorch's own code had set."""

    thread: int
    began_ns: int
    state: Modes | None
    last_ns: int
    ended_ns: int | None = None
    ns_by_state: dict[Modes, int] = field(default_factory=lambda: defaultdict(int))
    nodes_by_state: dict[Modes, int] = field(default_factory=lambda: defaultdict(int))
    hidden_ns: int = 0
    jumped: bool = False  # the modes were found changed, at an event that is hidden
    visible: Modes | None = None  # what the last visible event left
    internal_open: int = 0
    own: Modes | None = None  # what the last event outside of PyTorch's own code left
    is_changed_by_torch: bool = False  # PyTorch's own code has set other modes since
    last_nodes: int = NOT_COUNTED
    calls: int = 0  # probed calls that run in it
    is_watched: bool = False  # its operators are seen, at a level that sees any
    doubtful: Transition | None = None

    def advance(self, time_ns: int, nodes: int) -> None:
        """Charges the time and the nodes since the last event to the mode of the thread."""
        passed = max(time_ns - self.last_ns, 0)
        if self.state is not None:
            self.ns_by_state[self.state] += passed
            if self.internal_open or self.is_changed_by_torch:
                self.hidden_ns += passed
            if NOT_COUNTED not in (nodes, self.last_nodes):
                self.nodes_by_state[self.state] += nodes - self.last_nodes
        self.last_ns = time_ns
        if nodes != NOT_COUNTED:
            self.last_nodes = nodes


@dataclass(frozen=True)
class EventMark:
    """A place in the stream of events that rows of an account belong to, by their key."""

    op: int
    key: int
    region: Region | None
    thread: int
    site: int
    time_ns: int


@dataclass
class History:
    """What happened in one process. Times are nanoseconds since the recording began."""

    transitions: list[Transition]
    regions: list[Region]
    calls: list[ProbedCall]
    marks: list[EventMark]
    timelines: list[ThreadTimeline]
    hidden: int
    end_ns: int
    complete: bool


def modes_before(row: RawRow, known: Modes) -> Modes:
    """The modes before an event; ``known`` where they were not read."""
    return _mode(row[4], known[0]), _mode(row[4] >> 2, known[1])


def modes_after(row: RawRow, known: Modes) -> Modes:
    """The modes after an event; ``known`` where they were not read."""
    return _mode(row[4] >> 4, known[0]), _mode(row[4] >> 6, known[1])


def _mode(bits: int, known: bool) -> bool:
    return known if bits & 3 == NOT_READ else bool(bits & 3)
