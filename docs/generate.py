"""Write the parts of the documentation that come from the code: ``python docs/generate.py [--check | --picture]``.

The API pages follow from ``gradprobe.__all__``, the list of files from the first line of each module, the drawings from
the imports, and the tables of versions from the parts of PyTorch that gradprobe looks for. With ``--picture``, also
record an example and draw the finding that the README shows. The tests compare what is committed with what this script
makes, so none of it can age.
"""

from __future__ import annotations

import ast
import html
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

try:
    import grimp
except ModuleNotFoundError:  # without it everything but the drawings of imports can be made
    grimp = None

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGE = ROOT / "gradprobe"

API_PAGES: Mapping[str, tuple[str, str]] = {
    "recorder": ("recording", "Recording a program"),
    "result": ("recording", "Recording a program"),
    "stored_recordings": ("recording", "Recording a program"),
    "distributed": ("recording", "Recording a program"),
    "environment": ("recording", "Recording a program"),
    "phases": ("phases", "Phases"),
    "managers": ("managers", "Drop-in context managers"),
    "probing": ("probes", "Probes, and the switch"),
    "_switch": ("probes", "Probes, and the switch"),
    "comparison": ("comparison", "Comparing modes"),
    "inspection": ("inspection", "Inspecting a tensor"),
    "tensor_explanation": ("inspection", "Inspecting a tensor"),
    "analysis": ("inspection", "Inspecting a tensor"),
    "capture": ("inspection", "Inspecting a tensor"),
    "monitoring": ("monitoring", "Monitoring a service"),
    "errors": ("errors", "Errors"),
}
"""Page and title for the public names of each module or package; others get a page of their own name."""


def main(words: Sequence[str]) -> int:
    """Write every generated file, or with ``--check`` name those that differ; return the exit code."""
    stale = []
    made = generated()
    if "--picture" in words:
        made[DOCS / "finding.svg"] = picture(PICTURED, finding_lines())
    for path, text in made.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if "--check" not in words:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    verb = "differs from what `make generate` writes" if "--check" in words else "written"
    for path in stale:
        print(f"{path.relative_to(ROOT).as_posix()}: {verb}")
    return 1 if stale and "--check" in words else 0


def generated() -> dict[Path, str]:
    """Return the text of every file that this script writes, by its path."""
    graph = grimp.build_graph("gradprobe", exclude_type_checking_imports=True, cache_dir=None)
    return {
        **api_pages(),
        DOCS / "architecture.md": between(DOCS / "architecture.md", "files", file_list()),
        DOCS / "architecture.svg": drawing(graph, "gradprobe", "Imports between the parts of gradprobe"),
        DOCS / "architecture-capture.svg": drawing(graph, "gradprobe.capture", "Imports between the parts of capture"),
        DOCS / "findings.md": between(DOCS / "findings.md", "rules", rules()),
        DOCS / "versions.md": versions(),
    }


def between(page: Path, name: str, text: str) -> str:
    """Return ``page`` with ``text`` between its two comments that carry ``name``."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    whole = page.read_text(encoding="utf-8")
    return f"{whole.split(begin)[0]}{begin}\n\n{text.strip()}\n\n{end}{whole.split(end)[1]}"


# ---------------------------------------------------------------------------------------------------------------------
# The API pages


IN_PARTS = ("Recording",)
"""Classes whose bases are parts of them, which users need not know."""
_WITHOUT_BASES = "\n    options:\n      show_bases: false"


def public_names() -> dict[str, str]:
    """Return the names in ``gradprobe.__all__`` but for the version, each with its home module."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    values = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    homes: dict[str, str] = ast.literal_eval(values["_HOMES"])
    exported: list[str] = ast.literal_eval(values["__all__"])
    return {name: homes[name] for name in exported if name in homes}


def api_pages() -> dict[Path, str]:
    """Return a page per group of public names, each name as a directive that renders its docstring."""
    homes = public_names()
    places = [*API_PAGES, *(home.split(".")[0] for home in homes.values())]
    pages: dict[str, tuple[str, list[str]]] = {}
    for name, home in homes.items():
        top = home.split(".")[0]
        page, title = API_PAGES.get(top, (top.strip("_"), top.strip("_").capitalize()))
        pages.setdefault(page, (title, []))[1].append(name)
    index = [
        "# Python API",
        "",
        "These names are public and stay: `import gradprobe` gives them, each loaded on first use. Everything else in the "
        "package may change between versions. `gradprobe.__version__` is the version.",
        "",
        "| | |",
        "|---|---|",
    ]
    written = {}
    order = list(dict.fromkeys(page for page, _ in API_PAGES.values()))
    for page, (title, names) in sorted(
        pages.items(), key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0])
    ):
        # What makes an object comes before its class.
        names.sort(key=lambda name: (places.index(homes[name].split(".")[0]), name[0].isupper(), name))
        index.append(f"| [{title}]({page}.md) | {', '.join(f'`{name}`' for name in names)} |")
        text = "\n\n".join(f"::: gradprobe.{name}{_WITHOUT_BASES * (name in IN_PARTS)}" for name in names)
        written[DOCS / "api" / f"{page}.md"] = f"# {title}\n\n{text}\n"
    return {DOCS / "api/index.md": "\n".join([*index, ""]), **written}


# ---------------------------------------------------------------------------------------------------------------------
# The list of files


def file_list() -> str:
    """Return a table of files with their first sentence for each folder of the package."""
    folders = sorted(
        {path.parent for path in PACKAGE.rglob("*.py")},
        key=lambda folder: [part.strip("_") for part in folder.relative_to(ROOT).parts],
    )
    return "\n\n".join(_folder(folder) for folder in folders)


def modules() -> list[str]:
    """Return the path of every Python module and C++ file of the package, from the root of the repository."""
    found = [path for suffix in ("py", "h", "cpp") for path in PACKAGE.rglob(f"*.{suffix}")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def _folder(folder: Path) -> str:
    name = folder.relative_to(ROOT).as_posix()
    lines = [f"### `{name}`", ""]
    if (folder / "__init__.py").exists():
        lines += [f"`__init__.py`: {first_sentence(folder / '__init__.py')}", ""]
    files = sorted(path for suffix in ("py", "h", "cpp") for path in folder.glob(f"*.{suffix}"))
    rows = [f"| `{path.name}` | {first_sentence(path)} |" for path in files if path.name != "__init__.py"]
    return "\n".join([*lines, *(["| | |", "|---|---|", *rows] if rows else [])]).strip()


def first_sentence(path: Path) -> str:
    """Return the first paragraph of a module's docstring, or of a C++ file's leading comment, as one line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        whole = ast.get_docstring(ast.parse(text)) or ""
        paragraph = whole.split("\n\n")[0]
    else:
        comment = re.match(r"(?:\s*//[^\n]*\n)+|\s*/\*.*?\*/", text, re.S)
        whole = re.sub(r"^\s*(?://|/?\*+/?)\s?", "", comment[0] if comment else "", flags=re.M)
        paragraph = re.split(r"(?<=[.:])\s", whole.strip())[0]
    if not paragraph:
        raise ValueError(f"{path.relative_to(ROOT)} does not say what it is")
    return " ".join(paragraph.split()).replace("|", "\\|").replace("<", "&lt;")


# ---------------------------------------------------------------------------------------------------------------------
# The drawings of imports

ROW, COLUMN, HEIGHT, LETTER, MARGIN = 62, 26, 28, 7.4, 16
"""Measures of the drawing in pixels: distance of rows and of boxes, height of a box, width of a letter, margin."""


def drawing(graph: grimp.ImportGraph, package: str, title: str) -> str:
    """Return an SVG of the imports between the children of ``package``: each box imports those that its lines lead to.

    Lines that follow from others are left out, and a box stands one row above the highest one that it imports.
    """
    imports = direct_imports(graph, package)
    floors = {name: _floor(name, imports) for name in imports}
    top = max(floors.values())
    rows: list[list[str]] = [sorted(name for name in imports if floors[name] == floor) for floor in range(top + 1)]
    # A line over several rows has a place in each row between, so that it passes beside the boxes there.
    lines: list[list[str]] = []
    for name, others in sorted(reduced(imports).items()):
        for other in sorted(others):
            between = range(floors[name] - 1, floors[other], -1)
            places = {floor: f"{name} {other} {floor}" for floor in between}
            for floor, place in places.items():
                rows[floor].append(place)
            lines.append([name, *places.values(), other])
    _untangle(rows, lines)

    labels = {name: name.removeprefix(f"{package}.") for name in imports}
    widths = {name: len(labels[name]) * LETTER + 16 if name in labels else 2.0 for row in rows for name in row}
    across = max(sum(widths[name] + COLUMN for name in row) for row in rows) + 2 * MARGIN
    down = top * ROW + HEIGHT + 2 * MARGIN
    middles: dict[str, tuple[float, float]] = {}
    for floor, row in enumerate(rows):
        free = (across - 2 * MARGIN - sum(widths[name] for name in row)) / len(row)
        left = MARGIN + free / 2
        for name in row:
            middles[name] = (left + widths[name] / 2, MARGIN + (top - floor) * ROW)
            left += widths[name] + free

    svg = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across:.0f} {down:.0f}" width="{across:.0f}" '
        f'height="{down:.0f}" role="img" font-family="ui-monospace, monospace" font-size="12">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="{across:.0f}" height="{down:.0f}" fill="#ffffff"/>',
    ]
    svg += [f'<path d="{_curve([middles[name] for name in line])}" fill="none" stroke="#8a94a6"/>' for line in lines]
    for name, label in sorted(labels.items()):
        (x, y), width = middles[name], widths[name]
        svg.append(
            f'<rect x="{x - width / 2:.0f}" y="{y:.0f}" width="{width:.0f}" height="{HEIGHT}" rx="4" fill="#eef2ff" '
            f'stroke="#5c6bc0"/><text x="{x:.0f}" y="{y + 18:.0f}" text-anchor="middle" fill="#1a237e">'
            f"{html.escape(label)}</text>"
        )
    return "\n".join([*svg, "</svg>", ""])


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """Return the path of a line from the lower edge of its first box to the upper edge of its last one."""
    x, y = points[0][0], points[0][1] + HEIGHT
    path = f"M{x:.0f} {y:.0f}"
    for to_x, to_y in points[1:]:
        bend = (to_y - y) / 2
        path += f"C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}"
        x, y = to_x, to_y
        if (to_x, to_y) != points[-1]:
            y += HEIGHT
            path += f"V{y:.0f}"
    return path


def direct_imports(graph: grimp.ImportGraph, package: str) -> dict[str, set[str]]:
    """Return which children of ``package`` each of its children imports, in any of its modules."""
    children = {name for name in graph.find_children(package) if not name.endswith("__main__")}

    def owner(module: str) -> str | None:
        return next((child for child in children if module == child or module.startswith(f"{child}.")), None)

    imports: dict[str, set[str]] = {child: set() for child in children}
    for module in graph.modules:
        here = owner(module)
        if here is not None:
            there = {owner(other) for other in graph.find_modules_directly_imported_by(module)}
            imports[here] |= {other for other in there if other is not None and other != here}
    return imports


def reduced(imports: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Return ``imports`` without those that also follow by way of another; one that leads back up always stays."""
    floors = {name: _floor(name, imports) for name in imports}
    down = {name: {other for other in imports[name] if floors[other] < floors[name]} for name in imports}
    behind: dict[str, set[str]] = {}
    for name in sorted(imports, key=lambda name: floors[name]):
        behind[name] = down[name].union(*(behind[other] for other in down[name]))
    return {
        name: (imports[name] - down[name])
        | {other for other in down[name] if not any(other in behind[third] for third in down[name])}
        for name in imports
    }


def _floor(name: str, imports: Mapping[str, set[str]], above: frozenset[str] = frozenset()) -> int:
    """Return the row of a box, counted from the bottom; an import back up, which a cycle has, does not count."""
    below = imports[name] - above - {name}
    return 1 + max((_floor(other, imports, above | {name}) for other in below), default=-1)


def _untangle(rows: Sequence[list[str]], lines: Sequence[Sequence[str]]) -> None:
    """Order each row by where the other ends of its lines stand in the rows next to it."""
    near: dict[str, set[str]] = {name: set() for row in rows for name in row}
    for line in lines:
        for one, other in itertools.pairwise(line):
            near[one].add(other)
            near[other].add(one)

    def mean(place: Mapping[str, float], names: set[str]) -> float:
        return sum(place[name] for name in sorted(names)) / len(names) if names else 0.5

    for turn in range(12):
        for row in rows if turn % 2 else reversed(rows):
            place = {name: (n + 0.5) / len(row) for row in rows for n, name in enumerate(row)}
            row.sort(key=lambda name: (round(mean(place, near[name]), 6), name))


# ---------------------------------------------------------------------------------------------------------------------
# The rules


def rules() -> str:
    """Return the table of the rules, from the catalogue."""
    from gradprobe.analysis.findings.catalogue import RULES

    rows = [f"| [{code}](rules/{code}.md) | {rule.severity} | {rule.summary} |" for code, rule in RULES.items()]
    return "\n".join(["| code | severity | summary |", "|---|---|---|", *rows])


# ---------------------------------------------------------------------------------------------------------------------
# What follows from a part that is missing


def versions() -> str:
    """Return the page on versions, with the table of what was measured in them and that of consequences."""
    from tests.versions.table import written

    page = between(DOCS / "versions.md", "consequences", consequences())
    return written(page, json.loads((DOCS / "versions.json").read_text(encoding="utf-8")))


def consequences() -> str:
    """Return the table of what gradprobe does without a part of PyTorch or Python."""
    from gradprobe.capture.capabilities import OPTIONAL_TORCH_FEATURES, PYTHON_FEATURES

    rows = [
        *((f"`{name}`", without) for name, without in OPTIONAL_TORCH_FEATURES.items()),
        *((f"`{name}` of Python", without) for name, (_, without) in PYTHON_FEATURES.items()),
    ]
    return "\n".join(
        ["| if this is missing | then |", "|---|---|", *(f"| {name} | {without} |" for name, without in rows)]
    )


# ---------------------------------------------------------------------------------------------------------------------
# The picture of a finding

PICTURED = (
    "gradprobe run --level ops -o serve.gradprobe examples/serve.py",
    "gradprobe check serve.gradprobe | head -n 4",
)
"""The commands whose output the README shows: one finding, since their number depends on how work meets threads."""


def finding_lines() -> list[str]:
    """Run the commands, and return what the last of them prints."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "examples", Path(folder, "examples"))
        for command in PICTURED:
            done = subprocess.run(
                [sys.executable, "-m", *command.partition(" | ")[0].split()],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
            )
    # Paths are absolute where the folder is not the user's own.
    return [line.replace(f"{os.path.realpath(folder)}/", "") for line in done.stdout.splitlines()[:4]]


def picture(commands: Sequence[str], output: Sequence[str]) -> str:
    """Return an SVG of a terminal with these commands and the output of the last, wrapped as a terminal does."""
    wide, high, size = 100, 20, 13
    lines = [(f"$ {command}", "#9ccc65") for command in commands]
    for line in output:
        colour = "#ffb74d" if re.search(r": (?:error|warning) GP", line) else "#e0e0e0"
        indent = line[: len(line) - len(line.lstrip())]
        parts = textwrap.wrap(line, wide, subsequent_indent=f"{indent}    ", break_long_words=False)
        lines += [(part, colour) for part in parts]
    across, down = int(wide * size * 0.602) + 32, len(lines) * high + 28
    shown = [
        f'<text x="16" y="{30 + n * high}" fill="{colour}" xml:space="preserve">{html.escape(text)}</text>'
        for n, (text, colour) in enumerate(lines)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {across} {down}" width="{across}" height="{down}" '
            f'role="img" font-family="ui-monospace, Menlo, Consolas, monospace" font-size="{size}">',
            f'<rect width="{across}" height="{down}" rx="8" fill="#1e1e2e"/>',
            *shown,
            "</svg>",
            "",
        ]
    )


def pictured(svg: str) -> str:
    """Return the output that a picture shows, without the commands, on one line."""
    texts = [html.unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", svg)]
    return " ".join(" ".join(text for text in texts if not text.startswith("$ ")).split())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
