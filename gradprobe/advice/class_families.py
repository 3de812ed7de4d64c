"""Classes of the program with their bases, and what an object of one may be beside the program's own."""

from __future__ import annotations

import ast

from gradprobe.advice.program_model import ProgramModel
from gradprobe.advice.tensor_names import NO_CONTAINERS, NO_TENSORS


class ClassFamilies:
    """Reader of the bases of the program's classes.

    Args:
        program: The program.
    """

    def __init__(self, program: ProgramModel) -> None:
        self._program = program
        self._families: dict[str, frozenset[str]] = {}
        self._bases: dict[str, list[str]] = {}

    def list_family(self, name: str) -> frozenset[str]:
        """Return the classes whose methods an object of a class or of one derived from it may have."""
        if name not in self._families:
            found = {name, *self.list_bases(name)}
            for other in self._program.classes:
                bases = self.list_bases(other)
                if name in bases:
                    found.update((other, *bases))
            self._families[name] = frozenset(found)
        return self._families[name]

    def list_bases(self, name: str) -> list[str]:
        """Return the names of the bases of a class of the program, of all levels."""
        found: list[str] = []
        waiting = [name]
        while waiting:
            node = self._program.classes.get(waiting.pop())
            for base in node.bases if node is not None else ():
                last = ast.unparse(base).partition("[")[0].rpartition(".")[2]
                if last not in found:
                    found.append(last)
                    waiting.append(last)
        return found

    def may_have_items(self, name: str) -> bool:
        """Return whether an object of a class may itself be a container, by the bases of the class."""
        bases = [base for base in self.list_bases(name) if base not in self._program.classes]
        return any(base not in NO_CONTAINERS and not base.endswith(("Error", "Exception")) for base in bases)

    def may_be_tensor(self, name: str) -> bool:
        """Return whether an object of a class may itself be a tensor, by the bases of the class."""
        bases = [base for base in self.list_bases(name) if base not in self._program.classes]
        return any(base not in NO_CONTAINERS and base not in NO_TENSORS for base in bases)

    def has_metaclass(self, name: str) -> bool:
        """Return whether another class of the program may decide what calling a class gives."""
        nodes = [self._program.classes.get(each) for each in (name, *self.list_bases(name))]
        return any(k.arg == "metaclass" for node in nodes if node is not None for k in node.keywords)

    def has_foreign_base(self, name: str) -> bool:
        """Return whether a class derives from one that is not of the program."""
        known = ("object", "ABC", "Generic", "Protocol")
        return any(base not in self._program.classes and base not in known for base in self.list_bases(name))
