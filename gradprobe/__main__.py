"""``gradprobe`` and ``python -m gradprobe``: finds the verb, runs it, and turns errors at the user into one line."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from gradprobe._version import __version__
from gradprobe.errors import GradprobeError

_VERBS = ("run", "report", "compare", "check", "scan", "build", "debug")


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As inherited, but each verb refuses what it does not know itself, and so names its own help."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        _complain(f"{self.prog}: {message}; see {self.prog} --help")
        sys.exit(2)


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
        code = int(options.execute(options))
        if options.verb != "run" and sys.stdout is not None:
            sys.stdout.flush()
        return code
    except GradprobeError as error:
        _complain(f"gradprobe {options.verb}: {error}")
        return 2
    except BrokenPipeError:
        _give_up_output()  # the reader of a pipe has seen enough
        return 0
    except OSError as error:
        where = "standard output" if error.filename is None else os.fspath(error.filename)
        _complain(f"gradprobe {options.verb}: cannot use {where}: {error.strerror}; name another place")
        _give_up_output()
        return 2
    except KeyboardInterrupt:
        if options.verb == "run":
            raise  # the program was interrupted, and is about to end as python would end it
        return 130


def _give_up_output() -> None:
    """Has the interpreter's last flush succeed, which would otherwise complain in its own way."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(text: str) -> None:
    """Says what is wrong in one line, whatever a file's name may hold."""
    if sys.stderr is not None:
        line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
        print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
