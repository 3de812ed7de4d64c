"""Contents of an installation, read from the wheel that pip would install."""

from __future__ import annotations

import configparser
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import gradprobe
from gradprobe.__main__ import main
from gradprobe.pytest_plugin import plugin
from tests.commands.running import PATIENCE_S, python

ROOT = Path(gradprobe.__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    pytest.importorskip("hatchling")
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("this is not a source tree")
    folder = tmp_path_factory.mktemp("wheel")
    program = (
        "import sys; from hatchling.build import build_wheel; from pathlib import Path\n"
        "print(build_wheel(sys.argv[1]))\n"
    )
    words = [sys.executable, "-c", program, str(folder)]
    built = subprocess.run(words, cwd=ROOT, capture_output=True, check=False, timeout=PATIENCE_S, text=True)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(folder / built.stdout.splitlines()[-1]) as archive:
        yield archive


def read(wheel: zipfile.ZipFile, name: str) -> str:
    (found,) = (entry for entry in wheel.namelist() if entry.endswith(f".dist-info/{name}"))
    return wheel.read(found).decode()


def test_an_installation_pulls_no_test_and_no_chart_package(wheel: zipfile.ZipFile) -> None:
    metadata: Message = Parser().parsestr(read(wheel, "METADATA"))
    plain = {line.split(">")[0].strip() for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert plain == {"torch", "pandas", "tabulate", "tqdm", "jinja2", "tomli"}  # the last one on Python 3.10 alone
    assert metadata["Version"] == gradprobe.__version__
    assert metadata["Requires-Python"] == ">=3.10"


def test_the_wheel_holds_the_package_its_types_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gradprobe"}
    assert "gradprobe/py.typed" in wheel.namelist()
    assert all(
        f"gradprobe/commands/{verb}.py" in wheel.namelist() for verb in ("run", "report", "check", "scan", "debug")
    )
    assert "gradprobe/report/templates/page.html.j2" in wheel.namelist()


def test_the_entry_point_is_the_command_line(wheel: zipfile.ZipFile) -> None:
    named = configparser.ConfigParser()
    named.read_string(read(wheel, "entry_points.txt"))
    assert EntryPoint("gradprobe", named["console_scripts"]["gradprobe"], "console_scripts").load() is main
    assert EntryPoint("gradprobe", named["pytest11"]["gradprobe"], "pytest11").load() is plugin


def test_the_wheel_works_without_the_source_tree(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path / "site")
    (tmp_path / "s.py").write_text("import torch\nwith torch.no_grad():\n    print('ran')\n")
    program = (
        f"import sys; sys.path.insert(1, {str(tmp_path / 'site')!r})\n"
        "import gradprobe.__main__ as command\n"
        "assert command.__file__.startswith(sys.path[1]), command.__file__\n"
        "sys.exit(command.main(sys.argv[1:]))\n"
    )
    ended = python("-c", program, "run", "-o", "r.gradprobe", "s.py", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"ran\n"), ended.stderr.decode()
    assert list(gradprobe.load(tmp_path / "r.gradprobe").transitions["line"]) == [2, 2]
    ended = python("-c", program, "report", "r.gradprobe", "-o", "r.html", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr.decode()
    assert "s.py:2" in (tmp_path / "r.html").read_text(encoding="utf-8")
