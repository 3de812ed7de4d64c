"""Uses of a block's tensors that inference tensors may not allow.

What a statement does with them is allowed if it is known to neither modify a tensor nor let autograd save it. All else is
not: code that is not understood may do anything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradprobe.advice.call_targets import CallTargets, is_text_code
from gradprobe.advice.called_names import called_name
from gradprobe.advice.graded_operands import GradedOperands
from gradprobe.advice.harmless_calls import WORKING_BUILTINS, HarmlessCalls
from gradprobe.advice.program_model import ProgramModel, Statement, walk_own
from gradprobe.advice.tensor_flow import TensorFlow
from gradprobe.advice.tensor_names import (
    CONTAINER_METHODS,
    CONTAINER_READS,
    PASSING,
    PURE_MODULES,
    PURE_PASSING,
    QUIET_METHODS,
    TENSOR_METHODS,
    WRITING_FUNCTIONS,
)
from gradprobe.advice.value_kinds import GRADED, IS, OTHER, PLAIN, is_of_block

_FORBIDDEN_METHODS = frozenset(["requires_grad_", "backward", "register_hook", "share_memory_", "retain_grad", "set_"])
_MODULE_WRITES = frozenset(["load_state_dict", "requires_grad_", "share_memory", "copy_", "zero_", "swap_tensors"])
_GRADIENT_WRITES = frozenset(["clip_grad_norm_", "clip_grad_value_", "unscale_", "backward", "all_reduce"])
_JUDGED = (ast.Attribute, ast.BinOp, ast.Subscript, ast.Call)
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
"""Buffers that modules of PyTorch write when they are called."""
_IN_PLACE_OPERATORS = frozenset(
    f"__i{name}__"
    for name in [
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "matmul",
        "pow",
        "mod",
        "and",
        "or",
        "xor",
        "lshift",
        "rshift",
    ]
)
_LINEAR = (ast.Add, ast.Sub, ast.BitAnd, ast.BitOr, ast.BitXor, ast.LShift, ast.RShift, ast.FloorDiv)
"""Operators for which autograd saves no operand."""


class DangerousUses:
    """Search for the dangerous uses of what a flow says the block leaves.

    Args:
        program: The program.
        flow: Where the block's tensors are.
    """

    def __init__(self, program: ProgramModel, flow: TensorFlow) -> None:
        self._program, self._flow = program, flow
        self._targets: CallTargets = program.share(CallTargets)
        self._operands = GradedOperands(program, flow)
        self._harmless = HarmlessCalls(program, flow)

    def list_dangers(self, statement: Statement, expressions: Sequence[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
        """Yield what a statement would do to the block's tensors that an inference tensor may not allow."""
        node = statement.node
        if isinstance(node, ast.Raise | ast.Delete):
            return
        if not _is_in_inference(statement):
            yield from self._list_writes(node, statement)
        is_whole = expressions is statement.expressions
        for part in statement.parts if is_whole else (p for each in expressions for p in walk_own(each)):
            if isinstance(part, _JUDGED):
                what = self._judge(part, statement)
                if what:
                    yield part, what

    def list_open_dangers(self, statement: Statement) -> Iterator[tuple[ast.AST, str]]:
        """Yield what a statement may do to the block's tensors in another run, by names that the source does not show."""
        for part in statement.parts:
            if not isinstance(part, ast.Call):
                continue
            if is_text_code(part) and not isinstance(part.args[0], ast.Constant) and self._has_any():
                yield part, "run text that may do anything to the tensors of the block"
                continue
            target = self._targets.find(part, statement.scope)
            is_chosen = self._targets.foreign_lookups or self._targets.has_function_tables
            is_open = target.is_dynamic and is_chosen and not target.scopes
            if is_open and self.is_met(part, statement) and self._may_be_looked_up(part, statement):
                yield part, f"pass a tensor of the block to {ast.unparse(part.func)}, which the run chooses by name"

    def _may_be_looked_up(self, call: ast.Call, statement: Statement) -> bool:
        """Return whether what is called may come from a look-up by a name that the source does not show."""
        return bool(self._flow.kind(call.func, statement) & OTHER)

    def _has_any(self) -> bool:
        return any(is_of_block(kind) for key, kind in self._flow.places.items() if not key[1].endswith("#in"))

    def is_met(self, call: ast.Call, statement: Statement) -> bool:
        """Return whether a call gets a tensor of the block."""
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        receiver = [call.func.value] if isinstance(call.func, ast.Attribute) else []
        return any(is_of_block(self._flow.kind(each, statement)) for each in (*given, *receiver))

    def _list_writes(self, node: ast.stmt, statement: Statement) -> Iterator[tuple[ast.AST, str]]:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        for target in targets:
            if isinstance(node, ast.AugAssign) and self._is(target, statement):
                yield node, "modify a tensor of the block in place"
            elif isinstance(node, ast.AugAssign) and self._is(value, statement) and not is_protected(statement):
                if not isinstance(node.op, _LINEAR) and not self._operands.is_without_grad(node.target, statement):
                    yield node, "use a tensor of the block where autograd may save it"
            elif isinstance(target, ast.Subscript) and self._is(target.value, statement):
                yield node, "write into a tensor of the block"
            elif isinstance(target, ast.Attribute):
                if target.attr == "requires_grad" and self._is(target.value, statement):
                    yield node, "make a tensor of the block require grad"
                elif target.attr in ("data", "grad") and self._is(value, statement):
                    yield node, "make a tensor of the block the data of another"

    def _is(self, node: ast.AST | None, statement: Statement) -> bool:
        return bool(self._flow.kind(node, statement) & IS)

    def _judge(self, part: ast.AST, statement: Statement) -> str:
        if isinstance(part, ast.Attribute) and part.attr == "_version" and self._is(part.value, statement):
            return "read the version counter of a tensor of the block"
        is_product = isinstance(part, ast.BinOp) and not isinstance(part.op, _LINEAR) and not is_protected(statement)
        if is_product and isinstance(part, ast.BinOp) and self._operands.may_save([part.left, part.right], statement):
            return "use a tensor of the block where autograd may save it"
        if isinstance(part, ast.Subscript) and not is_protected(statement):
            index = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
            value = getattr(statement.node, "value", None) if isinstance(part.ctx, ast.Store) else None
            indexed = [part.value, *([value] if isinstance(value, ast.AST) else [])]
            is_met = any(self._is(each, statement) for each in index)
            if is_met and not all(self._operands.is_without_grad(each, statement) for each in indexed):
                return "use a tensor of the block as an index, which autograd may save"
        if isinstance(part, ast.Call):
            return self._judge_call(part, statement)
        return ""

    def _judge_call(self, call: ast.Call, statement: Statement) -> str:
        name, scope = called_name(call), statement.scope
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        target = self._targets.find(call, scope)
        receiver = call.func.value if isinstance(call.func, ast.Attribute) and not target.dotted else None
        on_tensor = receiver is not None and self._is(receiver, statement)
        if is_text_code(call):
            return "run text that may do anything to the tensors of the block" if self._has_any() else ""
        is_met = on_tensor or any(is_of_block(self._flow.kind(each, statement)) for each in given)
        is_met = is_met or (target.is_dynamic and is_of_block(self._flow.kind(call.func, statement)))
        write = self._judge_write(call, statement, is_met=is_met, on_tensor=on_tensor)
        if write:
            return write
        received = self._flow.kind(receiver, statement) if receiver is not None else PLAIN
        if not is_met and is_of_block(received) and name not in CONTAINER_METHODS | CONTAINER_READS | QUIET_METHODS:
            is_met = not target.scopes and not received & ~3  # an unknown container, which has a method of its own
        if not is_met or self._harmless.is_harmless(call, statement, on_tensor=on_tensor):
            return ""
        if target.dotted == "setattr" and (receiver is None or not on_tensor):
            return self._judge_setattr(call, statement)
        if is_protected(statement) and not self._writes_by_flag():
            is_called = any(self._harmless.is_foreign_function(each, scope) for each in call.args)
            is_pure = target.is_dynamic or on_tensor or target.dotted.startswith("torch.")
            is_pure = is_pure or (name in (*PASSING, *PURE_PASSING, *WORKING_BUILTINS) and not is_called)
            return "" if is_pure else f"pass a tensor of the block to {ast.unparse(call.func)}"
        operands = [*given, *([receiver] if on_tensor and receiver is not None else [])]
        is_operator = on_tensor or target.dotted.rpartition(".")[0] + "." in PURE_MODULES
        is_operator = is_operator or target.dotted in ("pow", "divmod")
        if is_operator and not self._operands.may_save(operands, statement):
            return ""
        return f"pass a tensor of the block to {ast.unparse(call.func)}"

    def _judge_setattr(self, call: ast.Call, statement: Statement) -> str:
        """Return what setting an attribute by its name does to a tensor of the block."""
        if len(call.args) < 3:
            return f"pass a tensor of the block to {ast.unparse(call.func)}"
        owner, attribute, value = call.args[:3]
        named = attribute.value if isinstance(attribute, ast.Constant) else None
        if self._is(owner, statement) and named in (None, "requires_grad"):
            return "make a tensor of the block require grad"
        if named in ("data", "grad") and self._is(value, statement):
            return "make a tensor of the block the data of another"
        return ""

    def _judge_write(self, call: ast.Call, statement: Statement, *, is_met: bool, on_tensor: bool) -> str:
        """Return what a call writes, which no mode allows but inference mode."""
        name = called_name(call)
        dotted = self._targets.find(call, statement.scope).dotted
        in_inference = _is_in_inference(statement)
        is_in_place = _is_in_place(name) and (
            name not in self._program.by_name or (on_tensor and name in TENSOR_METHODS)
        )
        if name == "is_inference" and (on_tensor or is_met):
            return "ask whether a tensor of the block is an inference tensor"
        if on_tensor and (name in _FORBIDDEN_METHODS or (is_in_place and not in_inference)):
            return f"call {name} on a tensor of the block"
        is_of_module = isinstance(call.func, ast.Attribute) and not dotted and not on_tensor
        if name in _MODULE_WRITES and is_of_module and self._flow.holds_in_modules:
            return f"call {name}, which may write a tensor of the block"
        kept = [self._flow.places.get(("attribute", "", each), PLAIN) for each in ("state", "param_groups")]
        if name == "step" and any(is_of_block(kind) for kind in kept):
            return "call step, which may write a tensor of the block that is in the optimizer's state"
        if name in _GRADIENT_WRITES and is_of_block(self._flow.places.get(("attribute", "", "grad"), PLAIN)):
            return f"call {name}, which may write a tensor of the block that is a gradient"
        is_converted = is_of_block(self._flow.places.get(("converted", "", ""), PLAIN)) and not is_protected(statement)
        is_value = self._targets.find(call, statement.scope).is_dynamic
        if is_converted and is_value and self._flow.kind(call.func, statement) & GRADED:
            return f"call {ast.unparse(call.func)}, whose parameters may be tensors of the block"
        is_module = is_value or name == "train"
        if is_module and any(is_of_block(self._flow.places.get(("attribute", "", each), PLAIN)) for each in _BUFFERS):
            return f"call {name or ast.unparse(call.func)}, which may write a tensor of the block that is a module's buffer"
        if not is_met or in_inference:
            return ""
        if any(k.arg == "out" and is_of_block(self._flow.kind(k.value, statement)) for k in call.keywords):
            return "write a tensor of the block as out="
        flags = ("inplace", None) if dotted else ("inplace",)
        is_set = any(k.arg in flags and getattr(k.value, "value", None) is not False for k in call.keywords)
        is_set = is_set or (
            ".functional." in dotted and any(getattr(each, "value", None) is True for each in call.args)
        )
        if is_set or (dotted and (is_in_place or name in WRITING_FUNCTIONS)):
            return f"modify a tensor of the block by {ast.unparse(call.func)}"
        if name in ("Parameter", "register_parameter") or ".init." in dotted or ".optim." in dotted:
            return "make a tensor of the block a parameter"
        return ""

    def _writes_by_flag(self) -> bool:
        """Return whether modules of the program modify what they are given."""
        return self._targets.modules.may_write_by_flag


def is_protected(statement: Statement) -> bool:
    """Return whether autograd is off where a statement is, by the source."""
    return statement.modes[-1:] in (("no_grad",), ("inference_mode",))


def _is_in_place(name: str) -> bool:
    """Return whether a method modifies its object, by its name; ``__imul__`` and its like do."""
    is_operator = name == "__setitem__" or name in _IN_PLACE_OPERATORS
    return is_operator or (name.endswith("_") and not name.endswith("__"))


def _is_in_inference(statement: Statement) -> bool:
    return statement.modes[-1:] == ("inference_mode",)
