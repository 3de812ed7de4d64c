"""The examination of each site: its manager is exchanged, the program runs again, and what differs decides."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from gradprobe._counted_nouns import pluralize
from gradprobe.advice.certificate import KEEP, SWAP, UNPROVEN, Certificate, Proof
from gradprobe.advice.gains import read_gains, site_label
from gradprobe.advice.library_results import find_escapes
from gradprobe.advice.line_trace import Trace
from gradprobe.advice.manager_sites import Site, SourceFile
from gradprobe.advice.program_model import Coverage, ProgramModel
from gradprobe.advice.program_runs import ProgramRunner
from gradprobe.advice.reasons import OF_ESCAPED, REASONS, Reason, explain_difference, find_real_line, list_created
from gradprobe.advice.run_differences import list_new_failures, name_difference
from gradprobe.advice.run_request import Outcome
from gradprobe.advice.site_groups import SiteGroups
from gradprobe.advice.site_runs import SiteRuns
from gradprobe.advice.source_edits import enclose_in_normal_mode
from gradprobe.advice.source_hook import MARK
from gradprobe.advice.unrun_lines import find_unrun_lines


class Examiner:
    """Examiner of the sites of a program.

    Args:
        runner: Runs the program.
        files: The files of the program.
        sites: The sites to examine.
        first: The run of the program as it is.
        report: Takes a line about progress.
        is_timed: Whether to measure what an exchange gains.
        is_library: Whether code that is not among the files may call the program's public functions.
    """

    def __init__(
        self,
        runner: ProgramRunner,
        files: Sequence[SourceFile],
        sites: Sequence[Site],
        first: Outcome,
        report: Callable[[str], None] = lambda text: None,
        *,
        is_timed: bool = True,
        is_library: bool = False,
    ) -> None:
        self._files, self._sites, self._report = list(files), list(sites), report
        self._is_timed, self._is_library = is_timed, is_library
        self._runs = SiteRuns(runner, files, sites, first, report)
        self._program = ProgramModel(self._files)
        self._groups = SiteGroups(self._runs, self._program)

    @property
    def original(self) -> Outcome:
        """The run of the unchanged program."""
        return self._runs.original.first

    @property
    def unsteady(self) -> list[str]:
        """Names of differences between two runs of the unchanged program."""
        return self._runs.original.unsteady

    @property
    def remarks(self) -> list[str]:
        """Sentences about the runs, which a reader of the verdicts has to know."""
        remarks = [f"The program ran {pluralize(self._runs.runner.runs, 'time')}."]
        if self._runs.original.unsteady:
            names = ", ".join(name_difference(each) for each in self._runs.original.unsteady[:4])
            remarks.append(f"It does not repeat itself in {names}; that was not compared.")
        ran = {file for file, _ in self._runs.original.trace.lines}
        missing = sorted({site.file for site in self._sites} - ran)
        if missing and ran:
            names = ", ".join(os.path.relpath(file) for file in missing[:4])
            remarks.append(f"No line ran of {names}: is it the copy that the program imports?")
        if self._runs.runner.limits.are_spent:
            remarks.append(
                f"No run was started after {self._runs.runner.limits.lost_s:.0f} s had passed in runs that did not end; "
                "raise --timeout, or name a shorter test."
            )
        if not self.original.is_late and (self.original.code or self.original.error):
            remarks.append(f"It ends with exit code {self.original.code} as it is. {self.original.error}".strip())
        return remarks

    def examine(self) -> list[Certificate]:
        """Return the certificate of each site."""
        if self._runs.original.is_late:
            return [_make_late(site, self._runs.original.blocks) for site in self._sites]
        found: dict[Site, Certificate] = {}
        if self._is_library:
            self._examine_groups(found)
        for site in self._sites:
            if site not in found:
                found[site] = self._examine_alone(site)
        self._try_together(found)
        self._confirm_all(found)
        if self._is_timed:
            self._measure(found)
        return [self._add_bytes(found[site]) for site in self._sites]

    def _examine_groups(self, found: dict[Site, Certificate]) -> None:
        """Judge the sites that cannot meet each other's tensors by one run of all of them."""
        forward = [site for site in self._sites if site.manager == "no_grad" and self._runs.has_run(site)]
        if len(forward) < 2 or self._runs.original.blocks:
            return
        for group in self._groups.split_agreeing(forward):
            apart = self._groups.list_apart(group)
            if len(apart) > 1 and self._runs.agrees(apart):
                judged = [self._judge_equal(site, SWAP, apart, REASONS["none"]) for site in apart]
                # A line that did not run may be one of another site of the group: these are tried alone.
                found.update({each.site: each for each in judged if each.reason != "not_run"})

    def _examine_alone(self, site: Site) -> Certificate:
        has_run, blocks = self._runs.has_run(site), self._runs.original.blocks
        if not has_run and not self._runs.may_be_compiled:
            proof = Proof(site.file, site.line, "did not run")
            return Certificate(site, UNPROVEN, "not_run", "The block did not run.", (proof,))
        outcome = self._runs.exchange([site])
        if outcome.is_late:
            return _make_late(site, f"The run with the swap {outcome.lateness}.")
        differences = self._runs.list_differences(outcome)
        if differences:
            return self._explain(site, differences)
        if not has_run:
            proof = Proof(site.file, site.line, "was not seen to run outside of compiled code")
            return Certificate(site, UNPROVEN, "not_run", "The block was not seen to run.", (proof,))
        if blocks:
            return Certificate(site, UNPROVEN, "not_repeatable", blocks)
        if site.manager == "inference_mode":
            return self._judge_equal(site, KEEP, [site], "The program does the same under no_grad.")
        return self._judge_equal(site, SWAP, [site], REASONS["none"])

    def _explain(self, site: Site, differences: Sequence[str]) -> Certificate:
        normal, inference = self._runs.original.trace, self._runs.trace([site])
        runs = [self.original, self._runs.exchange([site])]
        if site.manager == "inference_mode":
            normal, inference = inference, normal
            runs.reverse()
        first = next((each for each in differences if each.startswith("test:")), differences[0])
        what = f"They differ in {name_difference(first)}."
        reason = explain_difference(site, self._files, normal, inference, what, list_new_failures(*runs))
        verdict = KEEP
        if site.manager == "inference_mode":
            texts, lines = self._make_smaller_edit(inference, reason)
            tried = self._runs.run_text(texts) if texts else None
            if tried is not None and tried.is_late:
                return _make_late(site, f"{reason.message} The run with a smaller edit {tried.lateness}.")
            if tried is None or self._runs.list_differences(tried, self._runs.exchange([site])):
                verdict = SWAP
            else:
                reason = replace(reason, message=f"{reason.message} {_describe_smaller_edit(lines)}")
        blocks = self._runs.original.blocks
        if blocks and reason.name == "results_differ":
            return Certificate(site, UNPROVEN, "not_repeatable", blocks)
        entered = Proof(site.file, site.line, "the block")
        proof = (*(Proof(*line) for line in reason.lines), *self._list_created(inference), entered)
        return Certificate(site, verdict, reason.name, reason.message, proof)

    def _make_smaller_edit(self, inference: Trace, reason: Reason) -> tuple[dict[str, str], list[int]]:
        """Return the text in which a block of inference mode creates normal tensors, and the lines that this edits."""
        if reason.name not in OF_ESCAPED:
            return {}, []
        texts = dict(self._runs.texts)
        lines = [place for place in self._list_created(inference) if place.file in texts]
        for place in sorted(lines, key=lambda each: each.line, reverse=True):
            changed = enclose_in_normal_mode(SourceFile(place.file, texts[place.file]), place.line)
            if changed is None:
                return {}, []
            texts[place.file] = changed
        return (texts if lines else {}), sorted({place.line for place in lines})

    def _judge_equal(self, site: Site, verdict: str, exchanged: Sequence[Site], message: str) -> Certificate:
        """Return the verdict on a site if the runs agree: what did not run may still speak against the swap."""
        normal, other = self._runs.original.trace, self._runs.trace(exchanged)
        inference = normal if site.manager == "inference_mode" else other
        created = self._list_created(inference)
        edge = (site.file, site.first_line)
        if other.edges.get(edge) != normal.edges.get(edge) and verdict == SWAP:
            message = f"What {site.function} returns differs, although the program ends the same."
            return Certificate(site, UNPROVEN, "results_differ", message, created)
        coverage = Coverage(_merge_lines(normal, inference), self._files)
        unrun = find_unrun_lines(self._program, coverage, site)
        if unrun:
            proof = tuple(Proof(each.file, each.line, each.role) for each in unrun)
            return Certificate(site, UNPROVEN, "not_run", REASONS["not_run"], (*proof, *created))
        if self._is_library and verdict == SWAP:
            escapes = find_escapes(self._program, coverage, site, normal.tensor_results | inference.tensor_results)
            if escapes:
                proof = tuple(Proof(each.file, each.line, each.role) for each in escapes)
                return Certificate(site, UNPROVEN, "escapes_unknown", REASONS["escapes_unknown"], (*proof, *created))
        return Certificate(site, verdict, "none", message, created)

    def _list_created(self, inference: Trace) -> tuple[Proof, ...]:
        return tuple(
            Proof(file, find_real_line(self._files, file, line), role) for file, line, role in list_created(inference)
        )

    def _try_together(self, found: dict[Site, Certificate]) -> None:
        """Find sites that break the program alone and do not break it together with others."""
        forward = [site for site in self._sites if site.manager == "no_grad"]
        for site in forward:
            if found[site].verdict != KEEP or found[site].reason not in OF_ESCAPED or found[site].together:
                continue
            partners = [other for other in forward if other is not site and self._runs.has_run(other)]
            group = self._groups.find_agreeing_with(site, partners)
            if group is not None:
                self._accept_group(group, found)

    def _accept_group(self, group: frozenset[Site], found: dict[Site, Certificate]) -> None:
        together = "Both runs agree if they are exchanged together."
        judged = {site: self._judge_equal(site, SWAP, list(group), together) for site in group}
        is_proven = all(each.verdict == SWAP for each in judged.values()) and not self._runs.original.blocks
        for site in group:
            if found[site].verdict == KEEP:
                others = tuple(sorted(other.line for other in group if other is not site))
                if is_proven:
                    found[site] = replace(judged[site], together=others)
                elif judged[site].verdict == UNPROVEN:
                    found[site] = judged[site]

    def _confirm_all(self, found: dict[Site, Certificate]) -> None:
        """Run with all that is recommended; where that differs, recommend only what still agrees, one by one."""
        chosen = [s for s in self._sites if found[s].verdict == SWAP and s.manager == "no_grad"]
        if len(chosen) < 2 or self._runs.agrees(chosen):
            return
        kept: list[Site] = []
        for site in chosen:
            if not kept or self._runs.agrees([*kept, site]):
                kept.append(site)
                continue
            outcome = self._runs.exchange([*kept, site])
            if outcome.is_late:
                found[site] = _make_late(site, f"The run with it and what else is recommended {outcome.lateness}.")
                continue
            lines = tuple(Proof(s.file, s.line, "recommended as well") for s in kept)
            found[site] = Certificate(site, KEEP, "results_differ", "It breaks the program beside the others.", lines)

    def _measure(self, found: dict[Site, Certificate]) -> None:
        """Time the blocks of what may be exchanged alone, in one run more."""
        chosen = [
            s for s in self._sites if found[s].verdict == SWAP and s.manager == "no_grad" and not found[s].together
        ]
        if not chosen or self._runs.may_be_compiled:
            return
        self._report("timing the blocks")
        texts = self._runs.edit_text(chosen, lambda site: f"{MARK}({site_label(site)!r})")
        outcome = self._runs.runner.run(texts, timed=True)
        for site, gain in read_gains(outcome.folder, chosen).items():
            found[site] = replace(found[site], gain=gain)

    def _add_bytes(self, certificate: Certificate) -> Certificate:
        site = certificate.site
        if site.manager == "inference_mode":
            trace: Trace | None = self._runs.original.trace
        else:
            trace = self._runs.find_trace([site])
        return replace(certificate, kept_bytes=sum(e["bytes"] for e in trace.survivors) if trace is not None else 0)


def _describe_smaller_edit(lines: Sequence[int]) -> str:
    return (
        f"The smallest edit is on line {', '.join(map(str, lines))}: create the tensor under "
        "`with torch.inference_mode(False), torch.no_grad():`, or pass on a `.clone()` made outside of inference mode."
    )


def _make_late(site: Site, message: str) -> Certificate:
    return Certificate(site, UNPROVEN, "timeout", message, (Proof(site.file, site.line, "not tried to its end"),))


def _merge_lines(*traces: Trace) -> dict[tuple[str, int], set[int]]:
    merged: dict[tuple[str, int], set[int]] = {}
    for trace in traces:
        for place, modes in trace.lines.items():
            merged.setdefault(place, set()).update(modes)
    return merged
