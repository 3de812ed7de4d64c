"""``gradprobe.monitor()``: counters of the modes for services that run for weeks, in memory that does not grow."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import threading
import weakref
from _thread import get_ident
from collections import Counter
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch

from gradprobe import _switch, lifecycle
from gradprobe._resumable import StepFunction, is_ended_by_stop, is_resumable, wrap_resumable
from gradprobe.capture.clock import SYSTEM, Clock
from gradprobe.capture.location.callers import unwrap_code
from gradprobe.capture.patching.compile_skip import is_tracing
from gradprobe.capture.routing import CALL_BITS
from gradprobe.capture.session import Session
from gradprobe.errors import GradprobeError
from gradprobe.monitoring.counters import BuiltGraph, Counters, PathCount, SiteCount
from gradprobe.recorder import get_session
from gradprobe.recording.events import CALL, DECORATED, ENTER, EXIT, MANAGERS, SUSPEND, EventBlock

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

F = TypeVar("F", bound=Callable[..., Any])

LEVELS = ("modes", "graph")
_FAULTS = 1_000
_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()


class GraphBuilt(NamedTuple):
    """A call of an inference path constructed this many autograd nodes while gradients were on."""

    function: str
    file: str | None
    line: int | None
    thread: str
    nodes: int


def monitor(*, level: str = "graph", on_graph: Callable[[GraphBuilt], object] | None = None) -> Monitor:
    """Counts, while it runs, what ``record()`` would keep: blocks per manager and line, their time, their nodes.

    Use it as a ``with`` block, or call ``start()`` and ``stop()``. ``snapshot()`` gives the counts as plain values,
    ``export()`` hands them to OpenTelemetry. Functions decorated with ``monitor.inference`` are expected to build no
    graph; ``on_graph`` is called, in a thread of its own, for each call that did.

    ``level`` is ``"modes"``, or ``"graph"``, which counts autograd nodes too. Its memory is bounded: by the lines of the
    program, up to 10,000 of them. Only one more event per thread is ever kept beside the counts.

    Raises ``GradprobeError`` for another level, and for ``on_graph`` at level ``"modes"``.
    """
    return Monitor(level=level, on_graph=on_graph)


class Monitor:
    """What ``monitor()`` gives; see there."""

    keeps_events = False
    counts_operators = False
    names_ranges = False

    def __init__(
        self,
        *,
        level: str = "graph",
        on_graph: Callable[[GraphBuilt], object] | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        if level not in LEVELS:
            raise GradprobeError(f"level={level!r} is none of a monitor; choose {' or '.join(map(repr, LEVELS))}")
        if on_graph is not None and level == "modes":
            raise GradprobeError("on_graph needs autograd nodes to be counted; choose level='graph'")
        self.counts_nodes = level == "graph"
        self._on_graph = on_graph
        self._clock = clock
        self._calls = itertools.count()
        self._began_ns = 0
        self._running = False
        self._process = 0
        self._heard: SimpleQueue[GraphBuilt | None] = SimpleQueue()
        self._listener: threading.Thread | None = None
        self._reset()

    def _reset(self) -> None:
        self._counters = Counters(self._session.tables.sites, self._session.tables.names)
        self._faults: Counter[str] = Counter()

    def __enter__(self) -> Monitor:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Monitor:
        """Begins to count, from zero."""
        if self._running and self._process == os.getpid():
            raise GradprobeError("this monitor is running already; call stop() first, or make another")
        self._reset()
        self._began_ns, self._process = self._clock.now(), os.getpid()
        if _switch.is_enabled():
            self._running = True
            _monitors.add(self)
            if self._on_graph is not None:
                self._heard = SimpleQueue()
                self._listener = threading.Thread(target=self._listen, name="gradprobe monitor", daemon=True)
                self._listener.start()
            session = self._session
            with session.lock:
                session.attach(self)
        return self

    def stop(self) -> dict[str, Any]:
        """Ends it, and gives the last snapshot. What was handed to ``on_graph`` has been dealt with by then."""
        if self._running:
            self._running = False
            _monitors.discard(self)
            session = self._session
            with session.lock:
                session.detach(self)
            if self._listener is not None:
                self._heard.put(None)
                if self._listener is not threading.current_thread():
                    self._listener.join()
                self._listener = None
        return self.snapshot()

    def restart_in_child(self) -> None:
        """In a forked process: counts what this process does, from zero."""
        if self._running:
            self._running = False
            self.start()

    # Inference paths.

    def inference(self, function: F) -> F:
        """Decorates a function, generator function or ``async def`` that must build no graph; counts its calls."""
        if not callable(function) or isinstance(function, type):
            raise GradprobeError(f"inference decorates functions and methods, not {function!r}")
        code = unwrap_code(function)
        if is_resumable(function):
            return cast(F, wrap_resumable(function, lambda: self._stepper(code)))

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if not self._running or is_tracing():
                return function(*arguments, **named)
            key = next(self._calls)
            self._emit(CALL | ENTER, code, key, None)
            error: type[BaseException] | None = None
            try:
                return function(*arguments, **named)
            except BaseException as raised:
                error = type(raised)
                raise
            finally:
                self._emit(CALL | EXIT, None, key, error)

        return cast(F, call)

    def _stepper(self, code: CodeType | None) -> StepFunction:
        key = next(self._calls)

        def step(method: Callable[..., Any], *arguments: Any) -> Any:
            if not self._running:
                return method(*arguments)
            self._emit(CALL | ENTER, code, key, None)
            kind = EXIT if method.__name__ == "close" else SUSPEND
            error: type[BaseException] | None = None
            try:
                return method(*arguments)
            except BaseException as raised:
                kind = EXIT if is_ended_by_stop(method) or not isinstance(raised, StopIteration) else SUSPEND
                error = type(raised)
                raise
            finally:
                self._emit(CALL | kind, None, key, error)

        return step

    def _emit(self, op: int, code: CodeType | None, key: int, extra: Any) -> None:
        session = self._session
        try:
            grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
            # No sink has the number 0, so no probe takes the call for one of its own.
            key = key & (1 << CALL_BITS) - 1
            now = self._clock.now()
            session.emit((op, now, get_ident(), code, DECORATED, grad, inference, grad, inference, key, extra))
        except Exception as error:
            session.fault(error)

    # What the session asks of one who takes events.

    def accept(self, block: EventBlock) -> None:
        for built in self._counters.add(block):
            if self._on_graph is not None:
                self._heard.put(self._told(built))

    def flush(self) -> bool:
        return True

    def fault(self, text: str, count: int) -> None:
        if text in self._faults or len(self._faults) < _FAULTS:
            self._faults[text] += count

    def note(self, kind: str, text: str, count: int = 1) -> None:
        """Sightings come at level ops only, which is none of a monitor's."""

    # What comes out.

    def snapshot(self) -> dict[str, Any]:
        """All counts since the start, as plain values: ``seconds``, ``blocks``, ``sites``, ``inference_paths``, ``faults``.

        A site has manager, form, file, line, function, count, redundant, errors, total_ns, longest_ns and nodes; PyTorch's
        own are left out. A path has function, file, line, calls, graphs (calls that built one), errors, total_ns, nodes.
        ``nodes`` are None at level ``"modes"``.
        """
        session = self._session
        with session.lock:
            if self._running:
                session.drain()
            sites = _united(self._site(*key, count) for key, count in self._counters.sites.items())
            paths = [self._path(number, count) for number, count in self._counters.paths.items()]
            faults = dict(self._faults)
        return {
            "process": os.getpid(),
            "level": "graph" if self.counts_nodes else "modes",
            "seconds": (self._clock.now() - self._began_ns) / 1e9,
            "blocks": sum(site["count"] for site in sites),
            "sites": sorted(sites, key=lambda site: -site["total_ns"]),
            "inference_paths": sorted(paths, key=lambda path: -path["graphs"]),
            "faults": faults,
        }

    def export(self, provider: MeterProvider | None = None) -> None:
        """Offers the counts as OpenTelemetry metrics, from the global meter provider if none is given.

        Raises ``GradprobeError`` where opentelemetry-api is not installed.
        """
        from gradprobe.monitoring.opentelemetry import register_instruments

        register_instruments(self.snapshot, provider, counts_nodes=self.counts_nodes)

    def _site(self, manager: int, number: int, count: SiteCount) -> dict[str, Any]:
        site = self._session.tables.sites.get(number)
        return {
            "manager": MANAGERS[manager],
            "form": None if site is None else site.form,
            **self._place(number),
            **dataclasses.asdict(count),
            "nodes": count.nodes if self.counts_nodes else None,
            "internal": site is not None and site.internal,
        }

    def _path(self, number: int, count: PathCount) -> dict[str, Any]:
        path = self._place(number) | dataclasses.asdict(count)
        return path if self.counts_nodes else {**path, "graphs": None, "nodes": None}

    def _place(self, number: int) -> dict[str, Any]:
        site = self._session.tables.sites.get(number)
        if site is None:
            return {"file": None, "line": None, "function": None}
        return {"file": site.file, "line": site.line, "function": site.function}

    def _told(self, built: BuiltGraph) -> GraphBuilt:
        place, thread = self._place(built.site), self._session.tables.threads.get(built.thread)
        name = "" if thread is None else thread.name
        return GraphBuilt(place["function"] or "", place["file"], place["line"], name, built.nodes)

    def _listen(self) -> None:
        heard, callback = self._heard, self._on_graph
        while (told := heard.get()) is not None and callback is not None:
            try:
                callback(told)
            except Exception as error:  # the next call is told all the same
                self.fault(f"on_graph raised {type(error).__name__}: {error}"[:300], 1)

    @property
    def _session(self) -> Session:
        return get_session(self._clock)


def _united(sites: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per manager and line: a line may hold several blocks. Those of PyTorch's own code are left out."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for site in sites:
        if site.pop("internal"):
            continue
        key = tuple(site[name] for name in ("manager", "form", "file", "line", "function"))
        known = found.setdefault(key, site)
        if known is not site:
            for name in ("count", "redundant", "errors", "total_ns"):
                known[name] += site[name]
            known["longest_ns"] = max(known["longest_ns"], site["longest_ns"])
            known["nodes"] = None if site["nodes"] is None else known["nodes"] + site["nodes"]
    return list(found.values())


def _after_fork() -> None:
    for running in list(_monitors):
        running.restart_in_child()


lifecycle.register(lifecycle.Order.MONITORS, in_child=_after_fork)
