"""The IPython extension ``%load_ext gradprobe`` and its cell magic ``%%gradprobe``."""

from __future__ import annotations

import ast
import io
import json
import keyword
import tokenize
from dataclasses import replace
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from gradprobe.recorder import LEVELS, record
from gradprobe.result import Recording
from gradprobe.stored_recordings import StoredRecording

_BLANK = (tokenize.ENDMARKER, tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)


def load_ipython_extension(shell: Any) -> None:
    """Register the cell magic ``%%gradprobe``, which records a cell and shows the report below it.

    IPython calls this function for ``%load_ext gradprobe``.

    Args:
        shell (InteractiveShell): The IPython shell.

    Example::

        %load_ext gradprobe

        %%gradprobe --level ops recording
        with torch.no_grad():
            model(batch)
    """

    @magic_arguments()
    @argument("--level", choices=LEVELS, default="graph", help="amount of detail (default: %(default)s)")
    @argument("--include-torch", action="store_true", help="also show the blocks that PyTorch's own code enters")
    @argument("name", nargs="?", help="variable to assign the Recording to")
    def gradprobe(line: str, cell: str) -> None:
        """Record the gradient and inference modes of a cell, and show the report below it."""
        __tracebackhide__ = "__ipython_bottom__"
        options = parse_argstring(gradprobe, line)
        if options.name is not None and (not options.name.isidentifier() or keyword.iskeyword(options.name)):
            raise UsageError(f"%%gradprobe: cannot assign to {options.name!r}: not a variable name; use an identifier")
        code = shell.transform_cell(cell)
        if shell.should_run_async(cell, transformed_cell=code):
            raise UsageError(
                "%%gradprobe cannot run a cell that awaits; write it as: with gradprobe.record() as recording: ..."
            )
        recorder = record(level=options.level, include_torch=options.include_torch)
        try:
            body, last = _compile(shell, cell, code)
        except SyntaxError as error:
            raise _hide_frames(shell, error) from None
        recorder.start()
        try:
            exec(body, shell.user_ns)
            if last is not None:
                exec(last, shell.user_ns)
        finally:
            recording = _name_cells(recorder.stop(), shell)
            if options.name is not None:
                shell.user_ns[options.name] = recording
            shown = {"text/plain": str(recording), "text/html": recording._repr_html_()}
            display(shown, raw=True)

    shell.register_magic_function(gradprobe, "cell", "gradprobe")


def _compile(shell: Any, cell: str, code: str) -> tuple[Any, Any]:
    """Compile the cell, and separately the expression at its end, if any, whose value a notebook shows."""
    # The blank line represents the line of the magic, so that lines are numbered as in the cell's editor.
    name = shell.compile.cache(f"\n{code}", shell.displayhook.prompt_count, raw_code=f"\n{cell}")
    tree = shell.transform_ast(shell.compile.ast_parse(f"\n{code}", filename=name))
    last = None
    if tree.body and isinstance(tree.body[-1], ast.Expr) and not _is_silenced(code):
        last = shell.compile(ast.Interactive([tree.body.pop()]), name, "single")
    return shell.compile(tree, name, "exec"), last


def _is_silenced(code: str) -> bool:
    """Return whether the last token is a semicolon, which IPython looks for in the magic's line only."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type not in _BLANK]
    return bool(tokens) and tokens[-1].string == ";"


def _hide_frames(shell: Any, error: SyntaxError) -> Exception:
    """Return an exception that IPython shows as it shows ``error`` in a cell without a magic.

    IPython shows a ``SyntaxError`` raised by a magic with the whole stack, gradprobe's frames included. The returned
    exception is a ``SyntaxError`` by name only.
    """
    shown = shell.SyntaxTB.structured_traceback(type(error), error, [])
    named: type[Exception] = type(type(error).__name__, (Exception,), {"_render_traceback_": lambda _: shown})
    return named(str(error))


def _name_cells(recording: Recording, shell: Any) -> Recording:
    """Return ``recording`` with names such as In[3] for the files that IPython invents for cells."""
    contents = recording._tables.contents[0]
    sites = {number: replace(site, file=_name_cell(site.file, shell)) for number, site in contents.sites.items()}
    notes = [(kind, _name_cells_of_note(text, shell), count) for kind, text, count in contents.notes]
    return Recording(StoredRecording([replace(contents, sites=sites, notes=notes)]))


def _name_cells_of_note(text: str, shell: Any) -> str:
    """Return a note with the names of cells. Most notes are JSON; the others name no files."""
    try:
        return json.dumps(_name_cell(json.loads(text), shell))
    except ValueError:
        return text


def _name_cell(value: Any, shell: Any) -> Any:
    """Return a value of JSON with each file of a cell, at any depth, replaced by the name of the cell."""
    if isinstance(value, str):
        known = shell.compile.format_code_name(value)
        return value if known is None else known[1]
    if isinstance(value, list):
        return [_name_cell(item, shell) for item in value]
    if isinstance(value, dict):
        return {_name_cell(name, shell): _name_cell(item, shell) for name, item in value.items()}
    return value
