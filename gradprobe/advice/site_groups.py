"""Sets of sites that are tried at once, so that many sites take few runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradprobe.advice.block_region import BlockRegion
from gradprobe.advice.flow_places import INSIDE
from gradprobe.advice.line_trace import GRAD, Trace
from gradprobe.advice.manager_sites import Site
from gradprobe.advice.program_model import Coverage, Key, ProgramModel
from gradprobe.advice.site_runs import SiteRuns
from gradprobe.advice.tensor_flow import TensorFlow
from gradprobe.advice.value_kinds import is_of_block

_MAX_PARTNERS = 6


class SiteGroups:
    """Chooser of the sets of sites to run together.

    Args:
        runs: Runs the program.
        program: The program.
    """

    def __init__(self, runs: SiteRuns, program: ProgramModel) -> None:
        self._runs, self._program = runs, program
        self._agreeing: list[frozenset[Site]] = []

    def split_agreeing(self, sites: Sequence[Site]) -> Iterator[list[Site]]:
        """Yield sets of sites with which the program does the same: all of them, or halves of halves."""
        if len(sites) < 2:
            return
        if self._runs.agrees(sites):
            self._agreeing.append(frozenset(sites))
            yield list(sites)
            return
        middle = len(sites) // 2
        yield from self.split_agreeing(sites[:middle])
        yield from self.split_agreeing(sites[middle:])

    def list_apart(self, group: Sequence[Site]) -> list[Site]:
        """Return the sites of a group whose tensors end with their functions, so that no other block can meet them.

        Such a site does the same alone as beside the others, so that one run of all of them stands for a run of each.
        """
        trace = self._runs.trace(group)
        coverage = Coverage(trace.lines, list(self._program.files.values()))
        functions = [(site.file, site.function) for site in group]
        return [
            site
            for site in group
            if site.function
            and functions.count((site.file, site.function)) == 1
            and self._ends_with_function(site, coverage, trace)
        ]

    def _ends_with_function(self, site: Site, coverage: Coverage, trace: Trace) -> bool:
        """Return whether nothing of a block is left once its function has returned, by the source and by what was seen."""
        region = BlockRegion(self._program, coverage, site)
        written = [each for each in region.statements if region.is_lexical(each)]
        flow = TensorFlow(self._program, region)
        left = [key for key, kind in flow.places.items() if is_of_block(kind) and not self._ends(key, site)]
        lines = {(each.scope.file.file, line) for each in written for line in range(each.line, each.last_line + 1)}
        is_kept = any(each["kind"] != "local" and (each["file"], each["line"]) in lines for each in trace.survivors)
        is_returned = (site.file, site.first_line) in trace.tensor_results
        return not is_kept and not is_returned and not left

    @staticmethod
    def _ends(key: Key, site: Site) -> bool:
        """Return whether what a place has ends with the function of a site, or with one that the block calls."""
        kind, owner, _ = key
        is_own = kind == "variable" and owner == f"{site.file}:{site.function}"
        return is_own or kind in ("definition", "anything") or owner.endswith(INSIDE)

    def find_agreeing_with(self, site: Site, partners: Sequence[Site]) -> frozenset[Site] | None:
        """Return the smallest set tried that agrees with a site which alone breaks the program, or None."""
        if not self._fails_without_grad(site):
            return None
        near = sorted(partners, key=lambda other: (other.file != site.file, abs(other.line - site.line)))[
            :_MAX_PARTNERS
        ]
        sets = [frozenset((site, other)) for other in near]
        if len(near) > 1:
            sets.append(frozenset((site, *near)))
        sets += [group for group in self._agreeing if site in group]
        return next((group for group in sets if self._runs.agrees(group)), None)

    def _fails_without_grad(self, site: Site) -> bool:
        """Return whether a swap elsewhere could help: what fails under grad mode is in no other block of ``no_grad``."""
        normal, trace = self._runs.original.trace, self._runs.trace([site])
        known = {(file, text) for file, _, _, text in normal.exceptions}
        new = [each for each in trace.exceptions if (each[0], each[3]) not in known]
        if not new:
            return True
        modes = trace.lines.get((new[0][0], new[0][1]), set())
        return not modes or any(not mode & GRAD for mode in modes)
