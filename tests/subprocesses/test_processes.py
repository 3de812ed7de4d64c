"""Programs of several processes: workers that are followed, ranks that write a file each, and their one report."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as distributed

import gradprobe
from gradprobe.analysis.process_relations import find_collective_calls, find_graph_divergences, relate_processes
from gradprobe.analysis.process_relations import group_by_rank as ranks_of
from gradprobe.recording.notes import StartedProcess, read_started_processes
from tests import ranks
from tests.commands.running import gradprobe as run_gradprobe
from tests.commands.running import python, warm_gradprobe
from tests.thoroughness import thorough

ROOT = Path(__file__).parents[2]

WORKERS = """
import multiprocessing, os, subprocess, sys
import torch
from torch.utils.data import DataLoader, Dataset

class Numbers(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        with torch.inference_mode():
            return index

def work(queue):
    with torch.enable_grad():
        (torch.ones(2, requires_grad=True) * 2).sum()
    queue.put(os.getpid())

if __name__ == "__main__":
    with torch.no_grad():
        print(sorted(int(n) for n in DataLoader(Numbers(), num_workers=2, batch_size=None)))  # forks
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    with torch.inference_mode():
        process = spawn.Process(target=work, args=(queue,))
        process.start()  # spawns
    assert queue.get() == process.pid
    process.join()
    code = "import torch; torch.set_grad_enabled(False); print('sub', sys.argv[1:]) if (sys := __import__('sys')) else 0"
    print(subprocess.run([sys.executable, "-c", code, "a"], capture_output=True, text=True).stdout)  # starts
    print(subprocess.run([sys.executable, "-c", "print('no torch')"], capture_output=True, text=True).stdout)
"""


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.gradprobe"))


@pytest.mark.parametrize("level", [pytest.param("modes", marks=thorough), "ops"])
def test_every_process_with_torch_has_a_file_that_says_who_started_it_where_and_under_which_mode(
    level: str, tmp_path: Path
) -> None:
    script = tmp_path / "program.py"
    script.write_text(WORKERS, encoding="utf-8")
    watched = warm_gradprobe("run", "--follow", "--level", level, "-o", "run.gradprobe", "program.py", cwd=tmp_path)
    assert watched.returncode == 0, watched.stderr
    assert watched.stdout == b"[0, 1, 2, 3]\nsub ['a']\n\nno torch\n\n"
    assert len(files_in(tmp_path)) == 1 + 2 + 1 + 1
    assert b"and 4 more" in watched.stderr
    recording = gradprobe.merge(files_in(tmp_path))
    found = relate_processes(recording._tables.processes)
    (parent,) = [one.process for one in found if one.parent is None]
    line = {text: number for number, text in enumerate(WORKERS.splitlines(), 1)}

    def at(mark: str) -> int:
        return next(number for text, number in line.items() if text.endswith(mark))

    told = sorted(
        (one.start.line, (one.start.grad, one.start.inference), one.initial_modes)
        for one in found
        if one.start is not None and one.parent is parent
    )
    forked = (at("# forks"), (False, False), (False, False))
    assert told == [
        forked,
        forked,
        (at("# spawns"), (False, True), (True, False)),
        (at("# starts"), (True, False), (True, False)),
    ]
    assert all(one.process.history.complete for one in found), "workers end by os._exit, and still close their files"
    by_pid = recording.transitions.groupby("process")["manager"].agg(set)
    assert sum("inference_mode" in managers for managers in by_pid.drop(parent.pid)) == 2
    if level == "ops":
        assert "GP706" not in set(recording.findings["rule"]), "the spawned one sets its mode itself"
    assert "Processes" in str(recording)


def test_a_program_finds_its_own_sitecustomize_and_environment_in_what_it_starts(tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "sitecustomize.py").write_text("print('its own')\n", encoding="utf-8")
    code = "import sys, torch; print([p for p in sys.path if 'gradprobe' in p and 'boot' in p])"
    (tmp_path / "program.py").write_text(
        f"import os, subprocess, sys, torch\nsubprocess.run([sys.executable, '-c', {code!r}])\n"
        "print(subprocess.run([sys.executable, '-c', 'import os; print(os.environ[\"MINE\"])'], env={'MINE': 'x'},"
        " capture_output=True, text=True))\n",
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "path"), "PYTHONUNBUFFERED": "1"}
    # Unwatched, torch is of no consequence, and each import of it takes seconds.
    without_torch = (tmp_path / "program.py").read_text(encoding="utf-8").replace(", torch", "")
    (tmp_path / "plain.py").write_text(without_torch, encoding="utf-8")
    plain = python("plain.py", cwd=tmp_path, env=environment)
    watched = run_gradprobe("run", "--follow", "-o", "run.gradprobe", "program.py", cwd=tmp_path, env=environment)
    assert watched.stdout == plain.stdout
    assert watched.stdout.count(b"its own") == 2
    assert len(files_in(tmp_path)) == 2, "with an environment of its own a process is not followed"


def test_forks_in_the_middle_of_everything_never_wait_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        """
import os, threading, torch
torch.ones(2) * 2  # PyTorch chooses its kernels at the first use, under locks that a fork would leave held
running = True
def churn():
    while running:
        with torch.no_grad():
            torch.ones(2) * 2
threads = [threading.Thread(target=churn) for _ in range(3)]
for thread in threads: thread.start()
for number in range(20):
    pid = os.fork()
    if pid == 0:
        with torch.no_grad():
            torch.ones(2) * 2
        if number % 2:
            os._exit(0)
        raise SystemExit(0)
    assert os.waitpid(pid, 0)[1] == 0
running = False
for thread in threads: thread.join()
""",
        encoding="utf-8",
    )
    done = warm_gradprobe("run", "--follow", "--level=ops", "-o", "run.gradprobe", "program.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(files_in(tmp_path)) == 21
    recording = gradprobe.merge(files_in(tmp_path))
    complete = [one.process.history.complete for one in relate_processes(recording._tables.processes)]
    assert complete.count(True) == 11, "all but those that left by os._exit"


def test_a_child_forked_while_another_thread_is_inside_sqlite_runs_and_is_recorded_or_says_why_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "program.py").write_text(
        """
import os, sqlite3, threading, torch
running = True
def query():
    database = sqlite3.connect(":memory:")
    while running:
        database.execute("WITH RECURSIVE g(v) AS (SELECT 1 UNION ALL SELECT v + 1 FROM g LIMIT 3000) "
                         "SELECT count(hex(randomblob(20) || v)) FROM g").fetchall()
threads = [threading.Thread(target=query) for _ in range(3)]
for thread in threads: thread.start()
for number in range(12):
    pid = os.fork()
    if pid == 0:
        with torch.no_grad():
            torch.ones(2) * 2
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
running = False
for thread in threads: thread.join()
""",
        encoding="utf-8",
    )
    done = warm_gradprobe("run", "--follow", "-o", "run.gradprobe", "program.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    untold = done.stderr.decode().count("is not recorded: cannot record in this process: it was forked")
    assert len(files_in(tmp_path)) == 13 - untold


def test_files_of_earlier_children_are_refused_and_with_force_removed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import torch\n", encoding="utf-8")
    stale = tmp_path / "run.4711.gradprobe"
    stale.write_bytes(b"of an earlier run")
    words = ["run", "--follow", "-o", "run.gradprobe", "program.py"]
    refused = warm_gradprobe(*words, cwd=tmp_path)
    assert (refused.returncode, stale.exists()) == (2, True)
    assert b"run.4711.gradprobe: it exists already" in refused.stderr
    assert warm_gradprobe(words[0], "--force", *words[1:], cwd=tmp_path).returncode == 0
    assert files_in(tmp_path) == [tmp_path / "run.gradprobe"]


def torchrun(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


needs_gloo = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()), reason="this torch has no gloo"
)


@thorough
@needs_gloo
def test_each_rank_writes_a_file_and_their_report_says_where_they_part(tmp_path: Path) -> None:
    script = ROOT / "examples" / "ddp.py"
    words = ["-m", "gradprobe", "run", "--level", "ops", "-o", "ddp.gradprobe", str(script)]
    done = torchrun(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in files_in(tmp_path)] == ["ddp.rank0.gradprobe", "ddp.rank1.gradprobe"]
    recording = gradprobe.merge(files_in(tmp_path))
    source = script.read_text(encoding="utf-8").splitlines()
    grouped = ranks_of(recording._tables.processes)
    assert [*grouped] == [0, 1]
    (parting,) = find_graph_divergences(grouped)
    assert "loss = model(torch.ones" in source[parting.line[1] - 1]
    assert parting.nodes[0] == 0
    assert parting.nodes[1] > 0
    parted = [one for one in find_collective_calls(grouped) if one.modes[0] != one.modes[1]]
    assert [(one.op, source[one.line[1] - 1].strip()) for one in parted] == [
        ("c10d.allreduce_", "dist.all_reduce(loss.detach())")
    ]
    findings = recording.findings[recording.findings["rule"].str.startswith("GP9")]
    assert sorted(findings["rule"]) == ["GP901", "GP902"]
    gathered = recording.regions[["rank", "manager"]].itertuples(index=False, name=None)
    assert [*gathered] == [(0, "no_grad")]
    checked = warm_gradprobe("check", "ddp.rank0.gradprobe", "ddp.rank1.gradprobe", cwd=tmp_path)
    assert checked.returncode == 1
    assert b"GP902" in checked.stdout


@needs_gloo
def test_ranks_gather_one_report_on_rank_0_without_a_file(tmp_path: Path) -> None:
    done = ranks.run(str(ROOT / "examples" / "fsdp.py"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    printed = done.stdout.decode()
    assert printed.count("gradprobe: gradient and inference modes") == 1
    assert "The 2 ranks build graphs at the same lines and run collectives under the same modes." in printed
    assert files_in(tmp_path) == []


def test_gathering_without_a_process_group_says_so() -> None:
    with gradprobe.record() as recording, torch.no_grad():
        pass
    with pytest.raises(gradprobe.GradprobeError, match="no process group"):
        gradprobe.gather(recording)


@pytest.mark.parametrize("text", ["", "no json", "[]", "[1, 2]", '["x", 1, 0, "f", 1, "g"]', "null", "{}"])
def test_an_edited_note_of_a_started_process_is_none(text: str) -> None:
    real = StartedProcess(7, False, True, "a.py", 3, "main")
    notes: list[Any] = [("started", text, 1), ("started", real.text(), 1), ("fault", real.text(), 1)]
    assert [*read_started_processes(notes)] == [real]
