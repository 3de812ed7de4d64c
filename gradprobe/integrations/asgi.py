"""ASGI middleware: which routes build autograd graphs, by which line, and which keep inference tensors.

It counts the nodes that each step of a request constructs, in the thread that runs the step: those of ``async def``
endpoints run in the thread of the event loop, between steps of other requests, and other endpoints run in a thread of a
pool, which gets the request's context.
"""

from __future__ import annotations

import contextvars
import functools
import gc
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from gradprobe._counted_nouns import pluralize
from gradprobe.capture.autograd.node_counter import find_node_counter
from gradprobe.recorder import Recorder
from gradprobe.report.units import escape_unprintable
from gradprobe.result import Recording

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOGGER = logging.getLogger("gradprobe.asgi")
MAX_ROUTES = 1000
_OTHERS = "(others)"
_METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_READING_METHODS = ("GET", "HEAD")
_HELP = {
    "requests": "Requests answered",
    "graphs": "Requests that constructed autograd nodes",
    "nodes": "Autograd nodes constructed",
    "kept": "Inference tensors still referenced after the requests that were examined",
}


@dataclass
class RouteCount:
    """Counts of one route; ``graphs`` counts the requests that constructed nodes, ``kept`` is of those examined."""

    requests: int = 0
    graphs: int = 0
    nodes: int = 0
    kept: int = 0
    is_line_known: bool = False


class _Request:
    """Nodes of one request, counted in all threads that work on it."""

    def __init__(self) -> None:
        self.nodes = 0


_current: contextvars.ContextVar[_Request | None] = contextvars.ContextVar("gradprobe_request", default=None)


class GradprobeMiddleware:
    """Count per route what requests cost in autograd nodes, and warn at the first one that builds a graph.

    The warning goes to the logger ``gradprobe.asgi`` and names the line. The first request of a route is recorded for that
    at level ``ops``; if a later one is the first to build a graph, the warning names the endpoint, and the next the line.

    Args:
        app: The application, which the framework passes.
        metrics: Path at which the counts are served in Prometheus' text format, such as ``"/gradprobe"``; None for no path.
        level: Level of the recording of an examined request; ``"ops"`` knows lines, ``"graph"`` the blocks.

    Attributes:
        routes: Counts by method and path of the route.

    Example::

        from gradprobe.integrations.asgi import GradprobeMiddleware

        app.add_middleware(GradprobeMiddleware, metrics="/gradprobe")
    """

    def __init__(self, app: App, *, metrics: str | None = None, level: str = "ops") -> None:
        self.routes: dict[str, RouteCount] = {}
        self._app, self._metrics, self._level = _count_inside(app), metrics, level
        self._lock = threading.Lock()
        self._is_examining = False
        self._looked: dict[str, int] = {}
        """Number of examined requests by route."""
        self._wanted: set[str] = set()
        """Routes that build a graph at a line that is not known."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and count what it does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._metrics is not None and scope["path"] == self._metrics:
            await _respond(scope["method"], send, self.render())
        else:
            await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        _patch_pools()
        request, route, examination = _Request(), _guess_route(scope), self._examine(scope)
        token = _current.set(request)
        try:
            await self._app(scope, receive, send)
        finally:
            _current.reset(token)
            try:
                self._end(scope, request, route, examination)
            except Exception as error:  # the request is answered all the same
                LOGGER.debug("gradprobe: cannot count a request: %s", error)

    def _examine(self, scope: Scope) -> _Examination | None:
        """Examine the first request of a route, and further ones while the line that builds its graph is not known."""
        route = _guess_route(scope)
        looked = self._looked.get(route, 0)
        is_needed = looked == 0 or (route in self._wanted and looked < _MAX_EXAMINED)
        if self._is_examining or not is_needed or len(self._looked) >= MAX_ROUTES:
            return None
        self._is_examining = True
        self._looked[route] = looked + 1
        return _Examination(self._level)

    def _end(self, scope: Scope, request: _Request, route: str, examination: _Examination | None) -> None:
        if examination is not None:
            self._is_examining = False
        recording = None if examination is None else examination.end()
        count = self._find_count(_name_route(scope))
        with self._lock:
            count.requests += 1
            count.nodes += request.nodes
            count.graphs += request.nodes > 0
        if examination is not None:
            count.kept += examination.count_kept()
        if request.nodes and not count.is_line_known:
            line = None if recording is None else _find_line(recording)
            if line is not None or count.graphs == 1:
                where = escape_unprintable(line or f"in {_name_endpoint(scope)}")
                # A client chooses the path: with a line break in it, it could write lines of its own into the log.
                asked = escape_unprintable(_name_route(scope))
                LOGGER.warning("%s built %s %s", asked, pluralize(request.nodes, "autograd node"), where)
            count.is_line_known = line is not None
            (self._wanted.discard if count.is_line_known else self._wanted.add)(route)

    def _find_count(self, name: str) -> RouteCount:
        with self._lock:
            is_full = name not in self.routes and len(self.routes) >= MAX_ROUTES
            return self.routes.setdefault(_OTHERS if is_full else name, RouteCount())

    def render(self) -> str:
        """Return the counts in Prometheus' text format.

        Returns:
            The metrics ``gradprobe_requests_total``, ``gradprobe_graphs_total``, ``gradprobe_nodes_total`` and
            ``gradprobe_inference_tensors_kept_total`` by the labels ``method`` and ``route``.
        """
        with self._lock:
            rows = {name: replace(count) for name, count in self.routes.items()}
        lines = []
        for name, text in _HELP.items():
            metric = f"gradprobe_{'inference_tensors_kept' if name == 'kept' else name}_total"
            lines += [f"# HELP {metric} {text}.", f"# TYPE {metric} counter"]
            for route, count in rows.items():
                method, _, path = route.rpartition(" ")
                labels = f'method="{_escape(method)}",route="{_escape(path)}"'
                lines.append(f"{metric}{{{labels}}} {getattr(count, name)}")
        return "\n".join(lines) + "\n"


_MAX_EXAMINED = 5
"""Number of requests of a route that built a graph after which its line is no longer looked for."""


class _Examination:
    """A recording of one request, and the inference tensors from before it."""

    def __init__(self, level: str) -> None:
        self._known = {id(tensor) for tensor in _list_inference_tensors()}
        self._recorder: Recorder | None = None
        try:
            recorder = Recorder(level=level)
            recorder.start()
            self._recorder = recorder
        except Exception as error:
            LOGGER.debug("gradprobe: cannot record a request: %s", error)

    def end(self) -> Recording | None:
        """Stop and return the recording."""
        return None if self._recorder is None else self._recorder.stop()

    def count_kept(self) -> int:
        """Return the number of inference tensors that are new and still referenced."""
        if not any(id(tensor) not in self._known for tensor in _list_inference_tensors()):
            return 0
        gc.collect()
        return sum(id(tensor) not in self._known for tensor in _list_inference_tensors())


def _list_inference_tensors() -> list[torch.Tensor]:
    return [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor) and one.is_inference()]


def _find_line(recording: Recording) -> str | None:
    """Return the line that constructed most nodes, in words."""
    ops = recording.ops
    ops = ops[ops["nodes"] > 0]
    if ops.empty:
        return None
    sums = ops.groupby(["file", "line"], sort=False)["nodes"].sum().sort_values(ascending=False)
    file, line = next(iter(sums.index))
    return f"at {file}:{int(line)}"


def _name_route(scope: Scope) -> str:
    """Return the method and path of the route that a router chose; before that those of the request."""
    path = getattr(scope.get("route"), "path", None)
    if path is None and scope.get("endpoint") is not None:
        routes = getattr(scope.get("app"), "routes", ())
        known = (each.path for each in routes if getattr(each, "endpoint", None) is scope["endpoint"])
        path = next(known, None)
    return f"{scope.get('method', '')} {path or scope['path']}"


def _guess_route(scope: Scope) -> str:
    """Return the path of the route that a router will choose, an empty string if that is not known."""
    for route in getattr(scope.get("app"), "routes", ()):
        matches = getattr(route, "matches", None)
        if matches is not None and getattr(matches(scope)[0], "name", "") == "FULL":
            return f"{scope.get('method', '')} {getattr(route, 'path', '')}"
    return ""


def _name_endpoint(scope: Scope) -> str:
    endpoint = scope.get("endpoint")
    code = getattr(endpoint, "__code__", None)
    name = getattr(endpoint, "__qualname__", "the application")
    return name if code is None else f"{name} at {code.co_filename}:{code.co_firstlineno}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


async def _respond(method: str, send: Send, text: str) -> None:
    """Answer a request for the counts; a method that would change something is not allowed."""
    is_read = method in _READING_METHODS
    body = text.encode() if is_read else b"Method Not Allowed"
    headers = [(b"content-type", _METRICS_TYPE if is_read else b"text/plain; charset=utf-8")]
    headers.append((b"content-length", str(len(body)).encode()))
    headers += [] if is_read else [(b"allow", ", ".join(_READING_METHODS).encode())]
    await send({"type": "http.response.start", "status": 200 if is_read else 405, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


def _count_inside(app: App) -> App:
    """Count in the innermost application that runs in the task of the request.

    Starlette's ``BaseHTTPMiddleware`` runs what is inside of it in a task of its own.
    """
    owner: Any = None
    inner: Any = app
    while inner is not None:
        if any(kind.__name__ == "BaseHTTPMiddleware" for kind in type(inner).__mro__):
            owner = inner
        inner = getattr(inner, "app", None)
    if owner is None:
        return _Counted(app)
    owner.app = _Counted(owner.app)
    return app


class _Counted:
    """An application whose steps add the nodes that they construct to the current request."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = _current.get()
        await (self.app(scope, receive, send) if request is None else _Steps(self.app(scope, receive, send), request))


class _Steps:
    """Awaitable that awaits another one and counts the nodes of each of its steps."""

    def __init__(self, inner: Awaitable[None], request: _Request) -> None:
        self._inner, self._request = inner, request

    def __await__(self) -> Generator[Any, Any, None]:
        steps: Any = self._inner.__await__()
        sent: Any = None
        error: BaseException | None = None
        while True:
            begun = _count_nodes()
            try:
                yielded = steps.send(sent) if error is None else steps.throw(error)
            except StopIteration:
                return
            finally:
                self._request.nodes += _count_nodes() - begun
            sent = error = None
            try:
                sent = yield yielded
            except BaseException as thrown:
                error = thrown


_read_counter = find_node_counter()


def _count_nodes() -> int:
    return 0 if _read_counter is None else _read_counter()


def _patch_pools() -> None:
    """Count what a request runs in a thread of a pool: anyio's, which Starlette uses, and asyncio's."""
    for module, name in (("anyio.to_thread", "run_sync"), ("asyncio", "to_thread")):
        known = sys.modules.get(module)
        function = getattr(known, name, None)
        if known is not None and function is not None and not hasattr(function, "_gradprobe_original"):
            setattr(known, name, _count_in_thread(function))


def _count_in_thread(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    async def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        request = _current.get()
        return await original(function if request is None else _count_call(function, request), *args, **kwargs)

    run._gradprobe_original = original  # type: ignore[attr-defined]
    return run


def _count_call(function: Callable[..., Any], request: _Request) -> Callable[..., Any]:
    @functools.wraps(function, assigned=(), updated=())
    def counted(*args: Any, **kwargs: Any) -> Any:
        begun = _count_nodes()
        try:
            return function(*args, **kwargs)
        finally:
            request.nodes += _count_nodes() - begun

    return counted
