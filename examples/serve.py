"""A thread-pool server around a small model, and a ``no_grad`` that does not reach its workers.

    python examples/serve.py

The main thread serves under ``with torch.no_grad()``. Grad mode is thread-local, so the block has no effect in the workers:
``/careless`` relies on it and builds an autograd graph at every request, ``/careful`` enters inference mode itself and
builds none. Both give the same answer; the graph is the only difference. Look at

* "Time by thread": the main thread spends its time in no_grad, the workers in grad;
* "Probed calls": the nodes that each endpoint constructed;
* the last two lines, which come from the same numbers.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import ProxyHandler, build_opener

import torch

import gradprobe

WORKERS = 3
REQUESTS = 12  # to each endpoint

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))


@gradprobe.probe
def careless(x: torch.Tensor) -> list[float]:
    return model(x).tolist()


@gradprobe.probe
def careful(x: torch.Tensor) -> list[float]:
    with torch.inference_mode():
        return model(x).tolist()


ENDPOINTS = {"/careless": careless, "/careful": careful}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        x = torch.tensor(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        answer = json.dumps(ENDPOINTS[self.path](x)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        """Print nothing: the terminal is for the report."""


class PoolServer(ThreadingHTTPServer):
    """A server that submits each request to a pool of threads, where its parent would start a new thread."""

    def __init__(self, workers: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="worker")

    def process_request(self, request: Any, client_address: Any) -> None:
        self.pool.submit(self.process_request_thread, request, client_address)

    def server_close(self) -> None:
        super().server_close()
        self.pool.shutdown()


def send_requests(server: PoolServer, clients: ThreadPoolExecutor) -> dict[str, list[list[float]]]:
    """Send every request of this example, stop the server, and return the answers of each endpoint."""
    open_url = build_opener(ProxyHandler({})).open
    body = json.dumps([0.5] * 8).encode()

    def ask(path: str) -> list[float]:
        with open_url(f"http://127.0.0.1:{server.server_port}{path}", data=body, timeout=30) as reply:
            return json.load(reply)

    try:
        return {path: list(clients.map(ask, [path] * REQUESTS)) for path in ENDPOINTS}
    finally:
        server.shutdown()


def serve() -> tuple[gradprobe.Recording, dict[str, list[list[float]]]]:
    """Serve until every request is answered; return the recording, and the answers of each endpoint."""
    with gradprobe.record() as recording:
        with torch.no_grad(), PoolServer(WORKERS) as server:
            with ThreadPoolExecutor(WORKERS + 1, thread_name_prefix="client") as clients:
                sending = clients.submit(send_requests, server, clients)
                server.serve_forever(poll_interval=0.01)
                answers = sending.result()
    return recording, answers


def main() -> None:
    recording, answers = serve()
    print(recording)
    print()
    calls = recording.calls.groupby("function", sort=False).agg(requests=("nodes", "size"), nodes=("nodes", "sum"))
    for endpoint in calls.itertuples():
        path = f"/{endpoint.Index}"
        answer = ", ".join(f"{number:.4f}" for number in answers[path][0])
        verdict = f"built graphs: {endpoint.nodes} autograd nodes" if endpoint.nodes else "built no graph"
        print(f"{path} answered [{answer}] and {verdict} in {endpoint.requests} requests.")


if __name__ == "__main__":
    main()
