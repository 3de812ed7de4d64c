"""Calls that neither modify what they are given nor let autograd save it. All that is not known to be one is none."""

from __future__ import annotations

import ast
import builtins

from gradprobe.advice.call_targets import CallTargets
from gradprobe.advice.called_names import called_name, root_name
from gradprobe.advice.program_model import ProgramModel, Scope, Statement
from gradprobe.advice.tensor_flow import TensorFlow
from gradprobe.advice.tensor_names import (
    ALIASING,
    CONTAINER_READS,
    CONTAINER_WRITES,
    HARMLESS_FUNCTIONS,
    HARMLESS_METHODS,
    KNOWN_ROOTS,
    PURE_PASSING,
)
from gradprobe.advice.value_kinds import GRADED

_QUIET_ROOTS = frozenset(["logging", "logger", "log", "warnings", "sys", "os", "np", "numpy", "math", "json", "time"])
_CALLERS = {
    **dict.fromkeys(["map", "filter", "starmap", "takewhile", "dropwhile", "filterfalse"], 0),
    **dict.fromkeys(["accumulate", "groupby"], 1),
}
"""Functions that call one of their arguments with the elements of others, with the position of that."""
_PLAIN_KEYS = frozenset(
    ["len", "int", "float", "str", "repr", "bool", "type", "id", "isinstance", "list", "tuple", "set"]
)
WORKING_BUILTINS = frozenset(["pow", "divmod", "setattr"])
"""Built-in functions that do more with a tensor than to hand it on or look at it."""
_CONTAINER_USES = frozenset(
    [
        *(name for kind in (dict, list, set, tuple) for name in dir(kind) if not name.startswith("__")),
        *("__getitem__", "__setitem__", "__contains__", "__len__", "__iter__", "format", "join"),
        *CONTAINER_READS,
        *CONTAINER_WRITES,
    ]
)
"""Methods of containers that do nothing with a tensor but to keep, find or hand it out."""
_SHARED_NAMES = frozenset(["update", "add", "insert", "remove", "discard", "index", "count", "sort", "put"])
"""Those that objects of libraries often have as well, and there may do anything."""
_PROCESS_NAMES = frozenset(["put", "send", "put_nowait", "submit", "apply", "apply_async", "map", "starmap", "imap"])


class HarmlessCalls:
    """Search for calls that may do harm to what they are given.

    Args:
        program: The program.
        flow: Where the block's tensors are.
    """

    def __init__(self, program: ProgramModel, flow: TensorFlow) -> None:
        self._program, self._flow = program, flow
        self._targets: CallTargets = program.share(CallTargets)

    def is_harmless(self, call: ast.Call, statement: Statement, *, on_tensor: bool) -> bool:
        name, target = called_name(call), self._targets.find(call, statement.scope)
        if on_tensor and (name in HARMLESS_METHODS or name in ALIASING):
            return True
        if any(self.is_foreign_function(each, statement.scope) for each in call.args):
            return False
        is_name = isinstance(call.func, ast.Name) or bool(target.dotted)
        if is_name and self._calls_unknown(call, statement):
            return False
        is_known = "." not in target.dotted or target.dotted.partition(".")[0] in KNOWN_ROOTS
        if is_name and is_known and not target.is_dynamic and (name in HARMLESS_FUNCTIONS or name in PURE_PASSING):
            return True
        if target.dotted and "." not in target.dotted and hasattr(builtins, target.dotted):
            return target.dotted not in WORKING_BUILTINS
        if not is_name and name in _CONTAINER_USES and not (target.scopes and target.is_own):
            return not (name in _PROCESS_NAMES and self._has_processes()) and not self._is_of_library(call, statement)
        # The lines of functions of the program are looked at themselves.
        return root_name(call.func) in _QUIET_ROOTS or self._runs_known(call, statement)

    def _runs_known(self, call: ast.Call, statement: Statement) -> bool:
        """Return whether a call certainly runs functions of the program."""
        target, at = self._targets.find(call, statement.scope), self._flow.point(statement)
        if target.made:
            return True
        if not target.scopes or self._flow.may_be_of_library(call, target, at):
            return False
        if isinstance(call.func, ast.Name) and self._targets.is_also_imported(call.func.id, statement.scope):
            return False
        return not target.is_dynamic or not self._flow.kind(call.func, statement) & GRADED

    def _is_of_library(self, call: ast.Call, statement: Statement) -> bool:
        """Return whether the object of a method with a name that containers share may be one of a library."""
        assert isinstance(call.func, ast.Attribute)
        return call.func.attr in _SHARED_NAMES and bool(self._flow.kind(call.func.value, statement) & GRADED)

    def _calls_unknown(self, call: ast.Call, statement: Statement) -> bool:
        """Return whether a function that hands on elements calls something with them that is not known to be harmless."""
        name = called_name(call)
        called = [keyword.value for keyword in call.keywords if keyword.arg in ("key", "func", "default_factory")]
        position = _CALLERS.get(name)
        if position is not None:
            called += call.args[position : position + 1]
        return not all(self._is_known_function(each, statement) for each in called)

    def _is_known_function(self, node: ast.expr, statement: Statement) -> bool:
        if isinstance(node, ast.Constant | ast.Lambda):
            return True
        if (
            isinstance(node, ast.Name)
            and node.id in _PLAIN_KEYS
            and not self._targets.is_stored(node.id, statement.scope)
        ):
            return True
        dotted = self._targets.find_library_name(node, statement.scope)
        if dotted:
            return dotted.rpartition(".")[2] in (HARMLESS_METHODS | HARMLESS_FUNCTIONS) and dotted.startswith("torch.")
        if isinstance(node, ast.Call):
            return called_name(node) in ("itemgetter", "attrgetter")
        is_set = isinstance(node, ast.Attribute) and node.attr in self._targets.attributes
        return not is_set and bool(self._targets.names_function(node, statement.scope))

    def is_foreign_function(self, node: ast.expr, scope: Scope) -> bool:
        """Return whether an argument is a function of a library, which may modify what it is called with."""
        dotted = self._targets.find_library_name(node, scope)
        return dotted.startswith(("torch.Tensor.", "torch._foreach", "operator.")) or (
            dotted.startswith("torch.") and dotted.endswith("_")
        )

    def _has_processes(self) -> bool:
        return any(
            "multiprocessing" in file.text or "ProcessPool" in file.text for file in self._program.files.values()
        )
