"""Contents of an installation, read from the wheel that pip would install."""

from __future__ import annotations

import configparser
import os
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
from gradprobe.capture.ops.native.library_file import LIBRARY_NAME, locate_core_folder
from gradprobe.pytest_plugin import plugin
from tests import warm_python
from tests.commands.running import PATIENCE_S, python

ROOT = Path(gradprobe.__file__).parents[1]


RUN_INSTALLED = """
import sys; sys.path.insert(1, SITE)
import gradprobe.__main__ as command
assert command.__file__.startswith(SITE), command.__file__
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(build_wheel(tmp_path_factory.mktemp("wheel"))) as archive:
        yield archive


def build_wheel(folder: Path, *libraries: Path) -> Path:
    """Build a wheel with ``libraries`` into ``folder``, by what pip would call."""
    pytest.importorskip("hatchling")
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("this is not a source tree")
    words = [
        sys.executable,
        "-c",
        "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))",
        str(folder),
    ]
    environment = {**os.environ, "GRADPROBE_SHIPPED": os.pathsep.join(map(str, libraries))}
    built = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, check=False, timeout=PATIENCE_S, text=True
    )
    assert built.returncode == 0, built.stderr
    return folder / built.stdout.splitlines()[-1]


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
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gradprobe", "gradprobe_record.pth"}
    start = wheel.read("gradprobe_record.pth").decode()
    assert start.startswith('import os; os.environ.get("GRADPROBE_RECORD") and '), (
        "without the variable it does nothing"
    )
    assert len(start.splitlines()) == 1
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
    program = RUN_INSTALLED.replace("SITE", repr(str(tmp_path / "site")))
    ended = warm_python.run("-c", program, "run", "-o", "r.gradprobe", "s.py", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (0, b"ran\n"), ended.stderr.decode()
    assert list(gradprobe.load(tmp_path / "r.gradprobe").transitions["line"]) == [2, 2]
    ended = warm_python.run("-c", program, "report", "r.gradprobe", "-o", "r.html", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr.decode()
    assert "s.py:2" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_wheel_with_the_observer_needs_no_compiler(tmp_path: Path) -> None:
    """It is one for this kind of Python and machine, and a library in it that is damaged is not loaded."""
    pytest.importorskip("pip")
    built = build_wheel(tmp_path, locate_core_folder())
    assert not built.name.endswith("none-any.whl")
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", "site", str(built)]
    installed = python(*install, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr.decode()
    (tmp_path / "s.py").write_text("import torch\ntorch.ones(2).add_(1)\n")
    program = RUN_INSTALLED.replace("SITE", repr(str(tmp_path / "site")))
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path / "none"), "CXX": "no-such-compiler"}

    record = ["-c", program, "run", "--level", "ops", "--force", "-o", "r.gradprobe", "s.py"]
    ended = warm_python.run(*record, cwd=tmp_path, env=environment)
    said = b"gradprobe: recorded to r.gradprobe; see: gradprobe report r.gradprobe\n"
    assert (ended.returncode, ended.stderr) == (0, said)
    assert list(gradprobe.load(tmp_path / "r.gradprobe").ops["op"]) == ["aten.ones", "aten.add_.Tensor"]
    assert not (tmp_path / "none").exists()

    (library,) = (tmp_path / "site").rglob(f"{LIBRARY_NAME}.so")
    library.write_bytes(b"no library")
    ended = warm_python.run(*record, cwd=tmp_path, env=environment)
    assert b"no C++ compiler (no-such-compiler)" in ended.stderr
