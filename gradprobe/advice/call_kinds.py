"""The kind of what a call gives: of functions of the program, of libraries, of methods and of values that are called."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable
from typing import Protocol

from gradprobe.advice.call_targets import CallTargets, Target
from gradprobe.advice.called_names import called_name
from gradprobe.advice.evaluation_points import Places, Point
from gradprobe.advice.program_model import Scope
from gradprobe.advice.tensor_names import (
    ACCESSORS,
    ALIASING,
    ALIASING_FUNCTIONS,
    CONTAINER_METHODS,
    CONTAINER_READS,
    CONTAINER_WRITES,
    PASSING,
    PLAIN_CALLS,
    PLAIN_FUNCTIONS,
    PLAIN_MODULES,
    PURE_MODULES,
    QUIET_METHODS,
    SEVERAL_RESULTS,
    TENSOR_METHODS,
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

_COMMON_METHODS = CONTAINER_METHODS | CONTAINER_READS | CONTAINER_WRITES | TENSOR_METHODS
_INSPECTING = frozenset(["_getframe", "currentframe", "stack", "get_objects", "get_referrers", "exc_info"])
"""Functions that give what other functions keep in their variables."""
_REFLECTIVE = frozenset(
    ["asdict", "astuple", "replace", "deepcopy", "__getstate__", "getmembers", "attrgetter", "get_objects"]
)


class Values(Protocol):
    """Kinds of the values that a call is given, and of what the program keeps."""

    def kind(self, node: ast.AST | None, at: Point) -> int:
        """Return the kind of the value of an expression."""

    def unite(self, nodes: Iterable[ast.AST | None], at: Point) -> int:
        """Return the kinds of several expressions in one."""

    def read_attribute(self, node: ast.Attribute, at: Point) -> int:
        """Return the kind of an attribute."""

    def read_results(self, names: Iterable[str], at: Point, *, only_properties: bool = False) -> int:
        """Return the kind of what functions of these names return."""

    def read_result(self, callee: Scope, is_inside: bool) -> int:
        """Return the kind of what a function returns, called inside of the block or outside."""

    def compute(self, operands: int, at: Point) -> int:
        """Return the kind of what an operator makes of its operands."""


class CallKinds:
    """Reader of the kinds of calls.

    Args:
        targets: What calls reach.
        places: What the places have that the calls read.
        values: The kinds of other expressions.
    """

    def __init__(self, targets: CallTargets, places: Places, values: Values) -> None:
        self._targets, self._places, self._values = targets, places, values
        self._program = targets.program

    def read(self, call: ast.Call, at: Point) -> int:
        """Return the kind of what a call gives."""
        target = self._targets.find(call, at.scope)
        if called_name(call) in ACCESSORS:
            return self._look_up(call, "getattr", PLAIN, at)
        given = self._values.unite([*call.args, *(keyword.value for keyword in call.keywords)], at)
        result = PLAIN
        for callee in target.scopes:
            result |= self._values.read_result(callee, at.is_inside)
        if target.made:
            is_open = self._targets.families.has_foreign_base(target.made)
            if self._targets.families.has_metaclass(target.made):
                result |= self._values.read_results(("__call__",), at)
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
                result |= given if is_of_block(self._values.read_result(callee, at.is_inside)) else PLAIN
        return result

    def may_be_of_library(self, call: ast.Call, target: Target, at: Point) -> bool:
        """Return whether a method of a name that the program defines may be that of an object of a library."""
        func = call.func
        if not isinstance(func, ast.Attribute) or target.dotted or target.is_own:
            return False
        return func.attr in _COMMON_METHODS or bool(self._values.kind(func.value, at) & GRADED)

    def find_called_values(self, call: ast.Call, at: Point) -> tuple[Scope, ...]:
        """Return the functions of the program that a value may be which is called."""
        if not self._targets.find(call, at.scope).is_dynamic:
            return ()
        return self._targets.list_callable(call, is_function=bool(self._values.kind(call.func, at) & FUNCTION))

    def _call_value(self, call: ast.Call, given: int, at: Point) -> int:
        called = self._values.kind(call.func, at)
        given |= called & ~FUNCTION  # a method or a partial function has its arguments with it
        # A weak reference, or a function of the program, may give a function.
        result = (
            OTHER
            | (called & FUNCTION)
            | (given & CARRIED)
            | (OF_BLOCK if is_of_block(given) or at.is_inside else PLAIN)
        )
        for callee in self.find_called_values(call, at):
            result |= self._values.read_result(callee, at.is_inside)
        if self.calls_pool(call, at):
            result |= self._places.read(("pool", "result" + ("#in" if at.is_inside else ""), ""))
        return result

    def calls_pool(self, call: ast.Call, at: Point) -> bool:
        """Return whether a call may run any of the functions that are values, which are too many to look at each."""
        is_dynamic = self._targets.is_pooled and self._targets.find(call, at.scope).is_dynamic
        return is_dynamic and bool(self._values.kind(call.func, at) & FUNCTION)

    def _call_library(self, call: ast.Call, dotted: str, given: int, at: Point) -> int:
        root, _, last = dotted.rpartition(".")
        if not root and hasattr(builtins, dotted):
            return self._call_builtin(call, dotted, given, at)
        if last in _INSPECTING:
            return OTHER | self._places.read(("anything", "", "")) & OF_BLOCK
        package = dotted.partition(".")[0]
        if package in PLAIN_MODULES:
            return given if "object" in ast.unparse(call) else PLAIN
        if package == "random":
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
            return self._values.compute(given, at)
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
            return self._values.read_attribute(read, at) | self._values.unite(call.args[2:], at)
        kept = self._places.read(("anything", "", "")) & OF_BLOCK
        if name == "getattr":
            is_module = bool(call.args) and self._targets.modules.names_module(call.args[0], at.scope)
            kept = kept if is_module or self._places.is_kept_in_attributes() else PLAIN
        elif name in ("vars", "globals", "locals") and kept:
            kept = HOLDS
        return kept | OTHER | FUNCTION | given

    def _call_method(self, call: ast.Call, func: ast.Attribute, given: int, at: Point) -> int:
        name, base = func.attr, self._values.kind(func.value, at)
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
            kept |= HOLDS if is_of_block(self._values.read_results(ACCESSORS, at)) else PLAIN
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
