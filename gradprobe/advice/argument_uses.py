"""Effects of calls beside their results: arguments reach parameters, fields, containers, and functions that are given."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Sequence

from gradprobe.advice.call_targets import CallTargets, Target
from gradprobe.advice.called_names import called_name
from gradprobe.advice.evaluation_points import Point
from gradprobe.advice.expression_kinds import ExpressionKinds
from gradprobe.advice.flow_places import INSIDE, FlowPlaces, mark_contents
from gradprobe.advice.passed_arguments import ANY, list_passed
from gradprobe.advice.program_model import Key, ProgramModel, Scope
from gradprobe.advice.tensor_names import (
    CONTAINER_READS,
    CONTAINER_WRITES,
    CONVERSIONS,
    NEEDS_GRAD,
    PASSING,
    PLAIN_MODULES,
    PURE_MODULES,
    PURE_PASSING,
    TENSOR_METHODS,
)
from gradprobe.advice.value_bindings import ValueBindings
from gradprobe.advice.value_kinds import (
    ANY_OF_BLOCK,
    CARRIED,
    FUNCTION,
    IS,
    NEW,
    OBJECT,
    OF_BLOCK,
    OTHER,
    PLAIN,
    is_of_block,
)

_CONTAINER_TYPES = frozenset(["list", "dict", "set", "deque", "OrderedDict", "defaultdict", "Counter"])
_CALLING = frozenset(["map", "filter", "sorted", "min", "max", "iter", "starmap", "accumulate", "groupby", "partial"])
"""Functions of Python's library that hand on elements, and may call one of their arguments."""
_Passed = tuple[ast.expr, bool, Key, tuple[Key, Key]]
"""An argument, whether a parameter collects it with others, the parameter's place, and the marks of that place."""


class CallEffects:
    """Effects of calls.

    Args:
        program: The program.
        kinds: Reads the kinds of expressions.
        places: Takes what places get.
        bindings: Notes assignments.
    """

    def __init__(
        self, program: ProgramModel, kinds: ExpressionKinds, places: FlowPlaces, bindings: ValueBindings
    ) -> None:
        self._program, self._kinds, self._places, self._bindings = program, kinds, places, bindings
        self._targets: CallTargets = program.share(CallTargets)
        self._passed: dict[tuple[int, int, bool], list[_Passed]] = {}

    def follow(self, call: ast.Call, at: Point) -> None:
        """Note what a call does."""
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        kinds = [self._kinds.kind(each, at) for each in given]
        together = PLAIN
        for kind in kinds:
            together |= kind
        name, target = called_name(call), self._targets.find(call, at.scope)
        for callee in target.scopes:
            self._pass_all(call, callee, at)
        if at.is_inside and self._converts(call, name, target, at):
            self._places.add(("converted", "", ""), ANY_OF_BLOCK, at)
        has_more = bool(together & (OF_BLOCK | NEW))
        for callee in self._kinds.calls.find_called_values(call, at):
            self._places.reach(callee, is_inside=at.is_inside)
            # All else that a function may get that is a value somewhere, its parameters have already.
            if has_more or self._places.has_filled(callee):
                self._pass_all(call, callee, at)
        if self._kinds.calls.calls_pool(call, at):
            self._places.reach_pool(is_inside=at.is_inside)
            if has_more:
                self._places.add(("pool", "given" + (INSIDE if at.is_inside else ""), ""), together | OF_BLOCK, at)
            if self._places.read(("filled", "", "")):
                for node in given:
                    self._bindings.change_contents(node, at)
        if target.made and not at.is_inside:
            for each in (target.made, *self._targets.families.list_bases(target.made)):
                self._places.add(("made", each, ""), OTHER, None)
        self._follow_fields(call, kinds, at, target)
        if not target.scopes or self._kinds.calls.may_be_of_library(call, target, at):
            self._follow_foreign(call, given, together, at, target)
        if name == "send":
            self._places.add(("sent", "", ""), together, at)
        named = next((a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)), None)
        if name in ("register_buffer", "register_parameter", "setattr", "__setattr__") and is_of_block(together):
            self._bindings.add_attribute(named or ANY, IS | together, at)
            self._places.add(("attributes", "module", ""), together, at)
            self._bindings.bind_operator("__setattr__", together, at)
            if call.args and self._targets.modules.names_module(call.args[0], at.scope):
                self._places.add(("variable", "global", named or ANY), IS | together, at)

    def _converts(self, call: ast.Call, name: str, target: Target, at: Point) -> bool:
        """Return whether a call may give a module that is not of the block other parameters."""
        dotted = target.dotted
        if dotted.startswith(("torch.nn.utils.prune", "torch.nn.utils.param", "torch.ao.", "torch.quantization")):
            return not dotted.endswith("parameters_to_vector")
        if name in ("add_module", "register_module", "register_parameter") or name.startswith(
            ("spectral_", "weight_norm")
        ):
            return True
        if name == "load_state_dict":
            return any(keyword.arg in ("assign", None) for keyword in call.keywords)
        if target.is_dynamic and self._targets.modules.has_lazy_layers:
            return True
        if name not in CONVERSIONS or not isinstance(call.func, ast.Attribute) or dotted:
            return False
        receiver = call.func.value
        last = receiver.attr if isinstance(receiver, ast.Attribute) else getattr(receiver, "id", "")
        is_alone = isinstance(at.statement.node, ast.Expr) and at.statement.node.value is call
        is_module = last in self._targets.called or bool(self._kinds.kind(receiver, at) & OBJECT)
        return is_alone or is_module

    def _pass_all(self, call: ast.Call, callee: Scope, at: Point) -> None:
        self._places.reach(callee, is_inside=at.is_inside)
        for value, is_collected, place, marks in self._list_passed(call, callee, is_inside=at.is_inside):
            kind = self._kinds.kind(value, at)
            if is_collected and is_of_block(kind):
                kind |= OF_BLOCK
            self._places.add(place, kind, at)
            for is_deep, mark in enumerate(marks):
                if self._places.read(mark):
                    self._bindings.change_contents(value, at, is_deep=bool(is_deep))

    def _list_passed(self, call: ast.Call, callee: Scope, *, is_inside: bool) -> list[_Passed]:
        """Return the arguments of a call with the places of the parameters that they may be given to."""
        key = (id(call), id(callee), is_inside)
        if key not in self._passed:
            self._passed[key] = [
                (
                    value,
                    isinstance(value, ast.Starred) or parameter not in callee.parameters,
                    place,
                    (mark_contents(place, is_deep=False), mark_contents(place, is_deep=True)),
                )
                for parameter, value in list_passed(call, callee)
                for place in [self._places.find_variable(callee, parameter, is_inside)]
            ]
        return self._passed[key]

    def _follow_foreign(
        self, call: ast.Call, given: Sequence[ast.expr], together: int, at: Point, target: Target
    ) -> None:
        """Note what code that is not of the program may do: keep what it is given, and call functions with it."""
        is_method = isinstance(call.func, ast.Attribute) and not target.dotted and not target.is_dynamic
        receiver = call.func.value if isinstance(call.func, ast.Attribute) and is_method else None
        if isinstance(receiver, ast.Name) and receiver.id in _CONTAINER_TYPES and call.args:
            receiver = call.args[0]  # the object of a method that is called by its class
        received = self._kinds.kind(receiver, at) if receiver is not None else PLAIN
        name = called_name(call)
        module, _, last = target.dotted.rpartition(".")
        is_operator = (module + "." in PURE_MODULES and last not in NEEDS_GRAD) or name in TENSOR_METHODS
        is_quiet = not module and name not in _CALLING and hasattr(builtins, name)
        is_container = (
            name in CONTAINER_WRITES or name in CONTAINER_READS or (name in PURE_PASSING and name not in _CALLING)
        )
        is_operator = is_operator or is_quiet or is_container or target.is_dynamic
        for node in given:
            for callee in self._find_given(node, at, only_named=is_operator):
                self._places.reach(callee, is_inside=at.is_inside)
                if "hook" in name or "callback" in name or name == "DataLoader":
                    self._places.reach(
                        callee, is_inside=True
                    )  # it runs when the library does, which may be in the block
                if is_of_block(together | received):
                    self._bindings.pass_to(callee, callee.parameters, OF_BLOCK | OTHER, at)
        if target.dotted and together & NEW and not self._keeps_nothing(target.dotted):
            self._places.add(("escaped", "", ""), OTHER, at)
        if receiver is not None and (is_of_block(together) or together & CARRIED):
            is_kept = name in CONTAINER_WRITES or name not in TENSOR_METHODS
            if is_kept and name not in CONTAINER_READS and name not in ("join", "format", "write", "count", "remove"):
                self._bindings.change_contents(receiver, at, together)
        elif target.dotted and is_of_block(together) and not self._keeps_nothing(target.dotted):
            for node, kind in zip(given, [self._kinds.kind(each, at) for each in given], strict=True):
                if isinstance(node, ast.Name | ast.Attribute) and not is_of_block(kind):
                    self._bindings.change_contents(node, at, together)
        if receiver is not None and name in CONTAINER_WRITES and self._bindings.is_changed(receiver, at, is_deep=True):
            for node in given:
                self._bindings.change_contents(node, at)

    def _find_given(self, node: ast.expr, at: Point, *, only_named: bool) -> Sequence[Scope]:
        """Return the functions that an argument may be: any that is a value somewhere, if it is a variable."""
        found = self._targets.find_function(node, at.scope)
        is_variable = isinstance(node, ast.Name | ast.Attribute | ast.Subscript)
        if found or only_named or not is_variable or not self._kinds.kind(node, at) & FUNCTION:
            return found
        if self._targets.is_pooled:
            self._places.reach_pool(is_inside=at.is_inside)
            return ()
        return self._targets.taken

    @staticmethod
    def _keeps_nothing(dotted: str) -> bool:
        root = dotted.partition(".")[0]
        return root == "torch" or root in PLAIN_MODULES or "." not in dotted or dotted in PASSING

    def _follow_fields(self, call: ast.Call, kinds: Sequence[int], at: Point, target: Target) -> None:
        """Note the fields of an object whose class lists them instead of writing ``__init__``, as a data class does."""
        fields = self._program.list_fields(target.made)
        names = [*fields[: len(call.args)], *[""] * (len(call.args) - len(fields)), *(k.arg for k in call.keywords)]
        for name, kind in zip(names, kinds, strict=True):
            if name in fields and name:
                self._bindings.add_attribute(name, kind, at)
