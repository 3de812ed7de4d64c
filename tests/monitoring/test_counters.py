"""A monitor's counts are those of a recording of the same run, for random programs."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import HealthCheck, given, settings

from gradprobe.monitoring.monitor import Monitor
from gradprobe.recorder import Recorder, get_session
from gradprobe.recording.rows import is_failure
from tests.conftest import FakeClock
from tests.property.programs import Body, Real, Source, programs
from tests.thoroughness import examples


@settings(max_examples=examples(150), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(programs())
def test_blocks_that_close_as_usual_are_counted_as_a_recording_has_them(program: Body) -> None:
    clock = FakeClock()
    session = get_session(clock.clock)

    def drain() -> None:
        with session.lock:
            session.drain()

    recorder, monitor = Recorder(clock=clock.clock), Monitor(clock=clock.clock)
    recording = recorder.start()
    monitor.start()
    try:
        Real(drain, clock.advance).run(Source(program).text)
        with session.lock:
            session.drain()
        sites = monitor.stop()["sites"]
    finally:
        recorder.stop()
        torch._C._set_grad_enabled(True)
    regions = recording.regions
    regions = regions[~regions["manager"].isin(["unknown"])]
    odd = set(map(_key, regions[(regions["irregular"] != "")].to_dict("records")))
    usual = [r for r in regions.to_dict("records") if r["form"] != "call" and _key(r) not in odd]
    expected: dict[tuple[Any, ...], list[Any]] = {}
    for region in usual:
        known = expected.setdefault(_key(region), [0, 0, 0, 0])
        known[0] += 1
        known[1] += region["duration_ns"]
        known[2] += is_failure(region["error"])
        known[3] += region["nodes"]
    # A line may hold a block and, run another time, a plain call: the counts of a monitor do not tell these apart.
    calls = set(map(_key, regions[regions["form"] == "call"].to_dict("records")))
    found = {
        _key(site): [site["count"], site["total_ns"], site["errors"], site["nodes"]]
        for site in sites
        if _key(site) not in odd | calls
    }
    assert found == {key: value for key, value in expected.items() if key not in calls}


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["file"], row["line"], row["manager"]
