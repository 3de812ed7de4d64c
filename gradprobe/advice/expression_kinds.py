"""The kind of the value of an expression: what it may be or contain of the tensors of a block.

What is not understood may hand on all that it is given. Inside of the block, all that is not certainly plain creates
tensors of it; outside, an operator creates a normal tensor, except for views and what may be its argument itself.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from gradprobe.advice.call_targets import CallTargets, Target, is_property
from gradprobe.advice.called_names import called_name
from gradprobe.advice.program_model import Key, Scope, Statement
from gradprobe.advice.tensor_names import (
    ALIASING,
    ALIASING_FUNCTIONS,
    CONTAINER_READS,
    CONTAINER_WRITES,
    PASSING,
    PLAIN_ATTRIBUTES,
    PLAIN_CALLS,
    PLAIN_FUNCTIONS,
    PLAIN_MODULES,
    QUIET_METHODS,
    SEVERAL_RESULTS,
    TENSOR_QUESTIONS,
)
from gradprobe.advice.value_kinds import (
    ANY_OF_BLOCK,
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

TENSOR_METHODS = frozenset(dir(torch.Tensor))
PURE_MODULES = ("torch.", "torch.nn.functional.", "torch.linalg.", "torch.special.", "torch.fft.", "torch.Tensor.")
_CONTAINERS = (dict, list, set, str, tuple, frozenset, bytes)
CONTAINER_METHODS = frozenset(name for kind in _CONTAINERS for name in dir(kind))
_COMMON_METHODS = CONTAINER_METHODS | CONTAINER_READS | CONTAINER_WRITES | TENSOR_METHODS
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
_INSPECTING = frozenset(["_getframe", "currentframe", "stack", "get_objects", "get_referrers", "exc_info"])
"""Functions that give what other functions keep in their variables."""
_ANY_ACCESSORS = ("__getattr__", "__getattribute__")
_REFLECTIVE = frozenset(
    ["asdict", "astuple", "replace", "deepcopy", "__getstate__", "getmembers", "attrgetter", "get_objects"]
)


@dataclass(frozen=True)
class Point:
    """A statement as it is evaluated: in a call that the block makes or not, and inside of the block or not."""

    statement: Statement
    is_called_inside: bool
    is_inside: bool

    @property
    def scope(self) -> Scope:
        """The function or module of the statement."""
        return self.statement.scope


class Places(Protocol):
    """Contents of the places that values are kept in."""

    def read(self, key: Key) -> int:
        """Return the kind of what a place has."""

    def read_variable(self, name: str, at: Point) -> int:
        """Return the kind of a variable."""

    def read_attribute(self, name: str, *, is_inside: bool) -> int:
        """Return the kind of what attributes of a name have, of whichever object."""

    def is_kept_in_attributes(self) -> bool:
        """Return whether any attribute has a tensor of the block."""

    def is_skipped(self, node: ast.AST) -> bool:
        """Return whether a part of an expression does not count."""


class ExpressionKinds:
    """Reader of the kinds of expressions.

    Args:
        targets: What calls reach.
        places: What the places have that the expressions read.
    """

    def __init__(self, targets: CallTargets, places: Places) -> None:
        self._targets, self._places = targets, places
        self._program = targets.program
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
        return self._union(ast.iter_child_nodes(node), at) if reader is None else reader(self, node, at)

    def _union(self, nodes: Iterable[ast.AST | None], at: Point) -> int:
        result = PLAIN
        for node in nodes:
            result |= self.kind(node, at)
        return result

    def _read_name(self, node: ast.Name, at: Point) -> int:
        return self._places.read_variable(node.id, at)

    def _read_lambda(self, node: ast.Lambda, at: Point) -> int:
        return FUNCTION

    def _read_attribute(self, node: ast.Attribute, at: Point) -> int:
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
        result = self._read_results((name, *_ANY_ACCESSORS), at, only_properties=True)
        if name in self._program.by_name or name in self._targets.attributes:
            result |= self._read_results(("__get__",), at)
        return result

    def _read_results(self, names: Iterable[str], at: Point, *, only_properties: bool = False) -> int:
        """Return the kind of what functions of these names return."""
        result = PLAIN
        for name in names:
            for callee in self._program.by_name.get(name, ()):
                if not only_properties or name in _ANY_ACCESSORS or is_property(callee):
                    result |= self.read_result(callee, at.is_inside)
        return result

    def read_result(self, callee: Scope, is_inside: bool) -> int:
        """Return the kind of what a function returns, called inside of the block or outside."""
        return self._places.read(("result", callee.key + ("#in" if is_inside else ""), ""))

    def _read_subscript(self, node: ast.Subscript, at: Point) -> int:
        base = self.kind(node.value, at)
        result = self._read_results(("__getitem__", "__missing__"), at) if base & (OTHER | OBJECT) else PLAIN
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str) and not base & HOLDS:
            return result | base & ~OBJECT  # an item of a dictionary is not made by reading it
        return result | get_element(base, at.is_inside)

    def _read_bin_op(self, node: ast.BinOp, at: Point) -> int:
        sides = self.kind(node.left, at) | self.kind(node.right, at)
        name = OPERATORS[type(node.op)]
        result = self._read_results((f"__{name}__", f"__r{name}__"), at)
        if isinstance(node.left, ast.List | ast.Tuple) and isinstance(node.op, ast.Mult):
            return self.kind(node.left, at)
        if sides & HOLDS and isinstance(node.op, ast.Add | ast.Mult | ast.BitOr):
            result |= HOLDS
        return result | self._compute(sides, at)

    def _read_unary_op(self, node: ast.UnaryOp, at: Point) -> int:
        operand = self.kind(node.operand, at)
        if isinstance(node.op, ast.Not):
            return PLAIN
        return self._compute(operand, at) | (self._read_results(("__neg__",), at) if operand & OBJECT else PLAIN)

    def _read_compare(self, node: ast.Compare, at: Point) -> int:
        if any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in node.ops):
            return PLAIN
        return self._compute(self._union([node.left, *node.comparators], at), at)

    def _compute(self, operands: int, at: Point) -> int:
        """Return the kind of what an operator makes of its operands."""
        if not operands:
            return PLAIN
        made = (IS if at.is_inside else PLAIN) | OTHER
        return (
            made & ~GRADED if at.is_inside or at.statement.modes[-1:] in (("no_grad",), ("inference_mode",)) else made
        )

    def _read_if_exp(self, node: ast.IfExp, at: Point) -> int:
        return self._union([node.body, node.orelse], at)

    def _read_collection(self, node: ast.AST, at: Point) -> int:
        inner = self._union(list_elements(node), at)
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
            result |= self._read_results(("__iter__", "__next__", "__getitem__", "__aiter__", "__anext__"), at)
        return result

    def enter(self, node: ast.AST, at: Point) -> int:
        """Return the kind of what entering a context manager gives."""
        return self.kind(node, at) | self._read_results(("__enter__", "__aenter__"), at) | OTHER

    def _read_call(self, call: ast.Call, at: Point) -> int:
        target = self._targets.find(call, at.scope)
        if called_name(call) in _ANY_ACCESSORS:
            return self._look_up(call, "getattr", PLAIN, at)
        given = self._union([*call.args, *(keyword.value for keyword in call.keywords)], at)
        result = PLAIN
        for callee in target.scopes:
            result |= self.read_result(callee, at.is_inside)
        if target.made:
            is_open = self._targets.families.has_foreign_base(target.made)
            if self._targets.families.has_metaclass(target.made):
                result |= self._read_results(("__call__",), at)
            own = OF_BLOCK if self._targets.families.may_be_tensor(target.made) else HOLDS
            return (
                result
                | (OBJECT | NEW if at.is_inside else OBJECT)
                | (own if is_open and is_of_block(given) else PLAIN)
                | (OTHER if is_open else PLAIN)
            )
        if target.dotted.startswith("torch.nn.") and target.dotted.count(".") == 2:
            given &= ~FUNCTION  # a layer may be given sizes and layers, and calls nothing else
        if given & FUNCTION and not target.scopes:
            result |= self._read_passed(call, at) | FUNCTION
        if target.is_dynamic:
            return result | self._call_value(call, given, at)
        if target.dotted:
            return result | self._call_library(call, target.dotted, given, at)
        if isinstance(call.func, ast.Attribute):
            if target.scopes and not self.may_be_of_library(call, target, at):
                return result
            return result | self._call_method(call, call.func, given, at)
        return result

    def _read_passed(self, call: ast.Call, at: Point) -> int:
        """Return the kind of what functions give that a call gets as arguments."""
        given = HOLDS if called_name(call) in PASSING else OF_BLOCK
        result = PLAIN
        for node in [*call.args, *(keyword.value for keyword in call.keywords)]:
            for callee in self._targets.find_function(node, at.scope):
                result |= given if is_of_block(self.read_result(callee, at.is_inside)) else PLAIN
        return result

    def may_be_of_library(self, call: ast.Call, target: Target, at: Point) -> bool:
        """Return whether a method of a name that the program defines may be that of an object of a library."""
        func = call.func
        if not isinstance(func, ast.Attribute) or target.dotted or target.is_own:
            return False
        return func.attr in _COMMON_METHODS or bool(self.kind(func.value, at) & GRADED)

    def find_called_values(self, call: ast.Call, at: Point) -> tuple[Scope, ...]:
        """Return the functions of the program that a value may be which is called."""
        if not self._targets.find(call, at.scope).is_dynamic:
            return ()
        return self._targets.list_callable(call, is_function=bool(self.kind(call.func, at) & FUNCTION))

    def _call_value(self, call: ast.Call, given: int, at: Point) -> int:
        called = self.kind(call.func, at)
        given |= called & ~FUNCTION  # a method or a partial function has its arguments with it
        # A weak reference, or a function of the program, may give a function.
        result = (
            OTHER
            | (called & FUNCTION)
            | (given & CARRIED)
            | (OF_BLOCK if is_of_block(given) or at.is_inside else PLAIN)
        )
        for callee in self.find_called_values(call, at):
            result |= self.read_result(callee, at.is_inside)
        if self.calls_pool(call, at):
            result |= self._places.read(("pool", "result" + ("#in" if at.is_inside else ""), ""))
        return result

    def calls_pool(self, call: ast.Call, at: Point) -> bool:
        """Return whether a call may run any of the functions that are values, which are too many to look at each."""
        is_dynamic = self._targets.is_pooled and self._targets.find(call, at.scope).is_dynamic
        return is_dynamic and bool(self.kind(call.func, at) & FUNCTION)

    def _call_library(self, call: ast.Call, dotted: str, given: int, at: Point) -> int:
        root, _, last = dotted.rpartition(".")
        if not root and hasattr(builtins, dotted):
            return self._call_builtin(call, dotted, given, at)
        if last in _INSPECTING:
            return OTHER | self._places.read(("anything", "", "")) & OF_BLOCK
        if root_name_of(dotted) in PLAIN_MODULES:
            return given if "object" in ast.unparse(call) else PLAIN
        if root_name_of(dotted) == "random":
            return PLAIN if not given else get_element(given, False) | given
        if last in PASSING:
            return self._pass_on(given, at)
        if last in TENSOR_QUESTIONS and dotted.startswith("torch"):
            return OTHER
        reflected = HOLDS if last in _REFLECTIVE and self._places.is_kept_in_attributes() else PLAIN
        if dotted.startswith("torch."):
            if at.is_inside:
                return self._create(last, is_known=root + "." in PURE_MODULES)
            if root + "." in PURE_MODULES and last not in ALIASING_FUNCTIONS and not given & HOLDS:
                return OTHER
        elif at.is_inside:
            return ANY_OF_BLOCK
        return OTHER | reflected | given & CARRIED | (OF_BLOCK if is_of_block(given) else PLAIN)

    @staticmethod
    def _create(name: str, *, is_known: bool) -> int:
        """Return the kind of what a function gives in the block: one tensor, if it is an operator that has one result."""
        return IS if is_known and name not in SEVERAL_RESULTS else ANY_OF_BLOCK

    def _call_builtin(self, call: ast.Call, name: str, given: int, at: Point) -> int:
        if name in ("getattr", "vars", "globals", "locals", "eval"):
            return self._look_up(call, name, given, at)
        if name == "super":
            return self._places.read_variable("self", at) | OTHER
        if name in ("sum", "abs", "round"):
            return self._compute(given, at)
        if name in ("max", "min", "next"):
            return PLAIN if not given else given | get_element(given, at.is_inside)
        if name in PASSING or name in ("slice", "object"):
            return self._pass_on(given, at)
        if name == "type" and len(call.args) > 1:
            return given | OTHER | (OF_BLOCK if is_of_block(given) else PLAIN)
        if name in PLAIN_FUNCTIONS or (name[0].isupper() and not given):
            return PLAIN
        return given | OTHER

    def _pass_on(self, given: int, at: Point) -> int:
        """Return the kind of a container or iterator of what is given, or of what that contains."""
        if not given:
            return PLAIN
        return (
            given & (OTHER | CARRIED)
            | (HOLDS if is_of_block(get_element(given, at.is_inside)) else PLAIN)
            | (OTHER if given & OBJECT else PLAIN)
        )

    def _look_up(self, call: ast.Call, name: str, given: int, at: Point) -> int:
        if name == "getattr" and len(call.args) > 1 and isinstance(call.args[1], ast.Constant):
            read = ast.Attribute(call.args[0], str(call.args[1].value), ast.Load())
            return self._read_attribute(read, at) | self._union(call.args[2:], at)
        kept = self._places.read(("anything", "", "")) & OF_BLOCK
        if name == "getattr":
            is_module = bool(call.args) and self._targets.modules.names_module(call.args[0], at.scope)
            kept = kept if is_module or self._places.is_kept_in_attributes() else PLAIN
        elif name in ("vars", "globals", "locals") and kept:
            kept = HOLDS
        return kept | OTHER | FUNCTION | given

    def _call_method(self, call: ast.Call, func: ast.Attribute, given: int, at: Point) -> int:
        name, base = func.attr, self.kind(func.value, at)
        if name in PLAIN_CALLS and name not in self._program.by_name:
            return PLAIN
        kept = CARRIED & (base | given)
        if name in ("state_dict", "buffers", "named_buffers"):
            kept |= HOLDS if is_of_block(self._places.read(("attributes", "module", ""))) else PLAIN
        if name in QUIET_METHODS:
            places = (("attributes", "parameter", ""), ("converted", "", ""))
            kept |= (
                HOLDS if is_of_block(base) or any(is_of_block(self._places.read(each)) for each in places) else PLAIN
            )
            kept |= base & OF_BLOCK if name in ("train", "eval") else PLAIN
            # An object that hands on what it does not have may hand on the state of another.
            kept |= HOLDS if is_of_block(self._read_results(_ANY_ACCESSORS, at)) else PLAIN
        if not base & ~CARRIED:
            return kept | given | (get_element(given, at.is_inside) if given else PLAIN)
        if name in QUIET_METHODS:
            return kept | OTHER
        if at.is_inside:
            if name in CONTAINER_READS and not base & IS and name != "copy":
                return kept | base & ~OBJECT | OTHER | given | (OF_BLOCK if base & HOLDS else PLAIN)
            return kept | self._create(name, is_known=name in TENSOR_METHODS)
        if name in TENSOR_METHODS and (name not in CONTAINER_METHODS or not base & HOLDS):
            is_same = name in ALIASING or (name.endswith("_") and not name.endswith("__"))
            return kept | OTHER | (base & OF_BLOCK if is_same else PLAIN)
        if base & HOLDS:
            return kept | ANY_OF_BLOCK
        return kept | OTHER | (OF_BLOCK if is_of_block(given | base) else PLAIN)


_READERS: dict[type[ast.AST], Callable[[ExpressionKinds, Any, Point], int]] = {
    ast.Name: ExpressionKinds._read_name,
    ast.Lambda: ExpressionKinds._read_lambda,
    ast.Attribute: ExpressionKinds._read_attribute,
    ast.Subscript: ExpressionKinds._read_subscript,
    ast.BinOp: ExpressionKinds._read_bin_op,
    ast.UnaryOp: ExpressionKinds._read_unary_op,
    ast.Compare: ExpressionKinds._read_compare,
    ast.IfExp: ExpressionKinds._read_if_exp,
    ast.Slice: ExpressionKinds._read_slice,
    ast.Yield: ExpressionKinds._read_yield,
    ast.YieldFrom: ExpressionKinds._read_yield_from,
    ast.NamedExpr: ExpressionKinds._read_named_expr,
    ast.Call: ExpressionKinds._read_call,
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


def root_name_of(dotted: str) -> str:
    """Return the first part of a dotted name."""
    return dotted.partition(".")[0]
