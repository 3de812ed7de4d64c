"""Texts of errors in which PyTorch lists what is registered for an operator."""

from __future__ import annotations

from pathlib import Path

from tests import warm_python

REFUSED_OPERATORS = """
import torch
library = torch.library.Library("gradprobe_texts", "DEF")
library.define("unimplemented(Tensor x) -> Tensor")
calls = [
    lambda: torch.ops.gradprobe_texts.unimplemented(torch.ones(2)),
    lambda: torch.ops.gradprobe_texts.unimplemented(torch.ones(2, requires_grad=True)),
    lambda: torch.ops.gradprobe_texts.unimplemented(torch.ones(2, device="meta")),
    lambda: torch.ones(2).to_sparse().cumsum(0),
    lambda: torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8).exp(),
]
for call in calls:
    try:
        call()
    except Exception as error:
        print(type(error), error, error.args)
"""


def test_lists_of_keys_do_not_name_the_observer(tmp_path: Path) -> None:
    """The error of an operator without a kernel lists the same keys and registrations as in an unwatched process."""
    script = tmp_path / "refused.py"
    script.write_text(REFUSED_OPERATORS, encoding="utf-8")

    plain = warm_python.run(str(script), cwd=tmp_path)
    watched = warm_python.run("-m", "gradprobe", "run", "--level", "ops", str(script), cwd=tmp_path)

    assert plain.stdout.count(b"NotImplementedError") == 5
    assert watched.stdout == plain.stdout
