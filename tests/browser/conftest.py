"""A real browser without a window. Its tests skip where there is no Chromium or no Playwright to drive it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(
    scope="module"
)  # not longer: an event loop runs in this thread meanwhile, and other tests run their own
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need the package playwright")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("browser tests need Chromium on the PATH")
    with playwright.sync_playwright() as driver:
        # Containers seldom have the user namespaces that Chromium's sandbox is made of.
        opened = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a file as a page; at the end it must have logged nothing and requested nothing but itself."""
    contexts, heard = [], []

    def open_page(path: Path, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on(
            "request",
            lambda request: heard.append(request.url) if not request.url.startswith((path.as_uri(), "data:")) else None,
        )
        page.goto(path.as_uri())
        if options.get("java_script_enabled", True):
            page.wait_for_function(
                "[...document.querySelectorAll('figure.chart')].every(f => f.view || f.closest('details:not([open])'))"
            )
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert heard == []
