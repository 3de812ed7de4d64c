"""``gradprobe`` and ``python -m gradprobe``: finds the verb, runs it, and turns errors at the user into one line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from gradprobe._version import __version__
from gradprobe.errors import GradprobeError

_VERBS = ("run", "report", "debug")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and gives its exit code: 0 done, 1 a check failed, 2 bad usage or input."""
    parser = _Parser(prog="gradprobe", description="What PyTorch's gradient and inference modes do in a program.")
    parser.add_argument("--version", action="version", version=f"gradprobe {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)
    for name in _VERBS:
        module = import_module(f"gradprobe.commands.{name}")
        summary = (module.__doc__ or "").strip()
        verb = verbs.add_parser(name, help=summary.splitlines()[0], description=summary)
        module.add_arguments(verb)
        verb.set_defaults(execute=module.execute)
    options = parser.parse_args(arguments)
    try:
        return int(options.execute(options))
    except GradprobeError as error:
        print(f"gradprobe {options.verb}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of a pipe has gone; the interpreter would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
