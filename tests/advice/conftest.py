"""Fixtures of the tests that run programs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gradprobe.advice import program_runs
from gradprobe.advice.fork_server import ForkServer


@pytest.fixture(scope="session")
def shared_server() -> Iterator[type[ForkServer]]:
    """Give a server class whose objects share one process."""
    servers: list[ForkServer] = []

    class Shared(ForkServer):
        def __new__(cls, *_: object) -> Shared:
            return servers[0] if servers else super().__new__(cls)  # type: ignore[return-value]

        def __init__(self, preload: object) -> None:
            if not servers:
                super().__init__(["torch._dynamo"])
                servers.append(self)

        def close(self) -> None:
            pass

    yield Shared
    for server in servers:
        super(Shared, server).close()  # type: ignore[misc]


@pytest.fixture(scope="module")
def one_process(shared_server: type[ForkServer]) -> Iterator[None]:
    """Fork all programs from one process: each import of torch takes longer than the runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program_runs, "ForkServer", shared_server)
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # plugins take longer to import than the tests to run
        yield
