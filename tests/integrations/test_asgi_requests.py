"""Requests that a client may send to the middleware: to its path of counts, and with any characters in the path."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import torch

from gradprobe.integrations.asgi import GradprobeMiddleware

weight = torch.ones(3, requires_grad=True)


async def application(scope: Any, receive: Any, send: Any) -> None:
    (weight * 2).sum()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})


def ask(app: Any, method: str, path: str) -> tuple[int, dict[bytes, bytes], bytes]:
    """Return status, headers and body of a response."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "method": method, "path": path, "headers": []}, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(each.get("body", b"") for each in sent)


def test_the_counts_are_for_reading_only() -> None:
    app = GradprobeMiddleware(application, metrics="/metrics", level="graph")
    status, headers, body = ask(app, "GET", "/metrics")
    assert (status, headers[b"content-length"]) == (200, str(len(body)).encode())
    assert body.startswith(b"# HELP gradprobe_requests_total")
    assert ask(app, "HEAD", "/metrics") == (200, headers, b"")
    for method in ("POST", "PUT", "DELETE"):
        status, headers, _ = ask(app, method, "/metrics")
        assert (status, headers[b"allow"]) == (405, b"GET, HEAD")
    assert app.routes == {}
    assert ask(app, "POST", "/other")[2] == b"answered"


def test_a_path_cannot_write_lines_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    app = GradprobeMiddleware(application, metrics="/metrics", level="ops")
    with caplog.at_level(logging.WARNING, "gradprobe.asgi"):
        ask(app, "GET", "/a\nCRITICAL forged\x1b[2J\u2028")
    (warned,) = (record.getMessage() for record in caplog.records)
    assert warned.startswith("GET /a\\nCRITICAL forged\\x1b[2J\\u2028 built 2 autograd nodes at ")
    assert warned.isprintable()
    assert len(ask(app, "GET", "/metrics")[2].splitlines()) == 12
