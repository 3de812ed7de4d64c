"""Program: the functions of the user's source files, who calls whom, and under which modes each may run.

Calls are resolved by name: a method by its own, an object by the classes that its variable is assigned. A function that
no line calls may be called by anything, so nothing is concluded of it.
"""

from __future__ import annotations

import ast
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from gradprobe.analysis.findings.syntax import FunctionNode, ParsedFile

Modes = tuple[bool, bool]
"""State of inference mode and of grad mode, true if enabled."""

NORMAL: Modes = (False, True)
_CALL_METHODS = ("forward", "__call__")
_HOOKING = ("register_forward_hook", "register_forward_pre_hook")
_THREAD_STARTERS = frozenset(
    {"Thread", "submit", "run_in_executor", "start_new_thread", "apply_async", "Process", "Timer"}
)


@dataclass(eq=False)
class Function:
    """Function, or the body of a module, with the class that it is a method of."""

    file: ParsedFile
    node: FunctionNode | ast.Module
    owner: str = ""
    outer: Function | None = None

    @property
    def name(self) -> str:
        """Name of the function; empty for the body of a module."""
        return "" if isinstance(self.node, ast.Module) else self.node.name

    @property
    def body(self) -> list[ast.stmt]:
        """Statements of the function."""
        return self.node.body

    @cached_property
    def parameters(self) -> list[str]:
        """Names of the positional parameters."""
        if isinstance(self.node, ast.Module):
            return []
        arguments = self.node.args
        return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]

    def decorated(self, modes: Modes) -> Modes:
        """Return the modes that its decorators make of those of the caller."""
        for decorator in reversed(() if isinstance(self.node, ast.Module) else self.node.decorator_list):
            modes = apply_manager(self.file, decorator, modes)
        return modes


@dataclass(eq=False)
class CallSite:
    """Call of a function: where, under which blocks of its own function, and with what."""

    caller: Function
    call: ast.Call
    managers: tuple[ast.expr, ...]
    is_thread: bool = False

    def modes(self, outside: Modes) -> Modes:
        """Return the modes at the call if its function runs in ``outside``."""
        if self.is_thread:
            return NORMAL
        for manager in self.managers:
            outside = apply_manager(self.caller.file, manager, outside)
        return outside


def apply_manager(file: ParsedFile, expression: ast.expr, modes: Modes) -> Modes:
    """Return the modes inside a block, or a decorated function, that an expression enters."""
    name = file.names.resolve_manager(expression)
    argument = expression.args[0] if isinstance(expression, ast.Call) and expression.args else None
    flag = argument.value if isinstance(argument, ast.Constant) else None
    if name == "inference_mode":
        return (False, True) if flag is False else (True, False)
    if name == "no_grad" or (name == "set_grad_enabled" and flag is False):
        return modes[0], False
    if name == "enable_grad" or (name == "set_grad_enabled" and flag is True):
        return modes[0], True
    return modes


@dataclass
class Program:
    """Functions, classes and calls of some files."""

    files: list[ParsedFile]
    functions: list[Function] = field(default_factory=list)
    by_name: dict[str, list[Function]] = field(default_factory=lambda: defaultdict(list))
    classes: dict[str, list[str]] = field(default_factory=dict)
    """Names of the base classes of each class."""
    instances: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Classes whose objects are assigned to each variable or attribute."""
    calls: dict[Function, list[CallSite]] = field(default_factory=lambda: defaultdict(list))
    """Calls of each function."""

    def __post_init__(self) -> None:
        for file in self.files:
            module = Function(file, file.tree)
            self.functions.append(module)
            self._collect(file, file.tree, "", module)
        for function in self.functions:
            self._collect_instances(function)
        for function in self.functions:
            for statement in function.body:
                self._collect_calls(function, statement, ())

    def _collect(self, file: ParsedFile, node: ast.AST, owner: str, outer: Function) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, FunctionNode):
                function = Function(file, child, owner, outer)
                self.functions.append(function)
                self.by_name[child.name].append(function)
                self._collect(file, child, "", function)
            elif isinstance(child, ast.ClassDef):
                self.classes[child.name] = [ast.unparse(base).rpartition(".")[2] for base in child.bases]
                self._collect(file, child, child.name, outer)
            else:
                self._collect(file, child, owner, outer)

    def _collect_instances(self, function: Function) -> None:
        for node in walk_own(function.body):
            if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                continue
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for each, value in pair(target, node.value):
                    name = last_name(each)
                    classes = {
                        last_name(call.func)
                        for call in ast.walk(value)
                        if isinstance(call, ast.Call) and last_name(call.func)[:1].isupper()
                    }
                    if name and classes:
                        self.instances[name] |= classes

    def _collect_calls(self, function: Function, node: ast.AST, managers: tuple[ast.expr, ...]) -> None:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    self._collect_calls(function, member, managers)
            elif isinstance(node, ast.Lambda):
                self._collect_calls(function, node.body, managers)
            return
        if isinstance(node, ast.With | ast.AsyncWith):
            inside = managers + tuple(item.context_expr for item in node.items)
            for item in node.items:
                self._collect_calls(function, item.context_expr, managers)
            for statement in node.body:
                self._collect_calls(function, statement, inside)
            return
        if isinstance(node, ast.Call):
            for called in self.resolve(node.func, function):
                self.calls[called].append(CallSite(function, node, managers))
            starts = last_name(node.func) in _THREAD_STARTERS
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                if isinstance(argument, ast.Name | ast.Attribute):
                    for called in self.by_name.get(last_name(argument), ()):
                        self.calls[called].append(CallSite(function, node, managers, is_thread=starts))
        for child in ast.iter_child_nodes(node):
            self._collect_calls(function, child, managers)

    def resolve(self, func: ast.expr, function: Function) -> list[Function]:
        """Return the functions that an expression may call."""
        name = last_name(func)
        if name in self.classes and isinstance(func, ast.Name):
            return [f for f in self.by_name.get("__init__", ()) if f.owner == name]
        named = self.by_name.get(name, [])
        if isinstance(func, ast.Name):
            found = [f for f in named if not f.owner]
        elif isinstance(func, ast.Attribute):
            owners = self.classes_of(func.value, function)
            found = [f for f in named if f.owner and (owners is None or f.owner in owners)]
            found += [f for f in named if not f.owner]
        else:
            found = []
        return found or self._resolve_object(func, function)

    def _resolve_object(self, func: ast.expr, function: Function) -> list[Function]:
        owners = self.classes_of(func, function)
        if owners is None and not self._is_unknown_variable(func, function):
            return []
        methods = [f for name in _CALL_METHODS for f in self.by_name.get(name, ())]
        return [f for f in methods if owners is None or f.owner in owners]

    def _is_unknown_variable(self, func: ast.expr, function: Function) -> bool:
        """Return whether a call is of a parameter or loop variable, which may be any module."""
        if not isinstance(func, ast.Name):
            return isinstance(func, ast.Subscript)
        if func.id in function.parameters:
            return True
        loops = (node for node in walk_own(function.body) if isinstance(node, ast.For | ast.comprehension))
        return any(
            isinstance(name, ast.Name) and name.id == func.id for node in loops for name in ast.walk(node.target)
        )

    def classes_of(self, expression: ast.expr, function: Function) -> set[str] | None:
        """Return the classes that an expression's object may be of, with their bases and heirs; None if not known."""
        name = last_name(expression)
        if isinstance(expression, ast.Name) and expression.id in ("self", "cls"):
            while not function.owner and function.outer is not None:
                function = function.outer
            return self.family({function.owner}) if function.owner else None
        if isinstance(expression, ast.Call) and name in self.classes:
            return self.family({name})
        if name in self.classes:
            return self.family({name})
        found = self.instances.get(name)
        return self.family(found) if found else None

    def family(self, names: Iterable[str]) -> set[str]:
        """Return classes with the classes that they inherit from and those that inherit from them."""
        found = set(names)
        while True:
            more = {base for name in found for base in self.classes.get(name, ()) if base in self.classes}
            more |= {name for name, bases in self.classes.items() if found.intersection(bases)}
            if more <= found:
                return found
            found |= more

    def modes_inside(self, function: Function, line: int, modes: Modes) -> Modes:
        """Return the modes at a line of a function that runs in ``modes``, by the blocks around the line."""
        body: list[ast.AST] = list(function.body)
        while body:
            around = [n for n in body if getattr(n, "lineno", 0) <= line <= (getattr(n, "end_lineno", 0) or 0)]
            if not around:
                break
            node = around[0]
            if isinstance(node, ast.With | ast.AsyncWith) and line >= node.body[0].lineno:
                for item in node.items:
                    modes = apply_manager(function.file, item.context_expr, modes)
            body = list(ast.iter_child_nodes(node))
        return modes

    def bases(self, name: str) -> set[str]:
        """Return the names of all base classes of a class."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            new = [base for base in self.classes.get(waiting.pop(), ()) if base not in found]
            found.update(new)
            waiting += new
        return found

    def containing(self, name: str) -> set[str]:
        """Return a class with those that construct it in their methods, and so on."""
        found = self.family({name})
        while True:
            more = {
                function.owner
                for function in self.functions
                if function.owner and function.owner not in found
                for node in walk_own(function.body)
                if isinstance(node, ast.Call) and last_name(node.func) in found
            }
            if not more:
                return found
            found |= more

    def is_forward_hook(self, function: Function) -> bool:
        """Return whether some line registers a function, or an object of its class, as a forward hook."""
        names = {function.name, *({function.owner} if function.name == "__call__" else ())}
        for caller in self.functions:
            for node in walk_own(caller.body):
                if isinstance(node, ast.Call) and last_name(node.func) in _HOOKING and node.args:
                    is_self = isinstance(node.args[0], ast.Name) and node.args[0].id == "self"
                    if (caller.owner if is_self else last_name(node.args[0])) in names:
                        return True
        return False

    def modes_of(self, function: Function) -> set[Modes]:
        """Return the modes in which a function may run; none if no line calls it."""
        return self._modes.get(function, set())

    @cached_property
    def _modes(self) -> dict[Function, set[Modes]]:
        """Modes of each function that some module calls, carried from callers to callees until nothing changes."""
        callees = defaultdict(list)
        for function, sites in self.calls.items():
            for site in sites:
                callees[site.caller].append((function, site))
        known = {caller: {NORMAL} for caller in callees if isinstance(caller.node, ast.Module)}
        waiting = deque(known)
        while waiting:
            caller = waiting.popleft()
            for function, site in callees[caller]:
                modes = known.setdefault(function, set())
                new = {function.decorated(site.modes(outside)) for outside in known[caller]} - modes
                if new:
                    modes |= new
                    waiting.append(function)
        return known

    @cached_property
    def trains(self) -> bool:
        """True if any line computes gradients."""
        return any(
            isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".backward", "autograd.grad"))
            for file in self.files
            for node in ast.walk(file.tree)
        )


def walk_own(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Yield nodes and what they consist of, without nested functions and classes."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        yield node
        yield from walk_own(ast.iter_child_nodes(node))


def pair(target: ast.expr, value: ast.expr) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield the targets and values of an assignment, of tuples each by each."""
    targets, values = (each.elts if isinstance(each, ast.Tuple | ast.List) else [] for each in (target, value))
    if not targets or len(targets) != len(values):
        yield target, value
        return
    for one, other in zip(targets, values, strict=True):
        yield from pair(one, other)


def last_name(expression: ast.AST) -> str:
    """Return the last name of an expression: ``c`` of ``a.b.c``, ``a.c[0]`` and ``c``."""
    while isinstance(expression, ast.Subscript | ast.Call | ast.Await | ast.Starred):
        expression = expression.func if isinstance(expression, ast.Call) else expression.value
    if isinstance(expression, ast.Attribute):
        return expression.attr
    return expression.id if isinstance(expression, ast.Name) else ""
