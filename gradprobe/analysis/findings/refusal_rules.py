"""Rules about exceptions of autograd: each is explained by the table of refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from gradprobe.analysis.findings.checkpoint_rules import find_differing_lines
from gradprobe.analysis.findings.compiled_results import is_of_unknown_origin, locate_compiled_calls_without_grad
from gradprobe.analysis.findings.evidence import (
    INFERENCE_MODE_ENTERED,
    Evidence,
    LocatedDetection,
    disables_grad,
    is_library,
    locate_site,
    rank_lines,
)
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.flow_lines import list_names
from gradprobe.analysis.findings.frozen_parameters import find_frozen_since, locate_freezes
from gradprobe.analysis.findings.story_lines import find_carried, locate_keeping, locate_values
from gradprobe.analysis.findings.syntax import parse_file
from gradprobe.analysis.findings.tensor_lifecycle.audit import find_stores
from gradprobe.analysis.flow_graph import shorten_op
from gradprobe.recording.flow import CUT_BY_DATA, CUT_BY_DETACH, CUT_BY_INFERENCE, CUT_BY_NO_GRAD, NOT_DIFFERENTIABLE
from gradprobe.refusals.causes import CAUSES
from gradprobe.refusals.refusal import Refusal
from gradprobe.refusals.table import BY_KEY

_MAX_CUT_LINES, _MAX_NAMES = 3, 6
_CAUSES_OF_CUTS = {
    CUT_BY_NO_GRAD: "mode",
    CUT_BY_INFERENCE: "inference",
    CUT_BY_DETACH: "detach",
    CUT_BY_DATA: "detach",
    NOT_DIFFERENTIABLE: "operator",
}
_FIX_OF_LIBRARY = (
    "A library disables grad around what it computes here: compute the loss by functions that do not, and use the library "
    "for what is not trained."
)
_FIX_OF_CONVERSION = (
    "Move or convert the module outside inference mode, or under `torch.no_grad()`: its parameters get new memory, which "
    "is that of inference tensors there."
)
_CONVERTING = frozenset(("_has_compatible_shallow_copy_type", "to", "_to_copy"))
"""Operators by which a module gives a parameter other memory; `Module.to` asks the first one whether it may."""
_OF_CAUSE = ("grad disabled here", "computed here", "detached here")
"""Roles of the lines that show why a tensor has no graph as the moment of the exception shows it."""
_BUILT = ("graph built here", "result carried on here", "used again here")
_CREATED = ("created here", "view made here", "of the tensor created here", "graph built here", "input created here")


def find_refusals(evidence: Evidence) -> Iterator[Finding]:
    """Yield the exceptions that autograd raised, with why PyTorch refuses and what to do."""
    for located in evidence.detections:
        refusal = BY_KEY.get(str(located.detection.facts.get("key")))
        if refusal is not None:
            yield _make_finding(evidence, located, refusal)


def _make_finding(evidence: Evidence, located: LocatedDetection, refusal: Refusal) -> Finding:
    facts = located.detection.facts
    cut, cut_lines = _find_cut(evidence, located)
    cause = CAUSES.get(cut or str(facts.get("cause")))
    why = refusal.why
    if located.detection.rule == "GP402":
        why = (
            "An inference tensor was given new `.data` outside inference mode; it has no version counter but reports "
            "is_inference() == False."
        )
    sentences = [
        why,
        *_describe_tensor(facts),
        *_describe_node(facts),
        *_describe_parameters(facts),
        *([f"`{facts['kept']}` keeps it."] if facts.get("kept") else []),
        *([] if cause is None else [cause.why]),
    ]
    if facts.get("caught"):
        sentences.append("The program catches the exception.")
    message = " ".join([*sentences, f"PyTorch: {facts.get('error', '')}"])
    severity = refusal.caught if facts.get("caught") else refusal.severity
    fix = "" if located.detection.rule == "GP402" else refusal.advise(facts) if cause is None else cause.fix
    called = _find_calls_of_library(evidence, located, cut_lines)
    if cause is CAUSES["mode"] and called:
        fix = _FIX_OF_LIBRARY
    converted = _find_conversion(evidence, located)
    fix = _FIX_OF_CONVERSION if converted else fix
    is_other = bool(cut and facts.get("cause"))
    related = {(at.file, at.line): at for at in located.related if not (is_other and at.role in _OF_CAUSE)}
    if facts.get("is_same_line") and not facts.get("kept"):
        built = [(at.file, at.line) for at in located.related if at.role in _BUILT]
        carried = find_carried(built, (located.main.file, located.main.line))
        if carried is not None:
            name, at = carried
            fix = f"Detach `{name}` before it is used again: it carries the graph from one iteration to the next."
            related.setdefault((at.file, at.line), at)
    for at in (
        *called,
        *_find_cut_modules(evidence, facts.get("parameters")),
        *cut_lines,
        *_complete(located, cut),
        *_find_holder(evidence, located),
        *_find_memory(evidence, located),
        *converted,
        *(locate_freezes(evidence.program_files) if "frozen" in (cut or str(facts.get("cause"))) else ()),
    ):
        related.setdefault((at.file, at.line), at)
    if facts.get("key") == "recomputation-differs":
        for at in find_differing_lines(evidence):
            related.setdefault((at.file, at.line), at)
    related.pop((located.main.file, located.main.line), None)
    return replace(located.make_finding(message, tuple(related.values())), fix=fix, level=severity)


def _find_calls_of_library(
    evidence: Evidence, located: LocatedDetection, cut_lines: list[RelatedLine]
) -> list[RelatedLine]:
    """Return the program's calls of the object that keeps a loss without a graph, if a library computed it."""
    created = [at for at in (*located.related, *cut_lines) if at.role in (*_CREATED, "cut from the graph here")]
    if located.detection.rule != "GP612" or not created or not all(is_library(at.file) for at in created):
        return []
    holders = [name for name in str(located.detection.facts.get("kept", "")).split(".")[:-1] if name.isidentifier()]
    for name in reversed(holders):
        sources = [(file, source) for file in evidence.program_files if (source := parse_file(file)) is not None]
        found = [(file, line) for file, source in sources for line in source.find_method_calls(name)]
        if found:
            return [RelatedLine(file, line, "library called here") for file, line in found[:_MAX_CUT_LINES]]
    return []


def _find_cut(evidence: Evidence, located: LocatedDetection) -> tuple[str, list[RelatedLine]]:
    """Return why the root of a backward pass has no graph, and where, as the flow of the recording shows it.

    The functions that computed it have returned by the time of the exception. What these still showed is the reason only
    if no parameters on the way have been frozen since, which would be the reason without it.
    """
    facts = located.detection.facts
    created = next((at for at in located.lines if at.role == "created here"), None)
    if located.detection.rule != "GP612" or created is None:
        return "", []
    for graph in evidence.flow_graphs:
        for number, site in graph.sites.items():
            if (site.file, site.line, site.op) != (created.file, created.line, facts.get("op")):
                continue
            frozen = find_frozen_since(graph, number)
            if frozen is not None:
                at = graph.sites[frozen[0]]
                return "frozen since", [RelatedLine(at.file, at.line, f"computed with {list_names(frozen[1])} here")]
            if facts.get("cause"):
                return "", []
            for cut in graph.trace_back(number):
                at = graph.sites[cut.site]
                mode = evidence.locate_mode(at)
                lines = [RelatedLine(at.file, at.line, "cut from the graph here"), *([mode[0]] if mode else [])]
                return _CAUSES_OF_CUTS.get(cut.passage, ""), lines
            is_compiled = is_of_unknown_origin(graph, number) and not locate_values(created.file, created.line)
            compiled = locate_compiled_calls_without_grad(evidence) if is_compiled else []
            return ("mode", compiled) if compiled else ("", [])
    return "", []


def _complete(located: LocatedDetection, cut: str) -> Iterator[RelatedLine]:
    """Yield the lines that the source shows: where the tensor was kept, who asked for the mode, where values left."""
    facts, lines = located.detection.facts, located.lines
    created = [(at.file, at.line) for at in lines if at.role in _CREATED]
    if facts.get("kept"):
        places = [*created, *((at.file, at.line) for at in lines)]
        yield from locate_keeping(str(facts["kept"]), places)
    if not facts.get("cause") and not cut and located.detection.rule == "GP612":
        # What a compiled function returns has been created by no operator.
        for file, line in created[:1] or [(located.main.file, located.main.line)]:
            yield from locate_values(file, line)


def _find_holder(evidence: Evidence, located: LocatedDetection) -> list[RelatedLine]:
    """Return the lines that keep the inference tensor that an exception is about, other than those known already."""
    known = {(located.main.file, located.main.line), *((line.file, line.line) for line in located.related)}
    stores = [store for line in located.related for store in find_stores(evidence, line.file, line.line)]
    return [store for store in dict.fromkeys(stores) if (store.file, store.line) not in known]


def _find_memory(evidence: Evidence, located: LocatedDetection) -> list[RelatedLine]:
    """Return where the memory of an inference tensor comes from that was taken from another one outside the mode.

    `detach()` and views of an inference tensor are inference tensors wherever they are made, and that one may not exist any
    more.
    """
    created = next((at for at in located.lines if at.role == "created here"), None)
    is_known = any(at.role == INFERENCE_MODE_ENTERED for at in located.related)
    if not located.detection.rule.startswith("GP40") or created is None or is_known:
        return []
    for graph in evidence.flow_graphs:
        for number, site in graph.sites.items():
            if (site.file, site.line, site.op) == (created.file, created.line, located.detection.facts.get("op")):
                for source in graph.trace_memory(number):
                    mode = evidence.locate_mode(graph.sites[source])
                    if mode is not None and mode[1] == "inference_mode":
                        at = graph.sites[source]
                        return [
                            RelatedLine(at.file, at.line, "of the tensor created here"),
                            replace(mode[0], role=INFERENCE_MODE_ENTERED),
                        ]
    return []


def _find_conversion(evidence: Evidence, located: LocatedDetection) -> list[RelatedLine]:
    """Return where a parameter that was made outside inference mode got the memory of an inference tensor, and the mode."""
    facts, created = located.detection.facts, next((at for at in located.lines if at.role == "created here"), None)
    is_known = any(at.role == INFERENCE_MODE_ENTERED for at in located.related)
    if located.detection.rule != "GP401" or not facts.get("is_parameter") or created is None or is_known:
        return []
    for graph in evidence.flow_graphs:
        for use in graph.uses.values():
            made = graph.sites.get(use.leaf.made_at)
            if made is None or (made.file, made.line) != (created.file, created.line):
                continue
            for cut in graph.cuts_after([use.number]):
                at = graph.sites[cut.site]
                if cut.passage == CUT_BY_INFERENCE and shorten_op(at.op) in _CONVERTING:
                    mode = evidence.locate_mode(at)
                    entered = [] if mode is None else [replace(mode[0], role=INFERENCE_MODE_ENTERED)]
                    return [RelatedLine(at.file, at.line, "converted here"), *entered]
    return []


def _find_cut_modules(evidence: Evidence, parameters: Any) -> Iterator[RelatedLine]:
    """Yield where modules ran with grad disabled whose parameters got no gradient, and the blocks that disabled it."""
    owners = {str(name).rpartition(".")[0] for name in parameters} if isinstance(parameters, list) else set()
    for process, region in evidence.iter_regions(disables_grad) if owners else ():
        ops = evidence.select_ops(process, region)
        is_owner = ops["module"].map(lambda path: any(f".{path}".endswith(f".{owner}") for owner in owners))
        ran = ops[is_owner.astype(bool)]  # of no rows it has another type
        lines = rank_lines(ran[ran["line"].notna()], "ran without gradient here", _MAX_CUT_LINES)
        block = locate_site(process, region.site, "grad disabled here")
        if lines and block is not None:
            yield from dict.fromkeys([*lines, block])


def _describe_tensor(facts: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence about the tensor that the message is about."""
    shape = facts.get("shape")
    if not isinstance(shape, list):
        return
    size = "with one element" if shape == [] else f"of shape {shape}"
    if "node" in facts:
        yield f"The tensor {size} was saved by {facts['node']}."
    elif "index" in facts:
        made = f", made by {facts['op']}" if facts.get("op") else ""
        yield f"It is number {facts['index']} of those asked for, a tensor {size}{made}."
    elif facts.get("op"):
        name = f"`{facts['name']}`" if facts.get("name") else "It"
        yield f"{name} is a tensor {size}, made by {facts['op']}."


def _describe_node(facts: dict[str, Any]) -> Iterator[str]:
    """Yield sentences about the node of the graph at which a backward pass failed."""
    versions = facts.get("versions")
    if isinstance(versions, list) and len(versions) == 2:
        yield f"Its version was {versions[1]} when it was saved and is {versions[0]} now."
    if "node" in facts and "shape" not in facts:
        yield f"The pass fails at {facts['node']}."
    if facts.get("is_same_line"):
        yield "The pass that freed it began at the same line, one iteration earlier."


def _describe_parameters(facts: dict[str, Any]) -> Iterator[str]:
    """Yield a sentence about the parameters that got no gradient."""
    parameters = facts.get("parameters")
    if isinstance(parameters, list) and parameters:
        names = ", ".join(f"`{name}`" for name in parameters[:_MAX_NAMES])
        yield f"Without a gradient: {names}{' ...' if len(parameters) > _MAX_NAMES else ''}."


RULES = (find_refusals,)
"""Rules of this family; a recording is checked against each."""
