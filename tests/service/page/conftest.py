"""A real Chromium, and services for it to look at."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

from scripts.page_pictures import find_chromium, launch
from service.app import create_app
from service.models import Models
from service.settings import Settings
from tests.service.conftest import running

OpenPage = Callable[..., Page]
WAIT_MS = 30_000
"Longest time for anything to appear: CI may be busy."


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium. CI has to have one; elsewhere these tests are skipped without it."""
    if find_chromium() is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no chromium; .ci/run installs it")
        pytest.skip("no chromium: install it to test the page (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a service with two small checkpoints that are trained: for texts and records."""
    store = f"sqlite:///{tmp_path_factory.mktemp('store')}/memories.db"
    models = Models.load(["kv-16", "records"], device="cpu")
    with running(create_app(Settings(store_url=store, threads=1), models=models)) as base:
        yield base


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """Open a page in a new profile; at its end, nothing may have gone wrong inside it."""
    with watched_pages(browser) as (open_one, pages, faults):
        yield open_one
        folder = request.config.getoption("--screenshots")
        for number, page in enumerate(pages if folder else []):
            name = request.node.name.removeprefix("test_")
            page.screenshot(path=Path(folder) / f"{name}-{number}.png", full_page=True)
    assert faults == []


@contextmanager
def watched_pages(browser: Browser) -> Iterator[tuple[OpenPage, list[Page], list[str]]]:
    """Yield a function that opens pages, the pages, and what went wrong in them."""
    pages: list[Page] = []
    faults: list[str] = []

    def open_one(url: str, **profile: object) -> Page:
        context = browser.new_context(**cast("dict[str, Any]", profile))
        context.set_default_timeout(WAIT_MS)
        page = context.new_page()
        pages.append(page)

        def watch_console(message: ConsoleMessage) -> None:
            # Chromium reports every status from 400 on as an error of the console.
            if message.type == "error" and "Failed to load resource" not in message.text:
                faults.append(message.text)

        def watch_request(request: Request) -> None:
            if not request.url.startswith((url, f"blob:{url}")):
                faults.append(f"a request to {request.url}")

        page.on("console", watch_console)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", watch_request)
        page.goto(url)
        return page

    try:
        yield open_one, pages, faults
    finally:
        for page in pages:
            page.context.close()
