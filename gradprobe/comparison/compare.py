"""`compare`: from a target and settings to a ``Comparison``."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.comparison import measured_modes
from gradprobe.comparison.comparison_result import Comparison
from gradprobe.comparison.experiment import Experiment, MeasuredWorkload, ProgressCallback
from gradprobe.comparison.measure.bench import Bench
from gradprobe.comparison.measure.call_timer import make_call_timer
from gradprobe.comparison.settings import DEFAULT_PROCESSES, ComparisonSettings, validate_settings
from gradprobe.comparison.state.reachable import ReachableState
from gradprobe.comparison.verdicts import fit_mechanism_costs, judge_workload
from gradprobe.comparison.workers import instruction_counts as machine_instructions
from gradprobe.comparison.workers.worker_handles import (
    InProcessWorker,
    SubprocessWorker,
    Worker,
    WorkerDied,
    check_not_measuring,
    open_sources,
)
from gradprobe.comparison.workloads.sources import WorkloadSource, bind_call
from gradprobe.environment import environment
from gradprobe.errors import GradprobeError

MAX_PICKLED_BYTES = 1 << 30


def compare(
    fn: Callable[..., object],
    *args: Any,
    modes: Sequence[str] = measured_modes.DEFAULT_MODES,
    device: str | torch.device | None = None,
    precision: float = 0.02,
    budget_s: float | None = None,
    seed: int = 0,
    processes: int = DEFAULT_PROCESSES,
    instructions: bool = False,
    **kwargs: Any,
) -> Comparison:
    """Measures ``fn(*args, **kwargs)`` under each mode, and says which is faster, by how much, and why.

    ``modes`` are among "grad", "no_grad", "inference_mode" and "inference_mode+parameters" (copies of the modules, made in
    inference mode); `no_grad` is always measured. ``precision`` is half the width of a 95 per cent interval, as a share, at
    which measuring stops; ``budget_s`` the seconds after which it stops anyway, counted from when processes have started.
    ``device`` names where the work runs if that is no CPU; the inputs must be there. With ``instructions``
    those of one call are counted by valgrind afterwards, in a process and in time of its own.

    The call is measured in ``processes`` fresh processes where it can be pickled for them, which functions of a script or
    a notebook and lambdas cannot; in this one otherwise, and the result says so. Afterwards random generators are as they
    were, and so are the inputs, if ``fn`` changes them.

    Raises ``GradprobeError`` for what cannot be called and for settings that cannot be. A mode in which ``fn`` fails is a
    result: its verdict is "unusable", with the error.
    """
    if not callable(fn):
        raise GradprobeError(f"compare needs something to call, not a {type(fn).__name__}; give compare(model, x)")
    settings = validate_settings(
        modes=modes, device=device, precision=precision, budget_s=budget_s, seed=seed, processes=processes,
        threads=torch.get_num_threads(), instructions=instructions,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gradprobe-") as folder:
        source, reason = _pickled(Path(folder) / "call.pickle", fn, args, kwargs)
        if source is not None and settings.processes > 1:
            try:
                compared = compare_sources([source], settings)
                failure = _failure(compared)
                if not failure:
                    return compared
                reason = f"in another process, which imports it anew, it fails ({failure})"
            except _Unreachable as error:
                reason = f"another process could not take it up ({error})"
        return _here(fn, args, kwargs, settings, reason)


def _failure(compared: Comparison) -> str:
    """Why it runs in no mode, if it does not. Here it may: modules may hold what the program has put there since."""
    (workload,) = compared.outcome.workloads
    errors = [arm.error for arm in workload.arms]
    has_died = any(error in workload.notes for error in errors)  # as it would take this process with it
    return errors[0] if all(errors) and not has_died else ""


class _Unreachable(GradprobeError):  # noqa: N818 -- a reason more than an error
    """The target cannot be opened in a fresh process."""


def compare_sources(
    sources: Sequence[WorkloadSource],
    settings: ComparisonSettings,
    *,
    tell: ProgressCallback = lambda what, share: None,
) -> Comparison:
    """Measures the workloads of all sources in fresh processes."""
    check_not_measuring()
    surroundings = _surroundings(settings)
    tell("starting processes", 0.0)
    with contextlib.ExitStack() as stack:
        crew: list[Worker] = []
        started = []
        for number in range(settings.processes):
            member = SubprocessWorker(
                number, modes=settings.modes, seed=settings.seed, device=settings.device, threads=settings.threads
            )
            stack.callback(member.close)
            started.append(member)
        names: list[str] = []
        for member in started:
            try:
                surroundings["torch_threads"] = member.wait_until_ready()
                names = open_sources(member, sources)
            except WorkerDied as loss:
                raise _Unreachable(f"it cannot be measured: {loss} while it was imported") from None
            except GradprobeError as error:
                raise _Unreachable(str(error)) from None
            crew.append(member)
        outcome = _outcome(crew, names, settings, surroundings, (), sources=sources, tell=tell)
    return Comparison(outcome)


def _here(
    fn: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    settings: ComparisonSettings,
    reason: str,
) -> Comparison:
    workload = bind_call(fn, args, kwargs)
    bench = Bench(settings.modes, seed=settings.seed, timer=make_call_timer(settings.device))
    bench.add([workload])
    note = f"measured in one process, because {reason}: how processes differ is not in the intervals"
    with _generators_kept(), _modes_kept(), contextlib.closing(InProcessWorker(bench)) as here:
        outcome = _outcome([here], [workload.name], settings, _surroundings(settings), (note,))
    return Comparison(outcome)


def _outcome(
    crew: Sequence[Worker],
    names: Sequence[str],
    settings: ComparisonSettings,
    surroundings: dict[str, Any],
    notes: Sequence[str],
    *,
    sources: Sequence[WorkloadSource] = (),
    tell: ProgressCallback = lambda what, share: None,
) -> ComparisonOutcome:
    begun = time.monotonic()
    experiment = Experiment(crew, settings, on_progress=tell)
    found, mixtures = experiment.run(names)
    costs = fit_mechanism_costs(mixtures)
    managers = {arm: statistics.median(values) for arm, values in experiment.time_managers().items()}
    took = time.monotonic() - begun
    if settings.instructions:
        tell("counting instructions", 1.0)
        notes = [*notes, *_count_instructions(found, sources, settings)]
    return ComparisonOutcome(
        tuple(judge_workload(measured, settings, costs) for measured in found),
        {**surroundings, "processes": len(crew)},
        {
            "modes": list(settings.modes),
            "precision": settings.precision,
            "budget_s": settings.budget(len(names)),
            "seed": settings.seed,
            "device": settings.device,
            "took_s": round(took, 1),
            "warm_up_rounds": sum(_warm_up(measured) for measured in found),
        },
        {} if costs is None else dict(costs.ns),
        managers,
        (*notes, *dict.fromkeys(experiment.notes)),
    )


def _count_instructions(
    found: Sequence[MeasuredWorkload], sources: Sequence[WorkloadSource], settings: ComparisonSettings
) -> list[str]:
    """Adds the instructions of one call to each workload; a note where that could not be done."""
    if not sources:
        return ["instructions were not counted: that takes a process of its own, which this cannot be sent to"]
    names = [measured.name for measured in found if not measured.crash]
    counts, reason = machine_instructions.count_instructions(sources, names, settings)
    for measured in found:
        measured.instructions = counts.get(measured.name, {})
    return [f"instructions were not counted: {reason}"] if reason else []


def _warm_up(measured: MeasuredWorkload) -> int:
    return 0 if measured.facts is None else measured.facts.warm_up_rounds


def _surroundings(settings: ComparisonSettings) -> dict[str, Any]:
    known = environment()
    if settings.device is not None and torch.device(settings.device).type == "cuda":
        known["accelerator"] = torch.cuda.get_device_name(settings.device)
    return {
        **known,
        "device": settings.device or "cpu",
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "cpu_governor": _governor(),
        "garbage_collection": "off while timing, run before each turn",
    }


def _governor() -> str | None:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def _pickled(
    path: Path, fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[WorkloadSource | None, str]:
    """The call in a file that another process can read, or why there is none."""
    reason = _lost_by_pickling(list(ReachableState(partial(fn, *args, **kwargs)).tensors.values()))
    if reason:
        return None, reason
    try:
        data = pickle.dumps((fn, args, kwargs))
    except Exception:
        return (
            None,
            "it cannot be sent to another: a lambda, a function inside another, or arguments that do not pickle",
        )
    if len(data) > MAX_PICKLED_BYTES:
        return None, f"its {len(data) >> 20} MiB would be there once for each process"
    if b"__main__" in data:
        return (
            None,
            "it is defined in the program that runs; put it in a module of its own to have it measured in several",
        )
    path.write_bytes(data)
    return WorkloadSource("pickle", str(path)), "processes=1 was asked for"


def _lost_by_pickling(tensors: Sequence[Tensor]) -> str:
    """What a copy in another process would not have of these tensors, and would be measured without."""
    if any(tensor.is_inference() for tensor in tensors):
        return "its inference tensors would be normal ones in another"
    if any(tensor.is_leaf and tensor.grad is not None for tensor in tensors):
        return "gradients are not sent to another; clear them to have it measured in several"
    places = [
        t.untyped_storage().data_ptr() for t in tensors if t.layout is torch.strided and not t.is_meta and t.numel()
    ]
    if len(set(places)) < len(places):
        return "its tensors share memory, which they would not in another"
    return ""


@contextlib.contextmanager
def _generators_kept() -> Iterator[None]:
    """The random generators of the program, as they were."""
    state, numpy = random.getstate(), sys.modules.get("numpy")
    drawn = numpy.random.get_state() if numpy is not None else None
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(state)
        if numpy is not None:
            numpy.random.set_state(drawn)


@contextlib.contextmanager
def _modes_kept() -> Iterator[None]:
    """Normal modes inside, whatever the caller's: an outer inference mode would reach into every arm."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
