"""Lines that did not run and could meet what a block leaves, or need gradients inside of it.

A run shows nothing about them, so a swap that only they could break is unproven. Lines that cannot break it, such as those
that raise, print, or read numbers, do not count.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradprobe.advice.line_trace import INFERENCE
from gradprobe.advice.manager_sites import Site
from gradprobe.advice.program_model import Coverage, Key, ProgramModel, Scope, Statement
from gradprobe.advice.tensor_flow import (
    ALIASING,
    CONTAINER_READS,
    CONTAINER_WRITES,
    IS,
    TensorFlow,
    _called,
    _root,
)

_NEEDS_GRAD = frozenset(
    [
        "enable_grad",
        "set_grad_enabled",
        "backward",
        "grad",
        "jvp",
        "vjp",
        "jacobian",
        "hessian",
        "jacrev",
        "jacfwd",
        "hvp",
        "vhp",
        "make_dual",
        "dual_level",
        "functional_call",
        "requires_grad_",
        "linearize",
    ]
)
_FORBIDDEN_METHODS = frozenset(["requires_grad_", "backward", "register_hook", "share_memory_", "retain_grad", "set_"])
_HARMLESS_METHODS = frozenset(
    [
        "item",
        "tolist",
        "numpy",
        "size",
        "dim",
        "numel",
        "nelement",
        "element_size",
        "stride",
        "data_ptr",
        "is_contiguous",
        "get_device",
        "clone",
        "any",
        "all",
        "argmax",
        "argmin",
        "argsort",
        "eq",
        "ne",
        "gt",
        "lt",
        "ge",
        "le",
        "isnan",
        "isinf",
        "isfinite",
        "nonzero",
        "bool",
        "int",
        "long",
        "storage_offset",
        "is_floating_point",
        "is_inference",
        "bincount",
        "unique",
        "sort",
        "topk",
        "count_nonzero",
        "equal",
        "allclose",
    ]
)
_HARMLESS_FUNCTIONS = frozenset(
    [
        "print",
        "len",
        "str",
        "repr",
        "isinstance",
        "issubclass",
        "type",
        "id",
        "format",
        "float",
        "int",
        "bool",
        "list",
        "tuple",
        "dict",
        "set",
        "frozenset",
        "zip",
        "enumerate",
        "sorted",
        "reversed",
        "iter",
        "next",
        "any",
        "all",
        "hash",
        "hasattr",
        "dumps",
        "dump",
        "save",
        "deepcopy",
        "asarray",
        "array",
        "range",
        "callable",
        "is_tensor",
    ]
)
_BUILTINS = frozenset(dir(builtins))
_METHODS = frozenset(
    (*dir(str), *dir(list), *dir(dict), *dir(set), "step", "zero_grad", "backward", "parameters", "mean")
)
_QUIET_ROOTS = frozenset(["logging", "logger", "log", "warnings", "sys", "os", "np", "numpy", "math", "json", "time"])
_MODULE_WRITES = frozenset(["load_state_dict", "requires_grad_", "share_memory", "copy_", "zero_", "swap_tensors"])


@dataclass(frozen=True)
class UnrunLine:
    """A line that did not run, and what it would do."""

    file: str
    line: int
    role: str


def find_unrun_lines(
    program: ProgramModel, coverage: Coverage, site: Site, lines_with_nodes: frozenset[tuple[str, int]] = frozenset()
) -> list[UnrunLine]:
    """Return the lines that leave it open whether a site may be exchanged.

    Args:
        program: The program.
        coverage: The lines that ran, in the run with the site under inference mode.
        site: The site.
        lines_with_nodes: Lines that built autograd nodes in that run: what they did with the block's tensors has been seen.
    """
    return _Search(program, coverage, site, lines_with_nodes).find()


class _Search:
    def __init__(
        self, program: ProgramModel, coverage: Coverage, site: Site, lines_with_nodes: frozenset[tuple[str, int]]
    ) -> None:
        self._program, self._coverage, self._site = program, coverage, site
        self._with_nodes = lines_with_nodes
        self._ran = {id(each): coverage.has_run(each) for each in program.statements}
        self._region = self._find_region()
        ran_in_block = [each for each in self._region if self._ran[id(each)]]
        self._proven = TensorFlow(program, ran_in_block, self._is_site_scope)
        self._flow = TensorFlow(program, self._region, self._is_site_scope)
        self._outside_scopes = self._find_outside_scopes()
        self._inside = {id(each) for each in self._region if not self._is_met_outside(each)}

    def find(self) -> list[UnrunLine]:
        found = [*self._find_inside(), *self._find_outside(), *self._find_new_contexts()]
        return list({(each.file, each.line): each for each in reversed(found)}.values())[::-1]

    def _is_site_scope(self, statement: Statement) -> bool:
        """Return whether a statement is in the function of the site, whose results and variables leave the block."""
        return self._is_lexical(statement) or (self._site.body is None and statement.scope.name == self._site.function)

    def _is_lexical(self, statement: Statement) -> bool:
        body = self._site.body
        return (
            body is not None and statement.scope.file.file == self._site.file and body[0] <= statement.line <= body[1]
        )

    def _is_met_outside(self, statement: Statement) -> bool:
        """Return whether a statement of a function that the block calls may also run outside of the block."""
        return not self._is_lexical(statement) and id(statement.scope) in self._outside_scopes

    def _find_outside_scopes(self) -> set[int]:
        """Return the functions that statements outside of the block may call, directly or not."""
        found: set[int] = set()
        functions = {id(each.scope) for each in self._region if each.scope.function is not None}
        waiting = [
            each
            for each in self._program.statements
            if not self._is_lexical(each) and (id(each.scope) not in functions or self._is_before_block(each))
        ]
        while waiting:
            for callee in self._list_called(waiting.pop()):
                if id(callee) not in found:
                    found.add(id(callee))
                    waiting += [s for s in self._program.statements if s.scope is callee and not self._is_lexical(s)]
        return found

    def _find_region(self) -> list[Statement]:
        """Return the statements of the block: written in it, run in it, or called from those of it that did not run."""
        seen_inside = [each for each in self._program.statements if self._runs_in_mode(each)]
        functions = {id(each.scope) for each in seen_inside if each.scope.function is not None}
        region = {id(each): each for each in self._program.statements if self._is_lexical(each)}
        region.update({id(each): each for each in seen_inside})
        for each in self._program.statements:
            if id(each.scope) in functions and not self._ran[id(each)] and not self._is_before_block(each):
                region.setdefault(id(each), each)
        waiting = [each for each in region.values() if not self._ran[id(each)]]
        while waiting:
            statement = waiting.pop()
            for callee in self._list_called(statement):
                for each in self._program.statements:
                    if each.scope is callee and id(each) not in region and not self._ran[id(each)]:
                        region[id(each)] = each
                        waiting.append(each)
        return list(region.values())

    def _is_before_block(self, statement: Statement) -> bool:
        """Return whether a statement is in the function of a ``with`` block but outside of the block."""
        return (
            self._site.form == "with"
            and statement.scope.file.file == self._site.file
            and statement.scope.name == self._site.function
            and not self._is_lexical(statement)
        )

    def _runs_in_mode(self, statement: Statement) -> bool:
        modes = self._coverage.modes(statement)
        own_mode = any(manager == "inference_mode" for manager in statement.modes)
        return not own_mode and any(mode & INFERENCE for mode in modes)

    def _list_called(self, statement: Statement) -> Iterator[Scope]:
        for expression in statement.expressions:
            for part in ast.walk(expression):
                if isinstance(part, ast.Call):
                    yield from self._flow_free_callees(part, statement.scope)

    def _flow_free_callees(self, call: ast.Call, scope: Scope) -> Iterator[Scope]:
        name = _called(call)
        yield from self._program.by_name.get(name, ())
        if isinstance(call.func, ast.Name) and (name in _BUILTINS or name in self._program.classes):
            return
        if isinstance(call.func, ast.Attribute) and (name in _METHODS or name in _HARMLESS_METHODS or name in ALIASING):
            return
        for special in ("forward", "__call__"):
            # The class of what is called is not known: it may be any of the program's.
            if name and name not in self._program.by_name and not _is_of_library(call, scope):
                yield from self._program.by_name.get(special, ())

    def _find_inside(self) -> Iterator[UnrunLine]:
        for statement in self._region:
            unrun = [] if self._ran[id(statement)] else list(statement.expressions)
            unrun = unrun or list(self._coverage.list_unrun_parts(statement))
            if isinstance(statement.node, ast.Raise):
                continue
            for expression in unrun:
                for part in ast.walk(expression):
                    name = _called(part) if isinstance(part, ast.Call) else ""
                    is_named = name in _NEEDS_GRAD and not (name == "set_grad_enabled" and "False" in ast.unparse(part))
                    root = statement.scope.file.names.resolve(part.func) if isinstance(part, ast.Call) else None
                    if is_named or (root or "").startswith(("torch.func.", "torch.autograd.", "functorch.")):
                        if (root or "").endswith(("no_grad", "inference_mode")):
                            continue
                        yield self._line(statement, part, "did not run; would need gradients in the block")
                    elif isinstance(part, ast.Attribute) and part.attr == "_version":
                        yield self._line(statement, part, "did not run; would read a version counter in the block")

    def _find_outside(self) -> Iterator[UnrunLine]:
        for statement in self._program.statements:
            if id(statement) in self._inside:
                continue
            if not self._ran[id(statement)]:
                for node, what in self._list_dangers(self._flow, statement, statement.expressions):
                    yield self._line(statement, node, f"did not run; would {what}")
                continue
            for part in self._coverage.list_unrun_parts(statement):
                for node, what in self._list_dangers(self._flow, statement, [part]):
                    yield self._line(statement, node, f"did not run; would {what}")
            if not list(self._list_dangers(self._proven, statement, statement.expressions)):
                for node, what in self._list_dangers(self._flow, statement, statement.expressions):
                    origin = self._find_unrun_origin(node, statement)
                    if origin is not None:
                        yield self._line(origin, origin.node, "did not run; would create what another line uses")
                        yield self._line(
                            statement, node, f"would {what} that the block creates on a line that did not run"
                        )

    def _find_unrun_origin(
        self, node: ast.AST, statement: Statement, seen: frozenset[Key] = frozenset()
    ) -> Statement | None:
        """Return the line of the block that did not run and gives a name in ``node`` its tensor."""
        for part in ast.walk(node):
            key = None
            if isinstance(part, ast.Name):
                key = statement.scope.resolve(part.id)
            elif isinstance(part, ast.Attribute):
                key = ("attribute", "", part.attr)
            if key is not None and self._flow.places.get(key) and not self._proven.places.get(key):
                origin = self._flow.origins.get(key)
                if origin is None or key in seen:
                    continue
                if not self._ran[id(origin)]:
                    return origin
                for expression in origin.expressions:
                    found = self._find_unrun_origin(expression, origin, seen | {key})
                    if found is not None:
                        return found
        return None

    def _find_new_contexts(self) -> Iterator[UnrunLine]:
        """Yield unrun calls of functions that use the block's tensors, on lines that never built a graph with them."""
        risky: dict[int, tuple[Statement, tuple[ast.AST, str]]] = {}
        for statement in self._program.statements:
            place = (statement.scope.file.file, statement.line)
            is_seen = any((place[0], line) in self._with_nodes for line in range(place[1], statement.last_line + 1))
            if id(statement) in self._inside or not self._ran[id(statement)] or is_seen or _is_protected(statement):
                continue
            dangers = list(self._list_dangers(self._flow, statement, statement.expressions))
            if dangers and statement.scope.function is not None:
                risky.setdefault(id(statement.scope), (statement, dangers[0]))
        if not risky:
            return
        for statement in self._program.statements:
            if id(statement) in self._inside or self._ran[id(statement)] or _is_protected(statement):
                continue
            reached = self._find_reached(statement, risky)
            if reached is not None:
                used, (node, what) = reached
                yield self._line(
                    statement, statement.node, "did not run; leads to a line that uses the block's tensors"
                )
                yield self._line(used, node, f"would {what} if it were reached from there")

    def _find_reached(
        self, statement: Statement, risky: dict[int, tuple[Statement, tuple[ast.AST, str]]]
    ) -> tuple[Statement, tuple[ast.AST, str]] | None:
        seen: set[int] = set()
        waiting = [statement]
        while waiting:
            for callee in self._list_called(waiting.pop()):
                if id(callee) in risky:
                    return risky[id(callee)]
                if id(callee) not in seen:
                    seen.add(id(callee))
                    waiting += [s for s in self._program.statements if s.scope is callee and not _is_protected(s)]
        return None

    def _list_dangers(
        self, flow: TensorFlow, statement: Statement, expressions: Sequence[ast.AST]
    ) -> Iterator[tuple[ast.AST, str]]:
        """Yield what a statement would do to the block's tensors that an inference tensor does not allow."""
        node, scope = statement.node, statement.scope
        if isinstance(node, ast.Raise | ast.Delete):
            return
        in_inference = statement.modes[-1:] == ("inference_mode",)
        if not in_inference:
            yield from self._list_writes(flow, node, scope)
        for expression in expressions:
            for part in ast.walk(expression):
                what = self._judge(flow, part, scope, _is_protected(statement), in_inference)
                if what:
                    yield part, what

    def _list_writes(self, flow: TensorFlow, node: ast.stmt, scope: Scope) -> Iterator[tuple[ast.AST, str]]:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(node, ast.AugAssign) and flow.kind(target, scope) & IS:
                yield node, "modify a tensor of the block in place"
            elif isinstance(target, ast.Subscript) and flow.kind(target.value, scope) & IS:
                yield node, "write into a tensor of the block"
            elif isinstance(target, ast.Attribute):
                if target.attr == "requires_grad" and flow.kind(target.value, scope) & IS:
                    yield node, "make a tensor of the block require grad"
                elif target.attr in ("data", "grad") and flow.kind(getattr(node, "value", None), scope) & IS:
                    yield node, "make a tensor of the block the data of another"

    def _judge(self, flow: TensorFlow, part: ast.AST, scope: Scope, is_protected: bool, in_inference: bool) -> str:
        if isinstance(part, ast.Attribute) and part.attr == "_version" and flow.kind(part.value, scope) & IS:
            return "read the version counter of a tensor of the block"
        if isinstance(part, ast.BinOp):
            sides = [part.left, part.right]
            if any(flow.kind(each, scope) & IS for each in sides) and not is_protected:
                others = [each for each in sides if not self._is_without_grad(flow, each, scope)]
                return "use a tensor of the block where autograd may save it" if others else ""
        if isinstance(part, ast.Call):
            return self._judge_call(flow, part, scope, is_protected, in_inference)
        return ""

    def _judge_call(
        self, flow: TensorFlow, call: ast.Call, scope: Scope, is_protected: bool, in_inference: bool
    ) -> str:
        name = _called(call)
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
        on_tensor = receiver is not None and flow.kind(receiver, scope) & IS
        if on_tensor:
            if name in _FORBIDDEN_METHODS or (name.endswith("_") and not name.endswith("__") and not in_inference):
                return f"call {name} on a tensor of the block"
            if name in _HARMLESS_METHODS or name in ALIASING:
                return ""
        if receiver is not None and name in _MODULE_WRITES and flow.holds_in_modules() and not on_tensor:
            return f"call {name}, which may write a tensor of the block"
        if any(keyword.arg == "out" and flow.kind(keyword.value, scope) for keyword in call.keywords):
            return "write a tensor of the block as out="
        met = on_tensor or any(flow.kind(each, scope) for each in given)
        if not met or is_protected:
            return ""
        if name in (*_HARMLESS_FUNCTIONS, *CONTAINER_READS, *CONTAINER_WRITES) or _root(call.func) in _QUIET_ROOTS:
            return ""
        dotted = scope.file.names.resolve(call.func) or ""
        if name in ("Parameter", "register_parameter") or ".init." in dotted or ".optim." in dotted:
            return "make a tensor of the block a parameter"
        if any(True for _ in flow.list_callees(call, scope)):
            return ""  # the function's own lines are looked at
        operands = [*given, *([receiver] if on_tensor and receiver is not None else [])]
        is_operator = dotted.startswith("torch.") or on_tensor
        if is_operator and all(self._is_without_grad(flow, each, scope) for each in operands):
            return ""
        return f"pass a tensor of the block to {ast.unparse(call.func)}"

    def _is_without_grad(self, flow: TensorFlow, node: ast.AST, scope: Scope) -> bool:
        """Return whether a value certainly requires no grad: of the block, made of such, or no tensor."""
        if flow.kind(node, scope) or flow.is_plain(node, scope):
            return True
        if isinstance(node, ast.BinOp):
            return all(self._is_without_grad(flow, each, scope) for each in (node.left, node.right))
        if isinstance(node, ast.UnaryOp | ast.Starred):
            return self._is_without_grad(flow, node.operand if isinstance(node, ast.UnaryOp) else node.value, scope)
        if isinstance(node, ast.Compare | ast.Slice):
            return True
        if isinstance(node, ast.Subscript):
            return self._is_without_grad(flow, node.value, scope)
        if isinstance(node, ast.Call):
            given = [*node.args, *(keyword.value for keyword in node.keywords)]
            dotted = scope.file.names.resolve(node.func) or ""
            if isinstance(node.func, ast.Attribute) and not dotted.startswith("torch."):
                if node.func.attr in ("detach", "item", "argmax", "argmin"):
                    return True
                if node.func.attr in self._program.by_name:
                    return False
                return self._is_without_grad(flow, node.func.value, scope) and all(
                    self._is_without_grad(flow, each, scope) for each in given
                )
            if dotted.startswith("torch."):
                return all(
                    self._is_without_grad(flow, each, scope) for each in given
                ) and "requires_grad" not in ast.unparse(node)
        return False

    def _line(self, statement: Statement, node: ast.AST, role: str) -> UnrunLine:
        line = getattr(node, "lineno", statement.line)
        return UnrunLine(statement.scope.file.file, line, role)


def _is_protected(statement: Statement) -> bool:
    """Return whether autograd is off where a statement is, by the source."""
    return statement.modes[-1:] in (("no_grad",), ("inference_mode",))


def _is_of_library(call: ast.Call, scope: Scope) -> bool:
    dotted = scope.file.names.resolve(call.func) or ""
    return "." in dotted and dotted.partition(".")[0] in (
        "torch",
        "numpy",
        "math",
        "os",
        "sys",
        "logging",
        "time",
        "json",
    )
