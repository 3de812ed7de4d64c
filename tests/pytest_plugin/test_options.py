"""Every option of the table, through every source that sets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import gradprobe
from gradprobe.pytest_plugin.options import OPTIONS, Option

Run = Callable[..., pytest.RunResult]

SHOW = """
import pytest
from gradprobe.pytest_plugin import options as settings
def pytest_configure(config):
    found = settings.resolve_options(config)
    for option in settings.OPTIONS:
        print(f"SEEN {option.ini} = {getattr(found, option.name)!r} from {found.sources[option.name]}")
"""
VALUES: dict[
    str, tuple[str, str, Any, str]
] = {  # for each, two texts, what the first becomes, and a text that is wrong
    "enabled": ("1", "0", True, "maybe"),
    "level": ("ops", "modes", "ops", "all"),
    "report": ("json:a.json", "html", "json", "pdf"),
    "save": ("base", "other", "base", "a b"),
    "compare": ("./a.json", "./b.json", "./a.json", ""),
    "compare_fail": ("nodes:3", "time:10%", "nodes", "nodes"),
    "storage": ("here", "there", "here", ""),
    "top": ("3", "4", 3, "0"),
    "fail_on_leak": ("1", "0", True, "maybe"),
    "leaks": ("rng,dtype,-dtype", "none", frozenset({"rng"}), "nothing"),
}


def seen(ended: pytest.RunResult, option: Option) -> str:
    (line,) = (line for line in ended.stdout.lines if line.startswith(f"SEEN {option.ini} = "))
    return line.removeprefix(f"SEEN {option.ini} = ")


@pytest.fixture
def show(configure: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Callable[..., pytest.RunResult]:
    pytester.makeconftest(SHOW)
    for option in OPTIONS:
        monkeypatch.delenv(option.variable, raising=False)
    for name in ("a.json", "b.json"):
        (pytester.path / name).write_text('{"kind": "baseline", "schema": 1, "machine": "", "tests": {}}')

    def show(ini: str = "", *words: str) -> pytest.RunResult:
        pytester.makeini(f"[pytest]\n{ini}\n")
        return configure("", "-s", *words)

    return show


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.ini)
def test_command_line_over_environment_over_ini_over_default(
    show: Callable[..., pytest.RunResult], option: Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, other, value, wrong = VALUES[option.name]
    word = option.flag if option.is_switch else f"{option.flag}={text}"

    def means(ended: pytest.RunResult, source: str) -> None:
        shown = seen(ended, option)
        assert shown.endswith(source)
        assert str(value) in shown

    assert seen(show(), option) == f"{option.default!r} from the default"
    means(show(f"{option.ini} = {text}"), f"from tox.ini, {option.ini}")
    monkeypatch.setenv(option.variable, text)
    means(show(f"{option.ini} = {other}"), f"from the environment ({option.variable})")
    monkeypatch.setenv(option.variable, other)
    means(show(f"{option.ini} = {other}", word), f"from the command line ({option.flag})")
    if wrong:
        monkeypatch.setenv(option.variable, wrong)
        ended = show()
        assert ended.ret == pytest.ExitCode.USAGE_ERROR
        assert f"{option.flag} must " in ended.stderr.str()
        assert f", got {wrong!r} from the environment ({option.variable})" in ended.stderr.str()


def test_every_option_is_in_the_help_and_in_the_documentation(configure: Run) -> None:
    shown = configure("", "--help").stdout.str()
    page = (Path(gradprobe.__file__).parents[1] / "docs" / "pytest.md").read_text(encoding="utf-8")
    for option in OPTIONS:
        assert option.flag in shown
        assert option.ini in shown
        assert f"`{option.flag}" in page
    assert "`GRADPROBE_" in page
    assert "`gradprobe_" in page
    assert set(VALUES) == {option.name for option in OPTIONS}
