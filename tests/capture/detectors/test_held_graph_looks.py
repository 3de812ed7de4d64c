"""Looks at held graphs take a bounded part of the program's time, whatever its threads hold."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.held_graphs import HeldGraphDetector
from gradprobe.capture.location import holders
from gradprobe.capture.location.frames import FrameClassifier


def make_detector(list_held: Callable[[], Iterable[tuple[Any, ...]]]) -> HeldGraphDetector:
    return HeldGraphDetector(DetectionLog(FrameClassifier(), lambda: 0), list_held, list)


def test_no_look_begins_while_another_one_runs() -> None:
    looks = []

    def list_held() -> list[tuple[Any, ...]]:
        looks.append(len(looks))
        detector.look()
        return []

    detector = make_detector(list_held)
    detector.look()
    detector.look()
    assert looks == [0, 1]


def test_looks_take_their_share_of_the_time_and_the_last_one_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, looks = [0.0], []
    for name in ("perf_counter", "thread_time"):
        monkeypatch.setattr(time, name, lambda: clock[0])

    def list_held() -> list[tuple[Any, ...]]:
        looks.append(clock[0])
        clock[0] += 1.0
        return []

    detector = make_detector(list_held)
    for _ in range(1_000):
        detector.look()
        clock[0] += 1.0
    assert 2 <= len(looks) <= 0.02 * clock[0]
    before = len(looks)
    detector.look(is_last=True)
    assert len(looks) == before + 1


def test_a_search_upwards_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    get_referrers = gc.get_referrers
    monkeypatch.setattr(holders.gc, "get_referrers", lambda one: searched.append(1) or get_referrers(one))
    tensor = torch.ones(1)
    level: list[Any] = [tensor]
    for _ in range(3):
        level = [[one] for one in level for _ in range(8)]
    holders._climb(tensor, {id(level)}, FrameClassifier(), kinds=frozenset({"nothing"}))
    assert 2 < len(searched) <= holders._MAX_CLIMBS
