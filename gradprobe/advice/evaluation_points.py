"""Where an expression is evaluated, and the places whose contents it may read."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Protocol

from gradprobe.advice.program_model import Key, Scope, Statement


@dataclass(frozen=True)
class Point:
    """A statement as it is evaluated: in a call that the block makes or not, and inside of the block or not."""

    statement: Statement
    is_called_inside: bool
    is_inside: bool

    @property
    def scope(self) -> Scope:
        """The function or module of the statement."""
        return self.statement.scope


class Places(Protocol):
    """Contents of the places that values are kept in."""

    def read(self, key: Key) -> int:
        """Return the kind of what a place has."""

    def read_variable(self, name: str, at: Point) -> int:
        """Return the kind of a variable."""

    def read_attribute(self, name: str, *, is_inside: bool) -> int:
        """Return the kind of what attributes of a name have, of whichever object."""

    def is_kept_in_attributes(self) -> bool:
        """Return whether any attribute has a tensor of the block."""

    def is_skipped(self, node: ast.AST) -> bool:
        """Return whether a part of an expression does not count."""
