"""An examination of paths: which files and sites, which program to run, and what is done with the verdicts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradprobe.advice.certificate import KEEP, SWAP, Certificate
from gradprobe.advice.examiner import Examiner
from gradprobe.advice.manager_sites import Site, SourceFile
from gradprobe.advice.program_runs import ProgramRunner
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

    def make_patch(self) -> str:
        """Return one unified diff of all that was proven."""
        chosen = [each.site for each in self.certificates if each.verdict == SWAP]
        return "".join(_diff(self._files[file], sites) for file, sites in _group(chosen))

    def apply(self) -> list[str]:
        """Edit the files, run the program again, and return the places of the edits that were taken back."""
        groups = self._list_groups()
        if not groups:
            return []
        with ProgramRunner(**self._settings) as runner:
            before = runner.run()
            self._write([site for group in groups for site in group])
            if _is_same(before, runner.run()):
                return []
            kept: list[Site] = []
            failed: list[str] = []
            for group in groups:
                self._write([*kept, *group])
                if _is_same(before, runner.run()):
                    kept += group
                else:
                    failed += [f"{site.file}:{site.line}" for site in group]
            self._write(kept)
        return failed

    def comment(self) -> None:
        """Write the reason above each line that is to stay."""
        for file, certificates in self._list_kept():
            text = Path(file).read_text()
            lines = [
                (
                    each.site.line,
                    f"gradprobe: {each.site.manager} is needed: {each.reason.replace('_', ' ')}, {_where(each)}",
                )
                for each in certificates
            ]
            Path(file).write_text(add_comments(text, lines))

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

    def _write(self, sites: Sequence[Site]) -> None:
        for file, source in self._files.items():
            chosen = [site for site in sites if site.file == file]
            text = exchange_in_source(source, chosen)
            if Path(file).read_text() != text:
                Path(file).write_text(text)


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
    recorded = dict(_list_recorded(recordings))
    paths = [*sources, *(Path(file) for file in recorded if not _is_inside(file, sources))]
    files = [_read(path) for path in list_python_files(paths)] if paths else []
    sites = [site for file in files for site in file.sites]
    if recorded and not sources:
        sites = [site for site in sites if _was_recorded(site, recorded)]
    words, is_script = _choose_program(sources, files, recordings, command)
    if not sites:
        return Examination([], [], {}, {})
    if is_script and os.path.abspath(words[0]) not in {file.file for file in files}:
        files.append(_read(Path(words[0])))
    files += [
        each for each in _list_neighbours(files, words if is_script else []) if each.file not in {f.file for f in files}
    ]
    settings: dict[str, Any] = {
        "words": words,
        "is_script": is_script,
        "own": [file.file for file in files],
        "timeout_s": timeout_s,
        "preload": ["torch._dynamo"] if any("optim" in f.text or "compile" in f.text for f in files) else [],
    }
    with ProgramRunner(**settings) as runner:
        examiner = Examiner(runner, files, sites, report, is_timed=is_timed, is_library=not is_script)
        certificates = examiner.examine()
        remarks = examiner.remarks
    by_name = {file.file: file for file in files}
    proven = [_add_patch(each, by_name, certificates) for each in certificates]
    return Examination(proven, remarks, by_name, settings)


def _add_patch(certificate: Certificate, files: dict[str, SourceFile], among: Sequence[Certificate]) -> Certificate:
    if certificate.verdict != SWAP:
        return certificate
    site = certificate.site
    partners = [o.site for o in among if o.site.line in certificate.together and o.site.file == site.file]
    return replace(certificate, patch=_diff(files[site.file], [site, *partners]))


def _diff(file: SourceFile, sites: Sequence[Site]) -> str:
    return make_diff(file.file, file.text, exchange_in_source(file, sites))


def _choose_program(
    sources: Sequence[Path], files: Sequence[SourceFile], recordings: Sequence[Path], command: Sequence[str] | None
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
    program = _find_recorded_program(recordings, files) if recordings and not sources else None
    if program is not None:
        return [program], True
    raise GradprobeError("cannot tell what to run: name one script, or the command that tests the program with --test")


def _find_recorded_program(recordings: Sequence[Path], files: Sequence[SourceFile]) -> str | None:
    from gradprobe.stored_recordings import merge

    name = merge(list(recordings)).environment.get("program")
    return next((file.file for file in files if name and os.path.basename(file.file) == name), None)


def _list_recorded(recordings: Sequence[Path]) -> Iterator[tuple[str, set[int]]]:
    if not recordings:
        return
    from gradprobe.stored_recordings import merge

    sites = merge(list(recordings)).sites
    lines: dict[str, set[int]] = {}
    for file, line, manager in zip(sites["file"], sites["line"], sites["manager"], strict=True):
        if manager in ("no_grad", "inference_mode") and isinstance(file, str) and os.path.isfile(file):
            lines.setdefault(os.path.abspath(file), set()).add(int(line))
    yield from lines.items()


def _was_recorded(site: Site, recorded: dict[str, set[int]]) -> bool:
    """Return whether a recording has a site, by the line of its block, its function or its decorator."""
    lines = recorded.get(site.file, set())
    covered = range(min(site.line, site.first_line or site.line), (site.body[0] if site.body else site.line) + 1)
    return any(line in lines for line in (site.line, *covered))


def _list_neighbours(files: Sequence[SourceFile], words: Sequence[str]) -> Iterator[SourceFile]:
    """Yield the modules beside a script that it imports, which belong to the program too."""
    if not words:
        return
    folder = Path(words[0]).resolve().parent
    waiting, seen = list(files), {file.file for file in files}
    while waiting:
        for name in _list_imported(waiting.pop()):
            for path in (folder / f"{name.replace('.', '/')}.py", folder / name.replace(".", "/") / "__init__.py"):
                if path.is_file() and str(path) not in seen:
                    seen.add(str(path))
                    file = _read(path)
                    waiting.append(file)
                    yield file


def _list_imported(file: SourceFile) -> Iterator[str]:
    import ast

    for node in ast.walk(file.tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _read(path: Path) -> SourceFile:
    file = os.path.abspath(path)
    try:
        return SourceFile(file, Path(file).read_text())
    except (OSError, SyntaxError, ValueError) as error:
        raise GradprobeError(f"cannot read {path}: {error}; name a Python file") from None


def _group(sites: Sequence[Site]) -> list[tuple[str, list[Site]]]:
    return [(file, [site for site in sites if site.file == file]) for file in sorted({site.file for site in sites})]


def _is_inside(file: str, sources: Sequence[Path]) -> bool:
    return any(file == os.path.abspath(path) or file.startswith(os.path.abspath(path) + os.sep) for path in sources)


def _is_same(before: Any, after: Any) -> bool:
    from gradprobe.advice.run_differences import find_differences

    return not find_differences(before, after)


def _where(certificate: Certificate) -> str:
    lines = sorted(
        {
            each.line
            for each in certificate.proof
            if each.role.startswith(("raises", "created")) or "runs in" in each.role
        }
    )
    return f"see line {', '.join(map(str, lines))}" if lines else "by a run of the program"
