"""Who catches an exception is known while it is raised: the program, a block that expects it, a library, or nobody."""

from __future__ import annotations

import contextlib
import linecache
import sys
from collections.abc import Callable
from typing import Any

import pytest

from gradprobe.capture.detectors.exception_diagnosis import running_frames
from gradprobe.capture.location.handlers import Catcher, find_catcher, is_installed, is_of_python

seen: list[Catcher] = []


def fail() -> None:
    seen.append(find_catcher(running_frames(sys._getframe()), ValueError))
    raise ValueError


def caught_outside() -> None:
    try:
        fail()
    except (KeyError, ValueError):
        return


def caught_by_a_base() -> None:
    try:
        fail()
    except Exception:
        return


def raised_here() -> None:
    try:
        seen.append(find_catcher(running_frames(sys._getframe()), ValueError))
        raise ValueError
    except ValueError:
        return


def raised_again() -> None:
    try:
        fail()
    except ValueError:
        raise


def of_another_type() -> None:
    try:
        fail()
    except KeyError:
        return


def in_the_handler_of_another() -> None:
    try:
        raise KeyError
    except KeyError:
        fail()


def in_a_function_defined_in_the_block() -> None:
    try:

        def inner() -> None:
            fail()
    except ValueError:
        pass
    inner()


def expected() -> None:
    with pytest.raises(ValueError, match=r"^$"):
        fail()


def suppressed() -> None:
    with contextlib.suppress(ValueError):
        fail()


CATCHERS: dict[Callable[[], None], Catcher] = {
    caught_outside: Catcher.PROGRAM,
    caught_by_a_base: Catcher.PROGRAM,
    raised_here: Catcher.RAISER,
    raised_again: Catcher.NOBODY,
    of_another_type: Catcher.NOBODY,
    in_the_handler_of_another: Catcher.NOBODY,
    in_a_function_defined_in_the_block: Catcher.NOBODY,
    expected: Catcher.EXPECTED,
    suppressed: Catcher.SUPPRESSED,
}


def end_of(program: Callable[[], None]) -> Catcher:
    """Run a program, with the frames of the test itself out of sight."""
    seen.clear()
    with contextlib.suppress(ValueError):
        program()
    (catcher,) = seen
    return catcher


@pytest.mark.parametrize("program", CATCHERS, ids=lambda program: program.__name__)
def test_the_catcher_is_found(program: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    frames = running_frames
    begin: list[Any] = [sys._getframe()]

    def inner_frames(frame: Any) -> list[Any]:
        known = frames(frame)
        return known[[f for f, _ in known].index(begin[0]) + 2 :]  # without the test and what runs it

    monkeypatch.setitem(globals(), "running_frames", inner_frames)
    assert end_of(program) is CATCHERS[program]


def library(source: str, name: str) -> Callable[..., Any]:
    file = f"/usr/lib/site-packages/{name}/code.py"
    linecache.cache[file] = (len(source), None, source.splitlines(True), file)
    namespace: dict[str, Any] = {"fail": fail}
    exec(compile(source, file, "exec"), namespace)
    made: Callable[..., Any] = namespace["run"]
    return made


def test_a_library_that_catches_what_it_raised_is_not_the_program() -> None:
    run = library(
        "def run(look):\n    try:\n        look()\n        raise ValueError\n    except ValueError:\n        return\n",
        "probing",
    )
    file = run.__code__.co_filename
    namespace: dict[str, Any] = {
        "find": find_catcher,
        "frames": running_frames,
        "seen": seen,
        "sys": sys,
        "V": ValueError,
    }
    exec(compile("def look():\n    seen.append(find(frames(sys._getframe()), V))\n", file, "exec"), namespace)
    seen.clear()
    run(namespace["look"])
    assert seen == [Catcher.LIBRARY]


def test_a_library_that_runs_the_program_has_not_caught_it_for_the_program() -> None:
    run = library("def run():\n    try:\n        fail()\n    except ValueError:\n        return\n", "running")
    seen.clear()
    run()
    assert seen == [Catcher.NOBODY]


def test_places_of_code() -> None:
    assert is_of_python(contextlib.__file__)
    assert is_installed(contextlib.__file__)
    assert is_installed(pytest.__file__)
    assert not is_of_python(pytest.__file__)
    assert not is_installed(__file__)
