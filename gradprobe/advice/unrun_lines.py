"""Lines that did not run and could meet what a block leaves, or need gradients inside of it.

A run shows nothing about them, so a swap that only they could break is unproven. Lines that cannot break it, such as those
that raise, print, or read numbers, do not count.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from gradprobe.advice.block_region import BlockRegion
from gradprobe.advice.call_targets import CallTargets
from gradprobe.advice.called_names import called_name
from gradprobe.advice.dangerous_uses import DangerousUses, is_protected
from gradprobe.advice.manager_sites import Site
from gradprobe.advice.program_model import Coverage, Key, ProgramModel, Scope, Statement, walk_own
from gradprobe.advice.tensor_flow import TensorFlow
from gradprobe.advice.tensor_names import NEEDS_GRAD
from gradprobe.advice.value_kinds import PLAIN, is_of_block

_MOST_LINES = 100


@dataclass(frozen=True)
class UnrunLine:
    """A line that did not run, and what it would do."""

    file: str
    line: int
    role: str


def find_unrun_lines(program: ProgramModel, coverage: Coverage, site: Site) -> list[UnrunLine]:
    """Return the lines that leave it open whether a site may be exchanged.

    Args:
        program: The program.
        coverage: The lines that ran, in the run with the site under inference mode.
        site: The site.
    """
    return _Search(program, coverage, site).find()


class _Search:
    def __init__(self, program: ProgramModel, coverage: Coverage, site: Site) -> None:
        self._program, self._coverage, self._site = program, coverage, site
        self._region = region = BlockRegion(program, coverage, site)
        self._flow = TensorFlow(program, region)
        self._uses = DangerousUses(program, self._flow)
        self._targets: CallTargets = program.share(CallTargets)

    @cached_property
    def _seen(self) -> TensorFlow:
        """The flow of what ran."""
        unrun = [part for each in self._program.statements for part in self._coverage.list_unrun_parts(each)]
        return TensorFlow(self._program, self._region, lambda each: self._region.ran[id(each)], unrun)

    def find(self) -> list[UnrunLine]:
        found = [*self._find_inside(), *self._find_outside(), *self._find_new_contexts()]
        if not self._flow.is_complete:
            found.append(UnrunLine(self._site.file, self._site.line, "leads to more code than was looked at"))
        lines = list({(each.file, each.line): each for each in reversed(found)}.values())[::-1]
        return sorted(lines, key=lambda each: each.file != self._site.file)[:_MOST_LINES]

    def _is_in_block(self, statement: Statement) -> bool:
        return self._flow.point(statement).is_inside or self._flow.has_reached(statement.scope, is_inside=True)

    def _is_outside(self, statement: Statement) -> bool:
        is_reached = self._flow.has_reached(statement.scope, is_inside=False)
        return is_reached and not self._flow.point(statement).is_inside

    def _find_inside(self) -> Iterator[UnrunLine]:
        for statement in self._program.statements:
            if not self._is_in_block(statement) or isinstance(statement.node, ast.Raise):
                continue
            unrun = [] if self._region.ran[id(statement)] else list(statement.expressions)
            unrun = unrun or list(self._coverage.list_unrun_parts(statement))
            for expression in unrun:
                for part in walk_own(expression):
                    role = self._judge_inside(part, statement)
                    if role:
                        yield self._line(statement, part, role)

    def _judge_inside(self, part: ast.AST, statement: Statement) -> str:
        if isinstance(part, ast.Attribute) and part.attr == "_version":
            return "did not run; would read a version counter in the block"
        if not isinstance(part, ast.Call):
            return ""
        name = called_name(part)
        is_named = name in NEEDS_GRAD and not (name == "set_grad_enabled" and "False" in ast.unparse(part))
        root = statement.scope.file.names.resolve(part.func) or ""
        if root.endswith(("no_grad", "inference_mode")):
            return ""
        if is_named or root.startswith(("torch.func.", "torch.autograd.", "functorch.")):
            return "did not run; would need gradients in the block"
        return ""

    def _find_outside(self) -> Iterator[UnrunLine]:
        for statement in self._program.statements:
            if not self._is_outside(statement):
                continue
            if not self._region.ran[id(statement)]:
                for node, what in self._uses.list_dangers(statement, statement.expressions):
                    yield self._line(statement, node, f"did not run; would {what}")
                continue
            for part in self._coverage.list_unrun_parts(statement):
                for node, what in self._uses.list_dangers(statement, [part]):
                    yield self._line(statement, node, f"did not run; would {what}")
            for node, what in self._uses.list_open_dangers(statement):
                yield self._line(statement, node, f"did something else in this run; may {what}")
            if not self._coverage.has_run_after_block(statement):
                for node, what in self._uses.list_dangers(statement, statement.expressions):
                    yield self._line(statement, node, f"ran only before the block; would {what}")
                continue
            dangers = list(self._uses.list_dangers(statement, statement.expressions))
            seen = self._list_seen(statement) if dangers else set()
            for node, what in dangers:
                if id(node) not in seen:
                    origin = self._find_unrun_origin(node, statement)
                    if origin is not None:
                        yield self._line(origin, origin.node, "did not run; would bring a tensor to another line")
                    yield self._line(statement, node, f"would {what} that a line which did not run brings there")

    def _list_seen(self, statement: Statement) -> set[int]:
        """Return the uses of a statement that were seen to do no harm, by the identity of their nodes."""
        uses = DangerousUses(self._program, self._seen)
        return {id(node) for node, _ in uses.list_dangers(statement, statement.expressions)}

    def _find_unrun_origin(
        self, node: ast.AST, statement: Statement, seen: frozenset[Key] = frozenset()
    ) -> Statement | None:
        """Return the line that did not run and gives a name in ``node`` its tensor."""
        for part in walk_own(node):
            keys: list[Key] = []
            if isinstance(part, ast.Name):
                kind, owner, name = statement.scope.resolve(part.id)
                keys = [(kind, owner, name), (kind, f"{owner}#in", name)]
            elif isinstance(part, ast.Attribute):
                keys = [("attribute", "", part.attr)]
            elif isinstance(part, ast.Call):
                callees = self._flow.list_callees(part, statement)
                keys = [("result", callee.key + inside, "") for callee in callees for inside in ("", "#in")]
            for key in keys:
                origin = self._flow.origins.get(key)
                if origin is None or key in seen or is_of_block(self._seen.places.get(key, PLAIN)):
                    continue
                if not self._region.ran[id(origin)]:
                    return origin
                for expression in origin.expressions:
                    found = self._find_unrun_origin(expression, origin, seen | {key})
                    if found is not None:
                        return found
        return None

    def _find_new_contexts(self) -> Iterator[UnrunLine]:
        """Yield unrun calls of functions whose lines use the block's tensors and ran, if only without autograd."""
        risky: dict[int, tuple[Statement, tuple[ast.AST, str]]] = {}
        for statement in self._program.statements:
            if not self._is_outside(statement) or not self._region.ran[id(statement)] or is_protected(statement):
                continue
            dangers = list(self._uses.list_dangers(statement, statement.expressions))
            if dangers and statement.scope.arguments is not None:
                risky.setdefault(id(statement.scope), (statement, dangers[0]))
        if not risky:
            return
        for statement in self._program.statements:
            if not self._is_outside(statement) or self._region.ran[id(statement)] or is_protected(statement):
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
            for callee in self._list_called(waiting.pop()):
                if id(callee) in risky:
                    return risky[id(callee)]
                if id(callee) not in seen:
                    seen.add(id(callee))
                    waiting += [s for s in self._program.statements if s.scope is callee and not is_protected(s)]
        return None

    def _list_called(self, statement: Statement) -> Iterator[Scope]:
        for part in statement.parts:
            if isinstance(part, ast.Call):
                yield from self._flow.list_callees(part, statement)

    def _line(self, statement: Statement, node: ast.AST, role: str) -> UnrunLine:
        line = getattr(node, "lineno", statement.line)
        return UnrunLine(statement.scope.file.file, line, role)
