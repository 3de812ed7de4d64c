"""The reason for a difference is read from the exception, and else from what ran in the block."""

from __future__ import annotations

import pytest

from gradprobe.advice.line_trace import INFERENCE, Trace
from gradprobe.advice.manager_sites import SourceFile
from gradprobe.advice.reasons import explain_difference

INSIDE = {
    "functional": "torch.func.jvp(f, (x,), (t,))",
    "nested_grad": "loss.backward()",
    "subclass": "torch.nested.nested_tensor([x])",
    "version_read": "print(x._version)",
    "results_differ": "print(x.sum())",
}


@pytest.mark.parametrize("name", INSIDE)
def test_a_difference_without_an_exception_is_explained_by_what_ran_in_the_block(name: str) -> None:
    file = SourceFile("/program.py", f"import torch\nwith torch.no_grad():\n    {INSIDE[name]}\n")
    inference = Trace(lines={("/program.py", 3): {INFERENCE}})
    reason = explain_difference(file.sites[0], [file], Trace(), inference, "They differ.")
    assert reason.name == name
    assert [line for _, line, _ in reason.lines] == ([] if name == "results_differ" else [3])


def test_the_message_of_a_failed_test_comes_before_what_the_source_suggests() -> None:
    file = SourceFile(
        "/program.py", "import pickle, torch\nwith torch.no_grad():\n    x = torch.ones(1)\npickle.dumps(1)\n"
    )
    failed = ["failure: RuntimeError: Inference tensors cannot be saved for backward. To work around"]
    reason = explain_difference(file.sites[0], [file], Trace(), Trace(), "They differ.", failed)
    assert reason.name == "saved_for_backward"
