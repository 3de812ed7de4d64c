"""What some tests need of PyTorch and Python, and not every version has: docs/versions.md says what follows without it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from gradprobe.capture.autograd.graph import can_read_saved
from gradprobe.capture.compile.dynamo import can_observe_calls

needs_saved = pytest.mark.skipif(not can_read_saved(), reason="this PyTorch does not show what its nodes saved")
needs_compiled_calls = pytest.mark.skipif(
    not can_observe_calls(), reason="this PyTorch does not show calls of compiled code"
)
HAS_QUALIFIED_NAMES = sys.version_info >= (3, 11)
"""Whether Python tells the class of a method from its code."""


def transformers_with_models() -> Any:
    """The library, where it is there and does with this PyTorch; else the test or the whole file is skipped."""
    transformers = pytest.importorskip("transformers")
    if not transformers.utils.is_torch_available():
        pytest.skip("transformers wants a newer PyTorch", allow_module_level=True)
    return transformers
