"""Effects of calls beside their results: arguments reach parameters, fields, containers, and functions that are given."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradprobe.advice.call_targets import CallTargets, Target
from gradprobe.advice.called_names import called_name
from gradprobe.advice.expression_kinds import ANY, TENSOR_METHODS, ExpressionKinds, Point
from gradprobe.advice.flow_places import INSIDE, FlowPlaces
from gradprobe.advice.passed_arguments import list_passed
from gradprobe.advice.program_model import ProgramModel, Scope
from gradprobe.advice.tensor_names import CONTAINER_READS, CONTAINER_WRITES, PASSING, PLAIN_MODULES
from gradprobe.advice.value_bindings import ValueBindings
from gradprobe.advice.value_kinds import CARRIED, IS, NEW, OF_BLOCK, OTHER, PLAIN, is_of_block


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
        has_more = bool(together & (OF_BLOCK | NEW))
        for callee in self._kinds.find_called_values(call, at):
            self._places.reach(callee, is_inside=at.is_inside)
            # All else that a function may get that is a value somewhere, its parameters have already.
            if has_more or self._places.has_filled(callee):
                self._pass_all(call, callee, at)
        if self._kinds.calls_pool(call, at):
            self._places.reach_pool(is_inside=at.is_inside)
            if has_more:
                self._places.add(("pool", "given" + (INSIDE if at.is_inside else ""), ""), together | OF_BLOCK, at)
            if self._places.read(("filled", "", "")):
                for node in given:
                    self._bindings.change_contents(node, at)
        if target.made and not at.is_inside:
            for each in (target.made, *self._targets.list_bases(target.made)):
                self._places.add(("made", each, ""), OTHER, None)
        self._follow_fields(call, kinds, at, target)
        if not target.scopes:
            self._follow_foreign(call, given, together, at, target)
        if name == "send":
            self._places.add(("sent", "", ""), together, at)
        named = next((a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)), None)
        if name in ("register_buffer", "register_parameter", "setattr", "__setattr__") and is_of_block(together):
            self._bindings.add_attribute(named or ANY, IS | together, at)
            self._places.add(("attributes", "module", ""), together, at)
            self._bindings.bind_operator("__setattr__", together, at)

    def _pass_all(self, call: ast.Call, callee: Scope, at: Point) -> None:
        self._places.reach(callee, is_inside=at.is_inside)
        for parameter, value in list_passed(call, callee):
            kind = self._kinds.kind(value, at)
            if is_of_block(kind) and (isinstance(value, ast.Starred) or parameter not in callee.parameters):
                kind |= OF_BLOCK
            self._bindings.pass_to(callee, [parameter], kind, at)
            place = self._places.find_variable(callee, parameter, at.is_inside)
            for is_deep in (False, True):
                if self._places.is_any_changed([place], is_deep=is_deep):
                    self._bindings.change_contents(value, at, is_deep=is_deep)

    def _follow_foreign(
        self, call: ast.Call, given: Sequence[ast.expr], together: int, at: Point, target: Target
    ) -> None:
        """Note what code that is not of the program may do: keep what it is given, and call functions with it."""
        is_method = isinstance(call.func, ast.Attribute) and not target.dotted and not target.is_dynamic
        receiver = call.func.value if isinstance(call.func, ast.Attribute) and is_method else None
        received = self._kinds.kind(receiver, at) if receiver is not None else PLAIN
        name = called_name(call)
        for node in given:
            for callee in self._targets.find_function(node, at.scope):
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
