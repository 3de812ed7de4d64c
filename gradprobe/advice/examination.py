"""An examination of paths: which files and sites, which program to run, and what is done with the verdicts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradprobe.advice.applied_edits import AppliedEdits, write_source
from gradprobe.advice.certificate import KEEP, SWAP, Certificate
from gradprobe.advice.examiner import Examiner
from gradprobe.advice.library_results import is_test_file
from gradprobe.advice.manager_sites import Site, SourceFile
from gradprobe.advice.program_files import list_other_files, read_source
from gradprobe.advice.program_runs import ProgramRunner
from gradprobe.advice.recorded_sites import find_recorded_program, list_recorded_lines
from gradprobe.advice.run_differences import list_differences
from gradprobe.advice.run_request import Outcome
from gradprobe.advice.source_edits import add_comments, exchange_in_source, make_diff
from gradprobe.errors import GradprobeError
from gradprobe.scan.source_files import list_python_files


@dataclass
class Examination:
    """The verdicts, and what can be done with them."""

    certificates: list[Certificate]
    remarks: list[str]
    _files: dict[str, SourceFile]
    _settings: dict[str, Any]
    _unsteady: frozenset[str] = frozenset()
    """Names of differences between two runs of the unchanged program."""

    def make_patch(self) -> bytes:
        """Return one unified diff of all that was proven, each file in its own encoding."""
        chosen = [each.site for each in self.certificates if each.verdict == SWAP]
        return b"".join(_diff(self._files[file], sites) for file, sites in _group(chosen))

    def apply(self) -> list[str]:
        """Edit the files, run the program again, and return the places of the edits that were taken back.

        Raises:
            GradprobeError: A file has changed since it was read, or cannot be written.
        """
        edits = AppliedEdits(self._files)
        groups = self._list_groups()
        if not groups:
            return []
        try:
            with ProgramRunner(**self._settings) as runner:
                before = runner.run()
                runner.limits.expect(before.seconds)
                kept = self._find_agreeing(groups, lambda sites: self._agrees(edits, sites, runner, before))
        except BaseException:
            edits.write([])
            raise
        edits.write([site for group in kept for site in group])
        return [f"{site.file}:{site.line}" for group in groups if group not in kept for site in group]

    def _find_agreeing(self, groups: list[list[Site]], agrees: Callable[[Sequence[Site]], bool]) -> list[list[Site]]:
        """Return all groups if the program does the same with them, or else those that it does the same with one by one."""
        if agrees([site for group in groups for site in group]):
            return groups
        kept: list[list[Site]] = []
        for group in groups if len(groups) > 1 else []:
            if agrees([site for each in (*kept, group) for site in each]):
                kept.append(group)
        return kept

    def _agrees(self, edits: AppliedEdits, sites: Sequence[Site], runner: ProgramRunner, before: Outcome) -> bool:
        edits.write(sites)
        after = runner.run()
        is_complete = not before.is_late and not after.is_late
        return is_complete and not list(list_differences(before, after, self._unsteady))

    def comment(self) -> None:
        """Write the reason above each line that is to stay.

        Raises:
            GradprobeError: A file cannot be written.
        """
        for name, certificates in self._list_kept():
            lines = [
                (
                    each.site.line,
                    f"gradprobe: {each.site.manager} is needed: {each.reason.replace('_', ' ')}, {_where(each)}",
                )
                for each in certificates
            ]
            file = read_source(Path(name))
            write_source(file, add_comments(file.text, lines))

    def _list_kept(self) -> list[tuple[str, list[Certificate]]]:
        kept = [each for each in self.certificates if each.verdict == KEEP and each.reason != "none"]
        return [
            (file, [each for each in kept if each.site.file == file]) for file in sorted({k.site.file for k in kept})
        ]

    def _list_groups(self) -> list[list[Site]]:
        """Return the proven sites, those together that may only be exchanged together."""
        chosen = [each for each in self.certificates if each.verdict == SWAP]
        groups: list[list[Site]] = []
        for each in chosen:
            lines = {each.site.line, *each.together}
            joined = [g for g in groups if each.together and any(site.line in lines for site in g)]
            if joined:
                joined[0].append(each.site)
            else:
                groups.append([each.site])
        return groups


def examine(
    sources: Sequence[Path],
    recordings: Sequence[Path],
    command: Sequence[str] | None,
    *,
    timeout_s: float,
    is_timed: bool = True,
    report: Callable[[str], None] = lambda text: None,
) -> Examination:
    """Examine all sites in the sources and those that recordings name.

    Args:
        sources: Python files and folders.
        recordings: Recordings of the program.
        command: The command to run; None for the one script among the sources.
        timeout_s: Maximum time of a run, in seconds.
        is_timed: Whether to measure what an exchange gains.
        report: Takes a line about progress.

    Raises:
        GradprobeError: A path cannot be read, or there is nothing to run.
    """
    recorded = list_recorded_lines(recordings) if recordings else {}
    paths = [*sources, *(Path(file) for file in recorded if not _is_inside(file, sources))]
    files = [read_source(path) for path in _list_examined(paths, has_tests=bool(command))]
    sites = [site for file in files for site in file.sites]
    if recorded and not sources:
        sites = [site for site in sites if _was_recorded(site, recorded)]
    words, is_script = _choose_program(sources, recordings, command)
    if not sites:
        return Examination([], [], {}, {})
    settings: dict[str, Any] = {
        "words": words,
        "is_script": is_script,
        "own": [file.file for file in files],
        "timeout_s": timeout_s,
        "preload": ["torch._dynamo"] if any("optim" in f.text or "compile" in f.text for f in files) else [],
    }
    with ProgramRunner(**settings) as runner:
        report("running the program as it is")
        first = runner.run()
        files += list_other_files(files, words[0] if is_script else None, first.modules)
        runner.own = settings["own"] = [file.file for file in files]
        examiner = Examiner(runner, files, sites, first, report, is_timed=is_timed, is_library=not is_script)
        certificates = examiner.examine()
        remarks = examiner.remarks
        unsteady = frozenset(examiner.unsteady)
    by_name = {file.file: file for file in files}
    proven = [_add_patch(each, by_name, certificates) for each in certificates]
    return Examination(proven, remarks, by_name, settings, unsteady)


def _list_examined(paths: Sequence[Path], *, has_tests: bool) -> Iterator[Path]:
    """Yield the files to examine: those that are named, and those of folders, of which the tests are left out."""
    for path in paths:
        found = list_python_files([path])
        yield from (file for file in found if path.is_file() or not (has_tests and is_test_file(str(file))))


def _add_patch(certificate: Certificate, files: dict[str, SourceFile], among: Sequence[Certificate]) -> Certificate:
    if certificate.verdict != SWAP:
        return certificate
    site = certificate.site
    partners = [o.site for o in among if o.site.line in certificate.together and o.site.file == site.file]
    return replace(certificate, patch=_diff(files[site.file], [site, *partners]).decode(errors="replace"))


def _diff(file: SourceFile, sites: Sequence[Site]) -> bytes:
    return make_diff(file.file, file.encode(file.text), file.encode(exchange_in_source(file, sites)))


def _choose_program(
    sources: Sequence[Path], recordings: Sequence[Path], command: Sequence[str] | None
) -> tuple[list[str], bool]:
    """Return the words of the program to run, and whether they are a script with its arguments."""
    if command:
        words = list(command)
        is_python = os.path.basename(words[0]).startswith("python") or words[0] == sys.executable
        if is_python and len(words) > 1 and words[1].endswith(".py"):
            return words[1:], True
        return words, False
    scripts = [path for path in sources if path.is_file()]
    if len(sources) == 1 and scripts:
        return [str(scripts[0])], True
    program = find_recorded_program(recordings) if recordings else None
    if program is not None:
        return [program], True
    raise GradprobeError("cannot tell what to run: name one script, or the command that tests the program with --test")


def _was_recorded(site: Site, recorded: dict[str, set[int]]) -> bool:
    """Return whether a recording has a site, by the line of its block, its function or its decorator."""
    lines = recorded.get(site.file, set())
    covered = range(min(site.line, site.first_line or site.line), (site.body[0] if site.body else site.line) + 1)
    return any(line in lines for line in (site.line, *covered))


def _group(sites: Sequence[Site]) -> list[tuple[str, list[Site]]]:
    return [(file, [site for site in sites if site.file == file]) for file in sorted({site.file for site in sites})]


def _is_inside(file: str, sources: Sequence[Path]) -> bool:
    return any(file == os.path.abspath(path) or file.startswith(os.path.abspath(path) + os.sep) for path in sources)


def _where(certificate: Certificate) -> str:
    lines = sorted(
        {
            each.line
            for each in certificate.proof
            if each.role.startswith(("raises", "created")) or "runs in" in each.role
        }
    )
    return f"see line {', '.join(map(str, lines))}" if lines else "by a run of the program"
