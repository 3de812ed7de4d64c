"""The site that ``make docs`` builds: complete, free of warnings, and without a reference to another host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, RULES

pytest.importorskip("mkdocstrings", reason="the site needs the extra `docs`, which is not installed")
LOADED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.parent.name != "reports"]
    assert len(pages) > 50
    found = {page.name: LOADED.findall(page.read_text(encoding="utf-8")) for page in pages}
    assert not {name: loaded for name, loaded in found.items() if loaded}


def test_rules_have_stable_addresses(site: Path) -> None:
    assert all((site / f"rules/{Path(rule).stem}.html").is_file() for rule in RULES)


def test_every_public_name_has_an_entry_that_links_can_lead_to(site: Path) -> None:
    import gradprobe

    text = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    missing = [name for name in gradprobe.__all__ if f'id="gradprobe.{name}"' not in text and name != "__version__"]
    assert not missing
