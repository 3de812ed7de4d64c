"""Views that PyTorch recreates by an operator after an in-place change, while it holds their lock.

In processes of their own: what is wrong here waits for ever.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import warm_python

PROGRAM = """
import torch, gradprobe

def program():
    torch.manual_seed(0)
    x = torch.randn(4, 2, requires_grad=True)
    z = torch.view_as_complex(x * 1)
    z.mul_(2)
    seen = torch.view_as_real(z * 2)
    weight = torch.randn(3, dtype=torch.complex64, requires_grad=True)
    base = weight * 1
    real = torch.view_as_real(base)
    base.mul_(2)
    {change}
    first = real[0]
    first.mul_(2)
    base.add_(1)
    (real.sum() + seen.sum() + first.sum() + z.abs().sum()).backward()
    return x.grad, weight.grad

unwatched = program()
with gradprobe.record(level={level!r}) as recording:
    with torch.enable_grad():
        before = torch.autograd._get_sequence_nr()
        watched = program()
        constructed = torch.autograd._get_sequence_nr() - before
assert all(torch.equal(one, other) for one, other in zip(unwatched, watched, strict=True))
if {level!r} == "ops":
    assert int(recording.ops["nodes"].sum()) == constructed > 10, (recording.ops["nodes"].sum(), constructed)
"""


@pytest.mark.parametrize("level", ["graph", "ops"])
@pytest.mark.parametrize(
    "change",
    [
        "real.add_(1)",
        "real.add_(1).mul_(2)",
        "real[:, 0].add_(1)",
        "base.conj().imag.add_(1)",
        "real.view(torch.int32).zero_()",
    ],
)
def test_complex_views_modified_in_place(level: str, change: str, tmp_path: Path) -> None:
    """Complex views modified in place give the same gradients, and every node is counted."""
    program = PROGRAM.format(level=level, change=change)
    done = warm_python.run("-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
