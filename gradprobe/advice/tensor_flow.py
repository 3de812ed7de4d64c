"""Flow of the tensors of a block through the source, by the names of variables, attributes and functions.

An approximation on the safe side: an attribute is its name, whichever object it is of, and the order of statements does not
count. What an operator returns outside of the block is a normal tensor, except for views and what may be the same tensor.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence

from gradprobe.advice.passed_arguments import list_captured, list_passed
from gradprobe.advice.plain_values import called_name, is_plain
from gradprobe.advice.program_model import Key, ProgramModel, Scope, Statement
from gradprobe.advice.tensor_names import ALIASING, CONTAINER_READS, CONTAINER_WRITES, PASSING, PLAIN_ATTRIBUTES

NOTHING, IS, HOLDS = 0, 1, 2
"""Kinds of content of a place: nothing, one of them, or a container of them."""
ANY = "*"
"""Name of the attribute that is set by a name which the source does not show."""


class TensorFlow:
    """Flow of the tensors that a block leaves.

    Args:
        program: The program.
        region: The statements that run in the block.
        is_result: Whether the results of a function leave the block.
    """

    def __init__(
        self, program: ProgramModel, region: Iterable[Statement], is_result: Callable[[Statement], bool]
    ) -> None:
        self._program = program
        self._region = {id(statement) for statement in region}
        self._is_result = is_result
        self.places: dict[Key, int] = {}
        self.origins: dict[Key, Statement] = {}
        changed = True
        while changed:
            before = dict(self.places)
            for statement in program.statements:
                self._follow(statement)
            changed = self.places != before

    def _follow(self, statement: Statement) -> None:
        node, scope = statement.node, statement.scope
        inside = id(statement) in self._region
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._store(target, node.value, statement)
        elif isinstance(node, ast.AnnAssign | ast.AugAssign) and node.value is not None:
            self._store(node.target, node.value, statement)
        elif isinstance(node, ast.For | ast.AsyncFor):
            kind = self.kind(node.iter, scope)
            self._add_target(node.target, IS | HOLDS if kind else NOTHING, statement)
        elif isinstance(node, ast.Match) and self.kind(node.subject, scope):
            for name in list_captured(node):
                self._add(scope.resolve(name), IS | HOLDS, statement)
        elif isinstance(node, ast.Return) and node.value is not None:
            kind = self._block_kind(node.value, statement) if inside and self._is_result(statement) else NOTHING
            self._add(("result", scope.key, ""), kind or self.kind(node.value, scope), statement)
        for expression in statement.expressions:
            for part in ast.walk(expression):
                self._follow_part(part, statement, inside)

    def _follow_part(self, part: ast.AST, statement: Statement, inside: bool) -> None:
        scope = statement.scope
        if isinstance(part, ast.NamedExpr):
            self._store(part.target, part.value, statement)
        elif isinstance(part, ast.Yield) and part.value is not None:
            kind = self._block_kind(part.value, statement) if inside and self._is_result(statement) else NOTHING
            self._add(("result", scope.key, ""), kind or self.kind(part.value, scope), statement)
        elif isinstance(part, ast.YieldFrom):
            self._add(("result", scope.key, ""), self.kind(part.value, scope), statement)
        elif isinstance(part, ast.comprehension):
            if self.kind(part.iter, scope):
                self._add_target(part.target, IS | HOLDS, statement)
        elif isinstance(part, ast.withitem) and part.optional_vars is not None:
            self._add_target(part.optional_vars, self.kind(part.context_expr, scope), statement)
        elif isinstance(part, ast.Call):
            self._follow_call(part, statement, inside)

    def _follow_call(self, call: ast.Call, statement: Statement, inside: bool) -> None:
        scope = statement.scope
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        kinds = [self._block_kind(each, statement) if inside else self.kind(each, scope) for each in given]
        if name in CONTAINER_WRITES and any(kinds) and isinstance(call.func, ast.Attribute):
            self._add_holder(call.func.value, statement)
        named = next((a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)), None)
        if (name in ("register_buffer", "register_parameter") or called_name(call) == "setattr") and any(kinds):
            self._add(("attribute", "", named or ANY), IS, statement)
        self._follow_fields(call, kinds, statement)
        if inside and self._is_result(statement):
            return  # what functions do with their arguments in the block is in the block too
        for callee in self.list_callees(call, scope):
            for parameter, value in list_passed(call, callee):
                self._add(
                    ("variable", callee.key, parameter), self._passed_kind(value, callee, parameter, scope), statement
                )

    def _passed_kind(self, value: ast.AST, callee: Scope, parameter: str, scope: Scope) -> int:
        """Return what a parameter gets of the block's tensors by an argument."""
        kind = self.kind(value, scope)
        if kind and (isinstance(value, ast.Starred) or parameter not in callee.parameters()):
            return IS | HOLDS
        return kind

    def _follow_fields(self, call: ast.Call, kinds: Sequence[int], statement: Statement) -> None:
        """Note the fields of an object whose class lists them instead of writing ``__init__``, as a data class does."""
        fields = self._program.list_fields(called_name(call))
        names = [*fields[: len(call.args)], *[""] * (len(call.args) - len(fields)), *(k.arg for k in call.keywords)]
        for name, kind in zip(names, kinds, strict=True):
            if name in fields:
                self._add(("attribute", "", name), kind, statement)

    def list_callees(self, call: ast.Call, scope: Scope) -> Iterator[Scope]:
        """Yield the functions of the program that a call may reach, by name."""
        name = called_name(call)
        if name in self._program.classes:
            yield from (f for f in self._program.by_name.get("__init__", ()) if f.class_name == name)
            return
        for callee in self._program.by_name.get(name, ()):
            is_method = callee.class_name != "" and callee.function is not None
            if is_method == isinstance(call.func, ast.Attribute) or isinstance(call.func, ast.Attribute):
                yield callee

    def kind(self, node: ast.AST | None, scope: Scope) -> int:
        """Return what the value of an expression has of the block's tensors, evaluated outside of the block."""
        if node is None:
            return NOTHING
        if isinstance(node, ast.Name):
            return self.places.get(scope.resolve(node.id), NOTHING)
        if isinstance(node, ast.Attribute):
            if node.attr in PLAIN_ATTRIBUTES:
                return NOTHING
            inner = self.kind(node.value, scope)
            if node.attr == "__dict__":
                return HOLDS if self.holds_in_modules() else NOTHING
            held = self.places.get(("attribute", "", node.attr), NOTHING) | self.places.get(
                ("attribute", "", ANY), NOTHING
            )
            return held | self._property_kind(node.attr) | (inner if node.attr in ALIASING else NOTHING)
        if isinstance(node, ast.Subscript):
            inner = self.kind(node.value, scope)
            return (IS | HOLDS) if inner & HOLDS else inner
        if isinstance(node, ast.Starred | ast.Await | ast.NamedExpr | ast.YieldFrom):
            return self.kind(node.value, scope)
        if isinstance(node, ast.IfExp):
            return self.kind(node.body, scope) | self.kind(node.orelse, scope)
        if isinstance(node, ast.BoolOp):
            return self._union(node.values, scope)
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            return HOLDS if self._union(node.elts, scope) else NOTHING
        if isinstance(node, ast.Dict):
            return HOLDS if self._union([each for each in node.values if each is not None], scope) else NOTHING
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
            return HOLDS if self.kind(node.elt, scope) else NOTHING
        if isinstance(node, ast.DictComp):
            return HOLDS if self.kind(node.value, scope) else NOTHING
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return HOLDS if (self.kind(node.left, scope) | self.kind(node.right, scope)) & HOLDS else NOTHING
        if isinstance(node, ast.Call):
            return self._call_kind(node, scope)
        return NOTHING

    def _property_kind(self, name: str) -> int:
        """Return what reading an attribute may give that a method computes."""
        result = NOTHING
        for callee in self._program.by_name.get(name, ()):
            decorators = callee.function.decorator_list if callee.function is not None else []
            if any("property" in ast.unparse(each) for each in decorators):
                result |= self.places.get(("result", callee.key, ""), NOTHING)
        return result

    def _call_kind(self, call: ast.Call, scope: Scope) -> int:
        result = NOTHING
        if isinstance(call.func, ast.Name) and call.func.id in scope.parameters_around():
            result |= self._passed_functions_kind()
        if called_name(call) == "getattr" and len(call.args) > 1:
            name = call.args[1].value if isinstance(call.args[1], ast.Constant) else None
            if name is None and self.holds_in_modules():
                return IS | HOLDS
            return self.places.get(("attribute", "", str(name)), NOTHING) | self.places.get(
                ("attribute", "", ANY), NOTHING
            )
        if called_name(call) == "vars" and self.holds_in_modules():
            return HOLDS
        for callee in self.list_callees(call, scope):
            result |= self.places.get(("result", callee.key, ""), NOTHING)
        given = self._union([*call.args, *(keyword.value for keyword in call.keywords)], scope)
        if isinstance(call.func, ast.Attribute):
            name, inner = call.func.attr, self.kind(call.func.value, scope)
            if name in ALIASING and inner & IS:
                result |= inner
            if name in CONTAINER_READS and inner & HOLDS:
                result |= IS | HOLDS
            if name in ("buffers", "named_buffers", "state_dict") and self.holds_in_modules():
                result |= HOLDS
        called = called_name(call)
        if called in PASSING and given:
            result |= HOLDS | (IS if called in ("next", "max", "min", "cast") else NOTHING)
        elif given and called[:1].isupper():
            result |= HOLDS  # an object made of it, such as a data set
        return result

    def _passed_functions_kind(self) -> int:
        """Return what a function gives that is an argument of another one, such as of its decorator."""
        result = NOTHING
        for callee in self._program.passed_functions:
            result |= self.places.get(("result", callee.key, ""), NOTHING)
        return result

    def holds_in_modules(self) -> bool:
        """Return whether any attribute has one: modules then hand it out with their state."""
        return any(place[0] == "attribute" for place in self.places)

    def _union(self, nodes: Iterable[ast.AST], scope: Scope) -> int:
        result = NOTHING
        for node in nodes:
            result |= self.kind(node, scope)
        return result

    def _block_kind(self, value: ast.AST, statement: Statement) -> int:
        """Return what a value has that is evaluated in the block: all that is not plain may be a tensor of it."""
        if is_plain(value, statement.scope):
            return NOTHING
        if isinstance(
            value, ast.List | ast.Tuple | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.GeneratorExp
        ):
            return HOLDS
        return IS | HOLDS if isinstance(value, ast.Call | ast.Name) else IS

    def _store(self, target: ast.AST, value: ast.AST, statement: Statement) -> None:
        inside = id(statement) in self._region
        if inside:
            is_operand = isinstance(statement.node, ast.AugAssign)
            kind = (
                NOTHING if is_operand and self._is_container_sum(statement.node) else self._block_kind(value, statement)
            )
        else:
            kind = NOTHING if isinstance(statement.node, ast.AugAssign) else self.kind(value, statement.scope)
        if (
            isinstance(target, ast.Tuple | ast.List)
            and isinstance(value, ast.Tuple)
            and len(target.elts) == len(value.elts)
        ):
            for each, part in zip(target.elts, value.elts, strict=True):
                self._store(each, part, statement)
            return
        if inside and not self._is_result_scope(statement) and self._is_local(target, statement.scope):
            # A variable of a function that the block calls ends with the call, unless it is another name of what stays.
            kind = self.kind(value, statement.scope)
        self._add_target(target, kind, statement)

    def _is_local(self, target: ast.AST, scope: Scope) -> bool:
        """Return whether all that is assigned to are variables of the function itself."""
        if isinstance(target, ast.Tuple | ast.List):
            return all(self._is_local(each, scope) for each in target.elts)
        return isinstance(target, ast.Name) and scope.resolve(target.id)[1] == scope.key

    def _is_container_sum(self, node: ast.AST) -> bool:
        return isinstance(node, ast.AugAssign) and isinstance(node.value, ast.Constant)

    def _add_target(self, target: ast.AST, kind: int, statement: Statement) -> None:
        if not kind:
            return
        if isinstance(target, ast.Name):
            self._add(statement.scope.resolve(target.id), kind, statement)
        elif isinstance(target, ast.Attribute):
            if target.attr not in ("data", "grad"):
                self._add(("attribute", "", target.attr), kind, statement)
        elif isinstance(target, ast.Subscript):
            self._add_holder(target.value, statement)
        elif isinstance(target, ast.Tuple | ast.List):
            for each in target.elts:
                self._add_target(each, IS | HOLDS if kind else NOTHING, statement)
        elif isinstance(target, ast.Starred):
            self._add_target(target.value, HOLDS, statement)

    def _is_result_scope(self, statement: Statement) -> bool:
        return self._is_result(statement) or statement.scope.function is None

    def _add_holder(self, base: ast.AST, statement: Statement) -> None:
        """Note that a container has one; which of several names may be the container is left open."""
        while isinstance(base, ast.Subscript | ast.Call):
            base = base.value if isinstance(base, ast.Subscript) else base.func
            if isinstance(base, ast.Attribute) and base.attr in CONTAINER_READS:
                base = base.value
        if isinstance(base, ast.Name) and base.id == "vars":
            self._add(("attribute", "", ANY), IS | HOLDS, statement)
        elif isinstance(base, ast.Name):
            self._add(statement.scope.resolve(base.id), HOLDS, statement)
        elif isinstance(base, ast.Attribute):
            is_any = base.attr == "__dict__"
            self._add(("attribute", "", ANY if is_any else base.attr), IS | HOLDS if is_any else HOLDS, statement)

    def _add(self, key: Key, kind: int, statement: Statement) -> None:
        if kind:
            self.places[key] = self.places.get(key, NOTHING) | kind
            self.origins.setdefault(key, statement)
