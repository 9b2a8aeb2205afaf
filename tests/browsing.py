"""A real browser, for the tests of pages."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium")
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here; apt-get install chromium")
DESKTOP, PHONE = (1280, 900), (390, 844)
TIMEOUT = 10_000
"""Milliseconds that something on the page may take, where this machine is busy."""
Open = Callable[..., Page]


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opening_pages(browser: Browser) -> Iterator[Open]:
    """Open pages. Whatever the console or a dialog says is a failure, and so is a request elsewhere.

    Args:
        browser: that opens them.

    Yields:
        A function from the path of a page, which may end with a fragment, to the page once it is ready.
    """
    said: list[str] = []
    contexts = []

    def visit(
        path: str, size: tuple[int, int] = DESKTOP, scheme: Any = "light", script: str = "", **options: Any
    ) -> Page:
        viewport: Any = {"width": size[0], "height": size[1]}
        contexts.append(browser.new_context(viewport=viewport, color_scheme=scheme, **options))
        contexts[-1].set_default_timeout(TIMEOUT)
        page = contexts[-1].new_page()
        if script:
            page.add_init_script(script)
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"{error}"))
        page.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(f"file://{path}")
        page.wait_for_function("() => 'ready' in document.body.dataset")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert said == []
