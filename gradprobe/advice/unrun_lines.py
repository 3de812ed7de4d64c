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
from gradprobe.advice.line_trace import GRAD
from gradprobe.advice.manager_sites import Site
from gradprobe.advice.program_model import Coverage, Key, ProgramModel, Scope, Statement, walk_own
from gradprobe.advice.tensor_flow import TensorFlow
from gradprobe.advice.tensor_names import NEEDS_GRAD
from gradprobe.advice.value_kinds import PLAIN, is_of_block

_MOST_LINES = 100
_Use = tuple[Statement, ast.AST, str]
"""A statement, the part of it that uses a tensor of the block, and what that would do."""


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
        self._flow = TensorFlow.of_site(program, region)
        self._uses = DangerousUses(program, self._flow)
        self._targets: CallTargets = program.share(CallTargets)
        self._dangers: dict[int, list[tuple[ast.AST, str]]] = {}
        self._called: dict[int, tuple[Scope, ...]] = {}
        self._outside: dict[int, bool] = {}

    @cached_property
    def _seen(self) -> TensorFlow:
        """The flow of what ran."""
        unrun = [part for each in self._program.statements for part in self._coverage.list_unrun_parts(each)]
        return TensorFlow(self._program, self._region, lambda each: self._region.ran[id(each)], unrun)

    @cached_property
    def _seen_uses(self) -> DangerousUses:
        return DangerousUses(self._program, self._seen)

    def find(self) -> list[UnrunLine]:
        found = [
            *self._find_inside(),
            *self._find_outside(),
            *self._find_new_contexts(),
            *self._find_conditional_contexts(),
        ]
        if not self._flow.is_complete:
            found.append(UnrunLine(self._site.file, self._site.line, "leads to more code than was looked at"))
        lines = list({(each.file, each.line): each for each in reversed(found)}.values())[::-1]
        return sorted(lines, key=lambda each: each.file != self._site.file)[:_MOST_LINES]

    def _is_in_block(self, statement: Statement) -> bool:
        return self._flow.point(statement).is_inside or self._flow.has_reached(statement.scope, is_inside=True)

    def _is_outside(self, statement: Statement) -> bool:
        if id(statement) not in self._outside:
            is_reached = self._flow.has_reached(statement.scope, is_inside=False)
            self._outside[id(statement)] = is_reached and not self._flow.point(statement).is_inside
        return self._outside[id(statement)]

    def _list_dangers(self, statement: Statement) -> list[tuple[ast.AST, str]]:
        """Return what all of a statement would do to the block's tensors."""
        if id(statement) not in self._dangers:
            self._dangers[id(statement)] = list(self._uses.list_dangers(statement, statement.expressions))
        return self._dangers[id(statement)]

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
        if name in ("is_inference", "is_inference_mode_enabled"):
            return "did not run; would ask for the mode in the block"
        if is_named or root.startswith(("torch.func.", "torch.autograd.", "functorch.")):
            return "did not run; would need gradients in the block"
        return ""

    def _find_outside(self) -> Iterator[UnrunLine]:
        for statement in self._program.statements:
            if not self._is_outside(statement):
                continue
            if not self._region.ran[id(statement)]:
                for node, what in self._list_dangers(statement):
                    yield self._line(statement, node, f"did not run; would {what}")
                continue
            for part in self._coverage.list_unrun_parts(statement):
                for node, what in self._uses.list_dangers(statement, [part]):
                    yield self._line(statement, node, f"did not run; would {what}")
            for node, what in self._uses.list_open_dangers(statement):
                yield self._line(statement, node, f"did something else in this run; may {what}")
            if not self._coverage.has_run_after_block(statement):
                for node, what in self._list_dangers(statement):
                    yield self._line(statement, node, f"ran only before the block; would {what}")
                continue
            dangers = self._list_dangers(statement)
            seen = self._list_seen(statement) if dangers else set()
            for node, what in dangers:
                if id(node) not in seen:
                    origin = self._find_unrun_origin(node, statement)
                    if origin is not None:
                        yield self._line(origin, origin.node, "did not run; would bring a tensor to another line")
                    yield self._line(statement, node, f"would {what} that a line which did not run brings there")

    def _list_seen(self, statement: Statement) -> set[int]:
        """Return the uses of a statement that were seen to do no harm, by the identity of their nodes."""
        return {id(node) for node, _ in self._seen_uses.list_dangers(statement, statement.expressions)}

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

    @cached_property
    def _risky(self) -> dict[int, list[_Use]]:
        """The functions with lines that use the block's tensors and ran, if only without autograd."""
        risky: dict[int, list[_Use]] = {}
        for statement in self._program.statements:
            if not self._is_outside(statement) or not self._region.ran[id(statement)] or is_protected(statement):
                continue
            dangers = self._list_dangers(statement)
            if dangers and statement.scope.arguments is not None:
                risky.setdefault(id(statement.scope), []).append((statement, *dangers[0]))
        return risky

    def _find_conditional_contexts(self) -> Iterator[UnrunLine]:
        """Yield uses that only ran without autograd because of a manager that need not disable it in another run."""
        for statement in self._program.statements:
            if not self._is_outside(statement) or is_protected(statement):
                continue
            modes = self._coverage.modes(statement)
            if not modes or any(mode & GRAD for mode in modes) or not self._is_in_conditional(statement):
                continue
            for node, what in self._list_dangers(statement):
                yield self._line(statement, node, f"ran without autograd only; may {what}")
            reached = self._find_reached(statement, self._risky) if self._risky else None
            if reached is not None:
                used, node, what = reached
                yield self._line(used, node, f"ran without autograd only; may {what}")

    def _is_in_conditional(self, statement: Statement) -> bool:
        """Return whether a statement is in a block that disabled autograd in this run, by a manager that decides itself."""
        parent = statement.parent
        while parent is not None:
            is_with = isinstance(parent.node, ast.With | ast.AsyncWith)
            if is_with and any(mode & GRAD for mode in self._coverage.modes(parent)):
                return not any(self._disables(item.context_expr, parent) for item in parent.node.items)  # type: ignore[attr-defined]
            parent = parent.parent
        return self._sets_mode_by_choice

    @cached_property
    def _sets_mode_by_choice(self) -> bool:
        """True if a line of the program disables autograd for all that follows, and need not run or do so."""
        for statement in self._program.statements:
            call = statement.node.value if isinstance(statement.node, ast.Expr) else None
            if isinstance(call, ast.Call) and called_name(call) == "set_grad_enabled":
                is_fixed = all(isinstance(each, ast.Constant) for each in call.args)
                if not is_fixed or statement.parent is not None or statement.scope.parent is not None:
                    return True
        return False

    def _disables(self, node: ast.expr, statement: Statement) -> bool:
        """Return whether a manager of the program disables autograd whatever it is given."""
        if not isinstance(node, ast.Call):
            return False
        callees = self._targets.find(node, statement.scope).scopes
        own = [each for callee in callees for each in self._program.list_own_statements(callee)]
        return any(is_protected(each) for each in own if any(isinstance(p, ast.Yield) for p in each.parts))

    def _find_new_contexts(self) -> Iterator[UnrunLine]:
        """Yield unrun calls of functions whose lines use the block's tensors and ran, if only without autograd."""
        risky = self._risky
        if not risky:
            return
        yield from self._find_other_targets()
        for statement in self._program.statements:
            if not self._is_outside(statement) or self._region.ran[id(statement)] or is_protected(statement):
                continue
            reached = self._find_reached(statement, risky)
            if reached is not None:
                used, node, what = reached
                yield self._line(
                    statement, statement.node, "did not run; leads to a line that uses the block's tensors"
                )
                yield self._line(used, node, f"would {what} if it were reached from there")

    def _find_other_targets(self) -> Iterator[UnrunLine]:
        """Yield uses that only ran without autograd in a function that a line with autograd calls as well."""
        for statement in self._program.statements:
            modes = self._coverage.modes(statement)
            if not self._is_outside(statement) or is_protected(statement) or not any(mode & GRAD for mode in modes):
                continue
            unrun = {id(part) for each in self._coverage.list_unrun_parts(statement) for part in ast.walk(each)}
            for call in (part for part in statement.parts if isinstance(part, ast.Call)):
                if id(call) not in unrun and not self._uses.is_met(call, statement):
                    continue
                for callee in self._flow.list_callees(call, statement):
                    for used, node, what in self._risky.get(id(callee), ()):
                        if not any(mode & GRAD for mode in self._coverage.modes(used)):
                            yield self._line(used, node, f"ran without autograd only; may {what}")

    def _find_reached(self, statement: Statement, risky: dict[int, list[_Use]]) -> _Use | None:
        seen: set[int] = set()
        waiting = [statement]
        while waiting:
            for callee in self._list_called(waiting.pop()):
                if id(callee) in risky:
                    return risky[id(callee)][0]
                if id(callee) not in seen:
                    seen.add(id(callee))
                    waiting += [each for each in self._program.list_own_statements(callee) if not is_protected(each)]
        return None

    def _list_called(self, statement: Statement) -> tuple[Scope, ...]:
        if id(statement) not in self._called:
            calls = [part for part in statement.parts if isinstance(part, ast.Call)]
            self._called[id(statement)] = tuple(e for call in calls for e in self._flow.list_callees(call, statement))
        return self._called[id(statement)]

    def _line(self, statement: Statement, node: ast.AST, role: str) -> UnrunLine:
        line = getattr(node, "lineno", statement.line)
        return UnrunLine(statement.scope.file.file, line, role)
