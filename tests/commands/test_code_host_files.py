"""The action and the hooks that code hosts read: their programs run as they stand there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

import gradprobe
from gradprobe.__main__ import main

ROOT = Path(__file__).parents[2]
yaml = pytest.importorskip("yaml")
if not (ROOT / "action.yml").exists():
    pytest.skip("there are no files for code hosts beside an installed package", allow_module_level=True)


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


REAL = f'exec {shlex.quote(sys.executable)} -m gradprobe "$@"'


def run_action(folder: Path, program: str = REAL, **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run the step of the action that runs gradprobe, or ``program`` in its place, as the runner would."""
    installed = folder / "temp" / "gradprobe" / "bin" / "gradprobe"
    installed.parent.mkdir(parents=True, exist_ok=True)
    installed.write_text(f"#!/bin/sh\n{program}\n")
    installed.chmod(0o755)
    return run_step("Run gradprobe", folder, {}, **inputs)


def run_step(name: str, folder: Path, surroundings: dict[str, str], **inputs: str) -> subprocess.CompletedProcess[str]:
    """Run a step of the action by its shell, with the variables that the runner sets."""
    action = read("action.yml")
    (step,) = (step for step in action["runs"]["steps"] if step["name"] == name)
    values = {name: str(each["default"]) for name, each in action["inputs"].items()} | inputs
    given = {name: values[re.sub(r"\$\{\{ inputs\.|\}\}| ", "", text)] for name, text in step["env"].items()}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=folder,
        env={
            **os.environ,
            **given,
            "PYTHONPATH": str(ROOT),
            "RUNNER_TEMP": str(folder / "temp"),
            "GITHUB_ACTION_PATH": str(ROOT),
            "GITHUB_OUTPUT": str(folder / "output"),
            "GITHUB_STEP_SUMMARY": str(folder / "summary.md"),
            **surroundings,
        },
        capture_output=True,
        text=True,
    )


def test_the_action_scans_checks_and_summarizes(tmp_path: Path) -> None:
    source = tmp_path / "src" / "a.py"
    source.parent.mkdir()
    source.write_text("import torch\ndef f(m, x):\n    torch.no_grad()\n    return m(x)\n")
    with gradprobe.record(tmp_path / "r.gradprobe", level="ops"):
        code = "import torch\nw = torch.ones(2, requires_grad=True)\n"
        code += "with torch.inference_mode(), torch.enable_grad():\n    w * 2\n"
        exec(compile(code, str(tmp_path / "src" / "b.py"), "exec"), {})
    done = run_action(tmp_path, scan="src", check="*.gradprobe")
    assert done.returncode == 1, done.stderr
    assert "::warning title=gradprobe (GP104),file=src/a.py,line=3::" in done.stdout
    assert "::warning title=gradprobe (GP103),file=src/b.py,line=3::" in done.stdout
    summary = (tmp_path / "summary.md").read_text()
    assert "## gradprobe scan\n\n| place |" in summary
    assert "## gradprobe check\n\n| place |" in summary
    folder = Path((tmp_path / "output").read_text().strip().removeprefix("sarif="))
    rules = {each.name: json.loads(each.read_text())["runs"][0]["results"][0]["ruleId"] for each in folder.iterdir()}
    assert rules == {"scan.sarif": "GP104", "check.sarif": "GP103"}


@pytest.mark.parametrize(("scan", "check", "code"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 2, 2), (2, 1, 2)])
def test_the_exit_code_of_the_action_is_that_of_the_worst_command(
    scan: int, check: int, code: int, tmp_path: Path
) -> None:
    program = f'echo "$@"; [ "$1" = scan ] && exit {scan}; exit {check}'
    done = run_action(tmp_path, program, scan="src lib", check="r.gradprobe", **{"fail-on": "error"})
    assert done.returncode == code
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["scan", "check"]
    assert done.stdout.splitlines()[0].endswith(".md src lib")
    assert "--fail-on error" in done.stdout


class FakeGitHub(ThreadingHTTPServer):
    """The comments of pull request 7, as GitHub's interface lists, creates and changes them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.comments: list[dict[str, Any]] = [
            {"id": number, "body": "> <!-- gradprobe: CI, lint -->"} for number in range(100)
        ]
        self.refuses = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answer(BaseHTTPRequestHandler):
    server: FakeGitHub

    def do_GET(self) -> None:
        page = int(parse_qs(urlsplit(self.path).query)["page"][0])
        assert urlsplit(self.path).path == "/repos/me/it/issues/7/comments"
        self.answer(200, self.server.comments[100 * (page - 1) : 100 * page])

    def do_POST(self) -> None:
        assert self.path == "/repos/me/it/issues/7/comments"
        self.server.comments.append({"id": len(self.server.comments), **self.read()})
        self.answer(201, self.server.comments[-1])

    def do_PATCH(self) -> None:
        (known,) = (one for one in self.server.comments if self.path == f"/repos/me/it/issues/comments/{one['id']}")
        known.update(self.read())
        self.answer(200, known)

    def read(self) -> dict[str, str]:
        content: dict[str, str] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return content

    def answer(self, code: int, content: Any) -> None:
        is_allowed = self.headers["Authorization"] == "Bearer secret" and not self.server.refuses
        self.send_response(code if is_allowed else 403)
        self.end_headers()
        self.wfile.write(json.dumps(content if is_allowed else {}).encode())

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name of the base class
        pass


@pytest.fixture
def github() -> Iterator[FakeGitHub]:
    with FakeGitHub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def comment(github: FakeGitHub, folder: Path, text: str, event: str = '{"pull_request": {"number": 7}}') -> str:
    """Run the step that comments, and return what it prints."""
    python = folder / "temp" / "gradprobe" / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.unlink(missing_ok=True)
    python.symlink_to(sys.executable)
    (folder / "temp" / "gradprobe-comment.md").write_text(text, encoding="utf-8")
    (folder / "event.json").write_text(event, encoding="utf-8")
    surroundings = {
        "GITHUB_API_URL": github.address,
        "GITHUB_REPOSITORY": "me/it",
        "GITHUB_EVENT_PATH": str(folder / "event.json"),
        "GITHUB_WORKFLOW": "CI",
        "GITHUB_JOB": "lint",
    }
    done = run_step("Comment on the pull request", folder, surroundings, token="secret")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_action_makes_one_comment_and_updates_it(github: FakeGitHub, tmp_path: Path) -> None:
    (tmp_path / "src.py").write_text("import torch\ntorch.no_grad()\n")
    assert run_action(tmp_path, scan="src.py").returncode == 1
    findings = (tmp_path / "temp" / "gradprobe-comment.md").read_text(encoding="utf-8")
    assert findings == (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert comment(github, tmp_path, findings) == ""
    assert len(github.comments) == 101, "a reply that quotes a comment is not taken for it"
    assert "| `src.py:2` | warning | GP104 |" in github.comments[100]["body"]
    assert comment(github, tmp_path, "## gradprobe scan\n\nNothing found.\n") == ""
    assert len(github.comments) == 101
    assert github.comments[100]["body"] == "<!-- gradprobe: CI, lint -->\n## gradprobe scan\n\nNothing found.\n"


def test_a_comment_that_is_too_long_says_where_the_rest_is(github: FakeGitHub, tmp_path: Path) -> None:
    comment(github, tmp_path, "| a row |\n" * 10_000)
    body = github.comments[100]["body"]
    assert len(body) < 65_536
    assert body.endswith("| a row |\n\nThe rest is in the summary of the job.\n")


def test_a_comment_that_cannot_be_made_is_a_warning(github: FakeGitHub, tmp_path: Path) -> None:
    assert comment(github, tmp_path, "text", event='{"push": 1}').startswith("::notice title=gradprobe::not a run for")
    assert comment(github, tmp_path, "") == "", "gradprobe did not run"
    github.refuses = True
    assert "HTTP Error 403: Forbidden; the job needs the permission `pull-requests: write`" in comment(
        github, tmp_path, "text"
    )
    assert len(github.comments) == 100


def test_the_step_that_comments_runs_after_findings_and_only_on_request() -> None:
    (step,) = (step for step in read("action.yml")["runs"]["steps"] if step["name"] == "Comment on the pull request")
    assert step["if"] == "always() && inputs.comment == 'true'"
    assert read("action.yml")["inputs"]["comment"]["default"] == "false"


def test_the_action_installs_what_checking_needs() -> None:
    toml = pytest.importorskip("tomllib", reason="Python 3.11 brings a reader of TOML")
    needed = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {re.split(r"[>;<=]", each)[0] for each in needed} - {"torch"}
    (step,) = (step for step in read("action.yml")["runs"]["steps"] if step["name"] == "Install gradprobe")
    assert names <= set(step["run"].split())


@pytest.mark.parametrize("number", [0, 1])
def test_a_hook_finds_what_is_in_the_files_that_it_is_given(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *words = shlex.split(read(".pre-commit-hooks.yaml")[number]["entry"])
    assert program == "gradprobe"
    (tmp_path / "a.py").write_text("import torch\ntorch.no_grad()\n")
    assert main([*words, str(tmp_path / "a.py")]) == 1
    assert f"{tmp_path / 'a.py'}:2: warning GP104" in capsys.readouterr().out
