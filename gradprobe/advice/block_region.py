"""The statements of a block: those written in it, those it calls, and those it may call on lines that did not run."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator

from gradprobe.advice.line_trace import INFERENCE
from gradprobe.advice.manager_sites import Site
from gradprobe.advice.plain_values import called_name
from gradprobe.advice.program_model import Coverage, ProgramModel, Scope, Statement
from gradprobe.advice.tensor_names import ALIASING, HARMLESS_METHODS

_BUILTINS = frozenset(dir(builtins))
_METHODS = frozenset(
    (*dir(str), *dir(list), *dir(dict), *dir(set), "step", "zero_grad", "backward", "parameters", "mean")
)


class BlockRegion:
    """Region of a site.

    Args:
        program: The program.
        coverage: The lines that ran, in the run with the site under inference mode.
        site: The site.
    """

    def __init__(self, program: ProgramModel, coverage: Coverage, site: Site) -> None:
        self._program, self._coverage, self._site = program, coverage, site
        self.ran = {id(each): coverage.has_run(each) for each in program.statements}
        """True for each statement that ran, by its identity."""
        self.statements = self._find_region()
        self._outside_scopes = self._find_outside_scopes()

    def is_site_scope(self, statement: Statement) -> bool:
        """Return whether a statement is in the function of the site, whose results and variables leave the block."""
        return self.is_lexical(statement) or (self._site.body is None and statement.scope.name == self._site.function)

    def is_lexical(self, statement: Statement) -> bool:
        """Return whether a statement is written in the block."""
        body = self._site.body
        return (
            body is not None and statement.scope.file.file == self._site.file and body[0] <= statement.line <= body[1]
        )

    def is_met_outside(self, statement: Statement) -> bool:
        """Return whether a statement of a function that the block calls may also run outside of the block."""
        return not self.is_lexical(statement) and id(statement.scope) in self._outside_scopes

    def list_called(self, statement: Statement) -> Iterator[Scope]:
        """Yield the functions of the program that a statement may call."""
        for expression in statement.expressions:
            for part in ast.walk(expression):
                if isinstance(part, ast.Call):
                    yield from self._flow_free_callees(part, statement.scope)

    def _find_outside_scopes(self) -> set[int]:
        """Return the functions that statements outside of the block may call, directly or not."""
        found: set[int] = set()
        functions = {id(each.scope) for each in self.statements if each.scope.function is not None}
        waiting = [
            each
            for each in self._program.statements
            if not self.is_lexical(each) and (id(each.scope) not in functions or self._is_before_block(each))
        ]
        while waiting:
            for callee in self.list_called(waiting.pop()):
                if id(callee) not in found:
                    found.add(id(callee))
                    waiting += [s for s in self._program.statements if s.scope is callee and not self.is_lexical(s)]
        return found

    def _find_region(self) -> list[Statement]:
        """Return the statements of the block: written in it, run in it, or called from those of it that did not run."""
        seen_inside = [each for each in self._program.statements if self._runs_in_mode(each)]
        functions = {id(each.scope) for each in seen_inside if each.scope.function is not None}
        region = {id(each): each for each in self._program.statements if self.is_lexical(each)}
        region.update({id(each): each for each in seen_inside})
        for each in self._program.statements:
            if id(each.scope) in functions and not self.ran[id(each)] and not self._is_before_block(each):
                region.setdefault(id(each), each)
        waiting = [each for each in region.values() if not self.ran[id(each)]]
        while waiting:
            statement = waiting.pop()
            for callee in self.list_called(statement):
                for each in self._program.statements:
                    if each.scope is callee and id(each) not in region and not self.ran[id(each)]:
                        region[id(each)] = each
                        waiting.append(each)
        return list(region.values())

    def _is_before_block(self, statement: Statement) -> bool:
        """Return whether a statement is in the function of a ``with`` block but outside of the block."""
        return (
            self._site.form == "with"
            and statement.scope.file.file == self._site.file
            and statement.scope.name == self._site.function
            and not self.is_lexical(statement)
        )

    def _runs_in_mode(self, statement: Statement) -> bool:
        modes = self._coverage.modes(statement)
        own_mode = any(manager == "inference_mode" for manager in statement.modes)
        return not own_mode and any(mode & INFERENCE for mode in modes)

    def _flow_free_callees(self, call: ast.Call, scope: Scope) -> Iterator[Scope]:
        name = called_name(call)
        yield from self._program.by_name.get(name, ())
        if isinstance(call.func, ast.Name) and (name in _BUILTINS or name in self._program.classes):
            return
        if isinstance(call.func, ast.Attribute) and (name in _METHODS or name in HARMLESS_METHODS or name in ALIASING):
            return
        for special in ("forward", "__call__"):
            # The class of what is called is not known: it may be any of the program's.
            if name and name not in self._program.by_name and not _is_of_library(call, scope):
                yield from self._program.by_name.get(special, ())


def _is_of_library(call: ast.Call, scope: Scope) -> bool:
    dotted = scope.file.names.resolve(call.func) or ""
    return "." in dotted and dotted.partition(".")[0] in (
        "torch",
        "numpy",
        "math",
        "os",
        "sys",
        "logging",
        "time",
        "json",
    )
