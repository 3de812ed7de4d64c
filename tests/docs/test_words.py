"""The README, the pages and the help texts keep to the words of the style sheet in CONTRIBUTING.md."""

from __future__ import annotations

import re

import pytest

from gradprobe.__main__ import _VERBS, main
from tests.docs.pages import ALL, prose, read

AVOIDED = {
    "told, tells": r"told|tells|telling|(?<!cannot )tell",
    "is none of": r"(?:is|are) none of",
    "is no X": r"(?<!there )(?:is|are) no (?!longer|more|later)\w+",
    "ours, us": r"ours|us|our own",
    "born, birth": r"(?:re)?born|births?",
    "outlive": r"outliv(?:e|es|ed|ing)",
    "in force": r"in force",
    "anew": r"anew",
    "per cent": r"per ?cent",
    "put up": r"puts? up|putting up",
    "handed over": r"hand(?:s|ed|ing)? over",
    "changed in place": r"chang(?:e|es|ed|ing) in place|in-place changes?",
    "switch gradients off": r"switch(?:es|ed|ing)? (?:(?:gradients?|grad|grad mode) o(?:n|ff)|o(?:n|ff) grad)",
    "stands for": r"st(?:and|ands|ood|anding) for",
    "holds on to": r"(?:hold|holds|held|holding) on to",
    "looks out": r"look(?:s|ed|ing)? out",
    "done over": r"d(?:o|oes|one|oing) over",
    "called through": r"call(?:s|ed|ing)? through",
    "somebody, nobody": r"(?:some|no|any)body",
    "the while": r"the while",
    "upto": r"upto",
    "whatever": r"whatever",
}


def avoided(text: str) -> list[str]:
    """Return each avoided word of a text, with the words around it."""
    flat = " ".join(text.split())
    return [
        f"{name}: ...{flat[max(found.start() - 30, 0) : found.end() + 30]}..."
        for name, pattern in AVOIDED.items()
        for found in re.finditer(rf"\b(?:{pattern})\b", flat, re.I)
    ]


@pytest.mark.parametrize("page", [page for page in ALL if not page.startswith("reports/")])
def test_a_page_keeps_to_the_words(page: str) -> None:
    assert avoided(prose(read(page))) == []


@pytest.mark.parametrize("verb", ["", *_VERBS])
def test_a_help_text_keeps_to_the_words(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([*([verb] if verb else []), "--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: ")
    assert avoided(text) == []


def test_the_style_sheet_lists_the_words() -> None:
    sheet = prose(read("CONTRIBUTING.md").replace("`", ""))
    assert [name for name in AVOIDED if not all(word in sheet for word in re.split(r", | X", name) if word)] == []
    assert [found.split(":")[0] for found in avoided("There is no file; it is no file. It was Told to us.")] == [
        "told, tells",
        "is no X",
        "ours, us",
    ]
