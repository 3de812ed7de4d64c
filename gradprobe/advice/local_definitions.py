"""Assignments that alone decide what a variable is at a statement.

Names such as ``out`` or ``loss`` occur in a block and again in the training loop of the same function. What lines assign to
a name does not matter where another assignment is always executed between them and the use.
"""

from __future__ import annotations

import ast

from gradprobe.advice.program_model import Key, ProgramModel, Statement, list_bodies, walk_own


class LocalDefinitions:
    """Search for assignments that decide a variable.

    Args:
        program: The program.
    """

    def __init__(self, program: ProgramModel) -> None:
        self._statements = {id(each.node): each for each in program.statements}
        self._stored: dict[int, frozenset[str]] = {}
        self._found: dict[tuple[int, str], tuple[Statement, ...] | None] = {}
        self._captured: set[Key] = set()
        """Variables that another function reads or sets as well, which may happen at any time."""
        for statement in program.statements:
            scope = statement.scope
            names = {part.id for part in statement.parts if isinstance(part, ast.Name)}
            names |= scope.declared_global | scope.declared_nonlocal
            keys = {scope.resolve(name) for name in names}
            is_top = scope.parent is None
            self._captured |= {key for key in keys if key[1] != scope.key and not (is_top and key[1] == "global")}

    def is_captured(self, key: Key) -> bool:
        """Return whether another function reads or sets a variable."""
        return key in self._captured

    def find(self, statement: Statement, name: str) -> tuple[Statement, ...] | None:
        """Return the assignments one of which gives a variable its value at a statement, or None if others may."""
        place = (id(statement), name)
        if place not in self._found:
            key = statement.scope.resolve(name)
            is_own = key[1] == statement.scope.key or (statement.scope.parent is None and key[1] == "global")
            is_bound_here = any(_stores(each, name) for each in statement.expressions)
            is_decided = is_own and key not in self._captured and (not is_bound_here or _assigns(statement.node, name))
            found = self._search(statement, name) if is_decided else None
            self._found[place] = None if found is None else tuple(found)
        return self._found[place]

    def _search(self, statement: Statement, name: str) -> list[Statement] | None:
        found: list[Statement] = []
        child: Statement | None = statement
        while child is not None:
            position = next(i for i, node in enumerate(child.suite) if node is child.node)
            for node in reversed(child.suite[:position]):
                if name not in self._list_stored(node):
                    continue
                inner = self._collect(node, name)
                if inner is None:
                    return None
                found += inner
                if _assigns(node, name):
                    return found
            parent = child.parent
            if parent is None:
                return None if name in statement.scope.all_parameters else found
            inner = self._find_in_parent(child, parent, name)
            if inner is None:
                return None
            found += inner
            if isinstance(parent.node, ast.For | ast.AsyncFor) and parent in inner and child.suite is parent.node.body:
                return found
            child = parent
        return None

    def _find_in_parent(self, child: Statement, parent: Statement, name: str) -> list[Statement] | None:
        """Return the assignments of a compound statement that may reach a statement in it, from before or by a loop."""
        node = parent.node
        if name not in self._list_stored(node):
            return []
        if isinstance(node, ast.For | ast.AsyncFor) and child.suite is node.body and _stores(node.target, name):
            return [parent]
        if isinstance(node, ast.If):
            return None if any(_stores(part, name) for part in walk_own(node.test)) else []
        if isinstance(node, ast.With | ast.AsyncWith):
            is_stored = any(i.optional_vars is not None and _stores(i.optional_vars, name) for i in node.items)
            return None if is_stored else []
        return self._collect(node, name)  # an earlier iteration, or another part of a try statement, may have set it

    def _collect(self, node: ast.stmt, name: str) -> list[Statement] | None:
        """Return all assignments of a variable in a statement, or None if one of them is not understood."""
        statement = self._statements.get(id(node))
        if statement is None or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return None
        if _assigns(node, name) or (isinstance(node, ast.For | ast.AsyncFor) and _stores(node.target, name)):
            found = [statement]
        elif any(_stores(each, name) for each in statement.expressions) or not hasattr(node, "body"):
            return None
        else:
            found = []
        for body in list_bodies(node):
            for each in body:
                if name in self._list_stored(each):
                    inner = self._collect(each, name)
                    if inner is None:
                        return None
                    found += inner
        own = {getattr(handler, "name", None) for handler in getattr(node, "handlers", ())}
        return None if name in own or isinstance(node, ast.Match) else found

    def _list_stored(self, node: ast.stmt) -> frozenset[str]:
        if id(node) not in self._stored:
            found: set[str] = set()
            waiting: list[ast.AST] = [node]
            while waiting:
                part = waiting.pop()
                if part is not node and isinstance(part, ast.stmt):
                    found |= self._list_stored(part)
                    continue
                if isinstance(part, ast.Name):
                    if not isinstance(part.ctx, ast.Load):
                        found.add(part.id)
                    continue
                for attribute in ("name", "rest"):
                    value = getattr(part, attribute, None)
                    if isinstance(value, str):
                        found.add(value)  # a definition, an import, an exception or a pattern
                if isinstance(part, ast.alias):
                    found.add((part.asname or part.name).partition(".")[0])
                waiting.extend(ast.iter_child_nodes(part))
            self._stored[id(node)] = frozenset(found)
        return self._stored[id(node)]


def _assigns(node: ast.stmt, name: str) -> bool:
    """Return whether a statement assigns a variable exactly once, whatever happens."""
    if isinstance(node, ast.AnnAssign):
        return node.value is not None and isinstance(node.target, ast.Name)
    if isinstance(node, ast.AugAssign):
        return isinstance(node.target, ast.Name)
    if not isinstance(node, ast.Assign):
        return False
    if not any(_stores(target, name) for target in node.targets):
        return False
    stores = [p for p in ast.walk(node) if isinstance(p, ast.Name) and p.id == name and isinstance(p.ctx, ast.Store)]
    return len(stores) == 1


def _stores(target: ast.AST, name: str) -> bool:
    if isinstance(target, ast.Name):
        return target.id == name and isinstance(target.ctx, ast.Store)
    return any(isinstance(p, ast.Name) and p.id == name and isinstance(p.ctx, ast.Store) for p in ast.walk(target))
