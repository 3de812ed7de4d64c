"""Baselines: counts of a run, stored for a later comparison in DIR/<machine>/NNNN_name.json."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gradprobe._files import write_atomically
from gradprobe.errors import GradprobeError
from gradprobe.pytest_plugin.options import LATEST, PluginOptions
from gradprobe.pytest_plugin.results import RunResults

SCHEMA = 1
COUNTS = ("nodes", "saved_bytes", "version_bumps")


def machine_name() -> str:
    """Return the name of the machine within which times can be compared: system, Python and PyTorch."""
    import torch

    python = ".".join(platform.python_version_tuple()[:2])
    name = (
        f"{platform.system()}-{platform.machine()}-py{python}-torch{torch.__version__}-{torch.get_num_threads()}threads"
    )
    return re.sub(r"[^\w.+-]", "_", name)


def save_baseline(results: RunResults, options: PluginOptions, config: pytest.Config) -> Path:
    """Write the counts and times of all recorded tests; raise ``GradprobeError`` if that fails."""
    folder = _storage(options, config) / machine_name()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ignore = folder.parent / ".gitignore"
        if not ignore.exists():
            ignore.write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise GradprobeError(
            f"cannot write to {folder}: {error.strerror}; name another folder with --gradprobe-storage"
        ) from None
    number = 1 + max((int(path.name[:4]) for path in _saved(folder)), default=0)
    path = folder / f"{number:04}_{options.save}.json"
    tests = {
        outcome.test: {name: getattr(outcome, name) for name in (*COUNTS, "duration_ns", "level")}
        for outcome in results.outcomes
        if outcome.passed
    }
    body = {"schema": SCHEMA, "kind": "baseline", "machine": machine_name(), "tests": tests}
    write_atomically(path, json.dumps(body, indent=1) + "\n")
    return path


def load_baseline(
    config: pytest.Config, options: PluginOptions, *, has_workers: bool
) -> tuple[Mapping[str, Mapping[str, Any]], list[str]]:
    """Return the counts of the baseline by test, and notes for the report.

    Times are left out if they cannot be compared: on another machine, and if tests run in parallel.
    """
    asked = options.compare or (LATEST if options.compare_fail else None)
    if asked is None:
        return {}, []
    path = _find(asked, _storage(options, config), options.sources["compare"])
    plain = _read(path)
    tests, notes = dict(plain["tests"]), [f"compared with the baseline {path}"]
    why = None
    if plain["machine"] != machine_name():
        why = f"the baseline was made on {plain['machine']}, and this machine is {machine_name()}"
    elif has_workers:
        why = "tests ran in parallel"
    if why is not None:
        notes.append(f"times were not compared: {why}")
        tests = {test: {**known, "duration_ns": None} for test, known in tests.items()}
    return tests, notes


def _find(asked: str, storage: Path, source: str) -> Path:
    if "/" in asked or asked.endswith(".json"):
        return Path(asked)
    every = [path for folder in sorted(storage.glob("*/")) for path in _saved(folder)]
    here = [path for path in every if path.parent.name == machine_name()]
    fitting = [path for path in (here or every) if asked == LATEST or path.stem[5:] == asked or path.stem == asked]
    if not fitting:
        there = ", ".join(sorted({path.stem[5:] for path in every})) or "none"
        raise pytest.UsageError(
            f"gradprobe: unknown baseline {asked!r} from {source}; {storage} has {there}; "
            "save one with --gradprobe-save=NAME"
        )
    return max(fitting, key=lambda path: path.name)


def _saved(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.json") if re.match(r"\d{4}_", path.name)]


def _read(path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise pytest.UsageError(
            f"gradprobe: cannot read the baseline {path}: {error.strerror}; name another one"
        ) from None
    except (ValueError, RecursionError) as error:
        raise pytest.UsageError(
            f"gradprobe: cannot read the baseline {path}: it is not JSON ({error}); save it again"
        ) from None
    if not isinstance(plain, dict) or plain.get("kind") != "baseline" or not _is_sound(plain.get("tests")):
        raise pytest.UsageError(
            f"gradprobe: cannot read {path}: it is not a baseline; name a file that --gradprobe-save wrote"
        )
    if plain.get("schema") != SCHEMA:
        raise pytest.UsageError(
            f"gradprobe: cannot read {path}: it has schema {plain.get('schema')}, and this version reads {SCHEMA}; "
            "save it again"
        )
    return {"machine": None, **plain}


def _is_sound(tests: Any) -> bool:
    return isinstance(tests, dict) and all(
        isinstance(known, dict)
        and all(isinstance(known.get(name), int | float | None) for name in (*COUNTS, "duration_ns"))
        for known in tests.values()
    )


def _storage(options: PluginOptions, config: pytest.Config) -> Path:
    storage: str = options.storage
    return config.rootpath / storage
