"""``gradprobe.why``: why a live tensor has a graph or none, and whether gradient reaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradprobe.analysis.why.explanation import Explanation
from gradprobe.analysis.why.knowledge import Knowledge
from gradprobe.analysis.why.tensor_story import LiveTensor, tell_tensor
from gradprobe.errors import GradprobeError
from gradprobe.inspection import inspect
from gradprobe.recording.flow import FlowSite

if TYPE_CHECKING:
    import torch

    from gradprobe.capture.autograd.creation import CreationSite


def why(tensor: torch.Tensor) -> Explanation:
    """Explain why a tensor has a graph or none, and whether gradient reaches it, while a recording is open.

    Of a tensor without a graph it says where the graph was cut, and by which mode; of a leaf, whether backward passes reach
    it; of an inference tensor, where and in which block it was created; of one with a graph, what built it.

    Args:
        tensor (torch.Tensor): any tensor of the running program.

    Returns:
        Explanation: ``cause``, ``places`` and ``fix``; ``str()`` of it is the text.

    Raises:
        InvalidArgument: ``tensor`` is not a ``torch.Tensor``.
        GradprobeError: no recording at level ``"ops"`` is open in this process.

    .. note::
        It reads the whole recording, so call it where you are looking for something, not in every step.

    Example::

        with gradprobe.record(level="ops"):
            loss = train_step(model, batch)
            print(gradprobe.why(loss))
    """
    import torch

    from gradprobe.capture.autograd.creation import REGISTRY
    from gradprobe.recorder import find_open_recording

    inspection = inspect(tensor)
    recording = find_open_recording("ops")
    if recording is None or REGISTRY.library is None:
        raise GradprobeError(
            'cannot explain this tensor: no recording at level "ops" is open; open one with gradprobe.record(level="ops") '
            "before the tensor is computed"
        )
    with torch._C.DisableTorchFunction():
        site, leaf, memory_leaf = REGISTRY.library.find_flow(tensor)
        can_require_grad = tensor.is_floating_point() or tensor.is_complex()
    knowledge = Knowledge(recording._tables)
    live = LiveTensor(
        description=inspection.description,
        is_inference=inspection.kind.startswith("inference"),
        requires_grad=inspection.requires_grad,
        is_leaf=inspection.is_leaf,
        can_require_grad=can_require_grad,
        nodes=inspection.nodes,
        saved_bytes=inspection.saved_bytes,
        fixes=[problem.fix for problem in inspection.problems],
        site=site,
        leaf=leaf,
        memory_leaf=memory_leaf,
        created=_make_site(inspection.born),
        memory_of=_make_site(_find_memory(tensor)),
        is_parameter="parameter" in inspection.traits,
    )
    return tell_tensor(knowledge, knowledge.graphs[0], live)


def _find_memory(tensor: torch.Tensor) -> CreationSite | None:
    """Return where another tensor with the memory of this one was created, if a recorder saw it."""
    from gradprobe.capture.autograd.creation import creation_site
    from gradprobe.capture.detectors.refusal_stories import find_record

    record = find_record(tensor)
    other = None if record is None else record[0]()
    return None if other is None or other is tensor else creation_site(other)


def _make_site(created: CreationSite | None) -> FlowSite | None:
    if created is None:
        return None
    return FlowSite(created.file, created.line, created.function, created.op, created.module)
