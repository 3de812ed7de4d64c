"""Detector of reads of ``grad`` of a tensor that a backward does not fill (GP523)."""

from __future__ import annotations

from types import FrameType

import torch

from gradprobe.capture.detectors.detection_log import DetectionLog
from gradprobe.capture.detectors.escaped_inference_tensors import locate_tensor_creation


def report_gradient_of_result(tensor: torch.Tensor, frame: FrameType, log: DetectionLog) -> None:
    """Report the line that reads ``grad`` of a tensor which an operator computed, and the line that computed it.

    Args:
        tensor: The tensor, which requires grad.
        frame: The innermost frame that runs.
        log: The log of detections.
    """
    with torch._C.DisableTorchFunction():
        log.add("GP523", [log.locate_frame("read here", frame), locate_tensor_creation(tensor, "computed here")])
