"""The notebook of the API, and the magic that notebooks get, in a kernel as Jupyter runs it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import gradprobe
from tests import warm_python

nbclient = pytest.importorskip("nbclient", reason="notebooks are run by the package nbclient")
nbformat = pytest.importorskip("nbformat", reason="notebooks are read by the package nbformat")
pytest.importorskip("ipykernel", reason="notebooks need the package ipykernel")

NOTEBOOK = Path(gradprobe.__file__).parents[1] / "examples" / "handbook.ipynb"


def run(*cells: str, allow_errors: bool = False) -> list[Any]:
    """The outputs of each of ``cells``, run in a kernel that has run nothing, or has forgotten what it ran."""
    client, notebook = kernel(), make_notebook("%reset -f\nget_ipython().execution_count = 1", *cells)
    client.nb, client.allow_errors = notebook, allow_errors
    client.reset_execution_trackers()
    for number, cell in enumerate(notebook.cells):
        client.execute_cell(cell, number, store_history=number > 0)
    return [cell.outputs for cell in notebook.cells[1:]]


def make_notebook(*cells: str) -> Any:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])


@cache
def kernel() -> Any:
    """Return the client of one kernel for the tests of this file, each of which would import torch in its own."""
    client = nbclient.NotebookClient(make_notebook(), kernel_name="python3", timeout=300)
    client.create_kernel_manager()
    client.start_new_kernel()
    client.start_new_kernel_client()
    return client


@pytest.fixture(scope="module", autouse=True)
def _kernel_ends() -> Iterator[None]:
    yield
    if kernel.cache_info().currsize:
        client = kernel()
        kernel.cache_clear()
        client.kc.stop_channels()
        nbclient.util.run_sync(client.km.shutdown_kernel)(now=True)


def test_the_notebook_runs_and_shows_what_it_speaks_of() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=300).execute()
    shown = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    (magic,) = (outputs for source, outputs in shown.items() if source.startswith("%%gradprobe"))
    assert magic[0].data["text/plain"] == "(False, True)", "the value of the cell comes first"
    assert "In[3]:4" in magic[1].data["text/html"]
    assert "<svg" in magic[1].data["text/html"]
    assert sum("text/html" in output.get("data", {}) for outputs in shown.values() for output in outputs) >= 6
    assert "Inference tensors cannot be saved for backward" in json.dumps(shown)


def test_the_notebook_installs_gradprobe_where_it_is_missing() -> None:
    first = next(cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code")
    pip = "get_ipython().register_magic_function(lambda words: print('pip', words), 'line', 'pip')"
    hide = "import sys; found = sys.modules.get('gradprobe'); sys.modules['gradprobe'] = None"
    show = "del sys.modules['gradprobe']; sys.modules.update({'gradprobe': found} if found else {})"
    _, present, _, missing, _ = run(pip, first.source, hide, first.source, show)
    assert present == []
    assert missing[0].text == 'pip install --quiet "gradprobe[html]"\n'


def test_the_cells_of_the_page_on_notebooks_run() -> None:
    page = (NOTEBOOK.parents[1] / "docs" / "notebook.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```\n(.*?)\n```$", page, re.S | re.M)
    setup = "import torch\nmodel, x = torch.nn.Linear(2, 2), torch.ones(2)"
    *_, magic, named = run(setup, *cells, "seen.sites['line'].tolist()")
    assert magic[0].data["text/plain"] == "False"
    assert "In[3]:2" in magic[1].data["text/html"]
    assert named[0].data["text/plain"] == "[2]"


def test_the_notebook_is_kept_without_outputs() -> None:
    plain = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in plain["cells"])
    assert set(plain["metadata"]) == {"kernelspec", "language_info"}


def test_a_cell_behaves_under_the_magic_as_without_it() -> None:
    setup = "%load_ext gradprobe\nimport torch, warnings"
    cell = "made = torch.ones(2)\nwith torch.no_grad():\n    made *= 2\nprint('said')\nmade"
    plain, magic, after, failing, name, semicolon = run(
        *(setup, cell, f"%%gradprobe --level ops kept\n{cell}", "print(made, kept.sites['line'].tolist())"),
        *("%%gradprobe\nwith torch.no_grad():\n    raise KeyError('gone')", "Out[3]", "%%gradprobe\n1;"),
        allow_errors=True,
    )[1:]
    assert [output.output_type for output in plain] == ["stream", "execute_result"]
    assert [output.output_type for output in magic] == ["stream", "execute_result", "display_data"]
    assert magic[:2] == [plain[0], {**plain[1], "execution_count": 3}]
    assert after[0].text == "tensor([2., 2.]) [3]\n"
    assert [output.output_type for output in failing] == ["display_data", "error"]
    assert failing[1].ename == "KeyError"
    trace = "\n".join(failing[1].traceback)
    assert "notebook.py" not in trace, "frames of ours are no business of the user's"
    assert "line 3" in trace
    assert "tensor([2., 2.])" in name[0].data["text/plain"]
    assert [output.output_type for output in semicolon] == ["display_data"]


def test_a_semicolon_silences_the_value_where_it_does_without_the_magic() -> None:
    cases = {"1; # a remark": [], "1\n# a remark;": ["execute_result"], "'a;'": ["execute_result"]}
    outputs = run("%load_ext gradprobe", *(text for cell in cases for text in (cell, f"%%gradprobe\n{cell}")))[1:]
    for types, plain, magic in zip(cases.values(), outputs[::2], outputs[1::2], strict=True):
        assert [output.output_type for output in plain] == types
        assert [output.output_type for output in magic] == [*types, "display_data"]


def test_a_cell_that_is_no_python_is_told_as_without_the_magic() -> None:
    cells = ("x = (1\n+", "if True:\nx = 1", "return 1")
    # The first line stands for the magic's, so that line numbers are the same.
    texts = [text for cell in cells for text in (f"#\n{cell}", f"%%gradprobe\n{cell}", "1")]
    outputs = run("%load_ext gradprobe", *texts, allow_errors=True)[1:]
    for number in range(len(cells)):
        plain, magic, after = outputs[3 * number : 3 * number + 3]
        place = 2 + 3 * number
        assert [output.output_type for output in magic] == ["error"]
        assert magic[0].ename == plain[0].ename
        assert re.sub(r"\d+\.py", "", magic[0].evalue) == re.sub(r"\d+\.py", "", plain[0].evalue)
        trace = "\n".join(magic[0].traceback).replace(f"In[{place + 1}]", f"In[{place}]")
        assert trace == "\n".join(plain[0].traceback)
        assert after[0].data["text/plain"] == "1"


def test_findings_and_tables_name_the_cell() -> None:
    cell = "%%gradprobe --level ops kept\ntotal = 0\nfor _ in range(3):\n    total = total + model(x).sum()"
    setup = "%load_ext gradprobe\nimport torch\nmodel, x = torch.nn.Linear(2, 2), torch.ones(1, 2)"
    named = "print({*kept.findings['file'], *kept.graphs['file'], *kept.ops['file']})"
    *_, shown = run(setup, cell, named)
    assert shown[0].text == "{'In[2]'}\n"


TERMINAL = """
from IPython.terminal.interactiveshell import TerminalInteractiveShell
shell = TerminalInteractiveShell.instance(colors="nocolor", simple_prompt=True)
shell.run_cell("%load_ext gradprobe")
shell.run_cell("import torch")
shell.run_cell("%%gradprobe\\nwith torch.no_grad():\\n    pass\\n'the value'", store_history=True)
"""


def test_a_terminal_gets_the_text_report(tmp_path: Path) -> None:
    surroundings = {**os.environ, "IPYTHONDIR": str(tmp_path), "PYTHONPATH": str(NOTEBOOK.parents[1])}
    done = warm_python.run("-c", TERMINAL, cwd=tmp_path, env=surroundings)
    shown = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    assert shown.index("'the value'") < shown.index("gradprobe: gradient and inference modes")
    assert re.search(r":2 +<module> +no_grad", shown)
    assert "<div" not in shown


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("%%gradprobe --level all\n1", "invalid choice: 'all'"),
        ("%%gradprobe 1st\n1", "not a variable name"),
        ("%%gradprobe class\n1", "not a variable name"),
        ("%%gradprobe --colour\n1", "unrecognized arguments: --colour"),
        ("%%gradprobe\nimport asyncio\nawait asyncio.sleep(0)", "gradprobe.record()"),
    ],
)
def test_what_the_magic_cannot_do_is_one_line(cell: str, said: str) -> None:
    interactive = pytest.importorskip("IPython.testing.globalipapp").get_ipython()
    shell = interactive or pytest.importorskip("IPython.core.interactiveshell").InteractiveShell()
    gradprobe.load_ipython_extension(shell)
    line, _, body = cell.removeprefix("%%gradprobe").partition("\n")
    error = pytest.importorskip("IPython.core.error").UsageError
    with pytest.raises(error, match=r"gradprobe|argument|unrecognized") as raised:
        shell.run_cell_magic("gradprobe", line.strip(), body)
    assert said in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
