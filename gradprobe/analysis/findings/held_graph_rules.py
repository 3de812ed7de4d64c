"""Rules about graphs that the program keeps alive longer than it uses them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradprobe._counted_nouns import pluralize
from gradprobe.analysis.findings.catalogue import NOTE
from gradprobe.analysis.findings.evidence import Evidence, LocatedDetection
from gradprobe.analysis.findings.finding import Finding, RelatedLine
from gradprobe.analysis.findings.source_fixes import advise_detaching
from gradprobe.analysis.findings.story_lines import find_carried
from gradprobe.analysis.findings.syntax import parse_file

_FIXES = {
    "closure": "Store `tensor.detach()` in the closure or hook: it has no graph.",
    "cache": "Return `result.detach()` from the cached function: it has no graph.",
    "traceback": "Store `str(error)` instead of the exception: its traceback refers to the variables of all its frames.",
    "generator": "Call `close()` of the generator when it is not used any more: its suspended frame keeps its variables.",
}


def find_kept_graphs(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP201: the line that keeps the tensor, the line that computed it, and those whose graphs it keeps."""
    found: dict[tuple[str | None, int | None], Finding] = {}
    # What a growing backward goes through again is used, and carried on rather than forgotten.
    growing = {(line.file, line.line) for located in evidence.select_detections("GP205") for line in located.lines}
    for located in evidence.select_detections("GP201"):
        if any((line.file, line.line) in growing for line in located.lines):
            continue
        finding = _describe(located)
        known = found.get((finding.file, finding.line))
        if known is None or known.count < finding.count:
            found[finding.file, finding.line] = finding
    yield from found.values()


def find_growing_backwards(evidence: Evidence) -> Iterator[Finding]:
    """Yield GP205: the backward pass, and the lines whose nodes of earlier iterations it goes through again."""
    worst: dict[tuple[str, int], LocatedDetection] = {}
    for located in evidence.select_detections("GP205"):
        key = (located.main.file, located.main.line)
        known = worst.get(key)
        if known is None or known.detection.read_count("iterations") < located.detection.read_count("iterations"):
            worst[key] = located
    for located in worst.values():
        read = located.detection.read_count
        seen = f"{pluralize(read('nodes'), 'node')} of {pluralize(read('iterations'), 'iteration')}"
        message = (
            f"This backward pass goes through {seen} that an earlier pass has already used: a tensor carries its graph "
            "from one iteration to the next, and each pass takes longer."
        )
        finding = replace(located.make_finding(message), evidence=f"{seen} in one pass")
        built = [(line.file, line.line) for line in located.related]
        carried = find_carried(built, (located.main.file, located.main.line))
        if carried is not None and (carried[1].file, carried[1].line) not in built:
            fix = f"Detach `{carried[0]}` before it is used again, and leave out `retain_graph=True`."
            finding = replace(finding, related=(*finding.related, carried[1]), fix=fix)
        yield finding


def _describe(located: LocatedDetection) -> Finding:
    facts, read = located.detection.facts, located.detection.read_count
    holder, number, nodes, held = str(facts.get("holder", "")), read("number"), read("nodes"), read("bytes")
    size = f" with {pluralize(held, 'byte')} saved for backward" if held else ""
    subject = f"`{holder}`" if holder else "Something in the program"
    iterations = read("iterations")
    when = f"of {pluralize(iterations, 'iteration')} that ended earlier" if iterations else "of every run of this line"
    tensors, kept = pluralize(number, "tensor"), pluralize(nodes, "node")
    keep = "keeps" if number == 1 else "keep"
    message = (
        f"{subject} keeps autograd graphs {when}: {tensors} {keep} {kept}{size} alive, "
        "and no backward pass uses them again."
    )
    kind = str(facts.get("holder_kind", ""))
    is_elsewhere = kind in ("closure", "cache", "traceback", "generator")
    lines = [line for line in located.lines if line.role != "held by" or is_elsewhere]
    stored = _find_store(located, holder)
    if stored is not None:
        computed = RelatedLine(lines[0].file, lines[0].line, "tensor computed here")
        lines = [stored, computed, *lines[1:], *_find_container(stored, holder)]
    main, function = lines[0], located.main.function
    related: dict[tuple[str, int], RelatedLine] = {}
    for line in lines[1:]:
        if (line.file, line.line) != (main.file, main.line):
            related.setdefault((line.file, line.line), line)
    fix = _FIXES.get(kind, "") or _advise(stored)
    evidence_text = f"{tensors}, {kept} and {pluralize(held, 'byte')} were alive at once"
    return Finding(
        "GP201",
        message,
        main.file,
        main.line,
        function,
        located.count,
        tuple(related.values()),
        fix,
        evidence=evidence_text,
        # What nothing named refers to may be a cycle that the garbage collector has not come to yet.
        level="" if holder else NOTE,
    )


def _advise(stored: RelatedLine | None) -> str:
    source = None if stored is None else parse_file(stored.file)
    return "" if source is None or stored is None else advise_detaching(source, stored.line)


def _find_container(stored: RelatedLine, holder: str) -> list[RelatedLine]:
    """Return the line that makes the container which a line stores into."""
    source = parse_file(stored.file)
    name = holder.split("[")[0].rsplit(".", 1)[-1]
    line = None if source is None else source.find_container(name, stored.line)
    return [] if line is None else [RelatedLine(stored.file, line, "container made here")]


def _find_store(located: LocatedDetection, holder: str) -> RelatedLine | None:
    """Return the line that puts something into the holder, in the files that the detection names."""
    name = holder.split("[")[0]
    last = name.rsplit(".", 1)[-1]
    if not last.isidentifier():
        return None
    places = [(located.main.file, located.main.line)]
    places += [(line.file, line.line) for line in located.lines[1:]]
    for file, line in places:
        source = parse_file(file)
        found = None if source is None else source.find_store(last, line)
        if found is not None:
            return RelatedLine(file, found, "stored here")
    return None


RULES = (find_kept_graphs, find_growing_backwards)
"""Rules of this family; a recording is checked against each."""
