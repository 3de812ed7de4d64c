"""Lines that did not run and could meet what a block leaves, or need gradients inside of it.

A run shows nothing about them, so a swap that only they could break is unproven. Lines that cannot break it, such as those
that raise, print, or read numbers, do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradprobe.advice.block_region import BlockRegion
from gradprobe.advice.dangerous_uses import DangerousUses, is_protected
from gradprobe.advice.manager_sites import Site
from gradprobe.advice.plain_values import called_name
from gradprobe.advice.program_model import Coverage, Key, ProgramModel, Statement
from gradprobe.advice.tensor_flow import TensorFlow
from gradprobe.advice.tensor_names import NEEDS_GRAD


@dataclass(frozen=True)
class UnrunLine:
    """A line that did not run, and what it would do."""

    file: str
    line: int
    role: str


def find_unrun_lines(
    program: ProgramModel, coverage: Coverage, site: Site, lines_with_nodes: frozenset[tuple[str, int]] = frozenset()
) -> list[UnrunLine]:
    """Return the lines that leave it open whether a site may be exchanged.

    Args:
        program: The program.
        coverage: The lines that ran, in the run with the site under inference mode.
        site: The site.
        lines_with_nodes: Lines that built autograd nodes in that run: what they did with the block's tensors has been seen.
    """
    return _Search(program, coverage, site, lines_with_nodes).find()


class _Search:
    def __init__(
        self, program: ProgramModel, coverage: Coverage, site: Site, lines_with_nodes: frozenset[tuple[str, int]]
    ) -> None:
        self._program, self._coverage, self._site = program, coverage, site
        self._with_nodes = lines_with_nodes
        self._region = region = BlockRegion(program, coverage, site)
        ran_in_block = [each for each in region.statements if region.ran[id(each)]]
        self._proven = TensorFlow(program, ran_in_block, region.is_site_scope)
        self._flow = TensorFlow(program, region.statements, region.is_site_scope)
        self._proven_uses = DangerousUses(program, self._proven)
        self._uses = DangerousUses(program, self._flow)
        self._inside = {id(each) for each in region.statements if not region.is_met_outside(each)}

    def find(self) -> list[UnrunLine]:
        found = [*self._find_inside(), *self._find_outside(), *self._find_new_contexts()]
        return list({(each.file, each.line): each for each in reversed(found)}.values())[::-1]

    def _find_inside(self) -> Iterator[UnrunLine]:
        for statement in self._region.statements:
            unrun = [] if self._region.ran[id(statement)] else list(statement.expressions)
            unrun = unrun or list(self._coverage.list_unrun_parts(statement))
            if isinstance(statement.node, ast.Raise):
                continue
            for expression in unrun:
                for part in ast.walk(expression):
                    name = called_name(part) if isinstance(part, ast.Call) else ""
                    is_named = name in NEEDS_GRAD and not (name == "set_grad_enabled" and "False" in ast.unparse(part))
                    root = statement.scope.file.names.resolve(part.func) if isinstance(part, ast.Call) else None
                    if is_named or (root or "").startswith(("torch.func.", "torch.autograd.", "functorch.")):
                        if (root or "").endswith(("no_grad", "inference_mode")):
                            continue
                        yield self._line(statement, part, "did not run; would need gradients in the block")
                    elif isinstance(part, ast.Attribute) and part.attr == "_version":
                        yield self._line(statement, part, "did not run; would read a version counter in the block")

    def _find_outside(self) -> Iterator[UnrunLine]:
        for statement in self._program.statements:
            if id(statement) in self._inside:
                continue
            if not self._region.ran[id(statement)]:
                for node, what in self._uses.list_dangers(statement, statement.expressions):
                    yield self._line(statement, node, f"did not run; would {what}")
                continue
            for part in self._coverage.list_unrun_parts(statement):
                for node, what in self._uses.list_dangers(statement, [part]):
                    yield self._line(statement, node, f"did not run; would {what}")
            if not list(self._proven_uses.list_dangers(statement, statement.expressions)):
                for node, what in self._uses.list_dangers(statement, statement.expressions):
                    origin = self._find_unrun_origin(node, statement)
                    if origin is not None:
                        yield self._line(origin, origin.node, "did not run; would create what another line uses")
                        yield self._line(
                            statement, node, f"would {what} that the block creates on a line that did not run"
                        )

    def _find_unrun_origin(
        self, node: ast.AST, statement: Statement, seen: frozenset[Key] = frozenset()
    ) -> Statement | None:
        """Return the line of the block that did not run and gives a name in ``node`` its tensor."""
        for part in ast.walk(node):
            key = None
            if isinstance(part, ast.Name):
                key = statement.scope.resolve(part.id)
            elif isinstance(part, ast.Attribute):
                key = ("attribute", "", part.attr)
            if key is not None and self._flow.places.get(key) and not self._proven.places.get(key):
                origin = self._flow.origins.get(key)
                if origin is None or key in seen:
                    continue
                if not self._region.ran[id(origin)]:
                    return origin
                for expression in origin.expressions:
                    found = self._find_unrun_origin(expression, origin, seen | {key})
                    if found is not None:
                        return found
        return None

    def _find_new_contexts(self) -> Iterator[UnrunLine]:
        """Yield unrun calls of functions that use the block's tensors, on lines that never built a graph with them."""
        risky: dict[int, tuple[Statement, tuple[ast.AST, str]]] = {}
        for statement in self._program.statements:
            place = (statement.scope.file.file, statement.line)
            is_seen = any((place[0], line) in self._with_nodes for line in range(place[1], statement.last_line + 1))
            if (
                id(statement) in self._inside
                or not self._region.ran[id(statement)]
                or is_seen
                or is_protected(statement)
            ):
                continue
            dangers = list(self._uses.list_dangers(statement, statement.expressions))
            if dangers and statement.scope.function is not None:
                risky.setdefault(id(statement.scope), (statement, dangers[0]))
        if not risky:
            return
        for statement in self._program.statements:
            if id(statement) in self._inside or self._region.ran[id(statement)] or is_protected(statement):
                continue
            reached = self._find_reached(statement, risky)
            if reached is not None:
                used, (node, what) = reached
                yield self._line(
                    statement, statement.node, "did not run; leads to a line that uses the block's tensors"
                )
                yield self._line(used, node, f"would {what} if it were reached from there")

    def _find_reached(
        self, statement: Statement, risky: dict[int, tuple[Statement, tuple[ast.AST, str]]]
    ) -> tuple[Statement, tuple[ast.AST, str]] | None:
        seen: set[int] = set()
        waiting = [statement]
        while waiting:
            for callee in self._region.list_called(waiting.pop()):
                if id(callee) in risky:
                    return risky[id(callee)]
                if id(callee) not in seen:
                    seen.add(id(callee))
                    waiting += [s for s in self._program.statements if s.scope is callee and not is_protected(s)]
        return None

    def _line(self, statement: Statement, node: ast.AST, role: str) -> UnrunLine:
        line = getattr(node, "lineno", statement.line)
        return UnrunLine(statement.scope.file.file, line, role)
