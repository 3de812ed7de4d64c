"""Story of a live tensor: why it has a graph or none, and whether backward passes reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.cut_reasons import CUT_REASONS
from gradprobe.analysis.flow_graph import Cut, FlowGraph
from gradprobe.analysis.why.explanation import Explanation, Story, join_names
from gradprobe.analysis.why.knowledge import Knowledge, shorten
from gradprobe.analysis.why.parameter_story import tell_parameter
from gradprobe.recording.flow import CARRIED, CUT_BY_DATA, FlowSite
from gradprobe.refusals.causes import CAUSES

_FROM_VALUES = ("aten.lift_fresh", "aten.tensor", "aten.scalar_tensor", "aten.from_file", "aten.detach_")
_EXITS = ("item", "_local_scalar_dense")
_MAX_CUTS = 2


@dataclass(frozen=True)
class LiveTensor:
    """State of a tensor, and its numbers in the flow.

    ``site`` made it or wrote it last, ``leaf`` is its own number as a leaf, ``memory_leaf`` that of the leaf whose memory
    it has; 0 where there is none. ``created`` is the operator and line that created it, None if no recorder saw it.
    """

    description: str
    is_inference: bool
    requires_grad: bool
    is_leaf: bool
    can_require_grad: bool
    nodes: int
    saved_bytes: int
    fixes: Sequence[str]
    site: int
    leaf: int
    memory_leaf: int
    created: FlowSite | None
    memory_of: FlowSite | None
    is_parameter: bool


def tell_tensor(knowledge: Knowledge, graph: FlowGraph, tensor: LiveTensor) -> Explanation:
    """Return the story of a tensor in the process that it is in."""
    if tensor.requires_grad and tensor.is_leaf and tensor.leaf in graph.uses:
        return tell_parameter(knowledge, [(graph, graph.uses[tensor.leaf])])
    story = Story(tensor.description)
    if tensor.is_inference:
        _tell_inference(knowledge, story, tensor)
    elif tensor.requires_grad and tensor.is_leaf:
        story.cause = "It is a leaf that no operator has taken while the recording was open."
    elif tensor.requires_grad:
        _tell_graph(knowledge, story, graph, tensor)
    else:
        _tell_lost(knowledge, story, graph, tensor)
    _tell_creation(story, tensor)
    return story.finish()


def _tell_creation(story: Story, tensor: LiveTensor) -> None:
    at = tensor.created
    if at is not None:
        module = f" in module {at.module}" if at.module else ""
        story.tell("Created", f"by `{shorten(at.op)}` at {story.name('created here', at.file, at.line)}{module}")


def _tell_inference(knowledge: Knowledge, story: Story, tensor: LiveTensor) -> None:
    story.cause = "It is an inference tensor"
    at = tensor.created
    mode = None if at is None else knowledge.evidence.locate_mode(at)
    if at is not None:
        story.cause += f", created by `{shorten(at.op)}` at {story.name('created here', at.file, at.line)}"
    if mode is not None:
        entered, manager, form = mode
        story.cause += (
            f" under {manager}, entered at {story.name('mode entered here', entered.file, entered.line)} ({form})"
        )
    story.cause += ": autograd records nothing of it."
    story.fix = tensor.fixes[0][:1].upper() + tensor.fixes[0][1:] + "." if tensor.fixes else CAUSES["inference"].fix


def _tell_graph(knowledge: Knowledge, story: Story, graph: FlowGraph, tensor: LiveTensor) -> None:
    site = graph.sites.get(tensor.site)
    built = (
        ""
        if site is None
        else (f", built by `{shorten(site.op)}` at {story.name('graph built here', site.file, site.line)}")
    )
    story.cause = f"It has a graph of {pluralize(tensor.nodes, 'node')}{built}."
    names = [graph.name_of(number) for number in graph.find_leaves([tensor.site])] if site is not None else []
    story.tell("Gradient for", join_names(names, 5))
    used = [n for n, counts in graph.outgoing.get(tensor.site, {}).items() if counts[CARRIED] and n in graph.sites]
    texts = [
        f"`{shorten(graph.sites[n].op)}` at {story.name('used here', graph.sites[n].file, graph.sites[n].line)}"
        for n in used
    ]
    story.tell("Used by", join_names(texts))
    sinks = graph.find_sinks([tensor.site]) if site is not None else []
    at = [f"`{graph.sites[n].op}` at {story.name('backward called here', *graph.sites[n][:2])}" for n in sinks]
    story.tell("Backward", join_names(at) or "no backward pass has started from results of this line")
    story.tell("Saved", f"{tensor.saved_bytes:,} bytes for backward")


def _tell_lost(knowledge: Knowledge, story: Story, graph: FlowGraph, tensor: LiveTensor) -> None:
    """Add why a tensor has no graph."""
    site = graph.sites.get(tensor.site)
    cuts = [] if site is None else graph.trace_back(tensor.site)
    if tensor.is_parameter:
        story.cause = "It is a parameter whose requires_grad is False: it is frozen."
        story.fix = "Call `requires_grad_(True)` on it if it shall be trained."
    elif cuts:
        _tell_cuts(knowledge, story, graph, cuts)
    elif not tensor.can_require_grad:
        story.cause = "It has no graph: a tensor of its dtype can have no gradient."
    elif site is None:
        _tell_memory(story, graph, tensor)
    elif site.op.startswith(_FROM_VALUES):
        _tell_values(story, graph, site)
    elif not graph.incoming.get(tensor.site):
        at = story.name("created here", *site[:2])
        story.cause = f"It has no graph: `{shorten(site.op)}` at {at} computes it from no other tensor."
    else:
        at = story.name("computed here", *site[:2])
        story.cause = f"It has no graph: nothing that `{shorten(site.op)}` at {at} took requires grad."


def _tell_cuts(knowledge: Knowledge, story: Story, graph: FlowGraph, cuts: list[Cut]) -> None:
    text, story.fix = knowledge.describe_cut(story, graph, cuts[0])
    story.cause = f"It has no graph: {text}."
    for cut in _unique(graph, cuts)[1:_MAX_CUTS]:
        story.tell("Also", knowledge.describe_cut(story, graph, cut)[0])
    story.tell("Lost for", join_names([graph.name_of(n) for cut in cuts for n in graph.find_leaves([cut.source])]))


def _tell_memory(story: Story, graph: FlowGraph, tensor: LiveTensor) -> None:
    """Add whose memory a tensor has that no operator made, as ``.data`` makes it."""
    owner = tensor.memory_of
    if tensor.memory_leaf:
        whose = graph.name_of(tensor.memory_leaf)
    elif owner is not None:
        whose = f"what `{shorten(owner.op)}` at {story.name('memory created here', *owner[:2])} computed"
    else:
        story.cause = "It has no graph: no operator computed it while the recording was open."
        return
    story.cause = f"It has no graph: it is the memory of {whose}, read through `.data`."
    story.fix = CUT_REASONS[CUT_BY_DATA].fix


def _tell_values(story: Story, graph: FlowGraph, site: FlowSite) -> None:
    at = story.name("made of values here", *site[:2])
    story.cause = f"It has no graph: it was made of numbers at {at}, which have none."
    exits = {graph.sites[number] for number in graph.sites if graph.cuts_at(number)}
    places = [story.name("value left the graph here", *s[:2]) for s in exits if shorten(s.op) in _EXITS]
    story.tell("Values of tensors with a graph are read at", join_names(sorted(places)))
    story.fix = CAUSES["values"].fix


def _unique(graph: FlowGraph, cuts: Sequence[Cut]) -> list[Cut]:
    """Return the first of the cuts for each operator, line and reason."""
    found: dict[tuple[str, int, str, int], Cut] = {}
    for cut in cuts:
        site = graph.sites[cut.site]
        found.setdefault((site.file, site.line, site.op, cut.passage), cut)
    return list(found.values())
