"""Public functions of a library that give tensors of a block to callers which are not part of it.

What such callers do is unknown: nothing may be concluded from the callers that ran. A function that the library itself
calls is one of its parts, unless the package offers it by name.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cached_property

from gradprobe.advice.block_region import BlockRegion
from gradprobe.advice.called_names import called_name
from gradprobe.advice.manager_sites import Site
from gradprobe.advice.program_model import Coverage, ProgramModel, Scope, Statement
from gradprobe.advice.tensor_flow import TensorFlow
from gradprobe.advice.tensor_names import CONTAINER_WRITES
from gradprobe.advice.unrun_lines import UnrunLine
from gradprobe.advice.value_kinds import HOLDS, PLAIN, is_of_block

_COMMON = frozenset(name for kind in (dict, list, set, str, object) for name in dir(kind))
_RESULT, _ATTRIBUTE = "result", "attribute"


def find_escapes(
    program: ProgramModel, coverage: Coverage, site: Site, tensor_results: set[tuple[str, int]]
) -> list[UnrunLine]:
    """Return the lines by which tensors of a site reach callers that are not seen.

    Args:
        program: The program.
        coverage: The lines that ran.
        site: The site.
        tensor_results: File and first line of each function that was seen to return something with a tensor in it.
    """
    return list(_Search(program, coverage, site, tensor_results).find())


class _Search:
    def __init__(
        self, program: ProgramModel, coverage: Coverage, site: Site, tensor_results: set[tuple[str, int]]
    ) -> None:
        self._program, self._coverage, self._tensor_results = program, coverage, tensor_results
        self._region = BlockRegion(program, coverage, site)
        self._flow = TensorFlow.of_site(program, self._region)
        self._statements = [each for each in program.statements if not is_test_file(each.scope.file.file)]
        self._offered = {name for each in self._statements for name in _list_offered(each)}

    def find(self) -> Iterator[UnrunLine]:
        for statement in self._statements:
            function = statement.scope.function
            if function is None or not self._is_for_callers(statement.scope):
                continue
            if self._gives(statement):
                yield self._line(statement, f"returns a tensor of the block to any caller of {function.name}")
            elif self._is_put_into_argument(statement):
                yield self._line(statement, f"leaves a tensor of the block in an argument of {function.name}")
        for statement in self._region.statements:
            name = self._find_public_state(statement)
            if name and not is_test_file(statement.scope.file.file):
                yield self._line(statement, f"leaves a tensor of the block in {name}, which any code may use")

    def _gives(self, statement: Statement) -> bool:
        """Return whether a statement returns or yields what may be a tensor of the block."""
        scope = statement.scope
        if not is_of_block(self._flow.places.get((_RESULT, scope.key, ""), PLAIN)):
            return False
        values = [statement.node.value] if isinstance(statement.node, ast.Return) else []
        values += [
            p.value for e in statement.expressions for p in ast.walk(e) if isinstance(p, ast.Yield | ast.YieldFrom)
        ]
        if not any(is_of_block(self._flow.kind(value, statement)) for value in values):
            return False
        is_seen_plain = (
            self._coverage.has_run(statement)
            and (
                scope.file.file,
                _first_line(scope),
            )
            not in self._tensor_results
        )
        return not is_seen_plain

    def _is_put_into_argument(self, statement: Statement) -> bool:
        if not any(statement is each for each in self._region.statements):
            return False
        given = set(statement.scope.parameters) - {"self", "cls"}
        bases = [t.value for t in getattr(statement.node, "targets", ()) if isinstance(t, ast.Subscript)]
        for expression in statement.expressions:
            for part in ast.walk(expression):
                is_write = isinstance(part, ast.Call) and called_name(part) in CONTAINER_WRITES
                if is_write and isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute):
                    bases.append(part.func.value)
        return any(
            isinstance(base, ast.Name)
            and base.id in given
            and self._flow.places.get(statement.scope.resolve(base.id), PLAIN) & HOLDS
            for base in bases
        )

    def _find_public_state(self, statement: Statement) -> str:
        """Return the public attribute or the buffer that a statement of the block sets to one of its tensors."""
        targets = getattr(statement.node, "targets", None) or [getattr(statement.node, "target", None)]
        for target in targets:
            if (
                isinstance(target, ast.Attribute)
                and not target.attr.startswith("_")
                and not is_in_place(statement.node)
            ):
                if target.attr in ("data", "grad", "requires_grad"):
                    continue
                kind = self._flow.places.get((_ATTRIBUTE, "", target.attr), PLAIN)
                if is_of_block(kind) and self._is_public(statement.scope):
                    return f"attribute {target.attr}"
        for expression in statement.expressions:
            for part in ast.walk(expression):
                if isinstance(part, ast.Call) and called_name(part) in ("register_buffer", "register_parameter"):
                    return "the state of a module"
        return ""

    def _is_for_callers(self, scope: Scope) -> bool:
        """Return whether a function is there to be called by other code: public, and not a part of the library's own."""
        if not self._is_public(scope):
            return False
        names = {scope.name.partition(".")[0], scope.function.name if scope.function is not None else ""}
        return bool(names & self._offered) or not self._is_called(scope)

    def _is_public(self, scope: Scope) -> bool:
        parts = [part for part in scope.name.split(".") if not (part.startswith("__") and part.endswith("__"))]
        is_local = scope.parent is not None and scope.parent.function is not None
        return not is_local and not any(part.startswith("_") for part in parts)

    def _is_called(self, scope: Scope) -> bool:
        """Return whether a line of the library, and not of its tests, calls a function."""
        assert scope.function is not None
        name, owner = scope.function.name, scope.class_name
        is_special = name in _COMMON or (name.startswith("__") and name.endswith("__")) or name == "forward"
        callers = self._callers.get(owner if is_special and owner else name, ())
        return any(each is not scope for each in callers)

    @cached_property
    def _callers(self) -> dict[str, list[Scope]]:
        """The functions whose lines call something, by the last part of its name."""
        found: dict[str, list[Scope]] = {}
        for statement in self._statements:
            for part in (part for expression in statement.expressions for part in ast.walk(expression)):
                if isinstance(part, ast.Call):
                    found.setdefault(called_name(part), []).append(statement.scope)
        return found

    def _line(self, statement: Statement, role: str) -> UnrunLine:
        return UnrunLine(statement.scope.file.file, statement.line, role)


def is_test_file(file: str) -> bool:
    """Return whether a file is part of tests, by the names that test frameworks look for."""
    name = os.path.basename(file)
    folders = os.path.dirname(file).split(os.sep)
    is_in_tests = "tests" in folders[-2:] or folders[-1:] == ["test"]
    return name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py" or is_in_tests


def is_in_place(node: ast.stmt) -> bool:
    """Return whether a statement modifies what its target already is."""
    return isinstance(node, ast.AugAssign)


def _list_offered(statement: Statement) -> Iterator[str]:
    """Yield the names that a package offers: those in ``__all__``, and those that its ``__init__`` imports."""
    node = statement.node
    if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
        yield from (p.value for p in ast.walk(node.value) if isinstance(p, ast.Constant) and isinstance(p.value, str))
    is_package = os.path.basename(statement.scope.file.file) == "__init__.py" and statement.scope.parent is None
    if isinstance(node, ast.ImportFrom) and is_package:
        yield from (alias.asname or alias.name for alias in node.names)


def _first_line(scope: Scope) -> int:
    function = scope.function
    assert function is not None
    return min([function.lineno, *(each.lineno for each in function.decorator_list)])
