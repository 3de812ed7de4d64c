"""Targets of calls: functions of the program, a function of a library, or what only the run decides."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from gradprobe.advice.called_names import called_name
from gradprobe.advice.class_families import ClassFamilies
from gradprobe.advice.module_names import ModuleNames
from gradprobe.advice.passed_arguments import takes_arguments
from gradprobe.advice.program_model import Key, ProgramModel, Scope

_QUIET_DECORATORS = frozenset(
    [
        "property",
        "cached_property",
        "staticmethod",
        "classmethod",
        "abstractmethod",
        "overload",
        "override",
        "wraps",
        "lru_cache",
        "cache",
        "dataclass",
        "contextmanager",
        "asynccontextmanager",
        "no_grad",
        "inference_mode",
        "enable_grad",
        "set_grad_enabled",
        "fixture",
        "parametrize",
        "setter",
        "getter",
        "deleter",
        "total_ordering",
        "final",
        "profile",
        "jit",
        "script",
        "compile",
        "custom_fwd",
        "custom_bwd",
        "once_differentiable",
    ]
)
_MOST_APART = 150
_SPECIAL = ("forward", "__call__")
_TEXT_CODE = frozenset(["eval", "exec"])
_BY_NAME = frozenset(
    ["methodcaller", "import_module", "__import__", "entry_points", "run_path", "run_module", "locate"]
)
_OPEN_NAMES = frozenset(["globals", "vars", "locals"])


@dataclass(frozen=True)
class Target:
    """Target of a call."""

    scopes: tuple[Scope, ...] = ()
    dotted: str = ""
    """Name of the library's or the built-in function, if it is one by name."""
    is_dynamic: bool = False
    """True if a value is called, so that the run decides what it is."""
    made: str = ""
    """Name of the program's class of which an object is made."""
    is_own: bool = False
    """True if it is a method of the caller's own class or of one that is named."""


class CallTargets:
    """Resolver of the calls of a program.

    Args:
        program: The program.
    """

    def __init__(self, program: ProgramModel) -> None:
        self.program = program
        self._found: dict[int, Target] = {}
        self._callable: dict[tuple[int, bool], tuple[Scope, ...]] = {}
        self.modules: ModuleNames = program.share(ModuleNames)
        self.families: ClassFamilies = program.share(ClassFamilies)
        self.stored: set[Key] = set()
        """Variables that are assigned, which a definition or an import of the same name does not decide."""
        self.attributes: set[str] = set()
        """Attributes and fields that the program sets."""
        self.called: set[str] = set()
        """Last parts of the names that are called."""
        self.made: set[str] = set()
        """Classes of the program of which objects are made by name, and their bases."""
        self._collect()

    def _collect(self) -> None:
        for name in self.program.classes:
            self.attributes.update(self.program.list_fields(name))
        for scope in self.program.scopes:
            self.stored.update(("variable", scope.key, name) for name in scope.all_parameters)
        for statement in self.program.statements:
            for part in statement.parts:
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                    self.stored.add(statement.scope.resolve(part.id))
                    if isinstance(statement.scope.node, ast.ClassDef):
                        self.attributes.add(part.id)
                elif isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store):
                    self.attributes.add(part.attr)
                elif isinstance(part, ast.Call):
                    name = called_name(part)
                    self.called.add(name)
                    if name in self.program.classes:
                        self.made.update((name, *self.families.list_bases(name)))

    def find(self, call: ast.Call, scope: Scope) -> Target:
        """Return what a call may reach."""
        if id(call) not in self._found:
            self._found[id(call)] = self._find(call, scope)
        return self._found[id(call)]

    def _find(self, call: ast.Call, scope: Scope) -> Target:
        func = call.func
        if isinstance(func, ast.Name):
            return self._find_name(func.id, scope)
        if isinstance(func, ast.Attribute):
            dotted = self.find_library_name(func, scope)
            if dotted:
                return Target(dotted=dotted)
            if func.attr in self.program.classes:
                return self._make(func.attr)
            if func.attr == "apply" and isinstance(func.value, ast.Name) and func.value.id in self.program.classes:
                own = (func.value.id, *self.families.list_bases(func.value.id))
                return Target(tuple(e for e in self.program.by_name.get("forward", ()) if e.class_name in own))
            known, is_own = self._list_methods(func, scope)
            is_dynamic = func.attr in self.attributes or _is_any_kept(known)
            return Target(known, is_dynamic=is_dynamic, is_own=is_own)
        if isinstance(func, ast.Lambda):
            return Target((self.program.lambdas[id(func)],))
        return Target(is_dynamic=True)

    def _find_name(self, name: str, scope: Scope) -> Target:
        key = scope.resolve(name)
        if key in self.stored:
            known = () if key[1] != "global" else tuple(self.program.by_name.get(name, ()))
            owner = _find_class(scope)
            return Target(known, is_dynamic=True, made=owner if name == "cls" else "")
        last = (scope.file.names.resolve(ast.Name(name)) or name).rpartition(".")[2]
        last = self.modules.aliases[scope.file.file].get(name, last)
        if last in self.program.classes:
            return self._make(last)
        is_alias = name in self.modules.aliases[scope.file.file]
        if last in self.program.by_name and (last == name or is_alias or self._is_of_program(name, scope)):
            known = tuple(self.program.by_name[last])
            return Target(known, is_dynamic=_is_any_kept(known))
        if scope.file.names.imports(name) or hasattr(builtins, name):
            return Target(dotted=scope.file.names.resolve(ast.Name(name)) or name)
        return Target(is_dynamic=True)

    def _make(self, name: str) -> Target:
        made = [
            each for method in ("__new__", "__init__", "__post_init__") for each in self.program.by_name.get(method, ())
        ]
        return Target(
            tuple(each for each in made if each.class_name in (name, *self.families.list_bases(name))), made=name
        )

    def _list_methods(self, func: ast.Attribute, scope: Scope) -> tuple[tuple[Scope, ...], bool]:
        """Return the functions that an attribute may name, and whether they are those of a known family of classes."""
        known = tuple(self.program.by_name.get(func.attr, ()))
        base, owner = func.value, _find_class(scope)
        is_super = isinstance(base, ast.Call) and isinstance(base.func, ast.Name) and base.func.id == "super"
        if isinstance(base, ast.Name) and base.id in self.program.classes and scope.resolve(base.id) not in self.stored:
            owner = base.id
        elif not is_super and not (isinstance(base, ast.Name) and base.id in ("self", "cls")):
            return known, self.modules.names_module(base, scope)
        family = self.families.list_family(owner)
        own = tuple(each for each in known if each.class_name in family and not (is_super and each.class_name == owner))
        return (own, True) if own or is_super else (known, False)

    def find_library_name(self, node: ast.expr, scope: Scope) -> str:
        """Return the dotted name that an expression denotes in an imported library, or ""."""
        root = node
        while isinstance(root, ast.Attribute):
            root = root.value
        if not isinstance(root, ast.Name) or not scope.file.names.imports(root.id):
            return ""
        if scope.resolve(root.id) in self.stored or self._is_of_program(root.id, scope):
            return ""
        return scope.file.names.resolve(node) or ""

    def _is_of_program(self, name: str, scope: Scope) -> bool:
        dotted = scope.file.names.resolve(ast.Name(name)) or ""
        return (dotted == name and not scope.file.names.imports(name)) or dotted.partition(".")[
            0
        ] in self.modules.modules

    def find_function(self, node: ast.AST, scope: Scope) -> tuple[Scope, ...]:
        """Return the functions of the program that an expression names as a value, not as what is called."""
        if isinstance(node, ast.Lambda):
            return (self.program.lambdas[id(node)],)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and scope.resolve(node.id) not in self.stored:
            if node.id in self.program.classes:
                return self._make(node.id).scopes
            return tuple(self.program.by_name.get(node.id, ()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            known = self.program.by_name.get(node.attr, ())
            return tuple(each for each in known if not is_property(each))
        return ()

    def is_also_imported(self, name: str, scope: Scope) -> bool:
        """Return whether a name of the program's functions is imported from a library as well."""
        return scope.file.names.imports(name) and not self._is_of_program(name, scope)

    def is_stored(self, name: str, scope: Scope) -> bool:
        """Return whether a name is a variable that is assigned."""
        return scope.resolve(name) in self.stored

    def names_function(self, node: ast.AST, scope: Scope) -> bool:
        """Return whether an expression names a function or a class of the program as a value."""
        is_class = isinstance(node, ast.Name) and node.id in self.program.classes
        return is_class or bool(self.find_function(node, scope))

    @cached_property
    def only_made(self) -> frozenset[str]:
        """Classes of the program whose objects are all made by their names, as far as the source shows."""
        if self.open_lookups:
            return frozenset()
        valued: set[str] = set()
        for statement in self.program.statements:
            called = {id(part.func) for part in statement.parts if isinstance(part, ast.Call)}
            names = [p for p in statement.parts if isinstance(p, ast.Name | ast.Attribute) and id(p) not in called]
            valued.update(part.id if isinstance(part, ast.Name) else part.attr for part in names)
        return frozenset(name for name in self.program.classes if name in self.made and name not in valued)

    def list_callable(self, call: ast.Call, *, is_function: bool) -> tuple[Scope, ...]:
        """Return what a call of a value may run: methods of objects, and functions if the value may be one."""
        place = (id(call), is_function)
        if place not in self._callable:
            found = [each for each in self.special if takes_arguments(each, call, is_bound=True)]
            if is_function and not self.is_pooled:
                found += [e for e in self.taken if self._is_partial(e) or takes_arguments(e, call, is_bound=False)]
            self._callable[place] = tuple(found)
        return self._callable[place]

    def _is_partial(self, scope: Scope) -> bool:
        """Return whether a function may be called with arguments beside those of the call."""
        return self._partial is None or id(scope) in self._partial

    @cached_property
    def _partial(self) -> frozenset[int] | None:
        """Identities of the functions that get some arguments beforehand, or None if these are not known."""
        found: set[int] = set()
        for scope, call in self._list_calls():
            if called_name(call) in ("partial", "partialmethod") and call.args:
                known = self.find_function(call.args[0], scope)
                if not known and not self.find_library_name(call.args[0], scope):
                    return None
                found.update(id(each) for each in known)
        return frozenset(found)

    @cached_property
    def special(self) -> tuple[Scope, ...]:
        """Methods that calling an object runs."""
        found = [each for name in _SPECIAL for each in self.program.by_name.get(name, ())]
        return tuple(each for each in found if not _is_static(each))

    @cached_property
    def taken(self) -> tuple[Scope, ...]:
        """Functions that are values somewhere, so that a call of a value may reach them."""
        if self.open_lookups:
            return tuple(each for each in self.program.scopes if each.arguments is not None)
        found = {id(each): each for each in self.program.lambdas.values()}
        for statement in self.program.statements:
            called = {id(part.func) for part in statement.parts if isinstance(part, ast.Call)}
            called |= {id(each) for each in getattr(statement.node, "decorator_list", ())}
            for part in statement.parts:
                if id(part) not in called:
                    found.update({id(each): each for each in self.find_function(part, statement.scope)})
            if isinstance(statement.node, ast.FunctionDef | ast.AsyncFunctionDef) and is_kept(statement.node):
                found.update({id(each): each for each in self.program.by_name[statement.node.name]})
        return tuple(found.values())

    @cached_property
    def is_pooled(self) -> bool:
        """True if so many functions are values that what they get and give is not told apart."""
        return len(self.taken) > _MOST_APART

    def is_in_pool(self, scope: Scope) -> bool:
        """Return whether a function is one of so many."""
        return self.is_pooled and id(scope) in self.taken_identities

    @cached_property
    def taken_identities(self) -> frozenset[int]:
        """The identities of these."""
        return frozenset(id(each) for each in self.taken)

    @cached_property
    def open_lookups(self) -> list[tuple[Scope, ast.Call]]:
        """Look-ups of functions by names that the source does not show."""
        return [each for each in self._list_calls() if self._is_open_lookup(*each)]

    @cached_property
    def foreign_lookups(self) -> list[tuple[Scope, ast.Call]]:
        """Look-ups of these that may find a function of a library."""
        return [
            (scope, call)
            for scope, call in self.open_lookups
            if called_name(call) in (*_BY_NAME, "getattr") and self._finds_foreign(call, scope)
        ]

    @cached_property
    def has_function_tables(self) -> bool:
        """True if a container of the program has several functions of libraries, of which the run chooses one."""
        for statement in self.program.statements:
            for part in statement.parts:
                given = part.values if isinstance(part, ast.Dict) else getattr(part, "elts", ())
                named = [each for each in given if isinstance(each, ast.Attribute | ast.Name)]
                known = [self.find_library_name(each, statement.scope) for each in named]
                if sum(name.startswith(("torch.", "operator.")) for name in known) > 1:
                    return True
        return False

    def _list_calls(self) -> Iterator[tuple[Scope, ast.Call]]:
        for statement in self.program.statements:
            for part in statement.parts:
                if isinstance(part, ast.Call):
                    yield statement.scope, part

    def _is_open_lookup(self, scope: Scope, call: ast.Call) -> bool:
        name = called_name(call)
        if name in _TEXT_CODE or name in _BY_NAME:
            return not all(isinstance(each, ast.Constant) for each in call.args)
        if name == "getattr" and len(call.args) > 1:
            return not isinstance(call.args[1], ast.Constant)
        return name in _OPEN_NAMES and isinstance(call.func, ast.Name)

    def _finds_foreign(self, call: ast.Call, scope: Scope) -> bool:
        if called_name(call) != "getattr":
            return True
        base = call.args[0]
        is_module = bool(self.find_library_name(base, scope)) or isinstance(base, ast.Call)
        return is_module and called_name(base if isinstance(base, ast.Call) else call) != "getfixturevalue"


def is_text_code(call: ast.Call) -> bool:
    """Return whether a call executes text, which is not looked at."""
    return isinstance(call.func, ast.Name) and call.func.id in _TEXT_CODE and bool(call.args)


def is_property(scope: Scope) -> bool:
    """Return whether a function is called by reading or setting an attribute."""
    decorators = scope.function.decorator_list if scope.function is not None else []
    return any(
        "property" in ast.unparse(each) or ast.unparse(each).endswith((".setter", ".getter")) for each in decorators
    )


def is_kept(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a decorator may keep a function to call it later, as a registry does."""
    for decorator in function.decorator_list:
        node = decorator.func if isinstance(decorator, ast.Call) else decorator
        last = ast.unparse(node).rpartition(".")[2]
        if last not in _QUIET_DECORATORS:
            return True
    return False


def _is_static(scope: Scope) -> bool:
    """Return whether a method gets no object, as the two of a function with its own backward."""
    decorators = scope.function.decorator_list if scope.function is not None else []
    return any(ast.unparse(each) == "staticmethod" for each in decorators)


def _is_any_kept(functions: tuple[Scope, ...]) -> bool:
    """Return whether a decorator decides what a call of one of these runs."""
    return any(each.function is not None and is_kept(each.function) for each in functions)


def _find_class(scope: Scope) -> str:
    found: Scope | None = scope
    while found is not None and not found.class_name:
        found = found.parent
    return found.class_name if found is not None else ""
