"""Extension of griffe that renders the examples of docstrings, which follow PyTorch's style, as highlighted code.

``Example::`` before an indented block is how PyTorch's own docstrings are written; the pages show Markdown.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^(?P<indent> *)(?P<name>Examples?)::\n\n(?P<code>(?:(?P=indent) +[^\n]*\n?|\n)+)", re.M)


class TorchExamples(griffe.Extension):
    """Turn each ``Example::`` block into a fenced block of Python below its name."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object that was just read."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_fenced, obj.docstring.value)


def _fenced(found: re.Match[str]) -> str:
    indent = found["indent"]
    lines = found["code"].rstrip().splitlines()
    depth = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    code = "\n".join(f"{indent}{line[depth:]}".rstrip() for line in lines)
    return f"{indent}**{found['name']}**\n\n{indent}```python\n{code}\n{indent}```\n\n"
