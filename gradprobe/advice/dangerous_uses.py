"""Uses of a block's tensors that inference tensors do not allow, as far as a statement shows."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradprobe.advice.plain_values import called_name, is_plain, root_name
from gradprobe.advice.program_model import ProgramModel, Scope, Statement
from gradprobe.advice.tensor_flow import IS, TensorFlow
from gradprobe.advice.tensor_names import (
    ALIASING,
    CONTAINER_READS,
    CONTAINER_WRITES,
    HARMLESS_FUNCTIONS,
    HARMLESS_METHODS,
)

_FORBIDDEN_METHODS = frozenset(["requires_grad_", "backward", "register_hook", "share_memory_", "retain_grad", "set_"])
_QUIET_ROOTS = frozenset(["logging", "logger", "log", "warnings", "sys", "os", "np", "numpy", "math", "json", "time"])
_MODULE_WRITES = frozenset(["load_state_dict", "requires_grad_", "share_memory", "copy_", "zero_", "swap_tensors"])


class DangerousUses:
    """Search for the dangerous uses of what a flow says the block leaves.

    Args:
        program: The program.
        flow: Where the block's tensors are.
    """

    def __init__(self, program: ProgramModel, flow: TensorFlow) -> None:
        self._program, self._flow = program, flow

    def list_dangers(self, statement: Statement, expressions: Sequence[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
        """Yield what a statement would do to the block's tensors that an inference tensor does not allow."""
        node, scope = statement.node, statement.scope
        if isinstance(node, ast.Raise | ast.Delete):
            return
        in_inference = statement.modes[-1:] == ("inference_mode",)
        if not in_inference:
            yield from self._list_writes(node, scope)
        for expression in expressions:
            for part in ast.walk(expression):
                what = self._judge(part, scope, is_protected(statement), in_inference)
                if what:
                    yield part, what

    def _list_writes(self, node: ast.stmt, scope: Scope) -> Iterator[tuple[ast.AST, str]]:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(node, ast.AugAssign) and self._flow.kind(target, scope) & IS:
                yield node, "modify a tensor of the block in place"
            elif isinstance(target, ast.Subscript) and self._flow.kind(target.value, scope) & IS:
                yield node, "write into a tensor of the block"
            elif isinstance(target, ast.Attribute):
                if target.attr == "requires_grad" and self._flow.kind(target.value, scope) & IS:
                    yield node, "make a tensor of the block require grad"
                elif target.attr in ("data", "grad") and self._flow.kind(getattr(node, "value", None), scope) & IS:
                    yield node, "make a tensor of the block the data of another"

    def _judge(self, part: ast.AST, scope: Scope, is_protected: bool, in_inference: bool) -> str:
        if isinstance(part, ast.Attribute) and part.attr == "_version" and self._flow.kind(part.value, scope) & IS:
            return "read the version counter of a tensor of the block"
        if isinstance(part, ast.BinOp):
            sides = [part.left, part.right]
            if any(self._flow.kind(each, scope) & IS for each in sides) and not is_protected:
                others = [each for each in sides if not self._is_without_grad(each, scope)]
                return "use a tensor of the block where autograd may save it" if others else ""
        if isinstance(part, ast.Call):
            return self._judge_call(part, scope, is_protected, in_inference)
        return ""

    def _judge_call(self, call: ast.Call, scope: Scope, is_protected: bool, in_inference: bool) -> str:
        name = called_name(call)
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
        on_tensor = receiver is not None and self._flow.kind(receiver, scope) & IS
        if on_tensor:
            if name in _FORBIDDEN_METHODS or (name.endswith("_") and not name.endswith("__") and not in_inference):
                return f"call {name} on a tensor of the block"
            if name in HARMLESS_METHODS or name in ALIASING:
                return ""
        if receiver is not None and name in _MODULE_WRITES and self._flow.holds_in_modules() and not on_tensor:
            return f"call {name}, which may write a tensor of the block"
        if name == "step" and self._flow.places.get(("attribute", "", "state")):
            return "call step, which may write a tensor of the block that is in the optimizer's state"
        if any(keyword.arg == "out" and self._flow.kind(keyword.value, scope) for keyword in call.keywords):
            return "write a tensor of the block as out="
        met = on_tensor or any(self._flow.kind(each, scope) for each in given)
        if not met or is_protected:
            return ""
        if name in (*HARMLESS_FUNCTIONS, *CONTAINER_READS, *CONTAINER_WRITES) or root_name(call.func) in _QUIET_ROOTS:
            return ""
        dotted = scope.file.names.resolve(call.func) or ""
        if name in ("Parameter", "register_parameter") or ".init." in dotted or ".optim." in dotted:
            return "make a tensor of the block a parameter"
        if any(True for _ in self._flow.list_callees(call, scope)):
            return ""  # the function's own lines are looked at
        operands = [*given, *([receiver] if on_tensor and receiver is not None else [])]
        is_operator = dotted.startswith("torch.") or on_tensor
        if is_operator and all(self._is_without_grad(each, scope) for each in operands):
            return ""
        return f"pass a tensor of the block to {ast.unparse(call.func)}"

    def _is_without_grad(self, node: ast.AST, scope: Scope) -> bool:
        """Return whether a value certainly requires no grad: of the block, made of such, or no tensor."""
        if self._flow.kind(node, scope) or is_plain(node, scope):
            return True
        if isinstance(node, ast.BinOp):
            return all(self._is_without_grad(each, scope) for each in (node.left, node.right))
        if isinstance(node, ast.UnaryOp | ast.Starred):
            return self._is_without_grad(node.operand if isinstance(node, ast.UnaryOp) else node.value, scope)
        if isinstance(node, ast.Compare | ast.Slice):
            return True
        if isinstance(node, ast.Subscript):
            return self._is_without_grad(node.value, scope)
        if isinstance(node, ast.Call):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            dotted = scope.file.names.resolve(node.func) or ""
            if isinstance(node.func, ast.Attribute) and not dotted.startswith("torch."):
                if node.func.attr in ("detach", "item", "argmax", "argmin"):
                    return True
                if node.func.attr in self._program.by_name:
                    return False
                return self._is_without_grad(node.func.value, scope) and all(
                    self._is_without_grad(each, scope) for each in given
                )
            if dotted.startswith("torch."):
                return all(self._is_without_grad(each, scope) for each in given) and "requires_grad" not in ast.unparse(
                    node
                )
        return False


def is_protected(statement: Statement) -> bool:
    """Return whether autograd is off where a statement is, by the source."""
    return statement.modes[-1:] in (("no_grad",), ("inference_mode",))
