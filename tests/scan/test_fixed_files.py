"""``gradprobe scan --fix``: edits where they are certain, of which every byte that is not part of the edit stays."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

import pytest

from gradprobe.__main__ import main
from gradprobe.scan.fixed_files import fix_files
from gradprobe.scan.source_files import scan_paths
from tests.commands.running import refused

IMPORT = "import torch\n"

EDITED = {
    "a statement becomes a block of the rest": (
        'def f(m, x):\n    """Doc."""\n    torch.no_grad()  # why\n    # first\n    y = m(\n        x\n    )\n\n'
        '    s = """a\n  b"""\n    return y, s\n    # last\n\n\ny = 1\n',
        'def f(m, x):\n    """Doc."""\n    with torch.no_grad():  # why\n        # first\n        y = m(\n            x\n'
        '        )\n\n        s = """a\n  b"""\n        return y, s\n        # last\n\n\ny = 1\n',
    ),
    "with tabs, in a loop": (
        "def f(m, xs):\n\tfor x in xs:\n\t\ttorch.inference_mode\n\t\tm(x)\n\treturn 1\n",
        "def f(m, xs):\n\tfor x in xs:\n\t\twith torch.inference_mode():\n\t\t\tm(x)\n\treturn 1\n",
    ),
    "enable_grad of code that trains": (
        "def f(m, x):\n    torch.enable_grad()\n    m(x).backward()\n",
        "def f(m, x):\n    with torch.enable_grad():\n        m(x).backward()\n",
    ),
    "a decorator of an async def": (
        '@route\n@torch.no_grad()\nasync def f(m, x):\n    """Doc."""\n\n    # call\n    return m(x)\n',
        '@route\nasync def f(m, x):\n    """Doc."""\n\n    with torch.no_grad():\n        # call\n        return m(x)\n',
    ),
    "a block in a block of the same mode": (
        "@torch.no_grad()\ndef f(m, x):\n    with torch.set_grad_enabled(False):  # twice\n        y = m(x)\n"
        '        s = f"""\n        {y}\n"""\n        # end\n    return y, s\n',
        "@torch.no_grad()\ndef f(m, x):\n    # twice\n    y = m(x)\n"
        '    s = f"""\n        {y}\n"""\n    # end\n    return y, s\n',
    ),
    "two of one function": (
        "def f(m, x):\n    torch.no_grad()\n    with torch.inference_mode():\n        with torch.inference_mode():\n"
        "            return m(x)\n",
        "def f(m, x):\n    with torch.no_grad():\n        with torch.inference_mode():\n            return m(x)\n",
    ),
}


def fix(folder: Path, source: str, *, unsafe: bool = False) -> str:
    """Return what a file contains after ``--fix``."""
    file = folder / "program.py"
    file.write_bytes(source.encode())
    for each in fix_files(scan_paths([file]).findings, unsafe=unsafe):
        each.write()
    return file.read_bytes().decode()


@pytest.mark.parametrize("name", EDITED)
def test_a_certain_edit_changes_its_lines_and_nothing_else(name: str, tmp_path: Path) -> None:
    before, after = EDITED[name]
    assert fix(tmp_path, IMPORT + before) == IMPORT + after


@pytest.mark.parametrize("name", EDITED)
def test_a_fixed_file_needs_no_fix(name: str, tmp_path: Path) -> None:
    fixed = fix(tmp_path, IMPORT + EDITED[name][0])
    assert fix(tmp_path, fixed) == fixed


LEFT = {
    "code that trains": "def f(m, x):\n    torch.no_grad()\n    m(x).backward()\n",
    "a branch": "def f(m, x, on):\n    if on:\n        torch.no_grad()\n        x = x * 2\n    return m(x)\n",
    "nothing after it": "def f(m, x):\n    y = m(x)\n    torch.no_grad()\n",
    "a module": "torch.no_grad()\nx = torch.ones(1)\n",
    "two statements of a line": "def f(m, x):\n    torch.no_grad(); y = m(x)\n    return y\n",
    "a generator": "def f(m, x):\n    torch.no_grad()\n    yield m(x)\n",
    "an async def that awaits": "@torch.no_grad()\nasync def f(x):\n    await x\n",
    "an async def of one line": "@torch.no_grad()\nasync def f(x): return x\n",
    "a comment at the decorator": "@torch.no_grad()  # why\nasync def f(x):\n    return x\n",
    "an argument of unknown value": "@torch.set_grad_enabled(on)\nasync def f(x):\n    return x\n",
    "a function that leaves its mode": "def f(m, x):\n    torch.set_grad_enabled(False)\n    return m(x)\n",
    "a block whose object is used": "with torch.no_grad():\n    with torch.no_grad() as x:\n        print(x)\n",
    "a mode that a call changes": "def f(m):\n    with torch.no_grad():\n        torch.set_grad_enabled(True)\n"
    "        with torch.no_grad():\n            m()\n",
    "a generator that is resumed": "@torch.no_grad()\ndef f(m):\n    yield\n    with torch.no_grad():\n        m()\n",
    "a comment that silences it": "def f(m, x):\n    torch.no_grad()  # gradprobe: ignore\n    return m(x)\n",
}


@pytest.mark.parametrize("name", LEFT)
def test_nothing_is_edited_where_it_is_not_certain(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = IMPORT + LEFT[name]
    (tmp_path / "program.py").write_text(source)
    main(["scan", "--fix", str(tmp_path / "program.py")])
    assert (tmp_path / "program.py").read_text() == source
    assert "fixed" not in capsys.readouterr().out


def test_an_edit_that_callers_may_see_is_made_on_request(tmp_path: Path) -> None:
    source = IMPORT + LEFT["a function that leaves its mode"]
    fixed = IMPORT + "def f(m, x):\n    with torch.set_grad_enabled(False):\n        return m(x)\n"
    assert (fix(tmp_path, source), fix(tmp_path, source, unsafe=True)) == (source, fixed)


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_line_ends_encoding_permissions_and_links_stay(ending: str, encoding: str, tmp_path: Path) -> None:
    head = "# -*- coding: latin-1 -*-\n" if encoding == "latin-1" else ""
    source = head + IMPORT + "def f(m):\n    torch.no_grad()\n    return m('é')  # é"
    file, link = tmp_path / "program.py", tmp_path / "link.py"
    file.write_bytes(source.replace("\n", ending).encode(encoding))
    file.chmod(0o755)
    link.symlink_to(file)
    (fixed,) = fix_files(scan_paths([link]).findings)
    fixed.write()
    expected = source.replace("    return", "        return").replace("torch.no_grad()", "with torch.no_grad():")
    assert file.read_bytes() == expected.replace("\n", ending).encode(encoding)
    assert link.is_symlink()
    assert os.stat(file).st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.py", "program.py"]


def test_a_diff_shows_the_edits_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = IMPORT + EDITED["a block in a block of the same mode"][0].rstrip("\n")
    Path("program.py").write_text(before)
    (fixed,) = fix_files(scan_paths([Path("program.py")]).findings)
    diff = "".join(fixed.iter_diff())
    assert Path("program.py").read_text() == before
    subprocess.run(["patch", "-p0"], input=diff, text=True, check=True, capture_output=True)
    assert Path("program.py").read_bytes() == fixed.after != before.encode()
    ast.parse(fixed.after)


def test_the_command_says_what_it_did_and_its_exit_code_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text(IMPORT + "def f(m, x):\n    torch.no_grad()\n    return m(x)\n")
    assert main(["scan", "a.py"]) == 1
    assert "1 finding fixable with --fix\n" in capsys.readouterr().err
    assert main(["scan", "--diff", "a.py"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("--- a.py\n+++ a.py\n")
    assert err == (
        "would fix a.py:3: GP104: torch.no_grad() is entered for the rest of its block\n1 finding would be fixed\n"
    )
    assert main(["scan", "--fix", "a.py"]) == 0
    assert capsys.readouterr().out == (
        "fixed a.py:3: GP104: torch.no_grad() is entered for the rest of its block\nnothing found\n"
    )
    assert main(["scan", "--diff", "a.py"]) == 0
    Path("a.py").write_text(IMPORT + LEFT["a branch"])
    capsys.readouterr()
    assert main(["scan", "--fix", "a.py"]) == 1
    assert main(["scan", "--fix", "--exit-zero", "a.py"]) == 0
    capsys.readouterr()
    assert "cannot edit with --recording" in refused(capsys, "scan", "--fix", "--with", "r.gradprobe", "a.py")
