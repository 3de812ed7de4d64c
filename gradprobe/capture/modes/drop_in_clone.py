"""The ``clone`` method of the drop-in ``set_grad_enabled``.

It stands apart from the drop-ins because the hooks recognise its frame by the identity of its code, and a recording may
begin before the program imports the drop-ins.
"""

from __future__ import annotations

from types import CodeType

import torch

from gradprobe.capture.location.callers import indirect_files

indirect_files.add(__file__)


def clone_set_grad_enabled(self: torch.set_grad_enabled) -> torch.set_grad_enabled:
    """Return an object of PyTorch's own class, which ``torch.compile`` knows."""
    return torch.set_grad_enabled(self.mode)


DROP_IN_CLONE_CODE: CodeType = clone_set_grad_enabled.__code__
