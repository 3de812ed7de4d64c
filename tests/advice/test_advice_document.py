"""The report of advice: what fits its table, and what stands with the proof."""

from __future__ import annotations

from gradprobe.advice.advice_document import build_document
from gradprobe.advice.certificate import KEEP, SWAP, Certificate
from gradprobe.advice.manager_sites import Site
from gradprobe.report.formats import markdown, terminal

SITE = Site("/program.py", 2, 11, 18, "no_grad", "with", (3, 3))
GAIN = {
    "verdict": "not worth it",
    "ratio": 0.998,
    "ci_low": 0.99,
    "ci_high": 1.002,
    "text": "not worth it: 0.998 of the time under no_grad (0.990 to 1.002, 400 blocks)",
}


def test_a_line_at_which_both_runs_agree_names_no_reason() -> None:
    agreed = Certificate(SITE, SWAP, "none", "Both runs agree.", gain=GAIN)
    kept = Certificate(SITE, KEEP, "nested_grad", "The block computes gradients.")
    document = build_document([agreed, kept], [])
    shown = terminal.render_document(document)
    assert "* swap: no_grad (with): Both runs agree." in shown
    assert "* keep nested_grad: no_grad (with): The block computes gradients." in shown
    assert "**swap** at" in markdown.render_document(document)
    assert "swap none" not in shown + markdown.render_document(document)


def test_the_gain_is_whole_in_the_table_and_in_the_proof() -> None:
    shown = terminal.render_document(build_document([Certificate(SITE, SWAP, "none", "", gain=GAIN)], []))
    assert "  0.998 (0.990 to 1.002)" in shown
    assert f"  speed: {GAIN['text']}" in shown
