"""Measures what works with each of some interpreters, and writes the table of docs/versions.md:

python -m tests.versions [--tests FOLDER,...|all] PYTHON [PYTHON ...]

Each PYTHON needs gradprobe's dependencies, and its extra `test` for the tests; gradprobe itself is taken from here. What
was found of other versions stays in the table, as docs/versions.json has it; it is replaced when they are measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.versions.table import written

ROOT = Path(__file__).parents[2]
FOUND, PAGE = ROOT / "docs" / "versions.json", ROOT / "docs" / "versions.md"
PROBES = Path(__file__).with_name("probes.py")
FOLDERS = sorted(folder.parent.name for folder in (ROOT / "tests").glob("*/__init__.py"))


def run(python: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([python, *words], cwd=ROOT, env=environment, capture_output=True, text=True)


def measured(python: str) -> dict[str, Any]:
    """What there is of an interpreter, and how each program ends there: None, or the last words of its error."""
    asked = run(python, str(PROBES))
    if asked.returncode:
        sys.exit(f"{python} cannot be asked: {asked.stderr}")
    found: dict[str, Any] = json.loads(asked.stdout)
    ends = {}
    for name in found["programs"]:
        done = run(python, str(PROBES), name)
        ends[name] = (
            (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1] if done.returncode else None
        )
        print(f"{python}: {name}: {ends[name] or 'yes'}", file=sys.stderr)
    parts = {name: there for name, there, _ in found["capabilities"]}
    refusal = next((what for name, there, what in found["capabilities"] if name == "level ops" and not there), None)
    return {**found, "capabilities": parts, "refusal": refusal, "programs": ends}


def tested(python: str, folder: str) -> None:
    """Run the tests of a folder, and print how many pass and which do not."""
    done = run(python, "-m", "pytest", "-n", "2", "-q", "-p", "no:cacheprovider", f"tests/{folder}")
    last = (done.stdout.strip().splitlines() or [done.stderr])[-1]
    failing = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.M)
    print(f"{python}: tests/{folder}: {last}", *failing, sep="\n  ", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("pythons", nargs="+", metavar="PYTHON")
    parser.add_argument("--tests", default="", metavar="FOLDER,...", help="run these folders of tests as well, or all")
    options = parser.parse_args()
    folders = FOLDERS if options.tests == "all" else [name for name in options.tests.split(",") if name]
    for python in options.pythons:
        new = measured(python)
        known = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.exists() else []
        for folder in folders:
            tested(python, folder)
        others = [one for one in known if not is_same(one, new)]
        every = sorted([*others, new], key=lambda one: (numbers(one["torch"]), numbers(one["python"])))
        FOUND.write_text(json.dumps(every, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), every), encoding="utf-8")


def is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return (one["torch"], one["python"]) == (other["torch"], other["python"])


def numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


if __name__ == "__main__":
    main()
