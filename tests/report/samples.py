"""A recording and a comparison with known numbers and names, for tests of renderers."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gradprobe.analysis.comparison_outcome import ArmResult, ComparisonOutcome, WorkloadResult
from gradprobe.recorder import Recorder
from gradprobe.recording.contents import Contents
from gradprobe.result import Recording
from gradprobe.stored_recordings import StoredRecording
from gradprobe.tables.column_frames import make_dataframe
from gradprobe.tables.finding_columns import FINDINGS
from gradprobe.tables.recording_tables import RecordingTables
from tests.conftest import FakeClock

ENVIRONMENT = {"process": 77, "rank": None, "level": "graph", "python": "3.11.0", "torch": "2.13.0"}


def contents() -> Contents:
    """Return two threads and three sites; of 4 ms 2 are spent in grad, 1 in no_grad and 1 in inference_mode."""
    clock = FakeClock()
    weight = torch.ones(3, requires_grad=True)

    def validate() -> None:
        with torch.inference_mode():
            clock.advance(1_000_000)

    with Recorder(clock=clock.clock) as recording:
        with torch.no_grad():
            clock.advance(1_000_000)
            for _ in range(2):
                with torch.enable_grad():
                    clock.advance(250_000)
                    (weight * 2).sum()
        thread = threading.Thread(target=validate, name="validation")
        thread.start()
        thread.join()
        clock.advance(500_000)
    return _named(recording._tables.contents[0], ["serve.py"] * 3, ["predict", "refine", "validate"], "validation")


def _named(made: Contents, files: Sequence[str], functions: Sequence[str], thread: str) -> Contents:
    """Return ``made`` with other names at its sites, which get lines 10, 20, 30 and so on."""
    used = sorted({region.site for region in RecordingTables([made], include_torch=False).processes[0].history.regions})
    sites = {n: replace(site, file=files[0], function=functions[0], line=n) for n, site in made.sites.items()}
    for at, number in enumerate(used):
        file, function = files[at % len(files)], functions[at % len(functions)]
        sites[number] = replace(sites[number], file=file, function=function, line=10 * (at + 1))
    threads = {n: replace(t, name=thread if t.name == "validation" else t.name) for n, t in made.threads.items()}
    # The notes mention threads that other tests left running.
    return replace(made, sites=sites, threads=threads, notes=[], meta={**made.meta, "environment": ENVIRONMENT})


def tables(findings: Sequence[Sequence[Any]] = (), made: Contents | None = None) -> RecordingTables:
    """Return the tables of ``contents``, with ``findings`` as the rows of that table."""
    found = RecordingTables([made or contents()], include_torch=False)
    found.__dict__["findings"] = make_dataframe(FINDINGS, findings)
    return found


def recording() -> Recording:
    made = contents()
    return Recording(StoredRecording([made]))


def renamed(made: Contents, name: str) -> Contents:
    """Return ``made`` with ``name`` in every place where a program chooses names."""
    renamed = _named(made, [f"/{name}.py"], [name], name)
    environment = {**ENVIRONMENT, "argv": name}
    return replace(
        renamed,
        meta={**renamed.meta, "environment": environment},
        names=dict.fromkeys(renamed.names, name),
        notes=[("fault", name, 1)],
    )


def outcome(name: str = "decoder") -> ComparisonOutcome:
    """Return two workloads: ``name``, which inference_mode makes faster, and one that fails under grad."""
    counts: dict[str, Any] = {"nodes": 0, "version_bumps": 3, "saved_bytes": 0, "saved_tensors": 0, "operators": 90}
    baseline = ArmResult(
        "no_grad", "baseline", 2_000_000.0, 1.0, 1.0, 1.0, 50, counters_created=80, tracked_views=40, **counts
    )
    first = WorkloadResult(
        name,
        (
            ArmResult(
                "grad", "slower", 3_000_000.0, 1.5, 1.48, 1.52, 50, (1.49, 1.51), explained_ns={"node": 800_000.0}
            ),
            baseline,
            ArmResult(
                *("inference_mode", "faster", 1_800_000.0, 0.9, 0.89, 0.91, 50, (0.895, 0.905)),
                **{**counts, "counters_created": 0, "tracked_views": 0, "inference_tensors": 80},
                explained_ns={"version counter": -90_000.0, "tracked view": -100_000.0},
            ),
        ),
        control=ArmResult("no_grad again", "equivalent", 2_000_000.0, 1.001, 0.998, 1.004, 50, (1.0, 1.002)),
        calls=5,
        processes=2,
    )
    second = WorkloadResult(
        "matmul",
        (
            ArmResult("grad", "unusable", error=f"RuntimeError: {name}"),
            ArmResult("no_grad", "baseline", 5e6, 1.0, 1.0, 1.0, 50),
            ArmResult("inference_mode", "equivalent", 5e6, 1.001, 0.999, 1.003, 50, (1.0, 1.002)),
        ),
        control=ArmResult("no_grad again", "equivalent", 5e6, 1.0, 0.999, 1.001, 50, (1.0, 1.0)),
    )
    return ComparisonOutcome(
        (first, second),
        environment={"torch": "2.13.0", "device": "cpu", "processes": 2, "note": name},
        settings={"modes": ["grad", "no_grad", "inference_mode"], "seed": 0, "precision": 0.02}
        | {"budget_s": 20.0, "took_s": 12.5},
        costs_ns={"node": 900.0, "version counter": 40.0},
        managers_ns={"no_grad": 1100.0, "inference_mode": 1050.0},
    )


def finding(file: str | Path | None, line: int | None, name: str = "leak") -> tuple[Any, ...]:
    return (
        name,
        "error",
        f"a graph is kept, says {name}",
        None if file is None else str(file),
        line,
        name,
        3,
        [{"file": f"{name}.py", "line": 7, "role": "entered here"}],
        f"del {name}",
        f"3 graphs, says {name}",
        f"phase {name}",
    )
