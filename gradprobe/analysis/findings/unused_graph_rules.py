"""Rules about graphs that no backward pass uses."""

from __future__ import annotations

from collections.abc import Iterator

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.call_tree import CallNode, UnusedCalls, build_call_tree, find_unused_calls
from gradprobe.analysis.findings.catalogue import NOTE
from gradprobe.analysis.findings.evidence import Evidence, is_library
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.analysis.flow_graph import FlowGraph
from gradprobe.recording.flow import FlowLedger, FlowSite, Frame

_MIN_TIMES = 2
"""Minimum number of times for a warning: a single pass, such as a dry run, is by design."""
_MIN_SHARE = 0.02
"""Minimum share of all nodes of the program."""
_LARGE = 64 << 20
"""Bytes that are worth a warning even if they were saved once."""
_MAX_BUILDING_LINES = 3
_LAYERS = (
    "linear",
    "matmul",
    "mm",
    "addmm",
    "bmm",
    "baddbmm",
    "einsum",
    "embedding",
    "conv",
    "rnn",
    "lstm",
    "gru",
    "scaled_dot",
)
"""Operators by which a forward pass takes its weights, where no module runs; statistics of parameters use others."""


def find_unused_graphs(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP204: lines whose calls built graphs that no backward pass reached, and the lines inside that built them."""
    for ledger, graph in zip(evidence.flows, evidence.flow_graphs, strict=True):
        root = build_call_tree(ledger.paths)
        for calls in _group(find_unused_calls(root), root):
            if not _is_cut(calls, graph, ledger):
                yield _describe(evidence, calls, graph, root)


def _is_cut(calls: UnusedCalls, graph: FlowGraph, ledger: FlowLedger) -> bool:
    """Return whether these are the only calls that use some parameters, and an optimizer waits for their gradients.

    Then the graph was meant to be used, and GP511 says where it is cut.
    """
    waiting = [use for use in graph.uses.values() if use.steps and not use.steps_with_grad]
    lines = {(graph.sites[number].file, graph.sites[number].line) for use in waiting for number in use.carried}
    inside = (node for line in calls.lines for node in line.walk())
    here = sum(node.own_built for node in inside if node.frame and (node.frame.file, node.frame.line) in lines)
    all_built = sum(
        counts.built for path, counts in ledger.paths.items() if path and (path[0].file, path[0].line) in lines
    )
    return 0 < here == all_built


def _group(found: list[UnusedCalls], root: CallNode) -> list[UnusedCalls]:
    """Join the calls that lines of the same run of a function make, and leave out those whose line is used otherwise."""
    groups: dict[tuple[tuple[Frame, ...], str], list[UnusedCalls]] = {}
    for calls in found:
        main = _choose_line(calls)
        if main is not None and not _is_reached(root, calls, main):
            before = calls.path[: calls.path.index(main)] if main in calls.path else calls.path
            groups.setdefault((before, main.function), []).append(calls)
    joined = []
    for (before, _), members in groups.items():
        lines = [line for calls in members for line in _lines_in(calls, before, root)]
        joined.append(UnusedCalls(before, tuple(sorted(lines, key=lambda line: -line.unused))))
    return joined


def _lines_in(calls: UnusedCalls, before: tuple[Frame, ...], root: CallNode) -> tuple[CallNode, ...]:
    """Return the lines of the function that the path ``before`` leads to."""
    if len(calls.path) == len(before):
        return calls.lines
    node = root
    for frame in calls.path[: len(before) + 1]:
        node = node.children[frame]
    return (node,)


def _describe(evidence: Evidence, calls: UnusedCalls, graph: FlowGraph, root: CallNode) -> Finding:
    main, caller = calls.lines[0].frame, next((f for f in reversed(calls.path) if not is_library(f.file)), None)
    assert main is not None
    times = _count_runs(calls, graph)
    is_waste = (
        _runs_a_model(calls, graph)
        and calls.unused >= _MIN_SHARE * root.built
        and times >= _MIN_TIMES
        and not _trains_in_vain(graph)
    )
    built = f"{pluralize(calls.unused, 'node')} {'was' if calls.unused == 1 else 'were'} constructed"
    saved = f" and saved {_bytes(calls.saved_bytes)} for backward" if calls.saved_bytes else ""
    reason = "no backward pass reached them" if root.reached else "no backward pass ran"
    message = f"This builds an autograd graph that is never used: {built}{saved}, but {reason}."
    if _calls_eval(main):
        message += " `eval()` does not disable grad."
    related: list[RelatedLine] = []
    loop = _find_loop(main)
    if loop is not None:
        related.append(RelatedLine(main.file, loop, "loop to run under torch.no_grad()"))
    enabling = next((at for frame in calls.innermost if (at := evidence.locate_enabling(frame)) is not None), None)
    if enabling is not None:
        related.insert(0, enabling)
    if caller is not None and not _is_module_level(main):
        related.append(RelatedLine(caller.file, caller.line, "called here"))
    others = [line.frame for line in calls.lines if line.frame is not None]
    for frame in [*others, *(f for f in calls.innermost if not is_library(f.file))]:
        place = RelatedLine(frame.file, frame.line, "graph built here")
        known = {(line.file, line.line) for line in related} | {(main.file, main.line)}
        if (place.file, place.line) not in known and len(related) < 3 + _MAX_BUILDING_LINES:
            related.append(place)
    seen = f"{calls.unused:,} of the program's {root.built:,} nodes, in about {pluralize(times, 'run')}"
    severity = "" if is_waste or calls.saved_bytes >= _LARGE else NOTE
    return Finding(
        "GP204",
        message,
        main.file,
        main.line,
        main.function,
        times,
        tuple(related),
        evidence=seen,
        level=severity,
    )


def _calls_eval(main: Frame) -> bool:
    source = parse_file(main.file)
    return source is not None and source.find_call("eval", main.line) is not None


def _is_reached(root: CallNode, calls: UnusedCalls, main: Frame) -> bool:
    """Return whether a part of what the line calls was reached: then its graph is used, and only cut somewhere inside."""
    node = root
    for frame in calls.path:
        node = node.children[frame]
        if frame == main:
            return node.reached > 0
    return False


def _choose_line(calls: UnusedCalls) -> Frame | None:
    """Return the line to put under a mode: the innermost one of the user that is outside of the model's code."""
    inside = next((line.frame for line in calls.lines if line.frame is not None), None)
    chain = [*calls.path, inside] if inside is not None else list(calls.path)
    own = [frame for frame in chain if not is_library(frame.file)]
    outside = [frame for frame in own if not _is_model_code(frame)]
    return next(reversed(outside or own), None)


def _is_model_code(frame: Frame) -> bool:
    return frame.function.rsplit(".", 1)[-1] in ("forward", "__call__", "call")


def _is_module_level(frame: Frame) -> bool:
    return frame.function == "<module>"


def _count_runs(calls: UnusedCalls, graph: FlowGraph) -> int:
    """Return about how often the lines ran: operators by operators that the line has, of the line that ran least."""
    runs = []
    for line in calls.lines:
        for leaf in line.leaves():
            sites = () if leaf.frame is None else graph.sites_by_line.get((leaf.frame.file, leaf.frame.line), ())
            runs.append(leaf.calls // max(len(sites), 1))
    return max(min(runs, default=0), 1)


def _trains_in_vain(graph: FlowGraph) -> bool:
    """Return whether optimizers step without any gradient: the graph was meant to be used, and other rules say why not."""
    steps = [use for use in graph.uses.values() if use.steps]
    return bool(steps) and not any(use.steps_with_grad for use in steps)


def _runs_a_model(calls: UnusedCalls, graph: FlowGraph) -> bool:
    """Return whether the lines take parameters and other tensors together, as the layers of a model do."""
    lines = {(frame.file, frame.line) for frame in calls.innermost}
    for use in graph.uses.values():
        for number in use.carried:
            site = graph.sites[number]
            if (site.file, site.line) in lines and graph.mixes(number) and (site.module or _is_layer(site)):
                return True
    return False


def _is_layer(site: FlowSite) -> bool:
    return site.op.removeprefix("aten.").startswith(_LAYERS)


def _find_loop(main: Frame) -> int | None:
    source = parse_file(main.file)
    return None if source is None else source.find_loop_at(main.line)


def _bytes(number: int) -> str:
    return f"{number / (1 << 20):,.1f} MiB" if number >= 1 << 20 else f"{number:,} bytes"


RULES = (find_unused_graphs,)
"""Rules of this family; a recording is checked against each."""
