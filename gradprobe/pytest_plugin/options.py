"""Options of the pytest plugin: one table for the command line, the environment and the ini file.

The command line overrides the environment, which overrides the ini file, which overrides the default. Every option is
declared to pytest with the default None, since any other default would hide the values of the other sources.

The environment variable of ``--gradprobe`` is ``GRADPROBE``, which has a second meaning that ``gradprobe._switch``
describes: ``GRADPROBE=0`` disables gradprobe in the whole process.
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
MODES = "modes"
_ENVIRONMENT = ("dtype", "device", "deterministic", "precision", "threads", "autocast")
LEAKS = (MODES, *_ENVIRONMENT, "function_modes", "dispatch_modes", "anomaly", "hooks", "rng")
"""Names of what a test may leave changed: the modes, and the kinds of ``global_state.STATE_KINDS``."""
DEFAULT_LEAKS = frozenset(LEAKS) - {"rng"}
LATEST = "latest"
ENABLED = "enabled"
"""Name of the option ``--gradprobe``."""


@dataclass(frozen=True)
class ReportTarget:
    """Report to write, ``--gradprobe-report=TYPE[:DEST]``, to a file or None for the default one."""

    type: str
    destination: str | None


@dataclass(frozen=True)
class RegressionLimit:
    """Allowed increase over the baseline, as ``amount`` or as a share of the baseline."""

    metric: str
    amount: float
    is_share: bool

    def allowed(self, before: float) -> float:
        """Return the highest value that is allowed if the baseline has ``before``."""
        return before * (1 + self.amount) if self.is_share else before + self.amount

    def __str__(self) -> str:
        return f"{self.metric}:{self.amount * 100:g}%" if self.is_share else f"{self.metric}:{self.amount:g}"


def _parse_switch(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off", ""):
        return False
    raise ValueError("must be 1 or 0")


def _parse_level(text: str) -> str:
    if text not in LEVELS:
        raise ValueError(f"must be one of {', '.join(LEVELS)}")
    return text


def _parse_report(text: str) -> ReportTarget:
    kind, _, destination = text.partition(":")
    if kind not in REPORTS:
        raise ValueError(f"must be one of {', '.join(REPORTS)}, optionally with :FILE")
    return ReportTarget(kind, destination or None)


def _parse_limit(text: str) -> RegressionLimit:
    found = re.fullmatch(r"\s*(\w+)\s*:\s*([0-9]+(?:\.[0-9]+)?)\s*(%?)\s*", text)
    if found is None or found[1] not in METRICS:
        raise ValueError(f"must be METRIC:NUMBER or METRIC:NUMBER%, with a metric of {', '.join(METRICS)}")
    return RegressionLimit(found[1], float(found[2]) / (100 if found[3] else 1), bool(found[3]))


def _parse_top(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("must be an integer of 1 or more")
    return int(text)


def _parse_leaks(text: str) -> frozenset[str]:
    """Parse names, which replace the default, or names behind a sign, which change it."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name.lstrip("+-") not in (*LEAKS, "all", "none")]
    if unknown:
        raise ValueError(f"must be all, none, or names of {', '.join(LEAKS)}, each with + or - to change the default")
    chosen = set() if any(name[0] not in "+-" for name in names) else set(DEFAULT_LEAKS)
    for name in names:
        word = name.lstrip("+-")
        kinds = set(LEAKS) if word == "all" else set() if word == "none" else {word}
        chosen = chosen - kinds if name.startswith("-") else chosen | kinds
    return frozenset(chosen)


def _parse_name(text: str) -> str:
    if not re.fullmatch(r"[\w.-]+", text):
        raise ValueError("must consist of letters, digits, dots, dashes and underscores")
    return text


@dataclass(frozen=True)
class Option:
    """Option of the plugin in all its forms.

    ``parse`` converts a text to the value, or raises ``ValueError`` with the condition that the text must meet.
    """

    name: str
    help: str
    parse: Callable[[str], Any]
    default: Any = None
    metavar: str = ""
    is_switch: bool = False
    is_list: bool = False
    const: str | None = None
    """Text that the option has if it is given without one."""

    @property
    def flag(self) -> str:
        """Command-line option."""
        return f"--{self.ini.replace('_', '-')}"

    @property
    def ini(self) -> str:
        """Name in the ini file; the option that enables the plugin has that of the plugin itself."""
        return "gradprobe" if self.name == ENABLED else f"gradprobe_{self.name}"

    @property
    def variable(self) -> str:
        """Environment variable."""
        return self.ini.upper()

    @property
    def destination(self) -> str:
        """Name under which pytest keeps the value of the command line."""
        return f"gradprobe_option_{self.name}"


OPTIONS: Sequence[Option] = (
    Option(
        ENABLED, "record the grad mode of every test, and summarize at the end", _parse_switch, False, is_switch=True
    ),
    Option(
        "level",
        f"amount of detail: {', '.join(LEVELS)} (default: graph; ops if a budget needs it)",
        _parse_level,
        metavar="LEVEL",
    ),
    Option(
        "report",
        f"write a report of TYPE {', '.join(REPORTS)}; repeatable",
        _parse_report,
        (),
        "TYPE[:DEST]",
        is_list=True,
    ),
    Option("save", "save the counts and times of this run as a baseline", _parse_name, metavar="NAME"),
    Option("compare", "compare with a baseline (default: the latest)", str, metavar="NAME|PATH", const=LATEST),
    Option(
        "compare_fail",
        "fail a test that costs more, such as nodes:0 or time:10%",
        _parse_limit,
        (),
        "EXPR",
        is_list=True,
    ),
    Option("storage", "folder of the baselines (default: .gradprobe)", str, ".gradprobe", "DIR"),
    Option("top", "maximum number of rows per table of the summary (default: 10)", _parse_top, 10, "N"),
    Option(
        "fail_on_leak",
        "fail a test, fixture or module that leaves a mode or other global state changed",
        _parse_switch,
        False,
        is_switch=True,
    ),
    Option(
        "leaks",
        f"check these for leaks: names of {', '.join(LEAKS)}, all, none, or +name and -name (default: all but rng)",
        _parse_leaks,
        DEFAULT_LEAKS,
        "KINDS",
    ),
)


@dataclass(frozen=True)
class PluginOptions:
    """Value of every option, and in ``sources``, by the name of the option, the source of the value."""

    enabled: bool
    level: str | None
    report: tuple[ReportTarget, ...]
    save: str | None
    compare: str | None
    compare_fail: tuple[RegressionLimit, ...]
    storage: str
    top: int
    fail_on_leak: bool
    leaks: frozenset[str]
    sources: Mapping[str, str]

    @property
    def records_every_test(self) -> bool:
        """True if every test is recorded, not only those with the marker or a fixture of the plugin."""
        given = (self.enabled, self.report, self.save, self.compare, self.compare_fail, self.fail_on_leak)
        return any(given)


def add_options(parser: pytest.Parser) -> None:
    """Declare every option of the table to pytest."""
    group = parser.getgroup("gradprobe", "gradient modes")
    for option in OPTIONS:
        more: dict[str, Any] = {"metavar": option.metavar}
        escaped = option.help.replace("%", "%%")  # argparse substitutes what follows a %
        if option.is_switch:
            more = {"action": "store_const", "const": "1"}
        elif option.is_list:
            more["action"] = "append"
        elif option.const is not None:
            more.update(nargs="?", const=option.const)
        group.addoption(option.flag, dest=option.destination, default=None, help=escaped, **more)
        if option.is_list:
            parser.addini(option.ini, option.help, type="linelist", default=None)
        else:
            parser.addini(option.ini, option.help, type="string", default=None)


def resolve_options(config: pytest.Config) -> PluginOptions:
    """Return the options of a run; raise ``pytest.UsageError`` for an invalid value, naming its source."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
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
                raise pytest.UsageError(f"gradprobe: {option.flag} {error}, got {text!r} from {source}") from None
        values[option.name] = tuple(parsed) if option.is_list else parsed[-1]
    return PluginOptions(**values, sources=sources)


def _texts(config: pytest.Config, option: Option) -> tuple[list[str] | None, str]:
    """Return the texts that the strongest source gives for an option, and the name of that source."""
    given = config.getoption(option.destination)
    if given is None:  # before conftests are imported, pytest has parsed only the arguments of the installed plugins
        given = getattr(config.known_args_namespace, option.destination, None)
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
