"""The table of modes: what set each, whose code it is, and whether it outlived its function."""

from __future__ import annotations

import threading
from typing import Any

import torch

import gradprobe


def leave() -> None:
    torch.set_grad_enabled(False)


def rows_of(recording: gradprobe.Recording, origin: str) -> list[dict[str, Any]]:
    modes = recording.modes
    return [{str(k): v for k, v in row.items()} for row in modes[modes["origin"] == origin].to_dict("records")]


def test_a_block_is_one_row_with_its_count_and_its_modes() -> None:
    with gradprobe.record(level="modes") as recording:
        for _ in range(3):
            with torch.inference_mode():
                pass
    (row,) = rows_of(recording, "with")
    assert (row["manager"], row["owner"], row["count"], row["outlived"]) == ("inference_mode", "program", 3, False)
    assert (row["grad_before"], row["inference_before"], row["grad"], row["inference"]) == (True, False, False, True)


def test_a_call_that_outlived_its_function_has_the_line_that_lost_a_gradient() -> None:
    weight = torch.ones(2, requires_grad=True)
    with gradprobe.record(level="ops") as recording:
        leave()
        weight * 2
        torch.set_grad_enabled(True)
    row = next(row for row in rows_of(recording, "call") if not row["grad"])
    line = test_a_call_that_outlived_its_function_has_the_line_that_lost_a_gradient.__code__.co_firstlineno + 4
    assert (row["function"], row["outlived"], row["lost_line"]) == ("leave", True, line)


def test_a_call_that_its_caller_undoes_is_found_left_without_operators() -> None:
    with gradprobe.record(level="modes") as recording:
        leave()
        torch.set_grad_enabled(True)
    row = next(row for row in rows_of(recording, "call") if not row["grad"])
    assert row["outlived"]


def test_a_thread_begins_with_grad_enabled_whatever_its_starter_had() -> None:
    with gradprobe.record(level="modes") as recording, torch.no_grad():
        thread = threading.Thread(target=int, name="worker")
        thread.start()
        thread.join()
    (row,) = rows_of(recording, "thread")
    assert (row["thread"], row["grad_before"], row["grad"]) == ("worker", False, True)


def test_a_block_of_torch_is_shown_with_its_owner_when_asked_for() -> None:
    with gradprobe.record(level="modes", include_torch=True) as recording:
        torch.optim.SGD([torch.ones(2, requires_grad=True)], 0.1).zero_grad()
        repr(torch.ones(2))
    assert set(recording.modes["owner"]) <= {"torch", "program"}
