"""Runs of a program with some of its sites exchanged, each compared with the program as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gradprobe.advice.line_trace import Trace, read_trace
from gradprobe.advice.manager_sites import EXCHANGED, Site, SourceFile, apply_edits, replace_manager
from gradprobe.advice.program_runs import ProgramRunner
from gradprobe.advice.run_differences import list_differences, name_difference
from gradprobe.advice.run_request import LINES_FILE, Outcome


@dataclass
class Original:
    """The program as it is, run twice, and what of it repeats."""

    first: Outcome
    second: Outcome
    trace: Trace
    unsteady: list[str] = field(default_factory=list)
    """Names of differences between two runs of the unchanged program, which cannot be compared."""
    blocks: str = ""
    """Why nothing can be concluded, or ""."""

    @property
    def is_late(self) -> bool:
        """True if one of the two has no end."""
        return self.first.is_late or self.second.is_late


class SiteRuns:
    """Runs of one program with sets of sites exchanged; each set runs once.

    Args:
        runner: Runs the program.
        files: The files of the program.
        sites: All sites of the program.
        first: The run of the program as it is.
        report: Takes a line about progress.
    """

    def __init__(
        self,
        runner: ProgramRunner,
        files: Sequence[SourceFile],
        sites: Sequence[Site],
        first: Outcome,
        report: Callable[[str], None],
    ) -> None:
        self.runner, self._report = runner, report
        self.texts = {file.file: file.text for file in files}
        self._edges = sorted({(site.file, site.first_line) for site in sites if site.first_line})
        self.original = self._run_again(first)
        self._outcomes: dict[frozenset[Site], Outcome] = {}
        self._traces: dict[frozenset[Site], Trace] = {}

    @property
    def may_be_compiled(self) -> bool:
        """True if the program compiles functions, whose lines are not seen to run."""
        return any("torch.compile" in text for text in self.texts.values())

    def has_run(self, site: Site) -> bool:
        """Return whether a site was reached in the program as it is."""
        lines = self.original.trace.lines
        if site.form == "decorator" and site.body is not None:
            return any((site.file, line) in lines for line in range(site.body[0], site.body[1] + 1))
        return (site.file, site.line) in lines

    def exchange(self, sites: Iterable[Site]) -> Outcome:
        """Return the run with these sites exchanged and no other."""
        chosen = frozenset(sites)
        if chosen not in self._outcomes:
            if not self.runner.limits.are_spent:
                self._report(f"trying {_describe(chosen)}")
            self._outcomes[chosen] = self.runner.run(self.exchange_text(chosen), watched=True, edges=self._edges)
        return self._outcomes[chosen]

    def trace(self, sites: Iterable[Site]) -> Trace:
        """Return the trace of the run with these sites exchanged."""
        chosen = frozenset(sites)
        if chosen not in self._traces:
            self._traces[chosen] = read_trace(self.exchange(chosen).folder / LINES_FILE)
        return self._traces[chosen]

    def find_trace(self, sites: Iterable[Site]) -> Trace | None:
        """Return the trace of the run with these sites exchanged, or None if there was no such run."""
        chosen = frozenset(sites)
        return self.trace(chosen) if chosen in self._outcomes else None

    def exchange_text(self, sites: Iterable[Site]) -> dict[str, str]:
        """Return the text of all files with these sites exchanged."""
        return self.edit_text(sites, lambda site: f"__import__('torch').{EXCHANGED[site.manager]}")

    def edit_text(self, sites: Iterable[Site], choose: Callable[[Site], str]) -> dict[str, str]:
        """Return the text of all files with the managers of sites replaced by the expressions that ``choose`` returns."""
        by_file: dict[str, list[tuple[int, int, int, str]]] = {}
        for site in sites:
            by_file.setdefault(site.file, []).append(replace_manager(site, choose(site)))
        return {**self.texts, **{file: apply_edits(self.texts[file], edits) for file, edits in by_file.items()}}

    def list_differences(self, outcome: Outcome, from_other: Outcome | None = None) -> list[str]:
        """Return what differs from the program as it is, but for what does not repeat anyway."""
        known = frozenset(self.original.unsteady)
        return list(list_differences(from_other or self.original.first, outcome, known))

    def agrees(self, sites: Iterable[Site]) -> bool:
        """Return whether the program does the same with these sites exchanged."""
        outcome = self.exchange(sites)
        return not outcome.is_late and not self.list_differences(outcome)

    def run_text(self, texts: Mapping[str, str]) -> Outcome:
        """Return the run with other text."""
        return self.runner.run(texts, watched=True)

    def _run_again(self, first: Outcome) -> Original:
        if first.is_late:
            return Original(first, first, Trace(), blocks=f"The program as it is {first.lateness}.")
        self._report("running it again, watched line by line")
        second = self.runner.run(self.texts, watched=True, edges=self._edges)
        trace = read_trace(second.folder / LINES_FILE)
        if second.is_late:
            why = f"The program as it is took {first.seconds:.0f} s, and watched line by line {second.lateness}."
            return Original(first, second, trace, blocks=why)
        self.runner.limits.expect(second.seconds)
        original = Original(first, second, trace)
        original.unsteady = list(list_differences(first, second, frozenset()))
        hard = [each for each in original.unsteady if not each.startswith(("plain:", "stdout:"))]
        if hard:
            original.blocks = f"Two runs of the unchanged program differ in {name_difference(hard[0])}."
        if original.trace.was_replaced:
            original.blocks = "Another tool took the trace function away, so the lines that ran are not known."
        return original


def _describe(sites: frozenset[Site]) -> str:
    first = min(sites, key=lambda site: (site.file, site.line))
    others = f" and {len(sites) - 1} more" if len(sites) > 1 else ""
    return f"{EXCHANGED[first.manager]} at {first.file}:{first.line}{others}"
