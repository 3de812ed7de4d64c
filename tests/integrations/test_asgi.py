"""The middleware, in applications of Starlette and FastAPI."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("starlette", reason="pip install 'gradprobe[asgi]'")

weight = torch.ones(3, requires_grad=True)
kept: list[torch.Tensor] = []


def make_app() -> tuple[Any, Any]:
    """Return an application behind another middleware, and its counts."""
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    from gradprobe.integrations.asgi import GradprobeMiddleware

    async def builds(request: Any) -> Any:
        await asyncio.sleep(0.01)
        (weight * 2).sum()
        return PlainTextResponse("built")

    def threaded(request: Any) -> Any:
        return PlainTextResponse(str((weight * 2).requires_grad))

    async def right(request: Any) -> Any:
        await asyncio.sleep(0.01)
        with torch.inference_mode():
            kept.append(weight * 2)
            return PlainTextResponse("right")

    async def fails(request: Any) -> Any:
        raise ValueError("mine")

    async def passed_on(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    made = []

    class Counting(GradprobeMiddleware):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    routes = [
        Route("/builds/{n}", builds),
        Route("/threaded", threaded),
        Route("/right", right),
        Route("/fails", fails),
    ]
    around = [Middleware(Counting, metrics="/metrics"), Middleware(BaseHTTPMiddleware, dispatch=passed_on)]
    return Starlette(routes=routes, middleware=around), made


async def get(app: Any, path: str) -> tuple[int, str]:
    """Return status and text of a response, without a client library."""
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "headers": [],
    }
    scope |= {
        "query_string": b"",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
        "http_version": "1.1",
    }
    scope |= {"asgi": {"version": "3.0"}}
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], body.decode()


def test_routes_are_counted_while_their_requests_overlap(caplog: pytest.LogCaptureFixture) -> None:
    app, made = make_app()

    async def serve() -> str:
        assert (await get(app, "/builds/1"))[1] == "built"
        assert (await get(app, "/threaded"))[1] == "True"
        await asyncio.gather(*(get(app, path) for path in ("/builds/2", "/right", "/right", "/builds/3", "/threaded")))
        with pytest.raises(ValueError, match="mine"):
            await get(app, "/fails")
        return (await get(app, "/metrics"))[1]

    with caplog.at_level(logging.WARNING, "gradprobe.asgi"):
        text = asyncio.run(serve())
    (counting,) = made
    counts = {name: (one.requests, one.graphs, one.nodes) for name, one in counting.routes.items()}
    assert counts == {
        "GET /builds/{n}": (3, 3, 6),
        "GET /threaded": (2, 2, 2),
        "GET /right": (2, 0, 0),
        "GET /fails": (1, 0, 0),
    }
    assert 'gradprobe_nodes_total{method="GET",route="/builds/{n}"} 6\n' in text
    assert counting.routes["GET /right"].kept >= 1
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2
    line = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "(weight * 2).sum()" in text)
    assert warned[0] == f"GET /builds/{{n}} built 2 autograd nodes at {__file__}:{line}"
    assert f"GET /threaded built 1 autograd node at {__file__}:" in warned[1]


def test_the_routes_of_fastapi_are_known_by_their_path() -> None:
    fastapi: Any = pytest.importorskip("fastapi")
    from gradprobe.integrations.asgi import GradprobeMiddleware

    app = fastapi.FastAPI()

    def read(number: int) -> int:
        return int((weight * number).sum())

    app.get("/items/{number}")(read)
    app.add_middleware(GradprobeMiddleware, metrics="/metrics", level="graph")

    async def serve() -> str:
        await get(app, "/items/3")
        return (await get(app, "/metrics"))[1]

    text = asyncio.run(serve())
    assert 'gradprobe_nodes_total{method="GET",route="/items/{number}"} 2\n' in text
