"""Take pictures of the page at `/` into docs/pictures: light, dark, on a phone, and the upper part.

It starts a service with the checkpoint `prose` on an empty store, writes the page's own example and
asks its questions. It needs `scripts/setup dev` and a Chromium (Debian: apt install chromium).
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, FloatRect, Page, Playwright, expect, sync_playwright

from benchmarks.serving.process import run_service
from service.settings import Settings

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PROFILES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light", "viewport": {"width": 1240, "height": 1290}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1240, "height": 1290}},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 1290}},
}
QUESTIONS = (4, 3, 0)
"Questions of the example to ask, by their numbers; the last one stands on top."
TIMEOUT_MS = 300_000
BELOW_CARD = 9
"Pixels below a card: half of the distance to the next."
REVEAL_MS = 2500
"Time until the tokens have their tints of after WRITE."


def find_chromium() -> str | None:
    """Return the Chromium of this machine; Playwright's own cannot be downloaded everywhere."""
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


def launch(playwright: Playwright) -> Browser:
    """Start a headless Chromium."""
    # Containers let no process make namespaces for the sandbox; only our own page is opened.
    return playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])


def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        settings = Settings(store_url=f"sqlite:///{folder}/memories.db")
        with run_service(settings) as service, launch(playwright) as browser:
            for name, profile in PROFILES.items():
                page = browser.new_page(**profile, device_scale_factor=1.5)
                page.set_default_timeout(TIMEOUT_MS)
                page.goto(service.url)
                write_example(page)
                page.screenshot(path=PICTURES / f"page-{name}.png")
                if name == "light":
                    page.screenshot(path=PICTURES / "page.png", clip=upper_part(page))
                page.close()


def upper_part(page: Page) -> FloatRect:
    """Return the part of the page down to the edge of the document's card."""
    card = page.locator(".card.document").bounding_box()
    size = page.viewport_size
    assert card is not None
    assert size is not None
    height = card["y"] + card["height"] + BELOW_CARD
    return {"x": 0, "y": 0, "width": size["width"], "height": height}


def write_example(page: Page) -> None:
    """Write the page's example, ask its questions, and leave no trace of the pointer."""
    expect.set_options(timeout=TIMEOUT_MS)
    page.get_by_role("button", name="Try an example").click()
    page.get_by_role("button", name="Write", exact=True).click()
    questions = page.locator("#suggestions button")
    expect(questions).not_to_have_count(0)
    for number in QUESTIONS:
        questions.nth(number).click()
        expect(page.locator("article[aria-busy]")).to_have_count(0)
    page.wait_for_timeout(REVEAL_MS)
    page.mouse.move(0, 0)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


if __name__ == "__main__":
    main()
