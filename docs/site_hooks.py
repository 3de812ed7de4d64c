"""Hooks of mkdocs: bring the repository's own pages into the site and lead links to where each file is there.

The pages are written for a code host first, so their links name files of the repository. In the site the README is the
front page, examples are pages that show their source, and reports are beside them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES_OF_THE_ROOT = {
    "README.md": "index.md",
    "CHANGELOG.md": "",
    "CONTRIBUTING.md": "",
    "SECURITY.md": "",
    "CODE_OF_CONDUCT.md": "",
    "LICENSE": "license.md",
}
"""Files at the root of the repository that are pages of the site, and their names there if they differ."""
LINK = re.compile(r"(\]\()([^)#:\s]+)(#[^)\s]*)?(\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Complete the navigation: the API, the rules, and pages that it does not name yet, under "Reference"."""
    (reference,) = (section["Reference"] for section in config.nav or () if "Reference" in section)
    named = set(re.findall(r"[\w/]+\.md", str(config.nav)))
    docs = ROOT / "docs"
    reference += sorted(page.name for page in docs.glob("*.md") if page.name not in named)
    api = sorted((page.name for page in (docs / "api").glob("*.md")), key=lambda name: (name != "index.md", name))
    reference.append({"Python API": [f"api/{name}" for name in api]})
    reference.append({"Rules": sorted(f"rules/{page.name}" for page in (docs / "rules").glob("*.md"))})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages of the repository link to outside of ``docs``."""
    for name in PAGES_OF_THE_ROOT:
        files.append(_page(config, name, (ROOT / name).read_text(encoding="utf-8")))
    for script in sorted((ROOT / "examples").glob("*.py")):
        name = script.relative_to(ROOT).as_posix()
        text = f"# {name}\n\n```python\n{script.read_text(encoding='utf-8')}```\n"
        files.append(_page(config, name, text))
    for report in sorted((ROOT / "reports").glob("*.md")):
        files.append(_page(config, report.relative_to(ROOT).as_posix(), report.read_text(encoding="utf-8")))
    for pattern in ("examples/*.ipynb", "reports/*.html", "reports/*.svg", "reports/*.json"):
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead each link of a page to the file of the site that its target in the repository became."""
    here = _in_repository(page.file.src_uri)
    there = posixpath.dirname(page.file.src_uri)

    def led(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), found[2]))
        return f"{found[1]}{posixpath.relpath(_in_site(target), there or '.')}{found[3] or ''}{found[4]}"

    return LINK.sub(led, markdown)


def _page(config: MkDocsConfig, name: str, text: str) -> File:
    file = File.generated(config, _in_site(name), content=text)
    named = name in PAGES_OF_THE_ROOT and name != "LICENSE"
    file.inclusion = InclusionLevel.INCLUDED if named else InclusionLevel.NOT_IN_NAV
    return file


def _in_site(name: str) -> str:
    """Return the source of the site that a file of the repository became."""
    if name in PAGES_OF_THE_ROOT:
        return PAGES_OF_THE_ROOT[name] or name
    if name == "examples":
        return "examples.md"
    if name.startswith("examples/") and name.endswith(".py"):
        return f"{name.removesuffix('.py')}.md"
    return name.removeprefix("docs/")


def _in_repository(source: str) -> str:
    """Return the file of the repository that a source of the site comes from."""
    for name, other in PAGES_OF_THE_ROOT.items():
        if source == (other or name):
            return name
    if source.startswith(("examples/", "reports/")):
        return source
    return f"docs/{source}"
