"""The certificate of each site: its manager is exchanged, the program runs again, and what differs decides."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gradprobe.advice.gains import read_gains, site_label
from gradprobe.advice.line_trace import Trace, read_trace
from gradprobe.advice.manager_sites import EXCHANGED, Site, SourceFile, apply_edits, replace_manager
from gradprobe.advice.program_model import Coverage, ProgramModel
from gradprobe.advice.program_runs import ProgramRunner
from gradprobe.advice.reasons import REASONS, Reason, explain_difference, find_real_line, list_created
from gradprobe.advice.run_request import LINES_FILE, Outcome
from gradprobe.advice.source_edits import enclose_in_normal_mode
from gradprobe.advice.source_hook import MARK
from gradprobe.advice.unrun_lines import find_unrun_lines

SWAP, KEEP, UNPROVEN = "swap", "keep", "unproven"
_MAX_TOGETHER = 6


@dataclass(frozen=True)
class Proof:
    """A line, and what it shows."""

    file: str
    line: int
    role: str


@dataclass(frozen=True)
class Certificate:
    """The verdict on one site.

    ``reason`` is a class of ``reasons.REASONS``; ``together`` has the lines of the sites that have to be exchanged too.
    """

    site: Site
    verdict: str
    reason: str
    message: str
    proof: tuple[Proof, ...] = ()
    together: tuple[int, ...] = ()
    gain: dict[str, Any] | None = None
    patch: str = ""
    kept_bytes: int = 0
    """Bytes of the tensors that were seen to leave the block."""


@dataclass
class _Comparison:
    """The original program, run twice, and what of it repeats."""

    first: Outcome
    second: Outcome
    trace: Trace
    unsteady: list[str] = field(default_factory=list)
    """Names of differences between two runs of the unchanged program, which cannot be compared."""
    blocks: str = ""
    """Why nothing can be concluded, or ""."""


class Examiner:
    """Examiner of the sites of a program.

    Args:
        runner: Runs the program.
        files: The files of the program.
        sites: The sites to examine.
        report: Takes a line about progress.
        is_timed: Whether to measure what an exchange gains.
    """

    def __init__(
        self,
        runner: ProgramRunner,
        files: Sequence[SourceFile],
        sites: Sequence[Site],
        report: Callable[[str], None] = lambda text: None,
        *,
        is_timed: bool = True,
    ) -> None:
        self._is_timed = is_timed
        self._runner, self._files, self._sites, self._report = runner, list(files), list(sites), report
        self._texts = {file.file: file.text for file in files}
        self._edges = sorted({(site.file, site.first_line) for site in sites if site.first_line})
        self._original = self._run_original()
        self._traces: dict[frozenset[Site], Trace] = {}
        self._outcomes: dict[frozenset[Site], Outcome] = {}
        self._program = ProgramModel(self._files)

    @property
    def original(self) -> Outcome:
        """The run of the unchanged program."""
        return self._original.first

    @property
    def remarks(self) -> list[str]:
        """Sentences about the runs, which a reader of the verdicts has to know."""
        remarks = [f"The program ran {self._runner.runs} times."]
        if self._original.unsteady:
            names = ", ".join(_name(each) for each in self._original.unsteady[:4])
            remarks.append(f"It does not repeat itself in {names}; that was not compared.")
        if self.original.code or self.original.error:
            remarks.append(f"It ends with exit code {self.original.code} as it is. {self.original.error}".strip())
        return remarks

    def examine(self) -> list[Certificate]:
        """Return the certificate of each site."""
        singles = {site: self._examine_alone(site) for site in self._sites}
        self._try_together(singles)
        self._confirm_all(singles)
        if self._is_timed:
            self._measure(singles)
        return [self._add_bytes(singles[site]) for site in self._sites]

    def _add_bytes(self, certificate: Certificate) -> Certificate:
        trace = self._traces.get(frozenset([certificate.site]))
        if certificate.site.manager == "inference_mode":
            trace = self._original.trace
        return replace(
            certificate, kept_bytes=sum(each["bytes"] for each in trace.survivors) if trace is not None else 0
        )

    def _run_original(self) -> _Comparison:
        self._report("running the program as it is")
        first = self._runner.run()
        second = self._runner.run(self._texts, watched=True, edges=self._edges)
        original = _Comparison(first, second, read_trace(second.folder / LINES_FILE))
        differences = list(_list_differences(first, second, frozenset()))
        original.unsteady = differences
        hard = [each for each in differences if not each.startswith(("plain:", "stdout:"))]
        if hard:
            original.blocks = f"Two runs of the unchanged program differ in {_name(hard[0])}."
        if first.is_late or second.is_late:
            original.blocks = "The program did not end in time."
        if original.trace.was_replaced:
            original.blocks = "Another tool took the trace function away, so the lines that ran are not known."
        return original

    def _run_exchanged(self, sites: Iterable[Site]) -> Outcome:
        texts = dict(self._texts)
        by_file: dict[str, list[tuple[int, int, int, str]]] = {}
        for site in sites:
            other = f"__import__('torch').{EXCHANGED[site.manager]}"
            by_file.setdefault(site.file, []).append(replace_manager(site, other))
        for file, edits in by_file.items():
            texts[file] = apply_edits(texts[file], edits)
        outcome = self._runner.run(texts, watched=True, edges=self._edges)
        self._traces[frozenset(sites)] = read_trace(outcome.folder / LINES_FILE)
        self._outcomes[frozenset(sites)] = outcome
        return outcome

    def _differences(self, outcome: Outcome) -> list[str]:
        return list(_list_differences(self._original.first, outcome, frozenset(self._original.unsteady)))

    def _has_run(self, site: Site) -> bool:
        lines = self._original.trace.lines
        if site.form == "decorator" and site.body is not None:
            return any((site.file, line) in lines for line in range(site.body[0], site.body[1] + 1))
        return (site.file, site.line) in lines

    def _examine_alone(self, site: Site) -> Certificate:
        may_be_compiled = any("torch.compile" in text for text in self._texts.values())
        has_run = self._has_run(site)
        if not has_run and not may_be_compiled:
            proof = Proof(site.file, site.line, "did not run")
            return Certificate(site, UNPROVEN, "not_run", "The block did not run.", (proof,))
        self._report(f"trying {EXCHANGED[site.manager]} at {site.file}:{site.line}")
        outcome = self._run_exchanged([site])
        trace = self._traces[frozenset([site])]
        if outcome.is_late:
            return Certificate(site, UNPROVEN, "not_repeatable", "The run with the swap did not end in time.")
        differences = self._differences(outcome)
        is_forward = site.manager == "no_grad"
        normal, inference = (self._original.trace, trace) if is_forward else (trace, self._original.trace)
        if differences:
            return self._explain(site, normal, inference, differences)
        if not has_run:
            proof = Proof(site.file, site.line, "was not seen to run outside of compiled code")
            return Certificate(site, UNPROVEN, "not_run", "The block was not seen to run.", (proof,))
        if self._original.blocks:
            return Certificate(site, UNPROVEN, "not_repeatable", self._original.blocks)
        if not is_forward:
            return self._judge_equal(site, KEEP, inference, "The program does the same under no_grad.")
        return self._judge_equal(site, SWAP, inference, REASONS["none"])

    def _explain(self, site: Site, normal: Trace, inference: Trace, differences: Sequence[str]) -> Certificate:
        what = f"They differ in {_name(differences[0])}."
        reason = explain_difference(site, self._files, normal, inference, what)
        verdict = KEEP
        if site.manager == "inference_mode":
            edit = self._find_smaller_edit(site, normal, inference, reason)
            if edit is None:
                verdict = SWAP
            else:
                reason = replace(reason, message=f"{reason.message} {edit}")
        if self._original.blocks and reason.name == "results_differ":
            return Certificate(site, UNPROVEN, "not_repeatable", self._original.blocks)
        return Certificate(site, verdict, reason.name, reason.message, self._list_proof(site, inference, reason))

    def _find_smaller_edit(self, site: Site, normal: Trace, inference: Trace, reason: Reason) -> str | None:
        """Return the edit that mends a block of inference mode and leaves its mode, if a run shows that there is one."""
        if reason.name not in _OF_ESCAPED:
            return None
        texts = dict(self._texts)
        lines = [place for place in self._list_created(inference) if place.file in self._texts]
        for place in sorted(lines, key=lambda each: each.line, reverse=True):
            changed = enclose_in_normal_mode(SourceFile(place.file, texts[place.file]), place.line)
            if changed is None:
                return None
            texts[place.file] = changed
        if not lines:
            return None
        outcome = self._runner.run(texts, watched=True)
        wanted = self._outcomes[frozenset([site])]
        if any(_list_differences(wanted, outcome, frozenset(self._original.unsteady))):
            return None
        where = ", ".join(str(line) for line in sorted({place.line for place in lines}))
        return (
            f"The smallest edit is on line {where}: create the tensor under "
            "`with torch.inference_mode(False), torch.no_grad():`, or pass on a `.clone()` made outside of inference mode."
        )

    def _list_proof(self, site: Site, inference: Trace, reason: Reason) -> tuple[Proof, ...]:
        entered = Proof(site.file, site.line, "the block")
        return (*(Proof(*line) for line in reason.lines), *self._list_created(inference), entered)

    def _list_created(self, inference: Trace) -> tuple[Proof, ...]:
        return tuple(
            Proof(file, find_real_line(self._files, file, line), role) for file, line, role in list_created(inference)
        )

    def _judge_equal(self, site: Site, verdict: str, inference: Trace, message: str) -> Certificate:
        edge = (site.file, site.first_line)
        if inference.edges.get(edge) != self._original.trace.edges.get(edge) and verdict == SWAP:
            message = f"What {site.function} returns differs, although the program ends the same."
            return Certificate(site, UNPROVEN, "results_differ", message, self._list_created(inference))
        coverage = Coverage(_merge_lines(self._original.trace, inference), self._files)
        unrun = find_unrun_lines(self._program, coverage, site)
        if unrun:
            proof = tuple(Proof(each.file, each.line, each.role) for each in unrun)
            return Certificate(site, UNPROVEN, "not_run", REASONS["not_run"], (*proof, *self._list_created(inference)))
        return Certificate(site, verdict, "none", message, self._list_created(inference))

    def _try_together(self, found: dict[Site, Certificate]) -> None:
        """Find sites that break the program alone and do not break it together with others."""
        forward = [site for site in self._sites if site.manager == "no_grad"]
        broken = [s for s in forward if found[s].verdict == KEEP and found[s].reason in _OF_ESCAPED]
        tried: set[frozenset[Site]] = set()
        for site in broken:
            if found[site].together:
                continue
            others = [s for s in forward if s is not site and self._has_run(s)][:_MAX_TOGETHER]
            sets = [frozenset((site, other)) for other in others]
            if len(others) > 1:
                sets.append(frozenset((site, *others)))
            for group in sets:
                if group in tried:
                    continue
                tried.add(group)
                if not self._differences(self._run_exchanged(group)):
                    self._accept_group(group, found)
                    break

    def _accept_group(self, group: frozenset[Site], found: dict[Site, Certificate]) -> None:
        trace = self._traces[group]
        judged = {
            site: self._judge_equal(site, SWAP, trace, "Both runs agree if they are exchanged together.")
            for site in group
        }
        is_proven = all(each.verdict == SWAP for each in judged.values()) and not self._original.blocks
        for site in group:
            if found[site].verdict == KEEP:
                others = tuple(sorted(other.line for other in group if other is not site))
                if is_proven:
                    found[site] = replace(judged[site], together=others)
                elif judged[site].verdict == UNPROVEN:
                    found[site] = judged[site]

    def _measure(self, found: dict[Site, Certificate]) -> None:
        """Time the blocks of what may be exchanged alone, in one run more."""
        chosen = [
            s for s in self._sites if found[s].verdict == SWAP and s.manager == "no_grad" and not found[s].together
        ]
        if not chosen or any("torch.compile" in text for text in self._texts.values()):
            return
        self._report("timing the blocks")
        texts = dict(self._texts)
        for file in {site.file for site in chosen}:
            edits = [replace_manager(site, f"{MARK}({site_label(site)!r})") for site in chosen if site.file == file]
            texts[file] = apply_edits(texts[file], edits)
        outcome = self._runner.run(texts, timed=True)
        for site, gain in read_gains(outcome.folder, chosen).items():
            found[site] = replace(found[site], gain=gain)

    def _confirm_all(self, found: dict[Site, Certificate]) -> None:
        """Run with all that is recommended; where that differs, recommend only what still agrees, one by one."""
        chosen = [s for s in self._sites if found[s].verdict == SWAP and s.manager == "no_grad"]
        if len(chosen) < 2 or frozenset(chosen) in self._traces:
            return
        self._report("trying all of them together")
        if not self._differences(self._run_exchanged(chosen)):
            return
        kept: list[Site] = []
        for site in chosen:
            if kept and self._differences(self._run_exchanged([*kept, site])):
                lines = tuple(Proof(s.file, s.line, "recommended as well") for s in kept)
                found[site] = Certificate(
                    site, KEEP, "results_differ", "It breaks the program beside the others.", lines
                )
            else:
                kept.append(site)


_OF_ESCAPED = ("saved_for_backward", "written_in_place", "version_read", "requires_grad", "results_differ", "subclass")


def find_differences(first: Outcome, second: Outcome) -> list[str]:
    """Return what differs between two runs, in words."""
    return [_name(each) for each in _list_differences(first, second, frozenset())]


def _list_differences(first: Outcome, second: Outcome, known: frozenset[str]) -> Iterable[str]:
    """Yield the names of what differs between two runs, but for what is known to differ."""
    found: list[str] = []
    if first.code != second.code:
        found.append("the exit code")
    if first.error != second.error:
        found.append("the exception")
    tests = sorted(first.tests.keys() | second.tests.keys())
    found += [f"test:{test}" for test in tests if first.tests.get(test) != second.tests.get(test)]
    if not first.tests:
        lines = itertools.zip_longest(first.stdout.splitlines(), second.stdout.splitlines())
        found += [f"stdout:{number}" for number, (one, other) in enumerate(lines, 1) if one != other]
    for name in sorted(first.state.keys() | second.state.keys()):
        (tensors, plain), (other_tensors, other_plain) = (
            first.state.get(name, ("", "")),
            second.state.get(name, ("", "")),
        )
        if tensors != other_tensors:
            found.append(f"tensors:{name}")
        if plain != other_plain:
            found.append(f"plain:{name}")
    found += [f"process:{name}" for name, value in first.process.items() if second.process.get(name) != value]
    return [each for each in found if each not in known]


def _name(difference: str) -> str:
    kind, _, name = difference.partition(":")
    words = {
        "test": f"the result of test {name}",
        "stdout": f"line {name} of the output",
        "tensors": f"the tensors of {name}",
        "plain": f"the values of {name}",
        "process": name,
    }
    return words.get(kind, difference)


def _merge_lines(*traces: Trace) -> dict[tuple[str, int], set[int]]:
    merged: dict[tuple[str, int], set[int]] = {}
    for trace in traces:
        for place, modes in trace.lines.items():
            merged.setdefault(place, set()).update(modes)
    return merged
