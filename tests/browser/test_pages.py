"""HTML reports in a real browser: they draw, sort, filter, zoom, and ask no network for anything."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gradprobe
from gradprobe.comparison.comparison_result import Comparison
from gradprobe.report.formats.registry import find_format
from gradprobe.report.formats.rendered import RenderOptions
from tests.report import samples
from tests.report.test_hostile_names import HOSTILE
from tests.thoroughness import IS_THOROUGH

Visit = Callable[..., Any]
TIMELINE = "figure[data-chart=timeline]"
SITES = "section:has(> h2:text-is('Time by site'))"
DOMAIN = f"document.querySelector('{TIMELINE}').view.scale('x').domain()"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about twelve sites, one of them with nodes under enable_grad."""
    weight = torch.ones(3, requires_grad=True)
    source = "def f{0}():\n with torch.no_grad():\n  with torch.enable_grad():\n   [weight * 2 for _ in range({0})]\n"
    space: dict[str, Any] = {"torch": torch, "weight": weight}
    for number in range(6):
        exec(compile(source.format(number), f"/models/layer{number}.py", "exec"), space)
    with gradprobe.record() as recording:
        for number in range(6):
            for _ in range(number + 1):
                space[f"f{number}"]()
    path = tmp_path_factory.mktemp("pages") / "recording.html"
    recording.to_html(path)
    return path


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "comparison.html"
    Comparison(samples.outcome()).to_html(path)
    return path


def column(page: Any, number: int) -> list[str]:
    return [text.strip() for text in page.locator(f"{SITES} tbody tr:visible td:nth-child({number})").all_inner_texts()]


def test_the_charts_are_drawn_and_the_verdict_comes_first(visit: Visit, recorded: Path, compared: Path) -> None:
    page = visit(recorded)
    assert page.locator(f"{TIMELINE} svg.marks path").count() > 40
    assert page.locator("figure[data-chart=modes] svg.marks").is_visible()
    first, second = page.locator("main p").all_inner_texts()[:2]
    assert first.startswith("Nothing was found at level graph")
    assert second.startswith("Of ")
    page = visit(compared)
    assert "inference_mode is 10.0 % faster" in page.locator(".verdict").inner_text()
    assert page.locator("figure[data-chart=ratios] svg.marks").is_visible()
    assert page.locator("figure[data-chart=processes] svg.marks").count() == 0, "it is drawn when it is asked for"
    page.get_by_text("Ratios by process").click()
    page.wait_for_selector("figure[data-chart=processes] svg.marks")
    page.get_by_text("Causes of the difference").click()
    page.wait_for_selector("figure[data-chart=parts] svg.marks")


def test_a_table_sorts_by_the_numbers_that_it_shows_and_by_text(visit: Visit, recorded: Path) -> None:
    page = visit(recorded)
    counts = page.locator(SITES).get_by_role("button", name="count", exact=True)
    counts.click()
    assert column(page, 5) == [*"665544332211"]
    counts.click()
    assert column(page, 5) == [*"112233445566"]
    page.locator(SITES).get_by_role("button", name="total", exact=True).click()
    values = page.locator(f"{SITES} tbody tr td:nth-child(6)").evaluate_all("cells => cells.map(c => +c.dataset.value)")
    assert values == sorted(values, reverse=True)
    assert len(set(values)) > 6
    functions = page.locator(SITES).get_by_role("button", name="function", exact=True)
    functions.focus()
    page.keyboard.press("Enter")
    assert column(page, 2) == sorted(column(page, 2), reverse=True)
    assert page.locator(f"{SITES} th[aria-sort]").count() == 1


def test_a_filter_keeps_the_rows_that_contain_its_text(visit: Visit, recorded: Path) -> None:
    page = visit(recorded)
    page.locator(SITES).get_by_role("searchbox").fill("LAYER3")
    assert len(column(page, 1)) == 2
    assert all("layer3.py" in site for site in column(page, 1))
    assert page.locator(f"{SITES} output").inner_text() == "2 of 12 rows"
    page.locator(SITES).get_by_role("searchbox").fill("")
    assert len(column(page, 1)) == 12


def test_the_timeline_zooms_by_the_wheel_and_by_the_keyboard(visit: Visit, recorded: Path) -> None:
    page = visit(recorded)
    whole = page.evaluate(DOMAIN)
    page.get_by_role("button", name="Zoom in").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"{DOMAIN}[1] < {whole[1]}")
    low, high = page.evaluate(DOMAIN)
    assert high - low == pytest.approx((whole[1] - whole[0]) / 2)
    page.get_by_role("button", name="Later").click()
    page.wait_for_function(f"{DOMAIN}[0] > {low}")
    page.get_by_role("button", name="The whole time").click()
    page.wait_for_function(f"{DOMAIN}[1] - {DOMAIN}[0] > {0.99 * (whole[1] - whole[0])}")
    box = page.locator(f"{TIMELINE} svg.marks").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -400)
    page.wait_for_function(f"{DOMAIN}[1] - {DOMAIN}[0] < {0.9 * (whole[1] - whole[0])}")


def test_the_tooltip_of_a_block_shows_its_line_and_cost(visit: Visit, recorded: Path) -> None:
    page = visit(recorded)
    page.locator(f"{TIMELINE} path[aria-label*='no_grad at']").first.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    told = page.locator("#vg-tooltip-element").inner_text()
    assert "layer" in told
    assert "nodes" in told
    assert "self time" in told


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_button(visit: Visit, recorded: Path, scheme: str) -> None:
    page = visit(recorded, color_scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    label = f"document.querySelector('{TIMELINE} text').getAttribute('fill')"
    light, dark = "rgb(255, 255, 255)", "rgb(21, 25, 30)"
    assert page.evaluate(paper) == (light if scheme == "light" else dark)
    before = page.evaluate(label)
    page.get_by_role("button", name="Light or dark").click()
    assert page.evaluate(paper) == (dark if scheme == "light" else light)
    page.wait_for_function(f"{label} !== {before!r}")


def test_on_a_phone_only_tables_scroll(visit: Visit, recorded: Path, compared: Path) -> None:
    for path in (recorded, compared):
        page = visit(path, viewport={"width": 360, "height": 740}, device_scale_factor=2, is_mobile=True)
        page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
        page.wait_for_function("[...document.querySelectorAll('figure.chart')].every(f => f.view)")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.evaluate("[...document.querySelectorAll('svg.marks')].every(s => s.clientWidth <= 360)")


def test_without_javascript_tables_and_a_hint_are_shown(visit: Visit, recorded: Path) -> None:
    page = visit(recorded, java_script_enabled=False)
    assert page.locator(f"{SITES} tbody tr").count() == 12
    assert "The charts need JavaScript" in page.locator("noscript").inner_text()


def test_hostile_names_run_no_code_and_are_shown_verbatim(visit: Visit, tmp_path: Path) -> None:
    made = samples.contents()
    hostile = [*HOSTILE[:9], *HOSTILE[-2:]]  # the others are formulas
    for number, name in enumerate(hostile if IS_THOROUGH else [hostile[0], " ".join(reversed(hostile))]):
        path = tmp_path / f"{number}.html"
        tables = samples.tables([samples.finding("serve.py", 20, name)], samples.renamed(made, name))
        path.write_text(str(find_format("html").render(tables, RenderOptions()).body), "utf-8", "backslashreplace")
        page = visit(path)
        assert page.locator(f"{TIMELINE} svg.marks").is_visible()
        assert page.locator("img").count() == 0
        path.write_text(
            str(find_format("html").render(samples.outcome(name), RenderOptions()).body), "utf-8", "backslashreplace"
        )
        page = visit(path)
        assert page.locator("figure[data-chart=ratios] svg.marks").is_visible()


def test_findings_show_their_source_with_the_line_marked(visit: Visit, tmp_path: Path) -> None:
    source = tmp_path / "train.py"
    source.write_text("".join(f"line_{number} = {number}\n" for number in range(1, 30)))
    page_file = tmp_path / "r.html"
    tables = samples.tables([samples.finding(source, 20)])
    page_file.write_text(str(find_format("html").render(tables, RenderOptions()).body), "utf-8")
    page = visit(page_file)
    assert page.locator(".finding.error .marked").inner_text().split() == ["20", "line_20", "=", "20"]
    assert page.locator(".finding pre span").count() == 7


def test_locations_lead_to_their_line_in_the_source(visit: Visit, tmp_path: Path) -> None:
    source = tmp_path / "train.py"
    text = "import torch\n\nwith torch.no_grad():\n    torch.ones(2)\n"
    source.write_text(text)
    with gradprobe.record() as recording:
        exec(compile(text, str(source), "exec"), {})
    page_file = tmp_path / "r.html"
    recording.to_html(page_file)
    for options in ({}, {"java_script_enabled": False}):
        page = visit(page_file, **options)
        page.locator(f"{SITES} td a").first.click()
        line = page.locator(".source tr:target")
        assert line.is_visible()
        assert "with torch.no_grad():" in line.inner_text()
        assert line.locator(".mode.no_grad").count() == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about a training step of a model with three levels of modules, whose middle is cut."""
    nn = torch.nn
    inner = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2)))
    head = nn.Linear(2, 1)
    with gradprobe.record(level="ops") as recording:
        head(inner(torch.ones(1, 2)).detach()).sum().backward()
    path = tmp_path_factory.mktemp("pages") / "trained.html"
    recording.to_html(path)
    return path


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without"])
def test_the_depth_of_the_flow_is_chosen_by_keyboard(visit: Visit, trained: Path, scripts: bool) -> None:
    page = visit(trained, java_script_enabled=scripts)
    choices, shown = page.get_by_role("radio"), page.locator("svg.flow:visible")
    assert choices.count() > 1
    titles = []
    for number in range(choices.count()):
        if number:
            choices.nth(number - 1).press("ArrowRight")
        else:
            choices.first.check()
        assert choices.nth(number).is_checked()
        assert shown.count() == 1
        titles.append(shown.locator("text.title").all_text_contents())
    assert len(titles[0]) < len(titles[-1])
    assert "Sequential.2.0" in titles[-1]


def test_modules_open_and_close_by_keyboard_and_without_scripts(visit: Visit, trained: Path) -> None:
    page = visit(trained, java_script_enabled=False)
    outermost = page.locator(".tree > details > summary").first
    inside = page.locator(".tree details .row:visible")
    before = inside.count()
    outermost.press("Enter")
    assert inside.count() < before
    outermost.press("Enter")
    assert inside.count() == before


def test_a_picture_on_a_phone_scrolls_in_its_frame(visit: Visit, trained: Path) -> None:
    page = visit(trained, viewport={"width": 360, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_closed_modules_are_printed(visit: Visit, trained: Path) -> None:
    page = visit(trained)
    page.locator(".tree > details > summary").first.click()
    page.emulate_media(media="print")
    hidden = page.locator(".tree details .row").evaluate_all(
        "rows => rows.filter(row => !row.checkVisibility()).length"
    )
    assert hidden == 0
