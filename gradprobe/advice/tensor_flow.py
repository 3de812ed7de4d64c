"""Flow of the tensors of a block through the source: which variables, attributes, containers and results may have them.

An attribute is its name, whichever object it is of. A function is looked at twice: as the block calls it, where it creates
tensors of the block, and as other lines call it. What is put into a container reaches all names that it may have.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable

from gradprobe.advice.argument_uses import CallEffects
from gradprobe.advice.block_region import BlockRegion
from gradprobe.advice.call_targets import CallTargets, Target
from gradprobe.advice.evaluation_points import Point
from gradprobe.advice.expression_kinds import OPERATORS, ExpressionKinds
from gradprobe.advice.flow_places import INSIDE, FlowPlaces, list_defaults
from gradprobe.advice.manager_sites import Site
from gradprobe.advice.passed_arguments import list_captured, list_matched_attributes
from gradprobe.advice.program_model import TRIES, FunctionNode, Key, ProgramModel, Scope, Statement
from gradprobe.advice.value_bindings import ValueBindings
from gradprobe.advice.value_kinds import HOLDS, IS, OTHER, PLAIN, is_of_block

_COMPARISONS = {
    ast.Eq: "__eq__",
    ast.NotEq: "__ne__",
    ast.Lt: "__lt__",
    ast.LtE: "__le__",
    ast.Gt: "__gt__",
    ast.GtE: "__ge__",
}
_REFLECTED = {"__lt__": "__gt__", "__gt__": "__lt__", "__le__": "__ge__", "__ge__": "__le__"}
_EFFECTIVE = (
    ast.NamedExpr,
    ast.Yield,
    ast.YieldFrom,
    ast.comprehension,
    ast.withitem,
    ast.BinOp,
    ast.Compare,
    ast.Subscript,
    ast.Call,
    ast.Lambda,
)
_MAX_STEPS = 400_000


class TensorFlow:
    """Flow of the tensors that a block creates.

    Args:
        program: The program.
        region: The statements of the block.
        is_considered: Whether a statement counts; None if all do.
        skipped: Parts of expressions that do not count.
    """

    def __init__(
        self,
        program: ProgramModel,
        region: BlockRegion,
        is_considered: Callable[[Statement], bool] | None = None,
        skipped: Iterable[ast.AST] = (),
    ) -> None:
        lexical = {id(each): each for each in region.statements if region.is_site_scope(each)}
        parts = {id(node) for node in skipped}
        if is_considered is None and not parts:
            places = program.share(_OutsideFlow).places.copy(region.decorated_scope)
        else:
            places = FlowPlaces(program, is_considered or _always, parts, region.decorated_scope)
        self._run = run = _FlowRun(program, places, set(lexical))
        inside = {id(s.scope) for s in region.statements if not region.is_site_function(s) and region.ran[id(s)]}
        run.begin(inside)
        for site in (each for file in program.files.values() for each in file.sites):
            for statement in _list_covered(program, site):
                places.wait_for_reached(statement)
        for statement in lexical.values():
            places.wait_for_reached(statement)
        run.run()
        places.open_unreached()
        self.is_complete = run.run()
        self._places, self._kinds, self._targets = places, run.kinds, program.share(CallTargets)

    @classmethod
    def of_site(cls, program: ProgramModel, region: BlockRegion) -> TensorFlow:
        """Return the flow of all statements, which is searched for once for each block."""
        known: _FlowsOfSites = program.share(_FlowsOfSites)
        if known.key != region.key:
            known.key, known.flow = region.key, cls(program, region)
        assert known.flow is not None
        return known.flow

    @property
    def places(self) -> dict[Key, int]:
        """Kind of what each place has."""
        return self._places.kinds

    @property
    def origins(self) -> dict[Key, Statement]:
        """The first statement that gave a place a tensor of the block."""
        return self._places.origins

    @property
    def holds_in_modules(self) -> bool:
        """True if an attribute of what may be a module has one, which modules hand out with their state."""
        return is_of_block(self._places.read(("attributes", "module", "")))

    def has_reached(self, scope: Scope, *, is_inside: bool) -> bool:
        """Return whether a function may be called by the block, or by other lines."""
        return (id(scope), is_inside) in self._places.reached

    def point(self, statement: Statement) -> Point:
        """Return a statement as it is evaluated when the block does not call it."""
        return self._run.point(statement)

    def kind(self, node: ast.AST | None, statement: Statement) -> int:
        """Return the kind of an expression of a statement that the block does not call."""
        return self._kinds.kind(node, self.point(statement))

    def may_be_of_library(self, call: ast.Call, target: Target, at: Point) -> bool:
        """Return whether a method of a name that the program defines may be that of another object."""
        return self._kinds.calls.may_be_of_library(call, target, at)

    def list_callees(self, call: ast.Call, statement: Statement) -> list[Scope]:
        """Return the functions of the program that a call may reach."""
        target = self._targets.find(call, statement.scope)
        at = self.point(statement)
        pool = self._targets.taken if self._kinds.calls.calls_pool(call, at) else ()
        return [*target.scopes, *self._kinds.calls.find_called_values(call, at), *pool]


class _FlowRun:
    """One search for all that places get, statement by statement until nothing changes."""

    def __init__(self, program: ProgramModel, places: FlowPlaces, lexical: set[int]) -> None:
        self._program, self._places, self._lexical = program, places, lexical
        self.kinds = ExpressionKinds(program.share(CallTargets), places)
        self._bindings = ValueBindings(program, self.kinds, places)
        self._calls = CallEffects(program, self.kinds, places, self._bindings)

    def begin(self, inside: set[int]) -> None:
        """Reach the functions that may be called from outside, and those that were seen to be called by the block."""
        for scope in self._program.scopes:
            if scope.arguments is None or self._places.is_open(scope):
                self._places.reach(scope, is_inside=False)
            if id(scope) in inside:
                self._places.reach(scope, is_inside=True)

    def point(self, statement: Statement, *, is_called_inside: bool = False) -> Point:
        """Return a statement as it is evaluated."""
        return Point(statement, is_called_inside, is_called_inside or id(statement) in self._lexical)

    def run(self) -> bool:
        """Look at all waiting statements; return whether that came to an end."""
        for _ in range(_MAX_STEPS):
            if not self._places.waiting:
                break
            statement, is_inside = self._places.take_next()
            self.kinds.forget()
            self._places.reader = self.point(statement, is_called_inside=is_inside)
            self._follow(self._places.reader)
        self._places.reader = None
        self.kinds.forget()
        return not self._places.waiting

    def _follow(self, at: Point) -> None:
        node = at.statement.node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.asname:
                    kept = self._places.read(("variable", "global", alias.name))
                    self._places.add(("variable", "global", alias.asname), kept, at)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                self._bindings.assign(target, node.value, at)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            self._bindings.assign(node.target, node.value, at)
        elif isinstance(node, ast.AugAssign):
            self._follow_augmented(node, at)
        elif isinstance(node, ast.For | ast.AsyncFor):
            self._bindings.bind_iteration(node.target, node.iter, at)
        elif isinstance(node, ast.Match):
            kind = self.kinds.iterate(node.subject, at) | self.kinds.kind(node.subject, at)
            for attribute in list_matched_attributes(node, self._program.list_fields):
                kind |= self._places.read_attribute(attribute, is_inside=at.is_inside)
            for name in list_captured(node):
                self._places.add_all(self._places.list_variables(at, name), kind, at)
        elif isinstance(node, ast.Return) and node.value is not None:
            self._give(node.value, self.kinds.kind(node.value, at), at)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            given = getattr(node.exc, "args", [])
            kind = self.kinds.kind(ast.Tuple(list(given), ast.Load()), at) | self.kinds.kind(node.exc, at)
            self._places.add(("raised", "", ""), self._as_container(kind), at)
        elif isinstance(node, ast.ClassDef):
            for keyword in node.keywords:
                self._bindings.bind_operator("__init_subclass__", self.kinds.kind(keyword.value, at), at)
        elif isinstance(node, FunctionNode):
            self._give_defaults(self._program.inner_scopes.get(id(node)), at)
            for decorator in node.decorator_list:
                self._bindings.decorate(decorator, at)
        elif isinstance(node, TRIES):
            for handler in getattr(node, "handlers", ()):
                if handler.name:
                    self._places.add_all(
                        self._places.list_variables(at, handler.name), OTHER | self._places.read(("raised", "", "")), at
                    )
        for part in at.statement.parts:
            if isinstance(part, _EFFECTIVE) and not self._places.is_skipped(part):
                self._follow_part(part, at)

    def _follow_augmented(self, node: ast.AugAssign, at: Point) -> None:
        value, target = self.kinds.kind(node.value, at), self.kinds.kind(node.target, at)
        for start in ("i", "", "r"):
            side = target if start == "r" else value
            self._bindings.bind_operator(f"__{start}{OPERATORS[type(node.op)]}__", side, at)
        if isinstance(node.op, ast.Add | ast.BitOr) and value & HOLDS:
            self._bindings.change_contents(node.target, at)
        kind = (value | target) & ~IS if value or target else PLAIN
        if isinstance(node.target, ast.Name):
            # A number or a list becomes a new object; a tensor that exists before stays what it is.
            is_new = value & (IS | OTHER) and at.is_inside and not target & OTHER
            self._bindings.bind(node.target, kind | (IS if is_new or target & IS else PLAIN), at)
        elif isinstance(node.target, ast.Attribute | ast.Subscript):
            is_new = at.is_inside and value & (IS | OTHER) and not isinstance(node.target, ast.Subscript)
            self._bindings.bind(node.target, kind | (IS if is_new else PLAIN) if value else PLAIN, at)

    def _follow_part(self, part: ast.AST, at: Point) -> None:
        if isinstance(part, ast.NamedExpr):
            self._bindings.assign(part.target, part.value, at)
        elif isinstance(part, ast.Yield) and part.value is not None:
            self._give(part.value, self._as_container(self.kinds.kind(part.value, at)), at)
        elif isinstance(part, ast.YieldFrom):
            self._give(part.value, self.kinds.kind(part.value, at), at)
        elif isinstance(part, ast.comprehension):
            self._bindings.bind_iteration(part.target, part.iter, at)
        elif isinstance(part, ast.withitem) and part.optional_vars is not None:
            self._bindings.bind(part.optional_vars, self.kinds.enter(part.context_expr, at), at)
        elif isinstance(part, ast.BinOp):
            name = OPERATORS[type(part.op)]
            for side, method in ((part.right, f"__{name}__"), (part.left, f"__r{name}__")):
                self._bindings.bind_operator(method, self.kinds.kind(side, at), at)
        elif isinstance(part, ast.Compare):
            self._follow_comparison(part, at)
        elif isinstance(part, ast.Subscript):
            self._bindings.bind_index(part, at)
        elif isinstance(part, ast.Lambda):
            self._give_defaults(self._program.lambdas.get(id(part)), at)
        elif isinstance(part, ast.Call):
            self._calls.follow(part, at)

    def _follow_comparison(self, node: ast.Compare, at: Point) -> None:
        """Give the operands to the methods of the program that a comparison may call."""
        for left, op, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            if isinstance(op, ast.In | ast.NotIn):
                self._bindings.bind_operator("__contains__", self.kinds.kind(left, at), at)
            name = _COMPARISONS.get(type(op)) or "__eq__"
            if not isinstance(op, ast.Is | ast.IsNot):
                self._bindings.bind_operator(name, self.kinds.kind(right, at), at)
                self._bindings.bind_operator(_REFLECTED.get(name, name), self.kinds.kind(left, at), at)

    def _give_defaults(self, scope: Scope | None, at: Point) -> None:
        """Give the parameters of a function their defaults, which are evaluated where it is defined."""
        if scope is None:
            return
        for name, default in list_defaults(scope).items():
            kind = self.kinds.kind(default, at)
            for is_inside in (False, True):
                self._places.add(self._places.find_variable(scope, name, is_inside), kind, at)

    @staticmethod
    def _as_container(kind: int) -> int:
        return kind | (HOLDS if is_of_block(kind) else PLAIN)

    def _give(self, value: ast.AST, kind: int, at: Point) -> None:
        """Note what a function returns; a container that it returns may be filled later."""
        key = ("result", at.scope.key + (INSIDE if at.is_called_inside else ""), "")
        self._places.add(key, kind, at)
        if id(at.scope) in self._program.generators:  # what it returns at its end is in StopIteration
            self._places.add(("raised", "", ""), self._as_container(kind), at)
        if self._program.share(CallTargets).is_in_pool(at.scope):
            self._places.add(("pool", "result" + (INSIDE if at.is_called_inside else ""), ""), kind, at)
        for is_deep in (False, True):
            if self._places.is_any_changed([key], is_deep=is_deep):
                self._bindings.change_contents(value, at, is_deep=is_deep)


class _FlowsOfSites:
    """The last flow that was searched for, and what it is of: both searches of a site need the same."""

    def __init__(self, program: ProgramModel) -> None:
        self.key: object = None
        self.flow: TensorFlow | None = None


class _OutsideFlow:
    """Contents of places without the statements of any block: found once, the start of the search for each block."""

    def __init__(self, program: ProgramModel) -> None:
        covered = {
            id(statement)
            for file in program.files.values()
            for site in file.sites
            for statement in _list_covered(program, site)
        }
        self.places = FlowPlaces(program, lambda statement: id(statement) not in covered, set(), "")
        run = _FlowRun(program, self.places, set())
        run.begin(set())
        run.run()


def _list_covered(program: ProgramModel, site: Site) -> list[Statement]:
    """Return the statements that are in the block of a site, or may be, if its lines are not known."""
    body = site.body
    return [
        each
        for each in program.list_statements(site.file)
        if (each.scope.name == site.function if body is None else body[0] <= each.line <= body[1])
    ]


def _always(statement: Statement) -> bool:
    return True
