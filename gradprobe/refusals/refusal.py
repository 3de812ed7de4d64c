"""A refusal: a message of PyTorch, the rule it comes under, why PyTorch raises it, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TENSOR = re.compile(r"(?<![\w.])x(?!\w)")
ERROR, WARNING, NOTE = "error", "warning", "note"


@dataclass(frozen=True)
class Refusal:
    """A family of messages with one cause.

    Attributes:
        key: Name of the row, which recordings store.
        rule: Code of the rule.
        texts: Regular expressions, of which the message matches one. They contain only what does not depend on the program.
        why: What happened and why PyTorch refuses it, in one or two sentences.
        fix: The edit for this cause, an imperative sentence; ``x`` in it is the tensor.
        tensor: Kind of the tensor that the message is about, by which it is found among the operands; "" for any.
        story: Name of the lines that explain it: where the tensor was created, who freed the graph, and so on.
        caught: Severity if the program catches the exception itself. A message that a program may provoke in order to
            choose another way is a note.
        severity: Severity if nothing catches it; "" for that of the rule.
        node: Name of the node that the story is about, for messages without it, or "".
        parameter_fix: The edit if the tensor is a parameter of a module, or "".
        kept_fix: The edit if the program keeps the tensor somewhere, with ``x`` as that place, or "".
        needs: Why it cannot be raised in one process on a CPU, or "".
    """

    key: str
    rule: str
    texts: tuple[str, ...]
    why: str
    fix: str
    tensor: str = ""
    story: str = "created"
    caught: str = WARNING
    severity: str = ""
    node: str = ""
    parameter_fix: str = ""
    kept_fix: str = ""
    needs: str = ""

    def matches(self, message: str) -> bool:
        """Return whether ``message`` is one of this family."""
        # Compiled when first needed: every recorded process imports the table, and few of them raise.
        return any(re.search(text, message, re.DOTALL) for text in self.texts)

    def advise(self, facts: Mapping[str, Any]) -> str:
        """Return the edit for the tensor that facts are about: with its name in the place of ``x``, if that is known."""
        if self.parameter_fix and facts.get("is_parameter"):
            return self.parameter_fix
        kept = facts.get("kept")
        if self.kept_fix and isinstance(kept, str) and kept:
            return _TENSOR.sub(lambda _: f"`{kept}`", self.kept_fix)
        name = facts.get("name")
        return _TENSOR.sub(lambda _: name, self.fix) if isinstance(name, str) and name else self.fix
