"""Later uses of a kept inference tensor: lines that write it in place, save it for backward or load into it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradprobe.analysis.findings.tensor_lifecycle.program import Function, Modes, Program, last_name, pair
from gradprobe.analysis.findings.tensor_lifecycle.tensor_paths import (
    MODULE,
    Names,
    TensorPaths,
    get_targets,
    is_in_place,
)

WRITE, SAVE, LOAD, VERSION, REQUIRE = (
    "written in place",
    "saved for backward",
    "loaded into",
    "asked for its version",
    "made to require grad",
)
"""Fate of the tensor."""

_SAVING = frozenset(
    (
        "mul",
        "multiply",
        "div",
        "divide",
        "true_divide",
        "matmul",
        "bmm",
        "mm",
        "mv",
        "dot",
        "einsum",
        "addmm",
        "baddbmm",
    )
    + ("linear", "conv1d", "conv2d", "conv3d", "mse_loss", "smooth_l1_loss", "huber_loss", "kl_div", "cross_entropy")
    + (
        "nll_loss",
        "binary_cross_entropy",
        "binary_cross_entropy_with_logits",
        "pow",
        "lerp",
        "addcmul",
        "addcdiv",
        "outer",
    )
    + ("gather", "index_select", "embedding", "take_along_dim", "scaled_dot_product_attention")
)
_SAVING_OPERATORS = (ast.Mult, ast.Div, ast.MatMult, ast.Pow)
_TRAINED_MODULES = frozenset(
    ("Linear", "Conv1d", "Conv2d", "Conv3d", "Sequential", "Bilinear", "LSTM", "GRU", "RNN", "LSTMCell", "GRUCell")
    + ("LayerNorm", "MultiheadAttention", "TransformerEncoder", "TransformerEncoderLayer")
)
_OPTIMIZERS = ("optim", "sched", "scaler", "opt")
_MAX_CALLS = 2


@dataclass(frozen=True)
class LaterUse:
    """Line that does something to the tensor which fails outside of inference mode."""

    function: Function
    line: int
    what: str
    needs_grad: bool = False


def find_uses(paths: TensorPaths) -> list[LaterUse]:
    """Return all uses of a tensor, in the order of the source."""
    functions = paths.program.functions
    for _ in range(2):  # a function may return what another one returns
        for function in functions:
            if function.name not in ("", "forward", "__call__"):
                reader = UseReader(paths, function, {}, 0)
                _exhaust(reader)
                if reader.returned is not None:
                    paths.returning[function] = reader.returned
    return list(dict.fromkeys(use for function in functions for use in UseReader(paths, function, {}, 0).read()))


def _exhaust(reader: UseReader) -> None:
    for _ in reader.read():
        pass


class UseReader:
    """One pass through a function: the variables that lead to the tensor, and what is done to them."""

    def __init__(self, paths: TensorPaths, function: Function, names: Names, calls: int) -> None:
        self._paths, self._function = paths, function
        self._program: Program = paths.program
        self._names, self._calls = dict(names), calls
        self._with_grad: set[str] = set()
        self.returned: int | None = None

    def read(self) -> Iterator[LaterUse]:
        """Yield the uses."""
        yield from self._read(self._function.body)

    def _level(self, expression: ast.AST) -> int | None:
        return self._paths.level(expression, self._function, self._names)

    def _read(self, body: list[ast.stmt]) -> Iterator[LaterUse]:
        for statement in body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            for expression in _heads(statement):
                yield from self._read_expression(expression)
            if isinstance(statement, ast.For | ast.AsyncFor):
                self._bind_loop(statement.target, statement.iter)
            yield from self._read_targets(statement)
            if isinstance(statement, ast.Return) and statement.value is not None:
                level = self._level(statement.value)
                self.returned = level if self.returned is None else self.returned
            for name in ("body", "orelse", "finalbody"):
                yield from self._read(getattr(statement, name, []))
            for handler in getattr(statement, "handlers", []):
                yield from self._read(handler.body)

    def _read_targets(self, statement: ast.stmt) -> Iterator[LaterUse]:
        if isinstance(statement, ast.AugAssign):
            if self._level(statement.target) == 0:
                yield self._use(statement, WRITE)
            return
        for target in get_targets(statement):
            for each, value in pair(target, getattr(statement, "value", None) or ast.Constant(None)):
                if isinstance(each, ast.Subscript) and self._level(each.value) == 0:
                    yield self._use(statement, WRITE)
                elif isinstance(each, ast.Name):
                    self._bind(each.id, self._level(value))
                    if self._may_require_grad(value):
                        self._with_grad.add(each.id)

    def _bind(self, name: str, level: int | None) -> None:
        if level is None:
            self._names.pop(name, None)
        else:
            self._names[name] = level

    def _bind_loop(self, target: ast.expr, iterated: ast.expr) -> None:
        for each, level in self._members(target, iterated):
            if isinstance(each, ast.Name):
                self._bind(each.id, level)

    def _members(self, target: ast.expr, iterated: ast.expr) -> Iterator[tuple[ast.expr, int | None]]:
        """Yield the variables of a loop, each with the number of items from there to the tensor."""
        elements = list(target.elts) if isinstance(target, ast.Tuple) else [target]
        if isinstance(iterated, ast.Call):
            name = last_name(iterated.func)
            if name == "zip" and len(elements) == len(iterated.args):
                for each, argument in zip(elements, iterated.args, strict=True):
                    yield from self._members(each, argument)
                return
            if name in ("enumerate", "items", "named_buffers", "named_parameters") and len(elements) == 2:
                inner = iterated.args[0] if name == "enumerate" and iterated.args else iterated
                source = iterated.func.value if name == "items" and isinstance(iterated.func, ast.Attribute) else inner
                if name == "enumerate":
                    yield from self._members(elements[1], source)
                    return
                level = self._level(source)
                yield elements[0], None
                yield elements[1], None if level is None else max(level - 1, 0)
                return
            if name in ("list", "reversed", "sorted", "iter", "tuple") and iterated.args:
                yield from self._members(target, iterated.args[0])
                return
            if name == "values" and isinstance(iterated.func, ast.Attribute):
                iterated = iterated.func.value
        level = self._level(iterated)
        for each in elements:
            yield each, None if level is None else max(level - 1, 0)

    def _read_expression(self, expression: ast.AST) -> Iterator[LaterUse]:
        for comprehension in (node for node in ast.walk(expression) if isinstance(node, ast.comprehension)):
            self._bind_loop(comprehension.target, comprehension.iter)
        for node in ast.walk(expression):
            if isinstance(node, ast.Call):
                yield from self._read_call(node)
            elif isinstance(node, ast.BinOp) and isinstance(node.op, _SAVING_OPERATORS):
                for one, other in ((node.left, node.right), (node.right, node.left)):
                    if self._level(one) == 0 and self._may_require_grad(other):
                        yield self._use(node, SAVE, needs_grad=True)
            elif isinstance(node, ast.Attribute) and node.attr == "_version" and self._level(node.value) == 0:
                yield self._use(node, VERSION)

    def _read_call(self, call: ast.Call) -> Iterator[LaterUse]:
        name = last_name(call.func)
        arguments = [*call.args, *(keyword.value for keyword in call.keywords)]
        taken = [argument for argument in arguments if self._leads(argument)]
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
        receives = receiver is not None and self._level(receiver) == 0
        first = bool(call.args) and self._leads(call.args[0])
        if is_in_place(name) and (receives or (first and receiver is not None and self._level(receiver) is None)):
            what = REQUIRE if name == "requires_grad_" else WRITE
            if receives or name.startswith("_foreach") or self._is_function_of_torch(call.func):
                yield self._use(call, what)
        elif any(k.arg == "out" and self._level(k.value) == 0 for k in call.keywords) or (
            first and any(k.arg == "inplace" and getattr(k.value, "value", None) is True for k in call.keywords)
        ):
            yield self._use(call, WRITE)
        elif name == "Parameter" and first and self._level(call.args[0]) == 0:
            yield self._use(call, REQUIRE)
        elif name == "load_state_dict" and receiver is not None and self._is_loaded(receiver):
            yield self._use(call, LOAD)
        elif self._paths.is_saved_by_module and self._level(call.func) == MODULE:
            yield self._use(call, SAVE, needs_grad=True)
        elif name in _SAVING and (receives or taken):
            others = [*arguments, *([] if receiver is None else [receiver])]
            if any(self._level(each) is None and self._may_require_grad(each) for each in others):
                yield self._use(call, SAVE, needs_grad=True)
        elif any(self._level(each) == 0 for each in taken) and self._calls_module(call.func):
            yield self._use(call, SAVE, needs_grad=True)
        if taken and self._calls < _MAX_CALLS:
            yield from self._follow(call)

    def _leads(self, expression: ast.expr) -> bool:
        if isinstance(expression, ast.List | ast.Tuple):
            return any(self._level(each) is not None for each in expression.elts)
        return self._level(expression) is not None

    def _is_function_of_torch(self, func: ast.expr) -> bool:
        name = self._function.file.names.resolve(func) or ""
        return name.startswith("torch.")

    def _is_loaded(self, receiver: ast.expr) -> bool:
        kept = self._paths.kept
        if kept.kind not in ("buffer", "parameter") or any(word in last_name(receiver).lower() for word in _OPTIMIZERS):
            return False
        if self._level(receiver) == MODULE:
            return True
        owners = self._program.classes_of(receiver, self._function)
        if kept.owner not in self._program.classes:
            return False
        return owners is None or bool(self._program.containing(kept.owner) & owners)

    def _calls_module(self, func: ast.expr) -> bool:
        """Return whether a call is one of a module with parameters, as far as the source shows."""
        if not isinstance(func, ast.Name | ast.Attribute | ast.Subscript):
            return False
        classes = self._program.instances.get(last_name(func), set())
        trained = {"Linear", "Conv1d", "Conv2d", "Conv3d", "Sequential", "Bilinear", "LSTM", "GRU", "RNN", "LayerNorm"}
        if classes & (
            trained | {"TransformerEncoderLayer", "MultiheadAttention", "TransformerEncoder", "LSTMCell", "GRUCell"}
        ):
            return True
        return any(
            f.owner in classes and "Module" in self._program.bases(f.owner)
            for f in self._program.by_name.get("forward", ())
        )

    def _may_require_grad(self, expression: ast.AST) -> bool:
        """Return whether an expression depends on a parameter or the result of a module, as far as the source shows."""
        for node in ast.walk(expression):
            if isinstance(node, ast.Call) and last_name(node.func) in ("detach", "item", "tolist", "numpy"):
                return False
        for node in ast.walk(expression):
            if isinstance(node, ast.Name) and node.id in self._with_grad:
                return True
            if isinstance(node, ast.Call) and self._calls_module(node.func):
                return True
            if isinstance(node, ast.Attribute) and (
                "Parameter" in self._program.instances.get(node.attr, ()) or node.attr in ("weight", "bias")
            ):
                return True
            if isinstance(node, ast.Name) and node.id in self._function.parameters and self._gets_grad(node.id):
                return True
        return False

    def _gets_grad(self, parameter: str) -> bool:
        """Return whether a caller passes a parameter something that depends on a module."""
        if self._calls >= _MAX_CALLS:
            return False
        parameters = [name for name in self._function.parameters if name not in ("self", "cls")]
        position = parameters.index(parameter) if parameter in parameters else -1
        for site in self._program.calls.get(self._function, ()):
            if 0 <= position < len(site.call.args):
                reader = UseReader(self._paths, site.caller, {}, self._calls + 1)
                for _ in reader.read():
                    pass
                if reader._may_require_grad(site.call.args[position]):
                    return True
        return False

    def _follow(self, call: ast.Call) -> Iterator[LaterUse]:
        """Yield what a function does with the tensor that a call passes to it."""
        for called in self._program.resolve(call.func, self._function):
            parameters = [name for name in called.parameters if name not in ("self", "cls")]
            names = {
                name: level
                for name, argument in (
                    *zip(parameters, call.args, strict=False),
                    *((k.arg, k.value) for k in call.keywords if k.arg is not None),
                )
                if (level := self._level(argument)) is not None
            }
            if names and called is not self._function:
                yield from UseReader(self._paths, called, names, self._calls + 1).read()

    def _use(self, node: ast.AST, what: str, *, needs_grad: bool = False) -> LaterUse:
        return LaterUse(self._function, int(getattr(node, "lineno", 0)), what, needs_grad)


def fails_in(use: LaterUse, modes: Modes) -> bool:
    """Return whether a use fails in some modes."""
    inference, grad = modes
    return not inference and (grad or not use.needs_grad)


def _heads(statement: ast.stmt) -> Iterator[ast.AST]:
    """Yield the expressions of a statement, without the statements in it."""
    for child in ast.iter_child_nodes(statement):
        if not isinstance(child, ast.stmt | ast.ExceptHandler):
            yield child
