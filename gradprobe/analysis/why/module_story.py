"""Story of a module: where it runs, what it builds, and which of its parameters get gradients."""

from __future__ import annotations

import pandas as pd

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.why.explanation import Explanation, Story, join_names
from gradprobe.analysis.why.knowledge import Knowledge, SiteAt
from gradprobe.analysis.why.parameter_story import LeafAt

_MAX_LINES = 3


def tell_module(knowledge: Knowledge, name: str, sites: list[SiteAt], leaves: list[LeafAt]) -> Explanation:
    """Return the story of a module, with its sites and parameters and those of the modules in it."""
    story = Story(f"{name}: module with {pluralize(len(leaves), 'parameter')}")
    reached = [use for _, use in leaves if use.backwards or use.grads]
    starved = [use for _, use in leaves if not (use.backwards or use.grads)]
    cuts = [
        (at.graph, cut) for at in sites for cut in at.graph.cuts_at(at.number) if cut.site in at.graph.leading_to_sinks
    ]
    if starved and cuts:
        text, story.fix = knowledge.describe_cut(story, *cuts[0])
        story.cause = f"No gradient arrives at {len(starved):,} of {pluralize(len(leaves), 'parameter')}: {text}."
    elif starved and not any(graph.sinks for graph in knowledge.graphs):
        story.cause = "No gradient arrives: the program ran no backward pass while the recording was open."
    elif starved:
        story.cause = f"No gradient arrives at {len(starved):,} of {pluralize(len(leaves), 'parameter')}."
    elif leaves:
        story.cause = (
            f"Gradient arrives at {'its parameter' if len(leaves) == 1 else f'all {len(leaves):,} parameters'}."
        )
    else:
        story.cause = "It has no parameter that requires grad."
    lines = list(dict.fromkeys((at.site.file, at.site.line) for at in sites))
    story.tell("Runs", knowledge.describe_calls(sites))
    story.tell("At", join_names([story.name("module runs here", *line) for line in lines], _MAX_LINES))
    if reached and starved:
        story.tell("With gradient", join_names([use.leaf.name for use in reached]))
        story.tell("Without gradient", join_names([use.leaf.name for use in starved]))
    story.tell("Gradient from", knowledge.list_sinks(story, sites))
    _tell_graph(knowledge, story, sites)
    knowledge.tell_holders(story, lines)
    named = [f for f in knowledge.findings if any(use.leaf.name and use.leaf.name in f.message for _, use in leaves)]
    knowledge.tell_findings(story, named or knowledge.findings_at(lines))
    return story.finish()


def _tell_graph(knowledge: Knowledge, story: Story, sites: list[SiteAt]) -> None:
    ops = knowledge.tables.ops
    rows = ops[ops["module"].isin({at.site.module for at in sites})]
    nodes, saved = rows["nodes"].sum(min_count=1), rows["saved_bytes"].sum(min_count=1)
    if not pd.isna(nodes) and nodes:
        size = "" if pd.isna(saved) else f"; {int(saved):,} bytes saved for backward"
        story.tell("Graph", f"{pluralize(int(nodes), 'node')} built by its operators{size}")
