"""``gradprobe run`` is ``python`` to the program that it runs, and its recording holds what the program did."""

from __future__ import annotations

import os
import py_compile
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

import gradprobe
from tests.commands.running import gradprobe as run_gradprobe
from tests.commands.running import python, refused, warm_gradprobe
from tests.thoroughness import IS_THOROUGH

IDENTITY = """
import atexit, pickle, sys, threading, time, warnings
class Local:
    x: int = 3
print(list(globals()), type(__builtins__), sys.argv, sys.path[0], __file__, __name__, __spec__, __package__, __cached__)
print(__doc__)
print(type(__loader__).__name__, __loader__.path, __annotations__)
print(sys.modules["__main__"].__dict__ is globals(), pickle.loads(pickle.dumps(Local())).__class__ is Local)
print("stdin:", input(), sys.stdin.read())
print("höhe \\N{SNOWMAN} \\N{GRINNING FACE}")
warnings.warn("deprecated here", DeprecationWarning)
warnings.warn("told once")
atexit.register(lambda: print("exit handler", "__file__" in globals()))
def late():
    time.sleep(0.2)
    print("thread", "__file__" in globals(), flush=True)
    raise ValueError("in a thread")
threading.Thread(target=late, name="late").start()
"""

CHAIN = """
import atexit, sys
def show():
    print(repr(sys.last_value), sys.last_traceback.tb_frame.f_code.co_name, "__file__" in globals())
atexit.register(show)
def inner():
    raise KeyError("a")
def outer():
    try:
        inner()
    except KeyError as error:
        raise ValueError("two\\nlines") from error
try:
    outer()
except ValueError:
    {}["missing"]
"""

BROKEN_HOOK = """
import sys
def hook(kind, error, trace):
    print("hook", kind.__name__, trace.tb_frame.f_code.co_name, sys.exc_info()[0])
    raise TypeError("in the hook")
sys.excepthook = hook
raise OSError(5, "told to the hook")
"""

INTERRUPTED = """
import atexit, os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell started this in the background
atexit.register(print, "exit handler")
def work():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
work()
"""

CHILDREN = """
import multiprocessing, os, sys
class Payload:
    def __init__(self, n): self.n = n
def work(payload):
    return payload.n * 2, __name__, type(payload).__module__
if __name__ == "__main__":
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(2) as pool:
            print(method, pool.map(work, [Payload(1), Payload(2)]))
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        sys.exit(5)
    print("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    sys.exit(None)
"""

MODULE = """
import sys
from . import helper
from .helper import VALUE
print(VALUE, __name__, __spec__.name, __package__, __file__, sys.argv, sys.path[0])
print(sorted(globals()))
helper.fail()
"""

CASES: dict[str, tuple[dict[str, str], list[str], str]] = {
    "a script is itself, reads stdin, warns, and its thread and exit handler come after it": (
        {"s.py": IDENTITY},
        ["s.py", "-o", "x", "--force", "-m", "--", "a b", "--level=7", ""],
        "first\nrest\n",
    ),
    "sys.exit with a number, in a script named by a path": (
        {"in/s.py": "import helper, sys; print(sys.argv, sys.path[0] == helper.FOLDER); sys.exit(7)"}
        | {"in/helper.py": "import os; FOLDER = os.path.dirname(__file__)"},
        ["--", "in/s.py", "--"],
        "",
    ),
    "sys.exit with text": ({"s.py": "import sys; print('x', file=sys.stderr); sys.exit('some text')"}, ["s.py"], ""),
    "a chain of exceptions": ({"s.py": CHAIN}, ["s.py"], ""),
    "an exception hook that fails": ({"s.py": BROKEN_HOOK}, ["s.py"], ""),
    "a syntax error": ({"s.py": "def f():\n    return (1\nx = 2\n"}, ["s.py"], ""),
    "an interrupt": ({"s.py": INTERRUPTED}, ["s.py"], ""),
    "fork and spawn": ({"s.py": CHILDREN}, ["s.py"], ""),
    "a module in a package, with a relative import, that fails": (
        {"pkg/__init__.py": "import sys; print(__name__, sys.argv, type(sys.modules['__main__']).__name__)"}
        | {"pkg/helper.py": "VALUE = 4\ndef fail():\n    raise LookupError(VALUE)\n", "pkg/mod.py": MODULE},
        ["-m", "pkg.mod", "-m", "x", "--help"],
        "",
    ),
    "a package with a main module": (
        {"pkg/__init__.py": "", "pkg/__main__.py": "import sys; print(sys.argv, __spec__.name); sys.exit(3)"},
        ["-mpkg", "one", "-o"],
        "",
    ),
    "a package that fails to import": (
        {"pkg/__init__.py": "import not_there_at_all", "pkg/mod.py": ""},
        ["-m", "pkg.mod"],
        "",
    ),
    "a folder": (
        {
            "app/__main__.py": "import sys, near; print(sys.argv, sys.path[0], __file__, __spec__.name, sorted(globals()))"
        }
        | {"app/near.py": ""},
        ["app", "x"],
        "",
    ),
    "an archive that fails": (
        {"app.zip": "import sys; print(sys.argv, sys.path[0], __file__, type(__loader__).__name__); 1 / 0"},
        ["app.zip", "x"],
        "",
    ),
    "compiled code": ({"s.pyc": "print(__file__, type(__loader__).__name__, __cached__)"}, ["s.pyc"], ""),
}


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".zip":
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("__main__.py", text)
        elif file.suffix == ".pyc":
            file.with_suffix(".source").write_text(text, encoding="utf-8")
            py_compile.compile(str(file.with_suffix(".source")), str(file))
        else:
            file.write_text(text, encoding="utf-8")


FRESH = {
    "a script is itself, reads stdin, warns, and its thread and exit handler come after it",
    "a module in a package, with a relative import, that fails",
}
"""Cases that ask how an interpreter starts a program; make fidelity runs all cases in fresh interpreters."""


RECORDED = b"gradprobe: recorded to r.gradprobe; see: gradprobe report r.gradprobe\n"
NOTHING_RECORDED = b"gradprobe: nothing was recorded, because the program did not import torch\n"


def test_nothing_is_imported_that_the_program_has_not_imported(tmp_path: Path) -> None:
    """Libraries below torch read the environment while they are imported, and a program may set it in its first lines."""
    (tmp_path / "s.py").write_text(
        "import os, sys\n"
        "print(sorted({'torch', 'numpy', 'pandas', 'sqlite3', 'asyncio'} & set(sys.modules)))\n"
        "os.environ['OMP_NUM_THREADS'] = '1'\n"
        "import torch\n"
        "print(torch.get_num_threads(), 'pandas' in sys.modules)\n"
        "with torch.no_grad():\n"
        "    torch.ones(1)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    ended = run_gradprobe("run", "-o", "r.gradprobe", "s.py", cwd=tmp_path, env=environment)
    assert ended.stdout == b"[]\n1 False\n", ended.stderr.decode()
    assert list(gradprobe.load(tmp_path / "r.gradprobe").regions["line"]) == [6]


def test_a_program_goes_on_where_it_cannot_be_recorded(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text("import os\nos.mkdir('r.gradprobe')\nimport torch\nprint(torch.ones(1).item())\n")
    ended = run_gradprobe("run", "-o", "r.gradprobe", "s.py", cwd=tmp_path)
    assert ended.stdout == b"1.0\n"
    assert ended.stderr == b"gradprobe: cannot write " + bytes(tmp_path.resolve() / "r.gradprobe") + (
        b": it is a folder; name a file in it\n"
    )
    assert ended.returncode == 2


@pytest.mark.parametrize(("level", "is_named"), [("graph", True), ("ops", False)])
def test_an_exception_of_autograd_names_the_level_that_explains_it(tmp_path: Path, level: str, is_named: bool) -> None:
    write(
        tmp_path,
        {"s.py": "import torch\nloss = torch.ones(1, requires_grad=True).exp()\nloss.backward()\nloss.backward()"},
    )
    ended = run_gradprobe("run", "--level", level, "-o", "r.gradprobe", "s.py", cwd=tmp_path)
    assert ended.returncode == 1
    assert (b"(GP611): --level ops shows" in ended.stderr) is is_named


def test_operators_are_recorded_unless_they_cannot_be_observed(tmp_path: Path) -> None:
    write(tmp_path, {"s.py": "import torch\nprint(torch.ones(1).add(1).item())"})
    ended = warm_gradprobe("run", "-o", "ops.gradprobe", "s.py", cwd=tmp_path)
    assert ended.stdout == b"2.0\n"
    assert {"aten.ones", "aten.add.Tensor"} <= set(gradprobe.load(tmp_path / "ops.gradprobe").ops["op"])
    without = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path / "empty"), "CXX": "no-such-compiler"}
    ended = python("-m", "gradprobe", "run", "-o", "graph.gradprobe", "s.py", cwd=tmp_path, env=without)
    assert (ended.returncode, ended.stdout) == (0, b"2.0\n")
    said = ended.stderr.decode()
    assert "no C++ compiler (no-such-compiler)" in said
    assert "recording at level 'graph'" in said
    assert gradprobe.load(tmp_path / "graph.gradprobe").ops.empty


def test_run_without_docstrings_and_assertions(tmp_path: Path) -> None:
    """``python -OO`` drops the docstrings that the help of the command line is made of."""
    write(
        tmp_path,
        {"s.py": "import torch\nassert False\nwith torch.no_grad(): print(__debug__, torch.is_grad_enabled())"},
    )

    ended = python("-OO", "-m", "gradprobe", "run", "--level", "ops", "-o", "r.gradprobe", "s.py", cwd=tmp_path)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"False False\n", RECORDED)


def test_pytest_does_not_warn_of_the_plugin_of_gradprobe(tmp_path: Path) -> None:
    """pytest warns of plugins that were imported before it, and gradprobe, which has one, was."""
    write(tmp_path, {"test_s.py": "import torch\n@torch.no_grad()\ndef test_s(): assert torch.ones(2).sum() == 2"})
    words = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "error::pytest.PytestAssertRewriteWarning",
        "test_s.py",
    ]

    ended = warm_gradprobe("run", "-o", "r.gradprobe", *words, cwd=tmp_path)

    assert ended.returncode == 0, ended
    assert b"warning" not in ended.stdout


@pytest.mark.parametrize("case", CASES)
def test_run_behaves_exactly_as_python(case: str, tmp_path: Path) -> None:
    files, words, stdin = CASES[case]
    write(tmp_path, files)
    is_fresh = IS_THOROUGH or case in FRESH
    plain = python(*words, cwd=tmp_path, stdin=stdin)
    run = run_gradprobe if is_fresh else warm_gradprobe
    recorded = run("run", "-o", "r.gradprobe", *words, cwd=tmp_path, stdin=stdin)
    # In the fork torch is imported already.
    is_recorded = not is_fresh or any("import torch" in text for text in files.values())
    last = RECORDED if is_recorded else NOTHING_RECORDED
    assert recorded.stderr.endswith(last)
    errors = [recorded.stderr.removesuffix(last).decode(), plain.stderr.decode()]
    said, expected = errors if is_fresh else map(without_runpy, errors)
    assert said == expected
    assert recorded.stdout.decode() == plain.stdout.decode()
    assert recorded.returncode == plain.returncode
    assert not is_recorded or gradprobe.load(tmp_path / "r.gradprobe")._tables.is_complete


def without_runpy(text: str) -> str:
    """Return a traceback without the lines on how Python starts a module, which a process that was there before lacks."""
    return re.sub(r'^  File "[^"]*\brunpy\b[^"]*", .*\n(?:    .*\n)*', "", text, flags=re.M)


def test_os_exit_leaves_a_readable_file_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, {"s.py": "import os; print('out', flush=True); os._exit(9)"})
    ended = warm_gradprobe("run", "-o", "r.gradprobe", "s.py", cwd=tmp_path)
    assert (ended.stdout, ended.stderr, ended.returncode) == (b"out\n", b"", 9)
    assert not gradprobe.load(tmp_path / "r.gradprobe")._tables.is_complete


PROGRAM = """
import atexit, os, sys, threading
import torch

def in_thread():
    with torch.no_grad():                      # line 6
        torch.ones(2)

def at_exit():
    with torch.inference_mode():               # line 10
        pass
    sys.stderr = None

@torch.no_grad()
def decorated():                               # decorated at line 14
    torch.set_grad_enabled(True)               # line 16

atexit.register(at_exit)
decorated()
os.chdir("/")
thread = threading.Thread(target=in_thread, name="worker")
threading.Timer(0.3, thread.start).start()
"""


def test_threads_and_exit_handlers_are_recorded(tmp_path: Path) -> None:
    write(tmp_path, {"my program.py": PROGRAM})
    ended = warm_gradprobe("run", "my program.py", cwd=tmp_path)
    (file,) = tmp_path.glob("my program.*.gradprobe")
    assert ended.returncode == 0
    # The program took its standard error away, chose another folder, and its name holds a space.
    assert ended.stderr.decode() == f"gradprobe: recorded to {file.name}; see: gradprobe report '{file.name}'\n"
    recording = gradprobe.load(file)
    seen = recording.transitions
    assert set(seen["file"]) == {str(tmp_path / "my program.py")}
    rows: list[tuple[Any, ...]] = list(
        seen[["thread", "manager", "form", "event", "line", "function"]].itertuples(index=False, name=None)
    )
    assert rows == [
        ("MainThread", "no_grad", "decorator", "enter", 14, "decorated"),
        ("MainThread", "set_grad_enabled", "call", "set", 16, "decorated"),
        ("MainThread", "no_grad", "decorator", "exit", 14, "decorated"),
        ("worker", "no_grad", "with", "enter", 6, "in_thread"),
        ("worker", "no_grad", "with", "exit", 6, "in_thread"),
        ("MainThread", "inference_mode", "with", "enter", 10, "at_exit"),
        ("MainThread", "inference_mode", "with", "exit", 10, "at_exit"),
    ]
    assert recording.environment["program"] == "my program.py"
    assert recording._tables.is_complete


def test_modes_set_while_a_package_is_imported_are_recorded(tmp_path: Path) -> None:
    write(tmp_path, {"pkg/__init__.py": "import torch\ntorch.set_grad_enabled(False)\n", "pkg/mod.py": ""})
    assert warm_gradprobe("run", "-o", "r.gradprobe", "-m", "pkg.mod", cwd=tmp_path).returncode == 0
    recording = gradprobe.load(tmp_path / "r.gradprobe")
    assert list(recording.transitions["file"]) == [str(tmp_path / "pkg" / "__init__.py")]
    assert recording.environment["program"] == "pkg.mod"


# Bad usage and bad input. These end before any program begins, so they may run in this process.


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", ["gradprobe"])
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    write(tmp_path, {"s.py": "print('ran')", "empty/x.txt": "", "pkg/__init__.py": "", "bad.pyc.py": ""})
    (tmp_path / "bad.pyc").write_bytes(b"nonsense")
    (tmp_path / "old.gradprobe").write_bytes(b"precious")
    return tmp_path


USAGE = {
    (): ["VERB", "--help"],
    ("walk",): ["'walk'", "run", "report", "debug"],
    ("run",): ["no program was given", "name a script"],
    ("run", "-m"): ["no program was given", "name a script"],
    ("run", "--levle", "ops", "s.py"): ["--levle", "gradprobe run --help"],
    ("run", "--level", "all", "s.py"): ["'all'", "modes", "graph", "ops"],
    ("run", "-o"): ["-o", "expected one argument"],
    ("run", "absent.py"): ["absent.py", "No such file", "name a script"],
    ("run", "line\nfeed\x1b[31m.py"): [r"line\nfeed\x1b[31m.py"],
    ("run", "x" * 300): ["name too long"],
    ("run", "empty"): ["empty", "__main__.py", "name a script"],
    ("run", "bad.pyc"): ["bad.pyc", "magic number", "compile it again"],
    ("run", "-m", "absent_module"): ["absent_module", "installed"],
    ("run", "-m", "absent_package.module"): ["absent_package.module", "installed"],
    ("run", "-m", "pkg.absent"): ["pkg.absent", "name another"],
    ("run", "-m", "pkg"): ["pkg.__main__", "cannot be directly executed"],
    ("run", "-m", ".pkg"): [".pkg"],
    ("run", "-o", "no/such/r.gradprobe", "s.py"): ["no/such", "there is no folder", "create it"],
    ("run", "-o", "empty", "s.py"): ["empty", "is a folder", "name a file"],
    ("run", "-o", "s.py/r.gradprobe", "s.py"): ["s.py/r.gradprobe"],
    ("run", "-o", "x" * 300, "s.py"): ["name too long"],
    ("run", "-o", "/dev/null", "--force", "s.py"): ["/dev/null", "not a regular file"],
    ("run", "-o", "s.py", "--force", "s.py"): ["s.py: it is the program itself"],
    ("run", "-o", "old.gradprobe", "s.py"): ["old.gradprobe", "exists already", "--force"],
}


@pytest.mark.parametrize("words", USAGE, ids=" ".join)
def test_bad_usage_is_rejected_and_leaves_no_file(
    words: tuple[str, ...], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in place.rglob("*") if file.is_file() and "__pycache__" not in str(file)}
    said = refused(capsys, *words)
    for part in USAGE[words]:
        assert part.lower() in said.lower()
    after = {file: file.read_bytes() for file in place.rglob("*") if file.is_file() and "__pycache__" not in str(file)}
    assert after == before


def test_force_replaces_an_old_recording(place: Path) -> None:
    assert warm_gradprobe("run", "-o", "old.gradprobe", "s.py", cwd=place).returncode == 2
    assert (place / "old.gradprobe").read_bytes() == b"precious"
    ended = warm_gradprobe("run", "-o", "old.gradprobe", "--force", "s.py", cwd=place)
    assert (ended.returncode, ended.stdout) == (0, b"ran\n")
    assert gradprobe.load(place / "old.gradprobe")._tables.is_complete
