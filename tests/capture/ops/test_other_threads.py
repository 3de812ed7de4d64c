"""Recordings that end in another thread than they began in."""

from __future__ import annotations

import threading

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
