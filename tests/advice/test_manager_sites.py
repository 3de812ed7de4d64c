"""Sites are found in every form, and exchanged without touching what is around them."""

from __future__ import annotations

from gradprobe.advice.manager_sites import SourceFile
from gradprobe.advice.source_edits import add_comments, enclose_in_normal_mode, exchange_in_source, make_diff

PROGRAM = """\
import torch
from torch import no_grad as ng


class Model:
    @torch.no_grad()   # keeps  its spacing
    def f(self):
        with open("x") as a, torch.no_grad() as b, torch.autocast("cpu"):
            pass

    @ng
    def g(self):
        later = torch.no_grad()
        return later, isinstance(later, torch.no_grad)


@torch.inference_mode(mode=True)
def h():
    with torch.inference_mode(False):
        pass


@torch.no_grad()
async def without_effect():
    pass
"""


def read(text: str) -> SourceFile:
    return SourceFile("/folder/program.py", text)


def test_every_form_is_a_site_and_what_sets_another_mode_is_none() -> None:
    found = [(site.line, site.manager, site.form, site.function) for site in read(PROGRAM).sites]
    assert found == [
        (6, "no_grad", "decorator", "Model.f"),
        (8, "no_grad", "with", "Model.f"),
        (11, "no_grad", "decorator", "Model.g"),
        (13, "no_grad", "call", "Model.g"),
        (17, "inference_mode", "decorator", "h"),
    ]


def test_only_the_name_of_the_manager_changes() -> None:
    file = read(PROGRAM)
    changed = exchange_in_source(file, file.sites).splitlines()
    assert changed[5] == "    @torch.inference_mode()   # keeps  its spacing"
    assert changed[7] == '        with open("x") as a, torch.inference_mode() as b, torch.autocast("cpu"):'
    assert changed[10] == "    @torch.inference_mode"
    assert changed[16] == "@torch.no_grad()"
    assert sum(a != b for a, b in zip(PROGRAM.splitlines(), changed, strict=True)) == len(file.sites)


def test_a_name_that_is_missing_is_imported() -> None:
    once = read("from torch import no_grad as ng\nwith ng():\n    pass\n")
    assert exchange_in_source(once, once.sites).startswith("from torch import inference_mode\nwith inference_mode():")
    twice = read("from torch import no_grad, ones\nwith no_grad():\n    pass\nwith no_grad():\n    pass\n")
    assert exchange_in_source(twice, twice.sites[:1]).splitlines()[:2] == [
        "from torch import no_grad, inference_mode, ones",
        "with inference_mode():",
    ]


def test_a_diff_names_the_changed_lines_only() -> None:
    file = read(PROGRAM)
    diff = make_diff("program.py", file.text.encode(), exchange_in_source(file, file.sites[:1]).encode())
    assert [line for line in diff.decode().splitlines() if line[:1] in "+-"][2:] == [
        "-    @torch.no_grad()   # keeps  its spacing",
        "+    @torch.inference_mode()   # keeps  its spacing",
    ]


def test_a_comment_takes_the_indentation_and_is_written_once() -> None:
    text = add_comments("def f():\n    with g():\n        pass\n", [(2, "why")])
    assert text.splitlines()[1:3] == ["    # why", "    with g():"]
    assert add_comments(text, [(3, "why")]) == text


def test_a_statement_is_enclosed_whole() -> None:
    file = read("import torch as t\n\n\ndef f():\n    return g(\n        1\n    )\n")
    changed = enclose_in_normal_mode(file, 6)
    assert changed is not None
    assert changed.splitlines()[4:] == [
        "    with t.inference_mode(False), t.no_grad():",
        "        return g(",
        "            1",
        "        )",
    ]


def test_line_ends_form_feeds_and_names_of_the_file_are_kept() -> None:
    file = read("import torch\r\n\x0c\r\n@torch.no_grad()\r\ndef f(): return '\u2028'\r\n")
    expected = file.text.replace("no_grad", "inference_mode")
    assert exchange_in_source(file, file.sites) == expected
    taken = read("from torch import no_grad\ndef inference_mode(): pass\nwith no_grad():\n    pass\n")
    assert exchange_in_source(taken, taken.sites).splitlines()[::2] == [
        "from torch import inference_mode as torch_inference_mode",
        "with torch_inference_mode():",
    ]
    offered = read("from torch import no_grad\n__all__ = ['no_grad']\nwith no_grad():\n    pass\n")
    assert exchange_in_source(offered, offered.sites).startswith("from torch import no_grad, inference_mode\n")
    checked = read("if TYPE_CHECKING:\n    import torch\nfrom torch import no_grad\nwith no_grad():\n    pass\n")
    assert exchange_in_source(checked, checked.sites).splitlines()[2:4] == [
        "from torch import inference_mode",
        "with inference_mode():",
    ]


def test_a_comment_is_above_the_whole_statement() -> None:
    text = "with open(1), \\\n     g():\n    pass\n"
    assert add_comments(text, [(2, "why")]) == f"# why\n{text}"
