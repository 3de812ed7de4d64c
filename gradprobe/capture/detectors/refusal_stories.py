"""The lines that explain a refusal, with their roles: what the ledgers know of the tensors that it is about."""

from __future__ import annotations

import re
from _thread import get_ident
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from gradprobe.capture.autograd.creation import REGISTRY, CreationRecord, is_same_creation
from gradprobe.capture.autograd.failed_passes import (
    find_freed_node,
    find_modified_saved_tensor,
    find_node_of_name,
    is_in_graph,
    sequence_number,
)
from gradprobe.capture.autograd.graph import name_of
from gradprobe.capture.autograd.storages import storage_of
from gradprobe.capture.detectors.backward_passes import BackwardPasses
from gradprobe.capture.detectors.detection_log import DetectionLog, locate_instruction
from gradprobe.capture.detectors.escaped_inference_tensors import find_creation_block, locate_creation
from gradprobe.capture.detectors.kept_tensors import KeptTensors, find_result
from gradprobe.capture.detectors.lost_history import find_lost_history
from gradprobe.capture.detectors.refused_tensors import NamedTensor
from gradprobe.capture.location.expressions import assignment_before
from gradprobe.capture.location.handlers import FrameAt
from gradprobe.capture.location.sites import line_span
from gradprobe.recording.notes import BlockAt, SourceLocation

_MAX_NAMES = 20
_KEEPERS = {
    "cache": "cached by this function",
    "closure": "kept by the closure here",
    "generator": "kept by the generator here",
    "traceback": "kept by the exception that passed here",
}
"""Roles of the lines of keepers that have no line which stores into them."""
Place = tuple[int, int]
"""A line of the program: the identity of its code object, and the offset of the instruction."""


class Ledger(Protocol):
    """Facts about one thread that the observer of operators knows."""

    def origins_between(self, first: int, last: int) -> list[Place]:
        """Return the lines that constructed the thread's nodes with sequence numbers from ``first`` to ``last``."""

    def writer_of(self, storage: int) -> Place | None:
        """Return the line that wrote a storage last, since a node had saved it; the storage is given by its address."""


@dataclass
class Refused:
    """Facts about one exception.

    Attributes:
        text: The message.
        frames: The frames in which it was raised, from the outside in.
        place: The program's innermost line among them.
        roots: The tensors that the backward pass started from, if one failed.
        inputs: The tensors with respect to which it was asked for a gradient.
        subject: The tensor that the message is about.
        node: The name of the node that it is about, where the message does not have it.
        is_traced: True if a trace function saw it. Then the variables of the frames must not be touched.
    """

    text: str
    frames: Sequence[FrameAt]
    place: FrameAt
    roots: Sequence[Any] = ()
    inputs: Sequence[Any] = ()
    subject: NamedTensor | None = None
    node: str = ""
    is_traced: bool = False


@dataclass
class Story:
    """The lines that explain an exception, the main one first, the moments of related blocks, and further facts."""

    locations: list[SourceLocation | None] = field(default_factory=list)
    under: list[BlockAt] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


class Storyteller:
    """Finds the lines for each kind of story that the table of refusals names."""

    def __init__(self, log: DetectionLog, ledger: Ledger, passes: BackwardPasses) -> None:
        self._log, self._ledger, self._passes = log, ledger, passes
        self._kept = KeptTensors(log.codes)
        self._stories: dict[str, Callable[[Refused], Story]] = {
            "": self._tell_nothing_more,
            "created": self._tell_creation,
            "view": self._tell_view,
            "wrapped": self._tell_wrapper,
            "root": self._tell_root,
            "unused": self._tell_unused,
            "freed": self._tell_freed,
            "modified": self._tell_modified,
            "node": self._tell_node,
            "unreduced": self._tell_unreduced,
        }

    def tell(self, story: str, refused: Refused) -> Story:
        """Return the lines for a story."""
        return self._stories[story](refused)

    def _used(self, refused: Refused) -> SourceLocation | None:
        frame, offset = refused.place
        return locate_instruction("backward here" if refused.roots else "used here", frame.f_code, offset)

    def _tell_nothing_more(self, refused: Refused) -> Story:
        return Story([self._used(refused)])

    def _tell_creation(self, refused: Refused) -> Story:
        story = Story([self._used(refused)])
        subject = refused.subject
        record = None if subject is None else find_record(subject.tensor)
        if subject is None or record is None:
            return story
        tell_record(story, record)
        base = _base_of(subject.tensor)
        source = None if base is None else REGISTRY.get(base)
        if source is not None and source is not find_source(record):
            story.locations.append(locate_instruction("of the tensor created here", source[2], source[3]))
        made = REGISTRY.get_first(subject.tensor)
        if made is not None and not is_same_creation(made, record) and record[4] == "materialize":
            story.locations.append(locate_instruction("constructed here", made[2], made[3]))
        story.facts |= _describe(subject, record)
        self._tell_keeper(story, refused, record)
        return story

    def _tell_keeper(self, story: Story, refused: Refused, record: CreationRecord) -> None:
        """Add what has kept a tensor since the line that created it."""
        keeper = None if refused.is_traced else self._kept.find(refused.place, record, find_source(record))
        if keeper is None:
            return
        story.facts |= {"kept": keeper.name, "kept_kind": keeper.kind}
        if keeper.file and keeper.kind in _KEEPERS:
            story.locations.append(SourceLocation(_KEEPERS[keeper.kind], keeper.file, keeper.line, keeper.function))

    def _tell_view(self, refused: Refused) -> Story:
        story = Story([self._used(refused)])
        subject = refused.subject
        record = None if subject is None else self._find_view(subject.tensor, refused.place)
        if subject is None or record is None:
            return story
        story.locations.append(locate_instruction("view made here", record[2], record[3]))
        story.under.append(BlockAt("mode entered here", record[7], record[1]))
        story.facts |= _describe(subject, record)
        base = subject.tensor._base
        source = (None if base is None else REGISTRY.get(base)) or find_source(record)
        if source is not record:
            story.locations.append(locate_instruction("of the tensor created here", source[2], source[3]))
        self._tell_keeper(story, refused, record)
        return story

    def _find_view(self, tensor: Any, place: FrameAt) -> CreationRecord | None:
        """Return the record of a view, or of the one that it was taken from if the failing line itself made it."""
        record = find_record(tensor)
        frame, offset = place
        if record is None or record[2] is not frame.f_code or self._line_of(record) != line_span(frame.f_code, offset):
            return record
        others = [(view, other) for other in REGISTRY.living() if (view := other[0]()) is not None]
        siblings = [other for view, other in others if view is not tensor and _base_of(view) is tensor._base]
        return max((other for other in siblings if other[1] < record[1]), key=lambda other: other[1], default=record)

    @staticmethod
    def _line_of(record: CreationRecord) -> tuple[int, int] | None:
        return None if record[2] is None else line_span(record[2], record[3])

    def _tell_wrapper(self, refused: Refused) -> Story:
        # No operator creates a wrapper subclass: the line that assigned the variable is used instead.
        name = None if refused.subject is None else refused.subject.name
        made = assignment_before("created here", refused.place[0], name)
        # The operator that fails is the latest event of the thread: the block that is open now is the one around it.
        now = BlockAt("inference mode entered here", get_ident(), self._log.now())
        return Story([self._used(refused), made], [now])

    def _tell_root(self, refused: Refused) -> Story:
        story = Story([self._used(refused)])
        subject = self._root(refused)
        if subject is None:
            return story
        record = REGISTRY.get(subject.tensor)
        if record is not None:
            story.locations.append(locate_instruction("created here", record[2], record[3]))
            story.facts |= _describe(subject, record)
            self._tell_keeper(story, refused, record)
        if not subject.tensor.requires_grad:
            lost = find_lost_history(subject.tensor, refused.frames, self._log)
            story.locations += lost.locations
            story.under += lost.under
            if lost.cause:
                story.facts |= {"cause": lost.cause, "by": lost.op}
        return story

    @staticmethod
    def _root(refused: Refused) -> NamedTensor | None:
        found = re.search(r"element (\d+) of tensors", refused.text)
        index = int(found.group(1)) if found else 0
        if index < len(refused.roots):
            named = refused.subject
            is_same = named is not None and named.tensor is refused.roots[index]
            return named if is_same else NamedTensor(refused.roots[index], None)
        return refused.subject

    def _tell_unused(self, refused: Refused) -> Story:
        story = Story([self._used(refused)])
        for index, tensor in enumerate(refused.inputs):
            if not hasattr(tensor, "requires_grad"):
                continue  # an edge of the graph
            if tensor.requires_grad and is_in_graph(tensor, refused.roots):
                continue
            story.facts |= {"index": index, "shape": list(tensor.shape)}
            record = REGISTRY.get(tensor)
            if record is not None:
                story.locations.append(locate_instruction("input created here", record[2], record[3]))
                story.facts |= {"op": record[4]}
            break
        for root in refused.roots[:1]:
            record = REGISTRY.get(root)
            if record is not None:
                story.locations.append(locate_instruction("result computed here", record[2], record[3]))
        return story

    def _tell_freed(self, refused: Refused) -> Story:
        story = Story([self._used(refused)])
        found = find_freed_node(refused.roots, lambda number: self._passes.find_freeing(number) is not None)
        if found is None:
            return story
        node, user = found.node, found.user
        story.locations.append(self._passes.find_freeing(sequence_number(node)))
        story.locations.append(self._origin("graph built here", node))
        if found.carried is not node:
            story.locations.append(self._origin("result carried on here", found.carried))
        if user is not None:
            story.locations.append(self._origin("used again here", user))
        earlier = story.locations[1]
        story.facts["node"] = name_of(node)
        carried = find_result(found.carried)
        if carried is not None:
            self._tell_keeper(story, refused, carried)
        if earlier is not None and story.locations[0] is not None:
            story.facts["is_same_line"] = earlier[1:3] == story.locations[0][1:3]
        story.locations[1] = None if earlier is None else earlier._replace(role="freed by the backward here")
        return story

    def _tell_modified(self, refused: Refused) -> Story:
        used = self._used(refused)
        versions = re.search(r"is at version (\d+); expected version (\d+)", refused.text)
        facts: dict[str, Any] = {} if versions is None else {"versions": [int(text) for text in versions.groups()]}
        found = find_modified_saved_tensor(refused.roots)
        if found is None:
            return Story([used], facts=facts)
        node, saved = found
        writer = self._ledger.writer_of(storage_of(saved))
        wrote = None if writer is None else self._place("modified in place here", writer)
        facts |= {"node": name_of(node), "shape": list(saved.shape)}
        return Story([wrote, self._origin("saved by the forward here", node), used], facts=facts)

    def _tell_node(self, refused: Refused) -> Story:
        story = Story([self._used(refused)])
        node = find_node_of_name(refused.roots, f"{refused.text} {refused.node}")
        if node is not None:
            record = find_result(node)  # the node of a custom Function has no line of its own
            made = None if record is None else locate_instruction("forward here", record[2], record[3])
            story.locations.append(self._origin("forward here", node) or made)
            story.facts["node"] = name_of(node)
        return story

    def _tell_unreduced(self, refused: Refused) -> Story:
        story = Story([self._used(refused)])
        found = re.search(r"Parameter indices which did not receive grad for rank \d+: ([\d ]+)", refused.text)
        wrapper = next((w for w in map(_self_of, reversed(refused.frames)) if hasattr(w, "reducer")), None)
        if found is not None and wrapper is not None:
            names = [name for name, parameter in wrapper.module.named_parameters() if parameter.requires_grad]
            indices = [int(text) for text in found.group(1).split()]
            story.facts["parameters"] = [names[i] for i in indices if i < len(names)][:_MAX_NAMES]
        return story

    def _origin(self, role: str, node: Any) -> SourceLocation | None:
        number = sequence_number(node)
        places = self._ledger.origins_between(number, number)
        return self._place(role, places[0]) if places else None

    def _place(self, role: str, place: Place) -> SourceLocation | None:
        return locate_instruction(role, self._log.codes.held.get(place[0]), place[1])


def _self_of(frame: FrameAt) -> Any:
    return frame[0].f_locals.get("self")


def tell_record(story: Story, record: CreationRecord) -> None:
    """Add where a tensor was created, and the tensor that it was taken from."""
    source = find_source(record)
    story.locations.append(locate_creation(source))
    if source is not record:
        story.locations.append(locate_instruction("taken from it here", record[2], record[3]))
    story.under.append(find_creation_block(source))


def find_record(tensor: Any) -> CreationRecord | None:
    """Return the record of a tensor, or of another one with its memory: ``.data`` is made by no operator."""
    record = REGISTRY.get(tensor)
    storage = 0 if record is not None else storage_of(tensor)
    if storage == 0:
        return record
    for other in REGISTRY.living():
        known = other[0]()
        if known is not None and storage_of(known) == storage:
            return other
    return None


def _base_of(tensor: Any) -> Any:
    return None if tensor.is_inference() else tensor._base


def find_source(record: CreationRecord) -> CreationRecord:
    """Return the record of the tensor that a view was taken from, found by its storage's creation time."""
    if record[6] in (record[1], -1):
        return record
    for other in REGISTRY.living():
        if other[1] == record[6]:
            return other
    return record


def _describe(subject: NamedTensor, record: CreationRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {"shape": list(subject.tensor.shape), "op": record[4]}
    if type(subject.tensor) is torch.nn.Parameter:
        facts["is_parameter"] = True
    return facts if subject.name is None else {**facts, "name": subject.name}
