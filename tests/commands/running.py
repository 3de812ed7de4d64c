"""Helpers that run the command line as a user does, in processes of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from gradprobe.__main__ import main
from tests import warm_python
from tests.warm_python import PATIENCE_S


def python(
    *words: str, cwd: Path, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run ``python WORDS`` and return the finished process."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=cwd,
        input=stdin.encode(),
        env=env,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def gradprobe(
    *words: str, cwd: Path, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run ``python -m gradprobe WORDS`` and return the finished process."""
    return python("-m", "gradprobe", *words, cwd=cwd, stdin=stdin, env=env)


def warm_gradprobe(
    *words: str, cwd: Path, stdin: str = "", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The end of ``python -m gradprobe WORDS`` in a process that had torch before, where that makes no difference."""
    return warm_python.run("-m", "gradprobe", *words, cwd=cwd, stdin=stdin, env=env)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line of error with which the command line rejects ``words``."""
    code: object
    try:
        code = main(list(words))
    except SystemExit as leaving:
        code = leaving.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1
    return err
