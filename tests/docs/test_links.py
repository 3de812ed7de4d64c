"""Every link of the pages leads to a file that is there, and to a heading that it has."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import ALL, ROOT, anchors, prose, read

LINK = re.compile(r"\]\(<?([^)\s>]*)>?(?: +\"[^\"]*\")?\)|^\[[^\]]+\]: +(\S+)", re.M)


def links(page: str) -> list[str]:
    return [one or other for one, other in LINK.findall(prose(read(page)))]


@pytest.mark.parametrize("page", ALL)
def test_every_link_leads_somewhere(page: str) -> None:
    for link in links(page):
        if re.match(r"[a-z][a-z+.-]*:", link):
            assert link.startswith("https://"), f"{page} links to {link}"
            continue
        path, _, heading = link.partition("#")
        target = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        assert target.exists(), f"{page} links to {link}, which is not there"
        assert ROOT in target.parents, f"{page} links to {link}, which is outside of the repository"
        if heading:
            assert heading in anchors(target.read_text(encoding="utf-8")), f"{page} links to {link}: no such heading"


def test_every_page_is_linked_from_the_readme_or_a_page_that_it_links_to() -> None:
    seen, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or not page.endswith(".md"):
            continue
        seen.add(page)
        folder = (ROOT / page).parent
        for link in links(page):
            path = link.partition("#")[0]
            if path and ":" not in path:
                waiting.append((folder / path).resolve().relative_to(ROOT).as_posix())
    assert {page for page in ALL if page.startswith("docs/")} <= seen


def test_the_checker_reads_links_as_a_reader_does() -> None:
    code = "```sh\n[no](code)\n```\n\n    [no](code)\n\n`[no](code)`\n"
    text = f"# A `b` c!\n\n[one](x.md#y), ![two](z.svg)\n\n{code}\n## A b c\n"
    assert [one or other for one, other in LINK.findall(prose(text))] == ["x.md#y", "z.svg"]
    assert anchors(text) == {"a-b-c", "a-b-c-1"}


def test_the_form_for_bugs_asks_for_the_versions() -> None:
    yaml = pytest.importorskip("yaml")
    form = yaml.safe_load((ROOT / ".github/ISSUE_TEMPLATE/bug_report.yml").read_text(encoding="utf-8"))
    asked = [part for part in form["body"] if "gradprobe debug" in part["attributes"]["label"]]
    assert [part["validations"]["required"] for part in asked] == [True]
