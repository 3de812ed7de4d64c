"""Operands that may require grad, and so make autograd save the others."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradprobe.advice.call_targets import CallTargets
from gradprobe.advice.program_model import ProgramModel, Scope, Statement
from gradprobe.advice.tensor_flow import TensorFlow
from gradprobe.advice.tensor_names import PURE_MODULES, TENSOR_METHODS
from gradprobe.advice.value_kinds import GRADED, HOLDS, IS, PLAIN, is_of_block


class GradedOperands:
    """Reader of what the operands of operators may be.

    Args:
        program: The program.
        flow: Where the block's tensors are.
    """

    def __init__(self, program: ProgramModel, flow: TensorFlow) -> None:
        self._program, self._flow = program, flow
        self._targets: CallTargets = program.share(CallTargets)

    def may_save(self, operands: Sequence[ast.expr], statement: Statement) -> bool:
        """Return whether an operator may meet a tensor of the block together with one that requires grad.

        One operand alone is either of the two.
        """
        parts = [each for operand in operands for each in _list_operands(operand)]
        met = {ast.dump(each) for each in parts if is_of_block(self._flow.kind(each, statement))}
        graded = {ast.dump(each) for each in parts if not self.is_without_grad(each, statement)}
        is_mixed = any(self._may_hold_both(each, statement) for each in parts)
        return bool(met and graded) and (len(met | graded) > 1 or is_mixed)

    def _may_hold_both(self, node: ast.expr, statement: Statement) -> bool:
        """Return whether a value may be a container of tensors of the block and others, or is computed from both."""
        kind = self._flow.kind(node, statement)
        is_name = isinstance(node, ast.Name | ast.Attribute)
        return bool(kind & GRADED) and (not is_name or bool(kind & HOLDS and not kind & IS))

    def is_without_grad(self, node: ast.AST, statement: Statement) -> bool:
        """Return whether a value certainly requires no grad: of the block, made of such, or no tensor."""
        scope = statement.scope
        kind = self._flow.kind(node, statement)
        if kind == PLAIN or (is_of_block(kind) and not kind & GRADED) or isinstance(node, ast.Compare | ast.Slice):
            return True
        if isinstance(node, ast.Name | ast.Attribute):
            return False
        if isinstance(node, ast.BinOp):
            return all(self.is_without_grad(each, statement) for each in (node.left, node.right))
        if isinstance(node, ast.UnaryOp | ast.Starred):
            return self.is_without_grad(node.operand if isinstance(node, ast.UnaryOp) else node.value, statement)
        if isinstance(node, ast.Subscript):
            return self.is_without_grad(node.value, statement)
        if isinstance(node, ast.Tuple | ast.List):
            return all(self.is_without_grad(each, statement) for each in node.elts)
        if isinstance(node, ast.Call):
            return self._gives_without_grad(node, statement, scope)
        return False

    def _gives_without_grad(self, call: ast.Call, statement: Statement, scope: Scope) -> bool:
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        dotted = self._targets.find(call, scope).dotted
        if isinstance(call.func, ast.Attribute) and not dotted:
            if call.func.attr in ("detach", "item", "argmax", "argmin", "tolist"):
                return True
            if call.func.attr in self._program.by_name or call.func.attr not in TENSOR_METHODS:
                return False
            return self.is_without_grad(call.func.value, statement) and all(
                self.is_without_grad(each, statement) for each in given
            )
        if dotted.rpartition(".")[0] + "." in PURE_MODULES and not dotted.endswith((".load", ".compile")):
            return all(self.is_without_grad(each, statement) for each in given) and "requires_grad" not in ast.unparse(
                call
            )
        return False


def _list_operands(node: ast.expr) -> list[ast.expr]:
    """Return the tensors that an operand is written as: those of a list, or itself."""
    if isinstance(node, ast.List | ast.Tuple):
        return [part for each in node.elts for part in _list_operands(each)]
    return [node]
