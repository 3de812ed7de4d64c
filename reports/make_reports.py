"""Regenerate the reports of this folder with the commands that its index lists.

python reports/make_reports.py [--cuda] [NAME ...]
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Report:
    """A report of this folder and the commands that make it."""

    name: str
    about: str
    commands: Sequence[str]
    """Commands to run from the root; {out} is the report without its suffix, {tmp} a temporary folder."""


def _plan_recording(name: str, about: str, program: str, options: str = "") -> Report:
    record = f"gradprobe run {options}-o {{tmp}}/{name}.gradprobe {program}"
    show = f"gradprobe report {{tmp}}/{name}.gradprobe --force"
    return Report(name, about, (record, f"{show} -o {{out}}.html", f"{show} --charts svg -o {{out}}.md"))


def _plan_comparison(suite: str, about: str, budget: int) -> Report:
    outputs = " ".join(f"-o {{out}}{suffix}" for suffix in (".html", ".md", ".json"))
    return Report(
        suite, about, (f"gradprobe compare --suite {suite} --budget {budget} --force --charts svg {outputs}",)
    )


REPORTS = (
    _plan_comparison("models", "six models under `grad`, `no_grad` and `inference_mode`", 120),
    _plan_recording("serve", "a server whose threads do not inherit `no_grad`", "examples/serve.py", "--level ops "),
)


ON_A_GPU = (
    Report(
        "models-cuda",
        "six models under the same modes on a GPU",
        (
            "gradprobe compare --suite models --device cuda --budget 240 --force --charts svg "
            "-o {out}.html -o {out}.md -o {out}.json",
        ),
    ),
    _plan_recording(
        "decode-cuda", "GPT-2 on a GPU: plain, compiled and as CUDA graphs, by batch size", "examples/decode_gpu.py"
    ),
)
"""Reports that need a GPU; the environment in each names it."""


def main(words: Sequence[str]) -> None:
    """Regenerate the named reports, or all of them, and the index."""
    names = [word for word in words if word != "--cuda"]
    wanted = ON_A_GPU if "--cuda" in words else REPORTS
    unknown = set(names) - {report.name for report in wanted}
    if unknown:
        sys.exit(f"unknown report {', '.join(sorted(unknown))}; use some of {', '.join(r.name for r in wanted)}")
    for report in wanted:
        if names and report.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for command in report.commands:
                words = shlex.split(command.format(out=HERE / report.name, tmp=folder))
                print(f"$ {shlex.join(words)}", flush=True)
                subprocess.run([sys.executable, "-m", *words], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
    (HERE / "README.md").write_text(index(), encoding="utf-8")


def index() -> str:
    """Return the index of the folder, with the commands as a reader would type them."""
    lines = [
        "# Reports",
        "",
        "Made by real runs; `make reports` makes them again. The HTML files need no network.",
        "",
    ]
    for report in (*REPORTS, *(report for report in ON_A_GPU if (HERE / f"{report.name}.md").exists())):
        lines += [
            f"## {report.name}",
            "",
            f"{report.about[:1].upper()}{report.about[1:]}: {_format_links(report)}.",
            "",
        ]
        lines += ["```sh", *(command.format(out=f"reports/{report.name}", tmp="/tmp") for command in report.commands)]
        lines += ["```", ""]
    return "\n".join(lines)


def _format_links(report: Report) -> str:
    suffixes = (".html", ".md", ".json") if (HERE / f"{report.name}.json").exists() else (".html", ".md")
    return ", ".join(f"[{report.name}{suffix}]({report.name}{suffix})" for suffix in suffixes)


if __name__ == "__main__":
    main(sys.argv[1:])
