"""``gradprobe.monitor()``: counters of grad modes for services that run for weeks, in bounded memory."""

from __future__ import annotations

import dataclasses
import os
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gradprobe import _switch, lifecycle
from gradprobe.capture.clock import SYSTEM, Clock
from gradprobe.capture.session import Session
from gradprobe.errors import GradprobeError
from gradprobe.monitoring.counters import BuiltGraph, PathCount, SiteCount
from gradprobe.monitoring.inference_paths import F, GraphBuilt, GraphListener, InferencePaths
from gradprobe.monitoring.monitor_sink import MonitorSink
from gradprobe.recorder import get_session
from gradprobe.recording.events import MANAGERS

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

LEVELS = ("modes", "graph")
_monitors: weakref.WeakSet[Monitor] = weakref.WeakSet()


def monitor(*, level: str = "graph", on_graph: Callable[[GraphBuilt], object] | None = None) -> Monitor:
    """Count the grad-mode blocks of a long-running program: per line their number, time and nodes.

    Use it as a ``with`` block, or call ``start()`` and ``stop()``. It observes all threads, as ``record()`` does, but keeps
    counts instead of events. Its memory is bounded by the number of the program's lines, up to 10,000 of them, and one
    event per thread.

    Args:
        level (str): ``"modes"`` counts blocks and their times; ``"graph"`` also counts autograd nodes. Default:
            ``"graph"``.
        on_graph (Callable[[GraphBuilt], object], optional): Called for each call of a function decorated with
            ``monitor.expect_no_graph`` that built an autograd graph. It runs in a thread of its own, named
            ``gradprobe monitor``, one call at a time, shortly after the graph was built; ``stop()`` waits until all calls
            are handled. An exception that it raises is counted among ``faults`` in the snapshot. Default: None.

    Returns:
        Monitor: a monitor that is not running yet.

    Raises:
        GradprobeError: ``level`` is unknown, or ``on_graph`` is given at level ``"modes"``.

    Example::

        monitor = gradprobe.monitor(on_graph=lambda built: logging.warning("graph built: %s", built))

        @monitor.expect_no_graph
        def predict(batch):
            with torch.inference_mode():
                return model(batch)

        with monitor:
            serve(predict)
        print(monitor.snapshot()["inference_paths"])
    """
    return Monitor(level=level, on_graph=on_graph)


class Monitor:
    """Counters of grad-mode blocks and inference paths while it runs; ``monitor()`` returns it.

    In a forked process a running monitor starts again from zero.

    Args:
        level (str): ``"modes"`` or ``"graph"``, as for :func:`monitor`. Default: ``"graph"``.
        on_graph (Callable[[GraphBuilt], object], optional): As for :func:`monitor`. Default: None.
        clock (Clock): Source of time, replaced in tests.

    Raises:
        GradprobeError: ``level`` is unknown, or ``on_graph`` is given at level ``"modes"``.

    Example::

        monitor = gradprobe.monitor(level="modes").start()
        serve()
        counts = monitor.stop()
    """

    def __init__(
        self,
        *,
        level: str = "graph",
        on_graph: Callable[[GraphBuilt], object] | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        if level not in LEVELS:
            raise GradprobeError(f"level must be {' or '.join(map(repr, LEVELS))} for a monitor, got {level!r}")
        if on_graph is not None and level == "modes":
            raise GradprobeError(
                "cannot use on_graph at level 'modes', which counts no autograd nodes; use level='graph'"
            )
        self._counts_nodes = level == "graph"
        self._on_graph = on_graph
        self._clock = clock
        self._paths = InferencePaths(clock)
        self._began_ns = 0
        self._running = False
        self._process = 0
        self._listener: GraphListener | None = None
        self._reset()

    def _reset(self) -> None:
        self._sink = MonitorSink(self._session.tables, counts_nodes=self._counts_nodes, on_built=self._pass_to_listener)

    def __enter__(self) -> Monitor:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        """Return the level, and whether the monitor is running."""
        level = "graph" if self._counts_nodes else "modes"
        return f"<gradprobe.Monitor: level {level}, {'running' if self._running else 'stopped'}; snapshot() has its counts>"

    def start(self) -> Monitor:
        """Start counting from zero.

        Does nothing while gradprobe is disabled (``gradprobe.disable()``, ``GRADPROBE=0``).

        Returns:
            Monitor: the monitor itself.

        Raises:
            GradprobeError: The monitor is already running in this process.

        Example::

            monitor = gradprobe.monitor().start()
        """
        if self._running and self._process == os.getpid():
            raise GradprobeError("cannot start this monitor: it is running already; call stop() first")
        self._reset()
        self._began_ns, self._process = self._clock.now(), os.getpid()
        if _switch.is_enabled():
            self._running = self._paths.on = True
            _monitors.add(self)
            if self._on_graph is not None:
                self._listener = GraphListener(self._on_graph, self._sink.fault)
                self._listener.start()
            session = self._session
            with session.lock:
                session.attach(self._sink)
        return self

    def stop(self) -> dict[str, Any]:
        """Stop counting, once ``on_graph`` has handled all calls so far.

        Returns:
            dict: the last snapshot, as :meth:`snapshot` returns it.

        Example::

            counts = monitor.stop()
        """
        if self._running:
            self._running = self._paths.on = False
            _monitors.discard(self)
            session = self._session
            with session.lock:
                session.detach(self._sink)
            if self._listener is not None:
                self._listener.stop()
                self._listener = None
        return self.snapshot()

    def _restart_in_child(self) -> None:
        """Count from zero in a forked process."""
        if self._running:
            self._running = self._paths.on = False
            self.start()

    def expect_no_graph(self, function: F) -> F:
        """Decorate a function that must build no autograd graph, and count its calls.

        A call that constructs autograd nodes while grad mode is enabled counts as one that built a graph, and is reported
        to ``on_graph``. Of a generator or a coroutine only the steps of its own body count. Nothing is counted while the
        monitor does not run.

        Args:
            function (Callable): A function, method, generator function, ``async def`` or asynchronous generator function.

        Returns:
            Callable: a function of the same kind.

        Raises:
            GradprobeError: ``function`` is not a function or method.

        Example::

            @monitor.expect_no_graph
            def predict(batch):
                with torch.inference_mode():
                    return model(batch)
        """
        return self._paths.decorate(function)

    inference = expect_no_graph
    """Alias of :meth:`expect_no_graph`."""

    def snapshot(self) -> dict[str, Any]:
        """Return all counts since the start, as values that ``json.dumps`` accepts. Any thread may call it.

        Returns:
            dict: with these keys:

            - ``process``: process id; ``level``: ``"modes"`` or ``"graph"``.
            - ``seconds``: seconds since the start.
            - ``blocks``: number of blocks and plain calls in all ``sites``.
            - ``sites``: a list of dicts, one per manager and line, the longest total first: ``manager``, ``form``,
              ``file``, ``line``, ``function``, ``count``, ``redundant`` (blocks that set the mode that was active already),
              ``errors`` (blocks exited by an exception), ``total_ns`` and ``longest_ns`` (nanoseconds between enter and
              exit), ``nodes``. Blocks that PyTorch's own code enters are left out.
            - ``inference_paths``: a list of dicts, one per decorated function, the most graphs first: ``function``,
              ``file``, ``line``, ``calls``, ``graphs`` (calls that built a graph), ``errors``, ``total_ns``, ``nodes``.
            - ``faults``: a dict from each fault of gradprobe or of ``on_graph`` to its count.

            ``nodes`` are autograd nodes constructed. ``graphs`` and ``nodes`` are None at level ``"modes"``.

        Example::

            >>> with gradprobe.monitor() as monitor, torch.no_grad():
            ...     pass
            >>> monitor.snapshot()["blocks"]
            1
        """
        session = self._session
        with session.lock:
            if self._running:
                session.drain()
            sites = _merge_sites(self._site(*key, count) for key, count in self._sink.counters.sites.items())
            paths = [self._path(number, count) for number, count in self._sink.counters.paths.items()]
            faults = dict(self._sink.faults)
        return {
            "process": os.getpid(),
            "level": "graph" if self._counts_nodes else "modes",
            "seconds": (self._clock.now() - self._began_ns) / 1e9,
            "blocks": sum(site["count"] for site in sites),
            "sites": sorted(sites, key=lambda site: -site["total_ns"]),
            "inference_paths": sorted(paths, key=lambda path: -path["graphs"]),
            "faults": faults,
        }

    def export(self, provider: MeterProvider | None = None) -> None:
        """Register the counts as OpenTelemetry metrics, which are read whenever a metric reader collects.

        Args:
            provider (MeterProvider, optional): The meter provider. Default: the global one.

        Raises:
            GradprobeError: opentelemetry-api is not installed.

        Example::

            monitor = gradprobe.monitor().start()
            monitor.export()
        """
        from gradprobe.monitoring.opentelemetry import register_instruments

        register_instruments(self.snapshot, provider, counts_nodes=self._counts_nodes)

    def _site(self, manager: int, number: int, count: SiteCount) -> dict[str, Any]:
        site = self._session.tables.sites.get(number)
        return {
            "manager": MANAGERS[manager],
            "form": None if site is None else site.form,
            **self._place(number),
            **dataclasses.asdict(count),
            "nodes": count.nodes if self._counts_nodes else None,
            "internal": site is not None and site.internal,
        }

    def _path(self, number: int, count: PathCount) -> dict[str, Any]:
        path = self._place(number) | dataclasses.asdict(count)
        return path if self._counts_nodes else {**path, "graphs": None, "nodes": None}

    def _place(self, number: int) -> dict[str, Any]:
        site = self._session.tables.sites.get(number)
        if site is None:
            return {"file": None, "line": None, "function": None}
        return {"file": site.file, "line": site.line, "function": site.function}

    def _pass_to_listener(self, built: BuiltGraph) -> None:
        if self._listener is not None:
            self._listener.put(self._describe(built))

    def _describe(self, built: BuiltGraph) -> GraphBuilt:
        place, thread = self._place(built.site), self._session.tables.threads.get(built.thread)
        name = "" if thread is None else thread.name
        return GraphBuilt(place["function"] or "", place["file"], place["line"], name, built.nodes)

    @property
    def _session(self) -> Session:
        return get_session(self._clock)


def _merge_sites(sites: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the blocks of a line into one row per manager, and drop those of PyTorch's own code."""
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
        running._restart_in_child()


lifecycle.register(lifecycle.Order.MONITORS, in_child=_after_fork)
