"""Other text for some source files of this process: what the program imports, runs and inspects is the changed text.

The files themselves stay as they are, and no bytecode of the changed text is kept. Everything that turns source into code
calls ``compile``: the import system, runpy, and test frameworks that rewrite assertions.
"""

from __future__ import annotations

import ast
import builtins
import io
import linecache
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType
from typing import Any

from gradprobe.capture.patching.post_import import PostImportHook

MARK = "__gradprobe_manager__"


class SourceHook:
    """Replacement of the text of files wherever it is compiled.

    Args:
        texts: The changed text of each file, by its absolute path.
        rewrite: Changes the syntax tree of a file before it is compiled, or None.
    """

    def __init__(
        self, texts: Mapping[str, str], rewrite: Callable[[str, ast.Module], ast.Module] | None = None
    ) -> None:
        self._texts, self._rewrite = dict(texts), rewrite
        self._compile = builtins.compile

    def install(self) -> None:
        """Change the text from now on, for the rest of the process."""
        for file, text in self._texts.items():
            # An entry without a time is never checked against the file.
            linecache.cache[file] = (len(text), None, list(io.StringIO(text, newline=None)), file)
        builtins.compile = self._compile_changed
        sys.meta_path.insert(0, _Finder(frozenset(self._texts)))
        PostImportHook("_pytest.assertion.rewrite", self._hide_pytest_cache).begin()

    def _compile_changed(
        self, source: Any, filename: Any = "<unknown>", mode: str = "exec", *rest: Any, **named: Any
    ) -> Any:
        is_text = isinstance(source, str | bytes) and mode == "exec"
        text = self._texts.get(filename) if is_text and isinstance(filename, str) else None
        if text is None:
            return self._compile(source, filename, mode, *rest, **named)
        flags = rest[0] if rest else named.get("flags", 0)
        if self._rewrite is None or flags & ast.PyCF_ONLY_AST:
            return self._compile(text, filename, mode, *rest, **named)
        tree: Any = self._compile(text, filename, mode, ast.PyCF_ONLY_AST, dont_inherit=True)
        return self._compile(self._rewrite(filename, tree), filename, mode, *rest, **named)

    def _hide_pytest_cache(self) -> None:
        """Keep pytest from the bytecode that it has stored of the unchanged text."""
        rewrite: Any = sys.modules["_pytest.assertion.rewrite"]
        read = getattr(rewrite, "_read_pyc", None)
        if read is None:
            return
        rewrite._read_pyc = lambda source, *rest: None if str(source) in self._texts else read(source, *rest)


class _Finder(MetaPathFinder):
    def __init__(self, files: frozenset[str]) -> None:
        self._files = files

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin in self._files and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
            return spec
        return None


class _Loader(SourceFileLoader):
    """Loader that neither reads nor writes bytecode."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code
