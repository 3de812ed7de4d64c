"""Models of Hugging Face transformers, by the name of a model type or of a repository."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from gradprobe.comparison.workloads.workload import Workload, WorkloadCall
from gradprobe.errors import GradprobeError


def build_workload(name: str) -> Workload:
    """Return a forward pass with random weights of a model type (`gpt2`, `bert`) or of a repository's config."""
    return Workload(f"{name} of transformers, forward", lambda: _build_forward(name))


def _build_forward(name: str) -> WorkloadCall:
    try:
        import transformers  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise GradprobeError(f"cannot build hf:{name}: {error}; run pip install transformers") from None
    try:
        if name in transformers.CONFIG_MAPPING:
            config = transformers.AutoConfig.for_model(name)
        else:
            config = transformers.AutoConfig.from_pretrained(name)
        torch.manual_seed(0)
        model: Any = transformers.AutoModel.from_config(config).eval()  # type: ignore[no-untyped-call,unused-ignore]
    except Exception as error:
        raise GradprobeError(f"cannot build hf:{name}: {error}; name a model type such as gpt2") from error
    if model.main_input_name == "pixel_values":
        return partial(model, torch.randn(1, config.num_channels, config.image_size, config.image_size))
    return partial(model, **model.dummy_inputs)
