"""``compare``: measures a call under several modes and returns a ``Comparison``."""

from __future__ import annotations

import contextlib
import inspect
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gradprobe.analysis.comparison_outcome import ComparisonOutcome
from gradprobe.comparison import measured_modes
from gradprobe.comparison.comparison_result import Comparison
from gradprobe.comparison.experiment import Experiment, MeasuredWorkload, ProgressCallback
from gradprobe.comparison.measure.bench import Bench
from gradprobe.comparison.measure.call_timer import make_call_timer
from gradprobe.comparison.settings import DEFAULT_PROCESSES, ComparisonSettings, validate_settings
from gradprobe.comparison.surroundings import keep_generators, read_surroundings, reset_modes
from gradprobe.comparison.verdicts import fit_mechanism_costs, judge_workload
from gradprobe.comparison.workers.instruction_counts import count_instructions
from gradprobe.comparison.workers.worker_handles import (
    InProcessWorker,
    SubprocessWorker,
    Worker,
    WorkerDied,
    check_not_measuring,
    open_sources,
)
from gradprobe.comparison.workloads.call_arguments import merge_keywords
from gradprobe.comparison.workloads.pickled_calls import pickle_call
from gradprobe.comparison.workloads.sources import WorkloadSource, bind_call
from gradprobe.errors import GradprobeError


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
    kwargs: Mapping[str, Any] | None = None,
    **keywords: Any,
) -> Comparison:
    """Measure a call under several modes: which is faster, by how much, and why.

    The call is ``fn(*args, **kwargs, **keywords)``. It is measured in fresh processes if it can be pickled. Functions of a
    script or a notebook, nested functions and lambdas cannot; they are measured in the current process, and the result
    says so. Afterwards random generators and the inputs are as they were before, even if ``fn`` changes them.

    ``precision`` and ``budget_s`` correspond to ``threshold`` and ``max_run_time`` of
    :meth:`torch.utils.benchmark.Timer.adaptive_autorange`: measuring stops when the result is precise enough, at the latest
    when the time is over. ``precision`` bounds the half-width of the confidence interval of a *ratio* of two modes, where
    ``threshold`` bounds the interquartile range of one time; ``budget_s`` is for all modes and processes together. There
    is no ``min_run_time``, because each process always has three turns if the budget allows them.

    Args:
        fn: function, module or other callable to measure.
        *args: positional arguments of ``fn``.
        modes: modes among "grad", "no_grad", "inference_mode" and "inference_mode+parameters" (default: the first three).
            The last one calls copies of the modules whose parameters are inference tensors. `no_grad` is the baseline and
            is always measured.
        device: device on which the call runs, for timing by events of its stream (default: the CPU). The inputs must be
            there already.
        precision: half-width of the 95 % interval of each ratio at which measuring stops, as a share (default: 0.02, for
            +-2 %).
        budget_s: maximum measuring time in seconds, counted from when the processes have started (default: 26).
        seed: seed of the random generators before each call, of the order of modes and of the bootstrap (default: 0).
        processes: number of fresh processes (default: 5). With 1 the call is measured in the current process.
        instructions: count the machine instructions of one call as well, by valgrind in a process of its own, after and
            in addition to ``budget_s`` (default: False).
        kwargs: keyword arguments of ``fn`` as a mapping, for arguments with the name of one of the parameters above
            (default: none). ``functools.partial`` does the same.
        **keywords: further keyword arguments of ``fn``.

    Returns:
        A :class:`Comparison`. A mode in which ``fn`` fails has the verdict "unusable" and its error in the table.

    Raises:
        GradprobeError: if ``fn`` is not callable, an argument is invalid, or a keyword could be meant for ``fn`` as well
            as for ``compare``.

    Example::

        comparison = gradprobe.compare(model, x, modes=("no_grad", "inference_mode"), budget_s=10)
        print(comparison)
        gradprobe.compare(torch.zeros, 1000, kwargs={"device": "cpu"})
    """
    if not callable(fn):
        raise GradprobeError(f"fn must be callable, got {type(fn).__name__}; call compare(model, x)")
    own = {
        "modes": modes,
        "device": device,
        "precision": precision,
        "budget_s": budget_s,
        "seed": seed,
        "processes": processes,
        "instructions": instructions,
    }
    defaults = inspect.signature(compare).parameters
    given = [
        name for name, value in own.items() if value is not defaults[name].default and value != defaults[name].default
    ]
    arguments = merge_keywords(fn, args, kwargs, keywords, given=given)
    settings = validate_settings(**own, threads=torch.get_num_threads())
    with tempfile.TemporaryDirectory(prefix="gradprobe-") as folder:
        source, reason = pickle_call(Path(folder) / "call.pickle", fn, args, arguments)
        if source is not None:
            reason = "processes=1 was requested"
            if settings.processes > 1:
                try:
                    comparison = compare_sources([source], settings)
                    failure = _find_failure(comparison)
                    if not failure:
                        return comparison
                    reason = f"it fails in another process, which imports it again ({failure})"
                except _WorkerUnusableError as error:
                    reason = f"another process could not open it ({error})"
        return _compare_in_process(fn, args, arguments, settings, reason)


def _find_failure(comparison: Comparison) -> str:
    """Return the error of a call that fails in all modes.

    In the current process it may succeed: the program may have put something into its modules since they were imported.
    """
    (workload,) = comparison._outcome.workloads
    errors = [arm.error for arm in workload.arms]
    has_died = any(error in workload.notes for error in errors)  # it would end this process as well
    return errors[0] if all(errors) and not has_died else ""


class _WorkerUnusableError(GradprobeError):
    """The target cannot be opened in a fresh process."""


def compare_sources(
    sources: Sequence[WorkloadSource],
    settings: ComparisonSettings,
    *,
    on_progress: ProgressCallback = lambda step, share: None,
) -> Comparison:
    """Measure the workloads of all sources in fresh processes."""
    check_not_measuring()
    surroundings = read_surroundings(settings)
    on_progress("starting processes", 0.0)
    with contextlib.ExitStack() as stack:
        workers = []
        for number in range(settings.processes):
            worker = SubprocessWorker(
                number, modes=settings.modes, seed=settings.seed, device=settings.device, threads=settings.threads
            )
            stack.callback(worker.close)
            workers.append(worker)
        names: list[str] = []
        for worker in workers:
            try:
                surroundings["torch_threads"] = worker.wait_until_ready()
                names = open_sources(worker, sources)
            except WorkerDied as death:
                raise _WorkerUnusableError(f"cannot measure it: {death} while it was imported") from None
            except GradprobeError as error:
                raise _WorkerUnusableError(str(error)) from None
        outcome = _run_experiment(workers, names, settings, surroundings, (), sources=sources, on_progress=on_progress)
    return Comparison(outcome)


def _compare_in_process(
    fn: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    settings: ComparisonSettings,
    reason: str,
) -> Comparison:
    workload = bind_call(fn, args, kwargs)
    bench = Bench(settings.modes, seed=settings.seed, timer=make_call_timer(settings.device))
    bench.add([workload])
    note = f"measured in one process, because {reason}: the intervals do not include differences between processes"
    with keep_generators(), reset_modes(), contextlib.closing(InProcessWorker(bench)) as worker:
        outcome = _run_experiment([worker], [workload.name], settings, read_surroundings(settings), (note,))
    return Comparison(outcome)


def _run_experiment(
    workers: Sequence[Worker],
    names: Sequence[str],
    settings: ComparisonSettings,
    surroundings: dict[str, Any],
    notes: Sequence[str],
    *,
    sources: Sequence[WorkloadSource] = (),
    on_progress: ProgressCallback = lambda step, share: None,
) -> ComparisonOutcome:
    begun = time.monotonic()
    experiment = Experiment(workers, settings, on_progress=on_progress)
    workloads, mixtures = experiment.run(names)
    costs = fit_mechanism_costs(mixtures)
    managers = {arm: statistics.median(values) for arm, values in experiment.time_managers().items()}
    took = time.monotonic() - begun
    if settings.instructions:
        on_progress("counting instructions", 1.0)
        notes = [*notes, *_add_instructions(workloads, sources, settings)]
    return ComparisonOutcome(
        tuple(judge_workload(measured, settings, costs) for measured in workloads),
        {**surroundings, "processes": len(workers)},
        {
            "modes": list(settings.modes),
            "precision": settings.precision,
            "budget_s": settings.budget(len(names)),
            "seed": settings.seed,
            "device": settings.device,
            "took_s": round(took, 1),
            "warm_up_rounds": sum(0 if one.facts is None else one.facts.warm_up_rounds for one in workloads),
        },
        {} if costs is None else dict(costs.ns),
        managers,
        (*notes, *dict.fromkeys(experiment.notes)),
    )


def _add_instructions(
    workloads: Sequence[MeasuredWorkload], sources: Sequence[WorkloadSource], settings: ComparisonSettings
) -> list[str]:
    """Count the instructions of each workload. Return a note if that is not possible."""
    if not sources:
        return ["instructions were not counted: the call cannot be sent to the process that this requires"]
    counts, reason = count_instructions(
        sources, [measured.name for measured in workloads if not measured.crash], settings
    )
    for measured in workloads:
        measured.instructions = counts.get(measured.name, {})
    return [f"instructions were not counted: {reason}"] if reason else []
