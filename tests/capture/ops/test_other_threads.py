"""Recordings that end in another thread than they began in."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import torch

import gradprobe


@pytest.mark.filterwarnings("ignore:Using backward")
def test_what_a_thread_left_is_reported_when_another_one_ends_the_recording() -> None:
    recorder = gradprobe.record(level="ops")
    leaf = torch.ones(3, requires_grad=True)

    def work() -> None:
        recorder.start()
        leaf.exp().sum().backward(create_graph=True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    recorder.stop()
    assert recorder.recording.findings["rule"].tolist() == ["GP203"]
    leaf.grad = None


def test_last_nodes_of_an_ended_thread_that_imported_torch(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent("""
        import threading

        def work():
            import torch

            class Double(torch.autograd.Function):
                @staticmethod
                def forward(ctx, x):
                    return x * 2

            Double.apply(torch.ones(3, requires_grad=True))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        """)
    )
    target = tmp_path / "run.gradprobe"
    words = ["-m", "gradprobe", "run", "--level", "ops", "-o", str(target), str(program)]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    assert gradprobe.load(target).ops["nodes"].sum() == 1
