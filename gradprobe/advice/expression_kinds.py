"""The kind of the value of an expression: what it may be or contain of the tensors of a block.

What is not understood may hand on all that it is given. Inside of the block, all that is not certainly plain creates
tensors of it; outside, an operator creates a normal tensor, except for views and what may be its argument itself.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any

from gradprobe.advice.call_kinds import CallKinds
from gradprobe.advice.call_targets import CallTargets, is_property
from gradprobe.advice.evaluation_points import Places, Point
from gradprobe.advice.program_model import Scope
from gradprobe.advice.tensor_names import ACCESSORS, ALIASING, PLAIN_ATTRIBUTES, TENSOR_METHODS
from gradprobe.advice.value_kinds import (
    CARRIED,
    FUNCTION,
    GRADED,
    HOLDS,
    IS,
    NEW,
    OBJECT,
    OF_BLOCK,
    OTHER,
    PLAIN,
    get_element,
    is_of_block,
)

OPERATORS = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "truediv",
    ast.FloorDiv: "floordiv",
    ast.MatMult: "matmul",
    ast.Pow: "pow",
    ast.Mod: "mod",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "lshift",
    ast.RShift: "rshift",
}


class ExpressionKinds:
    """Reader of the kinds of expressions.

    Args:
        targets: What calls reach.
        places: What the places have that the expressions read.
    """

    def __init__(self, targets: CallTargets, places: Places) -> None:
        self._targets, self._places = targets, places
        self._program = targets.program
        self.calls = CallKinds(targets, places, self)
        """Reader of the kinds of calls."""
        self._known: dict[tuple[int, bool, bool], tuple[ast.AST, int]] = {}
        """Kinds by the identity of the node, which is kept so that no other node gets it."""

    def kind(self, node: ast.AST | None, at: Point) -> int:
        """Return the kind of the value of an expression."""
        if node is None or isinstance(node, ast.Constant | ast.JoinedStr):
            return PLAIN
        place = (id(node), at.is_called_inside, at.is_inside)
        if place not in self._known:
            self._known[place] = (node, PLAIN if self._places.is_skipped(node) else self._read(node, at))
        return self._known[place][1]

    def forget(self) -> None:
        """Read all kinds anew: places may have got something since."""
        self._known.clear()

    def _read(self, node: ast.AST, at: Point) -> int:
        reader = _READERS.get(type(node))
        return self.unite(ast.iter_child_nodes(node), at) if reader is None else reader(self, node, at)

    def unite(self, nodes: Iterable[ast.AST | None], at: Point) -> int:
        """Return the kinds of several expressions in one."""
        result = PLAIN
        for node in nodes:
            result |= self.kind(node, at)
        return result

    def _read_name(self, node: ast.Name, at: Point) -> int:
        return self._places.read_variable(node.id, at)

    def _read_lambda(self, node: ast.Lambda, at: Point) -> int:
        return FUNCTION

    def read_attribute(self, node: ast.Attribute, at: Point) -> int:
        """Return the kind of an attribute."""
        if node.attr in PLAIN_ATTRIBUTES:
            return self._read_own_attribute(node.attr, at)
        if self._targets.find_library_name(node, at.scope):
            return OTHER
        base = self.kind(node.value, at)
        if node.attr == "__dict__":
            return OTHER | (HOLDS if self._places.is_kept_in_attributes() else PLAIN)
        result = self._places.read_attribute(node.attr, is_inside=at.is_inside) | self._read_accessors(node.attr, at)
        if self._targets.modules.names_module(node.value, at.scope):
            result |= self._places.read(("variable", "global", node.attr))
        if node.attr in self._program.by_name:
            result |= FUNCTION | base & NEW
        is_own = (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")) or base == OBJECT
        if not is_own or node.attr not in self._targets.attributes:
            result |= OTHER if base else PLAIN
        if node.attr in ALIASING and base & ~(OBJECT | CARRIED):
            result |= IS if at.is_inside else base & IS
        elif base & IS and node.attr in TENSOR_METHODS:
            result |= HOLDS  # a method with its tensor
        if base & HOLDS or (base & IS and node.attr not in TENSOR_METHODS):
            result |= OF_BLOCK  # an attribute that no tensor has is one of an object that has the tensor
        return result

    def _read_own_attribute(self, name: str, at: Point) -> int:
        """Return the kind of an attribute that no tensor has as a tensor, but objects of the program may."""
        if name not in self._targets.attributes and name not in self._program.by_name:
            return PLAIN
        found = self._places.read_attribute(name, is_inside=at.is_inside) | self._read_accessors(name, at)
        return found if is_of_block(found) else PLAIN

    def _read_accessors(self, name: str, at: Point) -> int:
        """Return the kind of what properties and other accessors give for an attribute."""
        result = self.read_results((name, *ACCESSORS), at, only_properties=True)
        if name in self._program.by_name or name in self._targets.attributes:
            result |= self.read_results(("__get__",), at)
        return result

    def read_results(self, names: Iterable[str], at: Point, *, only_properties: bool = False) -> int:
        """Return the kind of what functions of these names return."""
        result = PLAIN
        for name in names:
            for callee in self._program.by_name.get(name, ()):
                if not only_properties or name in ACCESSORS or is_property(callee):
                    result |= self.read_result(callee, at.is_inside)
        return result

    def read_result(self, callee: Scope, is_inside: bool) -> int:
        """Return the kind of what a function returns, called inside of the block or outside."""
        return self._places.read(("result", callee.key + ("#in" if is_inside else ""), ""))

    def _read_subscript(self, node: ast.Subscript, at: Point) -> int:
        base = self.kind(node.value, at)
        result = self.read_results(("__getitem__", "__missing__"), at) if base & (OTHER | OBJECT) else PLAIN
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str) and not base & HOLDS:
            return result | base & ~OBJECT  # an item of a dictionary is not made by reading it
        return result | get_element(base, at.is_inside)

    def _read_bin_op(self, node: ast.BinOp, at: Point) -> int:
        sides = self.kind(node.left, at) | self.kind(node.right, at)
        name = OPERATORS[type(node.op)]
        result = self.read_results((f"__{name}__", f"__r{name}__"), at)
        if isinstance(node.left, ast.List | ast.Tuple) and isinstance(node.op, ast.Mult):
            return self.kind(node.left, at)
        if sides & HOLDS and isinstance(node.op, ast.Add | ast.Mult | ast.BitOr):
            result |= HOLDS
        return result | self.compute(sides, at)

    def _read_unary_op(self, node: ast.UnaryOp, at: Point) -> int:
        operand = self.kind(node.operand, at)
        if isinstance(node.op, ast.Not):
            return PLAIN
        return self.compute(operand, at) | (self.read_results(("__neg__",), at) if operand & OBJECT else PLAIN)

    def _read_compare(self, node: ast.Compare, at: Point) -> int:
        if any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in node.ops):
            return PLAIN
        return self.compute(self.unite([node.left, *node.comparators], at), at)

    def compute(self, operands: int, at: Point) -> int:
        """Return the kind of what an operator makes of its operands."""
        if not operands:
            return PLAIN
        made = (IS if at.is_inside else PLAIN) | OTHER
        return (
            made & ~GRADED if at.is_inside or at.statement.modes[-1:] in (("no_grad",), ("inference_mode",)) else made
        )

    def _read_if_exp(self, node: ast.IfExp, at: Point) -> int:
        return self.unite([node.body, node.orelse], at)

    def _read_collection(self, node: ast.AST, at: Point) -> int:
        inner = self.unite(list_elements(node), at)
        return (
            inner & (OTHER | CARRIED | HOLDS)
            | (HOLDS if is_of_block(inner) else PLAIN)
            | (OTHER if inner & OBJECT else 0)
        )

    def _read_slice(self, node: ast.Slice, at: Point) -> int:
        return PLAIN

    def _read_yield(self, node: ast.Yield, at: Point) -> int:
        return OTHER | self._places.read(("sent", "", ""))

    def _read_yield_from(self, node: ast.YieldFrom, at: Point) -> int:
        return self.kind(node.value, at)

    def _read_named_expr(self, node: ast.NamedExpr, at: Point) -> int:
        return self.kind(node.value, at)

    def iterate(self, node: ast.AST, at: Point) -> int:
        """Return the kind of what iterating over a value gives."""
        whole = self.kind(node, at)
        result = get_element(whole, at.is_inside)
        if whole & (OTHER | OBJECT):
            result |= self.read_results(("__iter__", "__next__", "__getitem__", "__aiter__", "__anext__"), at)
        return result

    def enter(self, node: ast.AST, at: Point) -> int:
        """Return the kind of what entering a context manager gives."""
        return self.kind(node, at) | self.read_results(("__enter__", "__aenter__"), at) | OTHER


_READERS: dict[type[ast.AST], Callable[[ExpressionKinds, Any, Point], int]] = {
    ast.Name: ExpressionKinds._read_name,
    ast.Lambda: ExpressionKinds._read_lambda,
    ast.Attribute: ExpressionKinds.read_attribute,
    ast.Subscript: ExpressionKinds._read_subscript,
    ast.BinOp: ExpressionKinds._read_bin_op,
    ast.UnaryOp: ExpressionKinds._read_unary_op,
    ast.Compare: ExpressionKinds._read_compare,
    ast.IfExp: ExpressionKinds._read_if_exp,
    ast.Slice: ExpressionKinds._read_slice,
    ast.Yield: ExpressionKinds._read_yield,
    ast.YieldFrom: ExpressionKinds._read_yield_from,
    ast.NamedExpr: ExpressionKinds._read_named_expr,
    ast.Call: lambda kinds, node, at: kinds.calls.read(node, at),
    ast.List: ExpressionKinds._read_collection,
    ast.Tuple: ExpressionKinds._read_collection,
    ast.Set: ExpressionKinds._read_collection,
    ast.Dict: ExpressionKinds._read_collection,
    ast.ListComp: ExpressionKinds._read_collection,
    ast.SetComp: ExpressionKinds._read_collection,
    ast.GeneratorExp: ExpressionKinds._read_collection,
    ast.DictComp: ExpressionKinds._read_collection,
}


def list_elements(node: ast.AST) -> list[ast.AST | None]:
    """Return the expressions of what a collection contains."""
    if isinstance(node, ast.Dict):
        return [*node.values, *node.keys]
    if isinstance(node, ast.DictComp):
        return [node.key, node.value]
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp):
        return [node.elt]
    return list(getattr(node, "elts", ()))
