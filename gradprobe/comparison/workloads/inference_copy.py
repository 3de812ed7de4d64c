"""Copies of a call's modules whose parameters are inference tensors."""

from __future__ import annotations

import copy
import functools
import types
from typing import Any

from torch import nn

from gradprobe.comparison.workloads.workload import WorkloadCall


def copy_in_inference_mode(call: functools.partial[object]) -> WorkloadCall:
    """Return the same call on copies of its modules. Inside inference mode their parameters become inference tensors."""
    memo: dict[int, Any] = {}

    def copy_module(value: Any) -> Any:
        return copy.deepcopy(value, memo) if isinstance(value, nn.Module) else value

    function: Any = call.func
    if isinstance(function, types.MethodType) and isinstance(function.__self__, nn.Module):
        function = types.MethodType(function.__func__, copy_module(function.__self__))
    keywords = {name: copy_module(value) for name, value in call.keywords.items()}
    return functools.partial(copy_module(function), *map(copy_module, call.args), **keywords)
