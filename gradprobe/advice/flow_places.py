"""The places that values are kept in, with what each has of a block's tensors, and the statements to look at again.

A place is a variable, an attribute by its name, or the result of a function. The variables of a function are two places:
one for calls that the block makes, one for others. When a place gets something new, its readers are looked at again.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Callable, Iterable

from gradprobe.advice.call_targets import CallTargets, is_property
from gradprobe.advice.evaluation_points import Point
from gradprobe.advice.local_definitions import LocalDefinitions
from gradprobe.advice.passed_arguments import ANY
from gradprobe.advice.program_model import Key, ProgramModel, Scope, Statement
from gradprobe.advice.value_kinds import ANY_OF_BLOCK, FUNCTION, HOLDS, NEW, OBJECT, OF_BLOCK, OTHER, PLAIN, is_of_block

INSIDE = "#in"
"""Mark of the places of a function that the block calls."""


class FlowPlaces:
    """Places of a program.

    Args:
        program: The program.
        is_considered: Whether a statement counts.
        skipped: Identities of parts of expressions that do not count.
        ending: The key of the function whose variables end with the block, or "".
    """

    def __init__(
        self, program: ProgramModel, is_considered: Callable[[Statement], bool], skipped: set[int], ending: str
    ) -> None:
        self._program, self._is_considered, self._skipped, self._ending = program, is_considered, skipped, ending
        self._targets: CallTargets = program.share(CallTargets)
        self._definitions: LocalDefinitions = program.share(LocalDefinitions)
        self.kinds: dict[Key, int] = {}
        self.origins: dict[Key, Statement] = {}
        """The first statement that gave a place a tensor of the block."""
        self.reached: set[tuple[int, bool]] = set()
        """Identities of functions, with whether the block calls them."""
        self.reader: Point | None = None
        """The statement that is looked at."""
        self.waiting: deque[tuple[Statement, bool]] = deque()
        self._is_waiting: set[tuple[int, bool]] = set()
        self._owners: dict[str, set[str]] = {}
        self._variables: dict[tuple[int, str, bool], Key] = {}
        self._readers: dict[Key, dict[tuple[int, bool], None]] = {}
        self._by_id = {id(each): each for each in program.statements}
        self._by_scope: dict[int, list[Statement]] = {}
        for statement in program.statements:
            self._by_scope.setdefault(id(statement.scope), []).append(statement)

    def copy(self, ending: str) -> FlowPlaces:
        """Return places that have the same, to go on from with all statements counted."""
        other = FlowPlaces(self._program, lambda statement: True, self._skipped, ending)
        other.kinds, other.origins, other.reached = dict(self.kinds), dict(self.origins), set(self.reached)
        other._owners = {name: set(owners) for name, owners in self._owners.items()}
        other._readers = {key: dict(readers) for key, readers in self._readers.items()}
        return other

    def wait_for_reached(self, statement: Statement) -> None:
        """Look at a statement again in each kind of call that its function has."""
        for is_inside in (False, True):
            if (id(statement.scope), is_inside) in self.reached:
                self._wait(statement, is_inside)

    def take_next(self) -> tuple[Statement, bool]:
        """Return a statement to look at, and whether in a call that the block makes."""
        statement, is_inside = self.waiting.popleft()
        self._is_waiting.discard((id(statement), is_inside))
        return statement, is_inside

    def is_open(self, scope: Scope) -> bool:
        """Return whether code that the source does not show may call a function, with any arguments."""
        name = scope.function.name if scope.function is not None else ""
        if name in ("__init__", "__post_init__"):
            return scope.class_name not in self._targets.made
        is_special = is_called_by_library(name)
        is_taken = id(scope) in self._targets.taken_identities
        return is_special or is_taken or is_property(scope) or name not in self._targets.called

    def _open_parameters(self, scope: Scope, kind: int, *, is_inside: bool) -> None:
        for name in scope.all_parameters:
            own = OBJECT if name in ("self", "cls") else kind
            self.add(self.find_variable(scope, name, is_inside), own, None)

    def open_unreached(self) -> None:
        """Look at the functions that no line reaches, although their names are called: any code may call them."""
        for scope in self._program.scopes:
            if not {(id(scope), True), (id(scope), False)} & self.reached:
                self.reach(scope, is_inside=False, is_for_all=True)

    def reach(self, scope: Scope, *, is_inside: bool, is_for_all: bool = False) -> None:
        """Look at a function as the block calls it, or as other lines do."""
        if (id(scope), is_inside) in self.reached:
            return
        self.reached.add((id(scope), is_inside))
        if is_for_all or self.is_open(scope):
            is_special = scope.function is not None and is_called_by_library(scope.function.name)
            functions = PLAIN if is_special else FUNCTION
            self._open_parameters(scope, (ANY_OF_BLOCK if is_inside else OTHER) | functions, is_inside=is_inside)
        for name in _list_given_defaults(scope):
            self.add(self.find_variable(scope, name, is_inside), OTHER | FUNCTION, None)
        if scope.parameters[:1] in (["self"], ["cls"]):
            is_new = is_inside and scope.class_name in self._targets.only_made
            self.add(
                self.find_variable(scope, scope.parameters[0], is_inside), OBJECT | (NEW if is_new else PLAIN), None
            )
        for statement in self._by_scope.get(id(scope), ()):
            self._wait(statement, is_inside)

    def reach_pool(self, *, is_inside: bool) -> None:
        """Look at all functions that are values as if they were called."""
        if (0, is_inside) not in self.reached:
            self.reached.add((0, is_inside))
            for callee in self._targets.taken:
                self.reach(callee, is_inside=is_inside)

    def _wait(self, statement: Statement, is_inside: bool) -> None:
        key = (id(statement), is_inside)
        if key not in self._is_waiting and self._is_considered(statement):
            self._is_waiting.add(key)
            self.waiting.append((statement, is_inside))

    def read(self, key: Key) -> int:
        """Return the kind of what a place has."""
        if self.reader is not None:
            readers = self._readers.get(key)
            if readers is None:
                readers = self._readers[key] = {}
            readers[(id(self.reader.statement), self.reader.is_called_inside)] = None
        return self.kinds.get(key, PLAIN)

    def read_variable(self, name: str, at: Point) -> int:
        """Return the kind of a variable."""
        key = at.scope.resolve(name)
        result = FUNCTION if self.names_function(name, key) else PLAIN
        if key not in self._targets.stored:
            result |= PLAIN if result else OTHER
        if name == "self" and self._targets.families.may_have_items(at.scope.class_name):
            result |= HOLDS if is_of_block(self.read(("anything", "", ""))) else PLAIN
        definitions = self._definitions.find(at.statement, name)
        if definitions is not None:
            for definition in definitions:
                result |= self.read(self.find_definition(definition, name, at.is_called_inside))
            return result
        for each in self.list_variables(at, name):
            result |= self.read(each)
        if key[1] == "global":
            result |= self.read(("variable", "global", ANY))
        elif name in at.scope.all_parameters and self._targets.is_in_pool(at.scope):
            result |= self.read(("pool", "given" + (INSIDE if at.is_called_inside else ""), ""))
        return result

    def read_attribute(self, name: str, *, is_inside: bool) -> int:
        """Return the kind of what attributes of a name have, of whichever object."""
        result = self.read(("attribute", "", name)) | self.read(("attribute", "", ANY))
        self.read(("owners", "", name))
        for owner in self._owners.get(name, ()):
            if is_inside or self.lives_on(owner):
                result |= self.read(("attribute", owner, name))
        return result

    def is_kept_in_attributes(self) -> bool:
        """Return whether any attribute has a tensor of the block."""
        self.read(("owners", "", ""))
        owners = {owner for each in self._owners.values() for owner in each}
        return is_of_block(self.read(("attributes", "", ""))) or any(self.lives_on(owner) for owner in owners)

    def lives_on(self, owner: str) -> bool:
        """Return whether an object of a class may be met outside of the block."""
        return bool(self.read(("made", owner, "")) | self.read(("escaped", "", "")))

    def is_skipped(self, node: ast.AST) -> bool:
        """Return whether a part of an expression does not count."""
        return id(node) in self._skipped

    def names_function(self, name: str, key: Key) -> bool:
        """Return whether a variable is a definition of the program that nothing else is assigned to."""
        return key not in self._targets.stored and (name in self._program.by_name or name in self._program.classes)

    def find_variable(self, scope: Scope, name: str, is_inside: bool) -> Key:
        """Return the place of a variable in a call of its function."""
        place = (id(scope), name, is_inside)
        if place not in self._variables:
            kind, owner, _ = scope.resolve(name)
            is_own = owner == scope.key and scope.arguments is not None
            self._variables[place] = (kind, owner + (INSIDE if is_own and is_inside else ""), name)
        return self._variables[place]

    def list_variables(self, at: Point, name: str) -> list[Key]:
        """Return the places of a variable; one of an outer function may belong to either kind of its calls."""
        kind, owner, _ = at.scope.resolve(name)
        if owner == "global" or owner == at.scope.key:
            return [self.find_variable(at.scope, name, at.is_called_inside)]
        return [(kind, owner, name), (kind, owner + INSIDE, name)]

    @staticmethod
    def find_definition(statement: Statement, name: str, is_inside: bool) -> Key:
        """Return the place of what one statement assigns to a variable."""
        return ("definition", f"{id(statement)}{INSIDE if is_inside else ''}", name)

    def is_any_changed(self, keys: Iterable[Key], *, is_deep: bool) -> bool:
        """Return whether one of the places has a container that gets tensors of the block by another of its names.

        Args:
            keys: The places.
            is_deep: Whether it is the elements of the container that get them.
        """
        marks = [mark_contents(key, is_deep=is_deep) for key in keys]
        return any(self.read(mark) for mark in marks)

    def mark_changed(self, key: Key, *, is_deep: bool) -> None:
        """Note that a place has a container that gets tensors of the block by another name, or whose elements get them."""
        self.add(mark_contents(key, is_deep=is_deep), OTHER, None)
        if key[0] == "variable":
            self.add(("filled", key[1].removesuffix(INSIDE), ""), OTHER, None)
            self.add(("filled", "", ""), OTHER, None)

    def has_filled(self, callee: Scope) -> bool:
        """Return whether a function may put tensors of the block into a container that it is given."""
        return bool(self.read(("filled", "", "")) and self.read(("filled", callee.key, "")))

    def add_owner(self, name: str, owner: str) -> None:
        """Note a class whose objects the block makes and gives an attribute."""
        if owner not in self._owners.setdefault(name, set()):
            self._owners[name].add(owner)
            self._wake(("owners", "", name))
            self._wake(("owners", "", ""))

    def add_all(self, keys: Iterable[Key], kind: int, at: Point) -> None:
        """Note what several places get."""
        for key in keys:
            self.add(key, kind, at)

    def add(self, key: Key, kind: int, at: Point | None) -> None:
        """Note what a place gets."""
        before = self.kinds.get(key, PLAIN)
        if kind | before == before:
            return
        self.kinds[key] = before | kind
        if kind & NEW and self._outlives(key):
            self.add(("escaped", "", ""), OTHER, None)
        if is_of_block(kind) and at is not None:
            self.origins.setdefault(key, at.statement)
            if key != ("anything", "", ""):
                self.add(("anything", "", ""), OF_BLOCK, at)
        self._wake(key)

    def _outlives(self, key: Key) -> bool:
        """Return whether what a place has may be met once the block has been left."""
        place, owner, _ = key
        if place == "definition" or owner.endswith(INSIDE) or (place in ("attribute", "escaped") and owner):
            return False
        return not (place == "variable" and owner == self._ending and not self._definitions.is_captured(key))

    def _wake(self, key: Key) -> None:
        for identity, is_inside in self._readers.get(key, ()):
            self._wait(self._by_id[identity], is_inside)


def is_called_by_library(name: str) -> bool:
    """Return whether a library calls methods of a name, with tensors and other objects of its own."""
    return name == "forward" or (name.startswith("__") and name.endswith("__"))


def mark_contents(key: Key, *, is_deep: bool) -> Key:
    """Return the place that says whether what a place has, or its elements, get tensors of the block elsewhere."""
    return (f"{'elements' if is_deep else 'contents'} of {key[0]}", key[1], key[2])


def list_defaults(scope: Scope) -> dict[str, ast.expr]:
    """Return the parameters that have defaults, with these."""
    given = scope.arguments
    if given is None:
        return {}
    positional = [*given.posonlyargs, *given.args]
    pairs = [
        *zip(reversed(positional), reversed(given.defaults), strict=False),
        *zip(given.kwonlyargs, given.kw_defaults, strict=True),
    ]
    return {parameter.arg: default for parameter, default in pairs if default is not None}


def _list_given_defaults(scope: Scope) -> list[str]:
    """Return the parameters whose defaults are something else than constants and new containers."""
    return [
        name
        for name, default in list_defaults(scope).items()
        if not isinstance(default, ast.Constant)
        and (isinstance(default, ast.Call) or list(ast.iter_child_nodes(default)))
    ]
