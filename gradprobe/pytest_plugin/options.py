"""The plugin's options: one table, from which the command line, the environment and the ini file are read.

The command line goes before the environment, that before the ini file, and that before the default. Every option has the
default None there, since a default that is no None would hide what the others say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from gradprobe._levels import LEVELS

REPORTS = ("term", "html", "json", "markdown", "markdown-append")
METRICS = ("nodes", "saved_bytes", "version_bumps", "time")
LATEST = "latest"


@dataclass(frozen=True)
class ReportTarget:
    """``--gradprobe-report=TYPE[:DEST]``."""

    type: str
    destination: str | None


@dataclass(frozen=True)
class RegressionLimit:
    """How much more than its baseline a test may cost: ``amount``, or a share of the baseline."""

    metric: str
    amount: float
    is_share: bool

    def allowed(self, before: float) -> float:
        return before * (1 + self.amount) if self.is_share else before + self.amount

    def __str__(self) -> str:
        return f"{self.metric}:{self.amount * 100:g}%" if self.is_share else f"{self.metric}:{self.amount:g}"


def _switch(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("write 1 or 0")


def _level(text: str) -> str:
    if text not in LEVELS:
        raise ValueError(f"choose one of {', '.join(LEVELS)}")
    return text


def _report(text: str) -> ReportTarget:
    kind, _, destination = text.partition(":")
    if kind not in REPORTS:
        raise ValueError(f"choose one of {', '.join(REPORTS)}, and a file after a colon")
    return ReportTarget(kind, destination or None)


def _limit(text: str) -> RegressionLimit:
    found = re.fullmatch(r"\s*(\w+)\s*:\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*", text)
    if found is None or found[1] not in METRICS:
        raise ValueError(f"write METRIC:NUMBER or METRIC:NUMBER%, with a metric of {', '.join(METRICS)}")
    return RegressionLimit(found[1], float(found[2]) / (100 if found[3] else 1), bool(found[3]))


def _top(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("give a whole number from 1")
    return int(text)


def _name(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+", text):
        raise ValueError("use letters, digits, dots, dashes and underscores")
    return text


@dataclass(frozen=True)
class Option:
    """``parse`` gives the value of a text, or raises ``ValueError`` with what is allowed."""

    name: str
    help: str
    parse: Callable[[str], Any]
    default: Any = None
    metavar: str = ""
    is_switch: bool = False
    is_list: bool = False
    const: str | None = None
    """What the option means without a value."""

    @property
    def flag(self) -> str:
        return "--gradprobe" + (f"-{self.name.replace('_', '-')}" if self.name else "")

    @property
    def ini(self) -> str:
        return f"gradprobe_{self.name}" if self.name else "gradprobe"

    @property
    def variable(self) -> str:
        return self.ini.upper()


OPTIONS: Sequence[Option] = (
    Option("", "watch the gradient modes of every test, and sum up at the end", _switch, False, is_switch=True),
    Option("level", f"how much: {', '.join(LEVELS)} (graph; ops where a budget needs it)", _level, metavar="LEVEL"),
    Option("report", f"write TYPE of {', '.join(REPORTS)}; repeatable", _report, (), "TYPE[:DEST]", is_list=True),
    Option("save", "save the counts and times of this run as a baseline", _name, metavar="NAME"),
    Option("compare", "compare with a baseline, the latest if none is named", str, metavar="NAME|PATH", const=LATEST),
    Option(
        "compare_fail", "fail a test that costs more, such as nodes:0 or time:10%", _limit, (), "EXPR", is_list=True
    ),
    Option("storage", "the folder of baselines (.gradprobe)", str, ".gradprobe", "DIR"),
    Option("top", "rows per table of the summary (10)", _top, 10, "N"),
    Option("fail_on_leak", "fail what leaves a mode changed", _switch, False, is_switch=True),
)


@dataclass(frozen=True)
class PluginOptions:
    """The value of every option, and where each came from."""

    values: Mapping[str, Any]
    sources: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def records_every_test(self) -> bool:
        """Whether every test is watched, not only those that ask for it."""
        asked = ("", "report", "save", "compare", "compare_fail", "fail_on_leak")
        return any(self.values[name] for name in asked)


def add_options(parser: pytest.Parser) -> None:
    """Declares every option of the table."""
    group = parser.getgroup("gradprobe", "gradient modes")
    for option in OPTIONS:
        more: dict[str, Any] = {"metavar": option.metavar}
        escaped = option.help.replace("%", "%%")  # argparse fills in what follows a per cent sign
        if option.is_switch:
            more = {"action": "store_const", "const": "1"}
        elif option.is_list:
            more["action"] = "append"
        elif option.const is not None:
            more.update(nargs="?", const=option.const)
        group.addoption(option.flag, dest=f"gradprobe_option_{option.name}", default=None, help=escaped, **more)
        if option.is_list:
            parser.addini(option.ini, option.help, type="linelist", default=None)
        else:
            parser.addini(option.ini, option.help, type="string", default=None)


def resolve_options(config: pytest.Config) -> PluginOptions:
    """The settings of a run. Raises ``pytest.UsageError`` that names a wrong value, its source and what is allowed."""
    values, sources = {}, {}
    for option in OPTIONS:
        texts, source = _texts(config, option)
        sources[option.name] = source
        if texts is None:
            values[option.name] = option.default
            continue
        parsed = []
        for text in texts:
            try:
                parsed.append(option.parse(text))
            except ValueError as error:
                raise pytest.UsageError(f"gradprobe: {text!r}, from {source}, is not allowed; {error}") from None
        values[option.name] = tuple(parsed) if option.is_list else parsed[-1]
    return PluginOptions(values, sources)


def _texts(config: pytest.Config, option: Option) -> tuple[list[str] | None, str]:
    name = f"gradprobe_option_{option.name}"
    given = config.getoption(name)
    if given is None:  # before conftests are imported, when pytest knows its arguments in part only, ours among them
        given = getattr(config.known_args_namespace, name, None)
    if given is not None:
        return (given if isinstance(given, list) else [given]), f"the command line ({option.flag})"
    text = os.environ.get(option.variable)
    if text is not None:
        texts = re.split(r"[\n,]", text) if option.is_list else [text]
        return [
            one.strip() for one in texts if one.strip() or not option.is_list
        ], f"the environment ({option.variable})"
    ini = config.getini(option.ini)
    if ini is not None and ini != "" and ini != []:
        where = f"{config.inipath.name if config.inipath else 'the ini file'}, {option.ini}"
        return (list(ini) if isinstance(ini, list) else [str(ini)]), where
    return None, "the default"
