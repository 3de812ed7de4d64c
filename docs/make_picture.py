"""Draws docs/report.svg: the beginning of the report that examples/serve.py ends in.

python docs/make_picture.py
"""

from __future__ import annotations

import html
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINES, COLUMNS = 36, 132
WIDE, HIGH, MARGIN = 7.25, 16, 14


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gradprobe"]
        recording = f"{folder}/serve.gradprobe"
        subprocess.run(
            [*command, "run", "-o", recording, "examples/serve.py"], cwd=ROOT, check=True, capture_output=True
        )
        report = [*command, "report", recording, "--top", "6"]
        text = subprocess.run(report, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    Path(__file__).with_name("report.svg").write_text(picture(text.splitlines()[:LINES]), encoding="utf-8")


def picture(lines: list[str]) -> str:
    width, height = COLUMNS * WIDE + 2 * MARGIN, len(lines) * HIGH + 2 * MARGIN
    rows = "\n".join(
        f'<text xml:space="preserve" x="{MARGIN}" y="{MARGIN + (number + 0.8) * HIGH:.0f}">'
        f"{html.escape(line[:COLUMNS])}</text>"
        for number, line in enumerate(lines)
        if line.strip()
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">\n'
        "<style>text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #d8dee9; white-space: pre }</style>\n"
        f'<rect width="100%" height="100%" rx="6" fill="#20242c"/>\n{rows}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
