"""``GRADPROBE_RECORD``: one variable records all processes of a program that knows nothing of gradprobe."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest

import gradprobe
from gradprobe._switch import RECORD_VARIABLE
from gradprobe.analysis.process_relations import relate_processes
from gradprobe.capture.patching.post_import import PostImportHook
from gradprobe.subprocesses import environment_start
from gradprobe.subprocesses.follow_request import BOOT_FOLDER, FOLLOW_VARIABLE, FollowRequest
from tests.commands.running import PATIENCE_S
from tests.test_install import build_wheel

ENGINE = """
import multiprocessing, subprocess, sys
import torch
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return 2
    def __getitem__(self, index):
        return torch.ones(2) * index

def work(index=0, *_):
    with torch.inference_mode():
        torch.ones(2) * 2

if __name__ == "__main__":
    for method in ("fork", "spawn", "forkserver"):
        process = multiprocessing.get_context(method).Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == 0
    torch.multiprocessing.spawn(work, nprocs=1)
    assert len([*DataLoader(Numbers(), num_workers=1, multiprocessing_context="fork")]) == 2
    code = "import torch; torch.set_grad_enabled(False)"
    subprocess.run([sys.executable, "-I", "-c", code], check=True)
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    print("done")
"""

RAY = """
import socket
import gradprobe, ray, torch
import torch.distributed as distributed

@ray.remote
class Worker:
    def predict(self):
        with torch.inference_mode():
            return torch.nn.Linear(4, 2)(torch.ones(3, 4)).shape[0]

    def train(self, rank, port):
        distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
        with gradprobe.record(level="ops") as recording:
            with torch.set_grad_enabled(rank == 0):
                torch.nn.Linear(4, 2)(torch.ones(3, 4)).sum()
        everything = gradprobe.gather(recording)
        distributed.barrier()
        distributed.destroy_process_group()
        return everything and (sorted(everything.transitions["rank"].unique()), "GP901" in set(everything.findings["rule"]))

if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    workers = [Worker.remote() for _ in range(2)]
    with torch.no_grad():
        print(ray.get([worker.predict.remote() for worker in workers]))
        (ranks, is_found), nothing = ray.get([worker.train.remote(rank, port) for rank, worker in enumerate(workers)])
    print(*ranks, is_found, nothing)
    ray.shutdown()
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the interpreter of an environment that gradprobe is installed in, with the other packages of this one."""
    folder = tmp_path_factory.mktemp("environment")
    wheel = build_wheel(tmp_path_factory.mktemp("wheel"))
    venv.create(folder, with_pip=False)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "zz_others.pth").write_text("\n".join(others), encoding="utf-8")
    return str(folder / "bin" / "python")


def run(words: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        words, cwd=folder, env=environment | variables, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_one_variable_records_all_processes_and_one_command_joins_them(python: str, tmp_path: Path) -> None:
    (tmp_path / "engine.py").write_text(ENGINE, encoding="utf-8")
    done = run([python, "engine.py"], tmp_path, GRADPROBE_RECORD="runs/engine.gradprobe", GRADPROBE_LEVEL="modes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    files = sorted((tmp_path / "runs").iterdir())
    found = relate_processes(gradprobe.merge(files)._tables.processes)
    assert all(one.process.history.complete for one in found)
    (engine,) = [
        one.process for one in found if one.parent is None and one.process.environment["program"] == "engine.py"
    ]
    lines = dict(enumerate(ENGINE.splitlines(), 1))
    started = [lines[one.start.line].strip() for one in found if one.start is not None and one.parent is engine]
    assert sorted(started) == [
        'assert len([*DataLoader(Numbers(), num_workers=1, multiprocessing_context="fork")]) == 2',
        "process.start()",
        "process.start()",
        "process.start()",
        'subprocess.run([sys.executable, "-I", "-c", code], check=True)',
        "torch.multiprocessing.spawn(work, nprocs=1)",
    ]
    report = run([python, "-m", "gradprobe", "report", *map(str, files)], tmp_path)
    assert report.returncode == 0, report.stderr
    assert "engine.py:25  grad" in report.stdout
    assert "* Everything that this level records was observed." in report.stdout


def test_workers_of_ray_are_recorded_and_gathered_as_ranks(python: str, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is too large to be installed for one test")
    (tmp_path / "engine.py").write_text(RAY, encoding="utf-8")
    record_to = str(tmp_path / "runs" / "ray.gradprobe")
    done = run([python, "engine.py"], tmp_path, GRADPROBE_RECORD=record_to, RAY_USAGE_STATS_ENABLED="0")
    assert (done.returncode, done.stdout) == (0, "[3, 3]\n0 1 True None\n"), done.stderr
    files = sorted((tmp_path / "runs").iterdir())
    regions = gradprobe.merge(files).regions
    predicted = regions[regions["function"] == "Worker.predict"]
    assert len(predicted) == predicted["process"].nunique() == 2, "each worker in a file of its own"
    assert predicted["closed"].all()
    assert regions[regions["manager"] == "no_grad"]["function"].tolist() == ["<module>"], "the program that starts them"


def test_a_command_of_gradprobe_is_not_recorded_besides(python: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import torch\ntorch.set_grad_enabled(False)\n", encoding="utf-8")
    words = [python, "-m", "gradprobe", "run", "-o", "own.gradprobe", "program.py"]
    done = run(words, tmp_path, GRADPROBE_RECORD="all.gradprobe")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob("*.gradprobe")] == ["own.gradprobe"]
    assert len(gradprobe.load(tmp_path / "own.gradprobe").transitions) == 1


def test_a_program_runs_even_if_it_cannot_be_recorded(python: str, tmp_path: Path) -> None:
    done = run([python, "-c", "import torch; print('ran')"], tmp_path, GRADPROBE_RECORD="a", GRADPROBE_LEVEL="all")
    assert (done.returncode, done.stdout) == (0, "ran\n")
    assert "is not recorded: level must be 'modes', 'graph' or 'ops', got 'all'" in done.stderr


def test_a_request_is_that_of_the_starting_process_else_that_of_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (RECORD_VARIABLE, FOLLOW_VARIABLE, environment_start.LEVEL_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    assert environment_start._find_request() is None
    monkeypatch.setenv(RECORD_VARIABLE, "runs/engine.gradprobe")
    first = environment_start._find_request()
    assert first == FollowRequest(str(tmp_path / "runs" / "engine"), "graph", include_torch=False, parent=None)
    monkeypatch.setenv(environment_start.LEVEL_VARIABLE, "ops")
    request = environment_start._find_request()
    assert request is not None
    assert request.level == "ops"
    for name, value in replace(first, parent=7).variables({}).items():
        monkeypatch.setenv(name, value)
    assert environment_start._find_request() == replace(first, parent=7)
    monkeypatch.syspath_prepend(BOOT_FOLDER)
    assert environment_start._find_request() is None, "sitecustomize begins the recording"


def test_hooks_that_wait_for_the_same_module_do_not_disturb_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "awaited_by_two.py").write_text("loaded = True\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    called: list[str] = []
    for name in ("first", "second"):
        PostImportHook("awaited_by_two", partial(called.append, name)).begin()
    assert import_module("awaited_by_two").loaded
    assert called == ["first", "second"]
    assert "exec_module" not in vars(import_module("awaited_by_two").__loader__)
