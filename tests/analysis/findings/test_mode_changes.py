"""Lines around a mode change that only the source shows: who asks for it, and what skips the line that restores it."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from gradprobe.analysis.findings.finding import RelatedLine
from gradprobe.analysis.findings.mode_changes import locate_call, locate_condition, locate_skipping

SKIPPED = {
    "an early return": """
        import torch
        def look(x):
            torch.set_grad_enabled(False)  # mode
            if not x:
                return None  # found
            torch.set_grad_enabled(True)
    """,
    "an exception of the function itself": """
        import torch
        def look(x):
            before = torch.is_grad_enabled()
            torch.set_grad_enabled(False)  # mode
            if not x:
                raise ValueError  # found
            torch.set_grad_enabled(before)
    """,
    "an exception of a function that it calls": """
        import torch
        def check(x):
            if not x:
                raise ValueError  # found
        def look(x):
            torch.set_grad_enabled(False)  # mode
            check(x)
            torch.set_grad_enabled(True)
    """,
    "a generator of a context manager without finally": """
        import contextlib, torch
        @contextlib.contextmanager
        def frozen():
            torch.set_grad_enabled(False)  # mode
            yield  # found
            torch.set_grad_enabled(True)
    """,
    "a return in the caller of the method that enters": """
        import torch
        class Guard:
            def start(self):
                self.mode = torch.no_grad()
                self.mode.__enter__()  # mode
            def stop(self):
                self.mode.__exit__(None, None, None)
        def look(guard, x):
            guard.start()  # call
            if not x:
                return None  # found
            guard.stop()
    """,
    "nothing: a finally restores the mode": """
        import torch
        def look(x):
            torch.set_grad_enabled(False)  # mode
            try:
                return x + 1
            finally:
                torch.set_grad_enabled(True)
    """,
    "nothing: the branch restores the mode before it returns": """
        import torch
        def look(x):
            torch.set_grad_enabled(False)  # mode
            if not x:
                torch.set_grad_enabled(True)
                return None
            torch.set_grad_enabled(True)
    """,
    "nothing: no line restores it": """
        import torch
        def freeze():
            torch.set_grad_enabled(False)  # mode
            return None
    """,
}

CONDITIONS = {
    "an if around the block": """
        import torch
        def run(net, x, train):
            if not train:  # found
                with torch.no_grad():  # mode
                    return net(x)
            return net(x)
    """,
    "an if in the function that makes the manager": """
        import contextlib, torch
        def mode(train):
            if train:
                return contextlib.nullcontext()
            elif train is None:  # found
                return torch.inference_mode()
        def run(net, x, train):
            with mode(train):  # mode
                return net(x)
    """,
    "nothing: the guard of the main module": """
        import torch
        if __name__ == "__main__":
            with torch.no_grad():  # mode
                print(torch.ones(1))
    """,
    "nothing: an if after the block": """
        import torch
        with torch.no_grad():  # mode
            x = torch.ones(1)
        if x:
            print(x)
    """,
}


def _write(tmp_path: Path, source: str) -> tuple[str, dict[str, int]]:
    """Write a program and return its name, and the lines by the comment at their end."""
    file = tmp_path / "program.py"
    text = textwrap.dedent(source)
    file.write_text(text)
    return str(file), {line.rpartition("# ")[2]: n for n, line in enumerate(text.splitlines(), 1) if "# " in line}


@pytest.mark.parametrize("source", SKIPPED.values(), ids=SKIPPED)
def test_lines_that_skip_the_restoring_line(source: str, tmp_path: Path) -> None:
    file, lines = _write(tmp_path, source)
    caller = RelatedLine(file, lines["call"], "called from here") if "call" in lines else None
    found = locate_skipping(file, lines["mode"], caller)
    assert [at.line for at in found] == ([lines["found"]] if "found" in lines else [])


@pytest.mark.parametrize("source", CONDITIONS.values(), ids=CONDITIONS)
def test_condition_that_decides_about_a_mode(source: str, tmp_path: Path) -> None:
    file, lines = _write(tmp_path, source)
    assert [at.line for at in locate_condition(file, lines["mode"])] == ([lines["found"]] if "found" in lines else [])


def test_call_under_a_mode_of_the_function_that_did_the_work(tmp_path: Path) -> None:
    source = """
        import torch
        @torch.no_grad()  # mode
        def step(closure):
            loss = closure()  # found
            return loss
        def closure():
            return torch.ones(1)  # work
    """
    file, lines = _write(tmp_path, source)
    assert [at.line for at in locate_call(file, lines["mode"], [(file, lines["work"])])] == [lines["found"]]
    assert locate_call(file, lines["mode"], [(file, lines["found"])]) == []


def test_files_that_cannot_be_read_show_nothing(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.py")
    assert locate_condition(missing, 1) == locate_skipping(missing, 1, None) == []
