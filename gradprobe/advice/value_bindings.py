"""Effects of assignments: what variables, attributes and containers get, under all names that these may have."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradprobe.advice.call_targets import CallTargets, is_property
from gradprobe.advice.called_names import called_name
from gradprobe.advice.evaluation_points import Point
from gradprobe.advice.expression_kinds import ExpressionKinds, list_elements
from gradprobe.advice.flow_places import INSIDE, FlowPlaces, list_defaults
from gradprobe.advice.local_definitions import LocalDefinitions
from gradprobe.advice.passed_arguments import ANY
from gradprobe.advice.program_model import Key, ProgramModel, Scope
from gradprobe.advice.tensor_names import CONTAINER_READS, PASSING
from gradprobe.advice.value_kinds import (
    ANY_OF_BLOCK,
    CARRIED,
    FUNCTION,
    HOLDS,
    NEW,
    OBJECT,
    OF_BLOCK,
    OTHER,
    PLAIN,
    get_element,
    is_of_block,
)


class ValueBindings:
    """Effects of assignments.

    Args:
        program: The program.
        kinds: Reads the kinds of expressions.
        places: Takes what places get.
    """

    def __init__(self, program: ProgramModel, kinds: ExpressionKinds, places: FlowPlaces) -> None:
        self._program, self._kinds, self._places = program, kinds, places
        self._targets: CallTargets = program.share(CallTargets)
        self._definitions: LocalDefinitions = program.share(LocalDefinitions)

    def bind_operator(self, method: str, kind: int, at: Point) -> None:
        """Give the operand of an operator to the methods of the program that are called for it."""
        if is_of_block(kind):
            for callee in self._program.by_name.get(method, ()):
                self._places.reach(callee, is_inside=at.is_inside)
                for name in callee.parameters[1:]:
                    self._places.add(self._places.find_variable(callee, name, at.is_inside), kind, at)

    def decorate(self, decorator: ast.expr, at: Point) -> None:
        """Give a function to what it is decorated with, which may keep it."""
        for callee in self._targets.find_function(decorator, at.scope):
            self.pass_to(callee, [name for name in callee.all_parameters if name not in ("self", "cls")], FUNCTION, at)

    def bind_index(self, node: ast.Subscript, at: Point) -> None:
        """Give an index to the methods of the program that are called for it, or keep it as the key of a container."""
        kind = self._kinds.kind(node.slice, at)
        if not is_of_block(kind):
            return
        for method in ("__getitem__", "__setitem__", "__missing__", "__class_getitem__"):
            self.bind_operator(method, kind, at)
        if isinstance(node.ctx, ast.Store):
            self.change_contents(node.value, at)
            self._places.add(("keys", "", ""), kind, at)

    def assign(self, target: ast.AST, value: ast.AST, at: Point) -> None:
        """Note an assignment of the value of an expression."""
        if (
            isinstance(target, ast.Tuple | ast.List)
            and isinstance(value, ast.Tuple | ast.List)
            and len(target.elts) == len(value.elts)
            and not any(isinstance(each, ast.Starred) for each in (*target.elts, *value.elts))
        ):
            for each, part in zip(target.elts, value.elts, strict=True):
                self.assign(each, part, at)
            return
        self.bind(target, self._kinds.kind(value, at), at)
        for is_deep in (False, True):
            if self.is_changed(target, at, is_deep=is_deep):
                is_part = isinstance(target, ast.Tuple | ast.List)
                self.change_contents(value, at, is_deep=is_deep or is_part)
        if isinstance(target, ast.Subscript) and self.is_changed(target.value, at, is_deep=True):
            self.change_contents(value, at)

    def bind_iteration(self, target: ast.AST, source: ast.expr, at: Point) -> None:
        """Give the target of a loop what its iterable gives."""
        called = called_name(source) if isinstance(source, ast.Call) else ""
        parts = target.elts if isinstance(target, ast.Tuple | ast.List) else []
        given = source.args if isinstance(source, ast.Call) else []
        if called == "enumerate" and len(parts) == 2 and given and isinstance(source, ast.Call):
            self.bind(parts[0], PLAIN, at)
            self.bind_iteration(parts[1], given[0], at)
        elif called == "zip" and len(parts) == len(given) and not any(isinstance(g, ast.Starred) for g in given):
            for part, each in zip(parts, given, strict=True):
                self.bind_iteration(part, each, at)
        elif called == "items" and len(parts) == 2 and isinstance(source, ast.Call):
            kind = self._kinds.iterate(source, at)
            self.bind(parts[0], kind & OTHER | self._places.read(("keys", "", "")), at)
            self.bind(parts[1], kind, at)
        else:
            self.bind(target, self._kinds.iterate(source, at), at)
        if any(self.is_changed(target, at, is_deep=each) for each in (False, True)):
            self.change_contents(source, at, is_deep=True)

    def bind(self, target: ast.AST, kind: int, at: Point) -> None:
        """Give a target of an assignment what it is assigned."""
        if isinstance(target, ast.Name):
            self._places.add_all(self._places.list_variables(at, target.id), kind, at)
            self._places.add(self._places.find_definition(at.statement, target.id, at.is_called_inside), kind, at)
            if isinstance(at.scope.node, ast.ClassDef):
                self.add_attribute(target.id, kind, at)
        elif isinstance(target, ast.Attribute):
            self._bind_attribute(target, kind, at)
        elif isinstance(target, ast.Subscript):
            self.bind_operator("__setitem__", kind, at)
            if is_of_block(kind) or kind & CARRIED:
                self.change_contents(target.value, at, kind)
        elif isinstance(target, ast.Tuple | ast.List):
            for each in target.elts:
                inner = get_element(kind, at.is_inside) | kind & OBJECT
                self.bind(each, inner | (kind & HOLDS if isinstance(each, ast.Starred) else PLAIN), at)
        elif isinstance(target, ast.Starred):
            self.bind(target.value, kind | (HOLDS if is_of_block(kind) else PLAIN), at)

    def _bind_attribute(self, target: ast.Attribute, kind: int, at: Point) -> None:
        if target.attr != "data":
            self.add_attribute(target.attr, kind, at, target.value)
        if target.attr == "__dict__" and is_of_block(kind):
            self.add_attribute(ANY, OF_BLOCK, at)
        is_parameter = target.attr == "data" or target.attr.startswith(("weight", "bias", "in_proj"))
        if is_parameter and at.is_inside and is_of_block(kind):
            self._places.add(("converted", "", ""), ANY_OF_BLOCK, at)
        for callee in (*self._program.by_name.get(target.attr, ()), *self._program.by_name.get("__set__", ())):
            if is_property(callee) or callee.name.endswith("__set__"):
                self.pass_to(callee, callee.parameters[-1:], kind, at)
        self.bind_operator("__setattr__", kind, at)
        if self._targets.modules.names_module(target.value, at.scope):
            self._places.add(("variable", "global", target.attr), kind, at)

    def add_attribute(self, name: str, kind: int, at: Point, base: ast.AST | None = None) -> None:
        """Note what an attribute gets; an object that only the block has takes it along when it ends."""
        owner = at.scope.class_name
        if self._is_of_new_object(base, at):
            if is_of_block(kind):
                self._places.add_owner(name, owner)
            self._places.add(("attribute", owner, name), kind & ~NEW, at)
            if not self._places.lives_on(owner):
                return
        self._places.add(("attribute", "", name), kind, at)
        if is_of_block(kind):
            self._places.add(("attributes", "", ""), kind, at)
            is_own = base is None or (isinstance(base, ast.Name) and base.id in ("self", "cls"))
            if not owner or not is_own or self._targets.families.has_foreign_base(owner):
                self._places.add(("attributes", "module", ""), kind, at)
                self._places.add(("attributes", "parameter", ""), kind & HOLDS, at)

    def _is_of_new_object(self, base: ast.AST | None, at: Point) -> bool:
        """Return whether an attribute is that of an object which may end with the block, as far as its class shows."""
        is_own = isinstance(base, ast.Name) and base.id == "self" and at.is_called_inside
        return is_own and at.scope.class_name in self._targets.only_made

    def pass_to(self, callee: Scope, parameters: Sequence[str], kind: int, at: Point) -> None:
        """Note what parameters of a function get by a call."""
        self._places.reach(callee, is_inside=at.is_inside)
        for parameter in parameters:
            self._places.add(self._places.find_variable(callee, parameter, at.is_inside), kind, at)

    def is_changed(self, node: ast.AST, at: Point, *, is_deep: bool) -> bool:
        """Return whether what an expression names gets tensors of the block elsewhere, or its elements do."""
        if isinstance(node, ast.Tuple | ast.List):
            return any(self.is_changed(each, at, is_deep=is_deep) for each in node.elts)
        return self._places.is_any_changed(self._list_keys(node, at), is_deep=is_deep)

    def _list_keys(self, node: ast.AST, at: Point) -> set[Key]:
        if isinstance(node, ast.Starred):
            return self._list_keys(node.value, at)
        if isinstance(node, ast.Name):
            keys = set(self._places.list_variables(at, node.id))
            if at.scope.arguments is not None and node.id in list_defaults(at.scope):  # one object for all calls
                keys |= {self._places.find_variable(at.scope, node.id, each) for each in (False, True)}
            return keys
        if isinstance(node, ast.Attribute):
            return {("attribute", "", node.attr)}
        return set()

    def change_contents(self, node: ast.AST, at: Point, kind: int = HOLDS, *, is_deep: bool = False) -> None:
        """Note that what an expression gives gets a tensor of the block; all places that it may come from have it.

        Args:
            node: The expression.
            at: Where it is.
            kind: What is put in.
            is_deep: Whether the elements of a container get it.
        """
        kind = (HOLDS if is_of_block(kind) else PLAIN) | kind & CARRIED
        if isinstance(node, ast.Name) and self._places.names_function(node.id, at.scope.resolve(node.id)):
            return  # what a class keeps is in its attributes
        if isinstance(node, ast.Name | ast.Attribute):
            if isinstance(node, ast.Attribute) and node.attr == "__dict__":
                self.add_attribute(ANY, OF_BLOCK, at)
                return
            for key in self._list_keys(node, at):
                if isinstance(node, ast.Attribute):
                    self.add_attribute(key[2], kind, at, node.value)
                else:
                    self._places.add(key, kind, at)
                self._places.mark_changed(key, is_deep=is_deep)
            if isinstance(node, ast.Name):
                for definition in self._definitions.find(at.statement, node.id) or ():
                    self._places.add(self._places.find_definition(definition, node.id, at.is_called_inside), kind, at)
        elif isinstance(node, ast.Call):
            self._change_called(node, at, kind, is_deep=is_deep)
        elif isinstance(node, ast.Subscript):
            self.change_contents(node.value, at, kind, is_deep=True)
        elif isinstance(node, ast.Starred | ast.Await | ast.NamedExpr):
            self.change_contents(node.value, at, kind, is_deep=is_deep)
        elif isinstance(node, ast.IfExp | ast.BoolOp):
            for each in [node.body, node.orelse] if isinstance(node, ast.IfExp) else node.values:
                self.change_contents(each, at, kind, is_deep=is_deep)
        else:
            for element in list_elements(node):
                if element is not None and not isinstance(element, ast.Constant):
                    self.change_contents(element, at, kind)

    def _change_called(self, call: ast.Call, at: Point, kind: int, *, is_deep: bool) -> None:
        target, name = self._targets.find(call, at.scope), called_name(call)
        if name in ("vars", "globals", "locals") and not target.scopes:
            self.add_attribute(ANY, OF_BLOCK, at)
            self._places.add(("variable", "global", ANY), OF_BLOCK, at)
            return
        for callee in target.scopes:
            for key in (("result", callee.key, ""), ("result", callee.key + INSIDE, "")):
                self._places.mark_changed(key, is_deep=is_deep)
        if isinstance(call.func, ast.Attribute) and not target.dotted and name in CONTAINER_READS:
            self.change_contents(call.func.value, at, kind, is_deep=True)
        elif name in PASSING:
            for each in call.args:
                self.change_contents(each, at, kind, is_deep=is_deep)
