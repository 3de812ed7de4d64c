"""The statements of a block: those written in it, and those that were seen to run in it."""

from __future__ import annotations

from gradprobe.advice.line_trace import INFERENCE
from gradprobe.advice.manager_sites import Site
from gradprobe.advice.program_model import Coverage, ProgramModel, Statement


class BlockRegion:
    """Region of a site.

    Args:
        program: The program.
        coverage: The lines that ran, in the run with the site under inference mode.
        site: The site.
    """

    def __init__(self, program: ProgramModel, coverage: Coverage, site: Site) -> None:
        self._program, self._coverage, self._site = program, coverage, site
        self._function = self._find_function()
        self.ran = {id(each): coverage.has_run(each) for each in program.statements}
        """True for each statement that ran, by its identity."""
        self.statements = self._find_region()

    @property
    def key(self) -> tuple[Coverage, Site]:
        """What the region is of."""
        return self._coverage, self._site

    def _find_function(self) -> str:
        """Return the name of the scope that has the block: that of its first line."""
        body, file = self._site.body, self._site.file
        names = [
            s.scope.name for s in self._program.statements if body and s.scope.file.file == file and s.line == body[0]
        ]
        return min(names, key=len, default=self._site.function)

    def is_site_scope(self, statement: Statement) -> bool:
        """Return whether a statement is in the function of the site, whose results and variables leave the block."""
        return self.is_lexical(statement) or (self._site.body is None and self.is_site_function(statement))

    @property
    def decorated_scope(self) -> str:
        """The key of the function that the block is all of, or ""."""
        return f"{self._site.file}:{self._function}" if self._site.form == "decorator" else ""

    def is_site_function(self, statement: Statement) -> bool:
        """Return whether a statement is in the same function as the block."""
        return statement.scope.file.file == self._site.file and statement.scope.name == self._function

    def is_lexical(self, statement: Statement) -> bool:
        """Return whether a statement is written in the block."""
        body = self._site.body
        # A function that is defined in the block may be called outside of it.
        return body is not None and body[0] <= statement.line <= body[1] and self.is_site_function(statement)

    def _find_region(self) -> list[Statement]:
        found = {
            id(each): each for each in self._program.statements if self.is_lexical(each) or self._runs_in_mode(each)
        }
        if self._site.body is None:  # a line that did not run may be in the block or not
            unrun = [s for s in self._program.statements if self.is_site_function(s) and not self.ran[id(s)]]
            found.update({id(each): each for each in unrun if each.scope.function is not None})
        return list(found.values())

    def _runs_in_mode(self, statement: Statement) -> bool:
        modes = self._coverage.modes(statement)
        own_mode = any(manager == "inference_mode" for manager in statement.modes)
        return not own_mode and any(mode & INFERENCE for mode in modes)
