"""Entry point of ``gradprobe`` and ``python -m gradprobe``: run a verb and report errors in one line."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from gradprobe._version import __version__
from gradprobe.commands.messages import print_message
from gradprobe.errors import GradprobeError

_VERBS = ("run", "report", "compare", "check", "diff", "why", "advise", "scan", "build-core", "debug")
_ALIASES = {"build-core": ["build"]}


class _Parser(argparse.ArgumentParser):
    """Parser that reports an error in one line and names the help to read."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments in the parser of the verb, so that the message names the help of the verb."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Report ``message`` in one line and exit with code 2."""
        print_message(f"{self.prog}: {message}; see {self.prog} --help")
        sys.exit(2)


class _PrintInstructions(argparse.Action):
    """Print the page for language models, which is installed with the package."""

    def __call__(self, *arguments: Any) -> NoReturn:
        print(Path(__file__).with_name("llms.txt").read_text(encoding="utf-8"), end="")
        sys.exit(0)


def build_parser(chosen: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the command line, with a subparser per verb, or for the ``chosen`` one only.

    ``run`` must import nothing that the program does not import, and others import pandas.
    """
    parser = _Parser(prog="gradprobe", description="Show what PyTorch's grad modes and inference mode do in a program.")
    parser.add_argument("--version", action="version", version=f"gradprobe {__version__}")
    parser.add_argument(
        "--llms", action=_PrintInstructions, nargs=0, help="print instructions for language models, and exit"
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    for name in _VERBS:
        if chosen is not None and chosen not in (name, *_ALIASES.get(name, ())):
            continue
        module = import_module(f"gradprobe.commands.{name.replace('-', '_')}")
        summary = (module.__doc__ or "").strip()  # nothing under -OO
        verb = verbs.add_parser(
            name, aliases=_ALIASES.get(name, ()), help=summary.partition("\n")[0], description=summary
        )
        module.add_arguments(verb)
        verb.set_defaults(execute=module.execute)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 a check failed, 2 bad usage or input."""
    words = sys.argv[1:] if arguments is None else arguments
    known = {*_VERBS, *(alias for aliases in _ALIASES.values() for alias in aliases)}
    options = build_parser(words[0] if words and words[0] in known else None).parse_args(words)
    try:
        code = int(options.execute(options))
        if options.verb != "run" and sys.stdout is not None:
            sys.stdout.flush()
        return code
    except GradprobeError as error:
        print_message(f"gradprobe {options.verb}: {error}")
        return 2
    except BrokenPipeError:
        _discard_output()  # the reader of the pipe has closed it
        return 0
    except OSError as error:
        where = "standard output" if error.filename is None else os.fspath(error.filename)
        print_message(f"gradprobe {options.verb}: cannot use {where}: {error.strerror}; name another one")
        _discard_output()
        return 2
    except KeyboardInterrupt:
        if options.verb == "run":
            raise  # the program was interrupted, and ends as python would end it
        return 130


def _discard_output() -> None:
    """Redirect stdout to devnull so that the interpreter's final flush does not raise."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
