"""Regenerate the reports of this folder with the commands that its index lists.

python reports/make_reports.py [--cuda] [--render] [NAME ...]

With --render, comparisons are not measured again: their pages are written from the numbers in their JSON files.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gradprobe.analysis.comparison_json import parse_outcome
from gradprobe.report.formats.registry import find_format, save_report
from gradprobe.report.formats.rendered import RenderOptions

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
    _plan_recording("serve", "a server whose threads do not inherit `no_grad`", "examples/serve.py"),
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
    names = [word for word in words if not word.startswith("--")]
    wanted = ON_A_GPU if "--cuda" in words else REPORTS
    unknown = set(names) - {report.name for report in wanted}
    if unknown:
        sys.exit(f"unknown report {', '.join(sorted(unknown))}; use some of {', '.join(r.name for r in wanted)}")
    for report in wanted:
        if names and report.name not in names:
            continue
        if "--render" in words and (HERE / f"{report.name}.json").exists():
            render_comparison(report.name)
            continue
        with tempfile.TemporaryDirectory() as folder:
            for command in report.commands:
                call = shlex.split(command.format(out=HERE / report.name, tmp=folder))
                print(f"$ {shlex.join(call)}", flush=True)
                subprocess.run([sys.executable, "-m", *call], cwd=HERE.parent, check=True, stdout=subprocess.DEVNULL)
    (HERE / "README.md").write_text(index(), encoding="utf-8")


def render_comparison(name: str) -> None:
    """Write the pages and pictures of a comparison again from the numbers in its JSON file."""
    saved = HERE / f"{name}.json"
    outcome = parse_outcome(json.loads(saved.read_text(encoding="utf-8")), saved.name)
    for suffix, format_, charts in ((".html", "html", None), (".md", "markdown", "svg")):
        save_report(outcome, HERE / f"{name}{suffix}", find_format(format_), RenderOptions(charts=charts), force=True)


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
