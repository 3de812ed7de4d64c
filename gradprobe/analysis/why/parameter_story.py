"""Story of a parameter: where it is used, which backward passes reach it, what cuts its way, what its optimizer finds."""

from __future__ import annotations

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.flow_graph import Cut, FlowGraph
from gradprobe.analysis.why.explanation import Explanation, Story, join_names
from gradprobe.analysis.why.knowledge import Knowledge, shorten
from gradprobe.history.leaf_uses import LeafUse

_MAX_SITES = 3
_MAX_STEPS = 5

LeafAt = tuple[FlowGraph, LeafUse]


def tell_parameter(knowledge: Knowledge, leaves: list[LeafAt]) -> Explanation:
    """Return the story of a parameter, with one leaf for each process, or for each tensor that had its name."""
    graph, use = max(leaves, key=lambda item: (bool(item[1].steps), item[1].uses))
    story = Story(_describe(graph, use))
    cuts = _find_cuts(graph, use)
    named = [f for f in knowledge.findings if use.leaf.name and use.leaf.name in f.message]
    _tell_cause(knowledge, story, graph, use, cuts)
    for number in use.sites[:_MAX_SITES]:
        site = graph.sites[number]
        story.tell("Used", f"{_at(story, graph, number, 'parameter used here')}{_in_module(site.module)}")
    if len(use.sites) > _MAX_SITES:
        story.tell(
            "Used",
            f"in {len(use.sites) - _MAX_SITES:,} more places; {use.uses_with_grad:,} of {use.uses:,} times with grad",
        )
    story.tell("Path of the gradient", describe_way(story, graph, use))
    _tell_backwards(story, graph, use)
    _tell_steps(story, graph, use)
    if use.writes:
        story.tell("Written", pluralize(use.writes, "time") + " in place")
    if len(leaves) > 1:
        story.tell("Others", f"{pluralize(len(leaves) - 1, 'other tensor')} of this name, of other processes or older")
    lines = {(graph.sites[n].file, graph.sites[n].line) for n in use.carried}
    knowledge.tell_holders(story, lines)
    knowledge.tell_findings(story, named)
    made = graph.sites.get(use.leaf.made_at)
    if made is not None:
        story.name("created here", made.file, made.line)
    return story.finish()


def _describe(graph: FlowGraph, use: LeafUse) -> str:
    leaf = use.leaf
    kind = "parameter" if leaf.is_parameter else "leaf"
    shape = f" of shape {'x'.join(map(str, leaf.shape))}" if leaf.shape else ""
    return (
        f"{graph.name_of(use.number)}: {kind}{shape}, {f'in {leaf.optimizer}' if leaf.optimizer else 'in no optimizer'}"
    )


def _find_cuts(graph: FlowGraph, use: LeafUse) -> list[Cut]:
    """Return the cuts on the way of a leaf, those before a loss if there are any."""
    return graph.find_cuts(use) or graph.cuts_after([use.number, *graph.follow(use.carried)])


def _tell_cause(knowledge: Knowledge, story: Story, graph: FlowGraph, use: LeafUse, cuts: list[Cut]) -> None:
    passes = use.backwards + use.grads
    if passes and use.steps and not use.steps_with_grad:
        story.cause = f"{pluralize(passes, 'backward pass')} reached it, but no step of its optimizer found a gradient."
    elif passes:
        story.cause = f"Gradient arrives: {pluralize(passes, 'backward pass')} reached it."
    elif use.roots:
        story.cause = f"{pluralize(use.roots, 'backward pass')} began at it: it has no graph behind it."
    elif not use.uses:
        story.cause = "No gradient arrives: no operator took it while the recording was open."
    elif cuts:
        text, story.fix = knowledge.describe_cut(story, graph, cuts[0])
        story.cause = f"No gradient arrives: {text}."
    elif not graph.sinks:
        story.cause = "No gradient arrives: the program ran no backward pass while the recording was open."
    elif not use.carried:
        story.cause = "No gradient arrives: no node was constructed where it is used."
    else:
        story.cause = "No gradient arrives: no backward pass starts from what is computed with it."


def _at(story: Story, graph: FlowGraph, number: int, role: str) -> str:
    site = graph.sites[number]
    return f"`{shorten(site.op)}` at {story.name(role, site.file, site.line)}"


def _in_module(module: str) -> str:
    return f" in module {module.strip('()')}" if module else ""


def describe_way(story: Story, graph: FlowGraph, use: LeafUse) -> str:
    """Return the operators from the first use of a leaf to a backward pass, empty if gradient does not get so far."""
    for number in use.carried:
        way = graph.find_way(number)
        if way:
            shown = way if len(way) <= _MAX_STEPS else [*way[: _MAX_STEPS - 2], *way[-2:]]
            texts = [_at(story, graph, n, "on the way of gradient") for n in shown]
            if len(way) > len(shown):
                texts.insert(_MAX_STEPS - 2, f"{len(way) - len(shown):,} more")
            return " > ".join(texts)
    return ""


def _tell_backwards(story: Story, graph: FlowGraph, use: LeafUse) -> None:
    reaching = [
        f"{_at(story, graph, number, 'backward called here')} ({pluralize(sum(counts), 'time')})"
        for number, counts in graph.outgoing.get(use.number, {}).items()
        if graph.is_sink(number)
    ]
    if reaching:
        story.tell("Reached by", join_names(reaching))
    elif graph.sinks:
        at = [f"`{s.op}` at {story.name('backward called here', s.file, s.line)}" for s in graph.sinks[:2]]
        story.tell("Not reached by", join_names(at))


def _tell_steps(story: Story, graph: FlowGraph, use: LeafUse) -> None:
    for number in graph.outgoing.get(use.number, {}):
        if graph.is_step(number):
            site = graph.sites[number]
            at = story.name("optimizer steps here", site.file, site.line)
            looked = "" if graph.has_every_step else " that were looked at"
            text = f"{use.steps_with_grad:,} of {pluralize(use.steps, 'step')}{looked} at {at} found a gradient"
            story.tell("Optimizer", text)
            return
