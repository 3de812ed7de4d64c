"""Story of a line: what it builds, where gradient comes from and goes to, which mode it sets or runs in."""

from __future__ import annotations

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.cut_reasons import MODE_CUTS
from gradprobe.analysis.flow_graph import Cut, FlowGraph
from gradprobe.analysis.why.explanation import Explanation, Story, join_names, show_place
from gradprobe.analysis.why.knowledge import Knowledge, Line, SiteAt, group_by_graph
from gradprobe.recording.flow import CARRIED, PathCounts

_MAX_CUTS = 2

CutAt = tuple[FlowGraph, Cut]


def tell_line(knowledge: Knowledge, line: Line) -> Explanation:
    """Return the story of a line."""
    own = [at for at in knowledge.sites if (at.site.file, at.site.line) == line]
    passes = [at for at in own if at.graph.is_sink(at.number)]
    carrying = [at for at in own if at not in passes and not at.graph.is_step(at.number) and _carries(at)]
    # A backward pass begins with a gradient of ones, for which it reads its root.
    cuts, counts = [] if passes else _find_cuts(own), knowledge.count_paths([line])
    story = Story(_describe(line, own))
    story.name("this line", *line)
    set_here = _describe_managers(knowledge, line)
    if set_here:
        _tell_mode(knowledge, story, line, set_here)
    elif cuts and not carrying and cuts[0][1].site in cuts[0][0].leading_to_sinks:
        text, story.fix = knowledge.describe_cut(story, *cuts[0])
        story.cause = f"Gradient ends here: {text}."
    else:
        story.cause = _describe_gradient(own, carrying, cuts, counts)
    story.tell("Runs", knowledge.describe_calls(own))
    story.tell("Reaches", _list_leaves(passes))
    story.tell("Gradient for", _list_leaves(carrying))
    story.tell("Gradient from", knowledge.list_sinks(story, carrying))
    for cut in cuts[1 if story.fix else 0 : _MAX_CUTS]:
        story.tell("Cut", knowledge.describe_cut(story, *cut)[0])
    story.tell("Under", _list_modes(knowledge, story, line))
    if counts.built:
        story.tell(
            "Graph",
            f"{pluralize(counts.built, 'node')} built in calls from here, {counts.reached:,} of them reached by backward "
            f"passes; {counts.saved_bytes:,} bytes saved for backward",
        )
    knowledge.tell_holders(story, [line])
    knowledge.tell_findings(story, knowledge.findings_at([line]))
    return story.finish()


def _describe(line: Line, own: list[SiteAt]) -> str:
    functions = list(dict.fromkeys(at.site.function for at in own if at.site.function))
    modules = list(dict.fromkeys(at.site.module for at in own if at.site.module))
    text = show_place(*line) + (f" in {join_names(functions)}" if functions else "")
    return text + (f", module {join_names(modules)}" if modules else "")


def _carries(at: SiteAt) -> bool:
    return any(counts[CARRIED] for counts in at.graph.incoming.get(at.number, {}).values())


def _find_cuts(sites: list[SiteAt]) -> list[CutAt]:
    """Return a cut for each reason at each of some sites, those before a loss first, then those by modes."""
    cuts = sorted(
        ((at.graph, cut) for at in sites for cut in at.graph.cuts_at(at.number)),
        key=lambda item: (item[1].site not in item[0].leading_to_sinks, item[1].passage not in MODE_CUTS),
    )
    found: dict[tuple[str, int, str, int], CutAt] = {}
    for graph, cut in cuts:
        site = graph.sites[cut.site]
        found.setdefault((site.file, site.line, site.op, cut.passage), (graph, cut))
    return list(found.values())


def _describe_gradient(own: list[SiteAt], carrying: list[SiteAt], cuts: list[CutAt], counts: PathCounts) -> str:
    if any(at.graph.is_sink(at.number) for at in own):
        return "A backward pass starts here."
    if any(at.graph.is_step(at.number) for at in own):
        return f"An optimizer steps here: {_describe_steps(own)}."
    if any(graph.find_sinks(numbers) for graph, numbers in group_by_graph(carrying)):
        return "Gradient passes here."
    if carrying or counts.built > counts.reached:
        return "A graph is built here, and no backward pass starts from what is computed from it."
    if counts.built:
        return "Backward passes use the graphs that calls from here build."
    if cuts:
        return "The graph ends here, and no backward pass starts from what is computed from the result."
    return "No gradient is lost here: nothing that this line takes requires grad." if own else "No operator ran here."


def _describe_steps(own: list[SiteAt]) -> str:
    uses = [
        at.graph.uses[source]
        for at in own
        if at.graph.is_step(at.number)
        for source in at.graph.incoming.get(at.number, {})
        if source in at.graph.uses
    ]
    fed = sum(bool(use.steps_with_grad) for use in uses)
    return f"{fed:,} of {pluralize(len(uses), 'parameter')} ever had a gradient"


def _list_leaves(sites: list[SiteAt]) -> str:
    """Return the leaves whose gradient goes through some sites, as text."""
    return join_names(
        [graph.name_of(leaf) for graph, numbers in group_by_graph(sites) for leaf in graph.find_leaves(numbers)]
    )


def _describe_managers(knowledge: Knowledge, line: Line) -> str:
    """Return the managers that the line uses, as text."""
    rows = knowledge.tables.sites
    rows = rows[(rows["file"] == line[0]) & (rows["line"] == line[1])]
    values = zip(rows["manager"], rows["form"], rows["count"], strict=True)
    return join_names([f"{manager} ({form}, {pluralize(int(count), 'time')})" for manager, form, count in values])


def _tell_mode(knowledge: Knowledge, story: Story, line: Line, set_here: str) -> None:
    """Add the cause of a line that sets a mode: what the mode cuts."""
    regions, ops = knowledge.tables.regions, knowledge.tables.ops
    numbers = regions[(regions["file"] == line[0]) & (regions["line"] == line[1])]["region"]
    inside = ops[ops["region"].isin(numbers)]
    lines = set(zip(inside["file"], inside["line"], strict=True))
    if knowledge.is_empty():
        story.cause = f"This line sets {set_here}; what ran under it is known at level ops only."
        return
    story.cause = (
        f"This line sets {set_here}; {pluralize(int(inside['count'].sum()), 'operator')} ran directly under it"
    )
    cuts = _find_cuts([at for at in knowledge.sites if (at.site.file, at.site.line) in lines])
    cutting = [(graph, cut) for graph, cut in cuts if cut.passage in MODE_CUTS]
    if not cutting:
        story.cause += ", and no graph was cut."
        return
    places = []
    for graph, cut in cutting:
        site = graph.sites[cut.site]
        places.append(story.name("cut here", site.file, site.line))
        story.told.add((site.file, site.line))
    leads = any(cut.site in graph.leading_to_sinks for graph, cut in cutting)
    story.cause += f", and the graph is cut at {join_names(places)}{', before a loss' if leads else ''}."


def _list_modes(knowledge: Knowledge, story: Story, line: Line) -> str:
    """Return the modes with grad disabled that operators of the line ran under, as text."""
    ops = knowledge.tables.ops
    ops = ops[(ops["file"] == line[0]) & (ops["line"] == line[1]) & ops["region"].notna()]
    modes: dict[tuple[str, str], int] = {}
    for region, count in ops.groupby("region")["count"].sum().items():
        found = knowledge.evidence.locate_region(int(str(region)))
        if found is not None:
            at, manager, _ = found
            key = manager, story.name("mode entered here", at.file, at.line)
            modes[key] = modes.get(key, 0) + int(count)
    return join_names([f"{mode} entered at {at} ({pluralize(n, 'operator')})" for (mode, at), n in modes.items()])
