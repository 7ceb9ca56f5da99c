"""The page at `/`, used as people use it, in a real Chromium."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, Route, expect

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.keys import KeyLimits, make_key
from service.models import Models
from service.settings import Settings
from service.stores import create_store
from tests.service.conftest import Serving
from tests.service.page.conftest import WAIT_MS, OpenPage
from tests.service.test_streams import slow_service

pytestmark = pytest.mark.slow

DOCUMENT = "!aB:7x!!kk:Q3!!0z:mN!|"  # that of kv-16's example
RECORDS = "".join(f"Guest {number}: room {100 + number}\n" for number in range(30))
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "color_scheme": "dark"}
expect.set_options(timeout=WAIT_MS)


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def write(page: Page, document: str) -> None:
    """Write a document and wait until its memory is shown."""
    page.get_by_label("Text to write into memory").fill(document)
    button(page, "Write").click()
    expect(page.locator("#write-status")).to_contain_text("Written: ")


def ask(page: Page, question: str) -> Locator:
    """Ask a question; return the answer once it is whole."""
    page.get_by_label("Question", exact=True).fill(question)
    button(page, "Ask").click()
    answer = page.locator("article").first
    expect(answer.get_by_role("heading")).to_have_text(question)
    expect(answer).not_to_have_attribute("aria-busy", "true")
    return answer


def run(*command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


def tints(page: Page) -> list[str]:
    """Return the background of each token of the document."""
    colours: list[str] = page.locator("#tokens .token").evaluate_all(
        "tokens => tokens.map(token => getComputedStyle(token).backgroundColor)"
    )
    return colours


def test_a_document_is_written_seen_asked_and_deleted(open_page: OpenPage, url: str) -> None:
    page = open_page(url, reduced_motion="reduce")
    button(page, "Try an example").click()
    expect(page.get_by_label("Text to write into memory")).to_have_value(DOCUMENT)
    button(page, "Write").click()

    chart = page.get_by_role("img", name="Loss by step")
    expect(page.locator("#loss-chart .dot")).to_have_count(6)
    losses = [
        float(loss) for loss in re.findall(r"\d+\.\d+", chart.get_attribute("aria-label") or "")
    ]
    assert losses[0] > 5 * losses[-1]
    memory_id = page.get_by_role("region", name="handle").inner_text()
    memory = httpx.get(f"{url}/memories/{memory_id}").json()
    assert losses == [round(loss, 2) for loss in memory["losses"]]

    assert "".join(page.locator("#tokens .token").all_text_contents()) == DOCUMENT
    expect(page.get_by_role("radio", name="After WRITE")).to_be_checked()
    after = tints(page)
    page.get_by_text("Before WRITE").first.click()
    assert tints(page) != after

    expect(page.locator("#vectors-caption")).to_contain_text("WRITE moved them by")
    painted = page.locator("#heatmap").evaluate(
        "canvas => new Set(new Uint32Array(canvas.getContext('2d').getImageData("
        "0, 0, canvas.width, canvas.height).data.buffer)).size"
    )
    assert painted > 100
    expect(page.locator("#sizes tr")).to_have_count(3)

    button(page, "?!kk:").click()
    answer = page.locator("article").first
    expect(answer).to_contain_text("confidence")
    expect(answer.locator(".reply .token")).to_have_text(["Q", "3"])

    page.get_by_text("Ask it from elsewhere").click()
    curl, python = (
        page.get_by_role("region", name=name).inner_text()
        for name in ("curl command", "Python code")
    )
    if shutil.which("curl"):
        assert json.loads(run("bash", "-c", curl))["answers"][0]["answer"] == "Q3"
    assert run(sys.executable, "-c", python).startswith("Q3 0.")

    button(page, f"Delete {memory_id[:8]}").click()
    button(page, "Delete for good").click()
    expect(button(page, "Try an example")).to_be_visible()
    expect(page.get_by_role("heading", name="Ask the memory")).to_be_hidden()
    assert httpx.get(f"{url}/memories/{memory_id}").status_code == 404


def test_a_list_has_pages_and_says_what_is_not_in_it(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    page.get_by_role("combobox", name="Model").select_option("records")
    write(page, RECORDS)
    expect(page.get_by_role("listbox")).not_to_have_count(1)
    expect(page.get_by_role("combobox", name="Page")).to_be_visible()
    answer = ask(page, "guest 7")
    expect(answer.locator(".reply")).to_have_text("room 107")
    expect(answer).to_contain_text("page")
    expect(ask(page, "guest 99").locator(".reply")).to_have_text("Not found")


def test_a_file_is_written_exported_and_opened_without_its_text(
    open_page: OpenPage, url: str, tmp_path: Path
) -> None:
    (tmp_path / "pairs.txt").write_text(DOCUMENT)
    page = open_page(url)
    page.locator("#open-file").set_input_files(tmp_path / "pairs.txt")
    expect(page.get_by_label("Text to write into memory")).to_have_value(DOCUMENT)
    button(page, "Write").click()
    expect(page.get_by_role("heading", name="pairs.txt")).to_be_visible()
    memory_id = page.get_by_role("region", name="handle").inner_text()

    with page.expect_download() as download:
        button(page, "Export pairs.txt").click()
    blob = httpx.get(f"{url}/memories/{memory_id}/blob").content
    assert download.value.path().read_bytes() == blob

    page.reload()
    page.get_by_label("Search memories").fill("no such name")
    expect(page.locator("#memories li")).to_have_count(0)
    page.get_by_label("Search memories").fill("PAIRS")
    button(page, "Open pairs.txt").click()
    expect(page.get_by_text("The text of this memory is gone")).to_be_visible()
    expect(ask(page, "?!kk:").locator(".reply")).to_have_text("Q3")


def drop(page: Page, card: str, name: str, content: bytes) -> None:
    """Drop a file on a card, as a browser does for people who drag one onto it."""
    files = page.evaluate_handle(
        """([name, bytes]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], name));
            return files;
        }""",
        [name, list(content)],
    )
    page.locator(card).dispatch_event("drop", {"dataTransfer": files})


def test_an_exported_memory_is_imported_by_a_click_and_by_a_drop(
    open_page: OpenPage, url: str, tmp_path: Path
) -> None:
    written = httpx.post(f"{url}/write", json={"document": DOCUMENT}).json()["memory_id"]
    blob = httpx.get(f"{url}/memories/{written}/blob").content
    file = tmp_path / "moved.safetensors"
    file.write_bytes(blob)
    page = open_page(url)
    with page.expect_file_chooser() as chooser:
        button(page, "Import a file").click()
    chooser.value.set_files(file)
    expect(page.get_by_role("heading", name="moved")).to_be_focused()
    memory_id = page.get_by_role("region", name="handle").inner_text()
    assert httpx.get(f"{url}/memories/{memory_id}/blob").content == blob
    expect(ask(page, "?!kk:").locator(".reply")).to_have_text("Q3")

    for card in ("memories", "document"):
        drop(page, f".{card}", f"{card}-drop.safetensors", blob)
        expect(page.get_by_role("heading", name=f"{card}-drop")).to_be_focused()
        expect(button(page, "Open moved")).to_be_visible()  # beside it: nothing was replaced

    drop(page, ".memories", "notes.txt", DOCUMENT.encode())
    refused = httpx.put(f"{url}/memories/{'0' * 32}/blob", content=DOCUMENT.encode()).json()
    expect(page.get_by_role("alert")).to_contain_text(refused["detail"][1:])
    expect(button(page, "Open notes.txt")).to_have_count(0)


def test_an_import_whose_name_is_refused_leaves_nothing(
    open_page: OpenPage, settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    with (
        serving(create_app(settings, models=Models([tiny]))) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        written = http.post("/write", json={"document": DOCUMENT}).json()["memory_id"]
        blob = http.get(f"/memories/{written}/blob").content
        page = open_page(url)
        drop(page, ".memories", "n" * 1000, blob)
        expect(page.get_by_role("alert")).to_contain_text("name")
        assert len(http.get("/memories").json()["memories"]) == 1
        drop(page, ".memories", "a.safetensors.b", blob)
        expect(page.get_by_role("heading", name="a.safetensors.b")).to_be_focused()


def test_problems_are_shown_in_their_own_words(
    open_page: OpenPage, settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    with serving(create_app(settings, models=Models([tiny]))) as url:
        page = open_page(url)
        page.get_by_label("Text to write into memory").fill("é")
        button(page, "Write").click()
        problem = httpx.post(f"{url}/write", json={"document": "é"}).json()
        expect(page.get_by_role("alert")).to_contain_text(problem["title"])
        expect(page.get_by_role("alert")).to_contain_text(problem["detail"][1:])
    button(page, "Write").click()
    expect(page.get_by_role("alert")).to_contain_text("is it still running?")
    expect(button(page, "Write")).to_be_enabled()


def test_without_models_nothing_can_be_written_and_the_key_can_be_changed(
    open_page: OpenPage, url: str
) -> None:
    page = open_page(url)
    page.evaluate("sessionStorage.setItem('gradmem.key', 'gradmem_other')")
    page.route("**/models", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("is it still running?")
    expect(button(page, "Try an example")).to_be_disabled()
    expect(button(page, "Write")).to_be_disabled()
    expect(button(page, "Key")).to_be_visible()


def test_no_memory_is_opened_while_another_is_written(open_page: OpenPage, url: str) -> None:
    written = httpx.post(f"{url}/write", json={"document": DOCUMENT, "name": "before"}).json()
    page = open_page(url)
    held: list[Route] = []
    page.route("**/write", lambda route: held.append(route))
    page.get_by_label("Text to write into memory").fill(DOCUMENT)
    button(page, "Write").click()
    expect(button(page, "Stop")).to_be_visible()
    button(page, "Open before").click()
    expect(page.locator("#memories-status")).to_contain_text("Stop writing")
    expect(button(page, "Stop")).to_be_visible()
    held[0].continue_()
    expect(page.locator("#write-status")).to_contain_text("Written: ")
    assert page.get_by_role("region", name="handle").inner_text() != written["memory_id"]


@pytest.mark.parametrize("path", ["", "/prompt-embeds*"])
def test_an_answer_that_comes_late_replaces_nothing(
    open_page: OpenPage, url: str, path: str
) -> None:
    memories = {
        name: httpx.post(f"{url}/write", json={"document": document, "name": name}).json()
        for name, document in {"first": DOCUMENT, "second": "!xy:1a!|"}.items()
    }
    page = open_page(url)
    late = f"**/memories/{memories['first']['memory_id']}{path}"
    held: list[Route] = []
    page.route(late, lambda route: held.append(route))
    with page.expect_request(late):
        button(page, "Open first").first.click()
    button(page, "Open second").first.click()
    heading = page.get_by_role("heading", name="second")
    expect(heading).to_be_visible()
    expect(page.locator("#vectors-caption")).to_contain_text("WRITE moved them")
    picture = page.locator("#heatmap").evaluate("canvas => canvas.toDataURL()")
    with page.expect_event("requestfinished"):
        held[0].continue_()
    page.evaluate("new Promise(requestAnimationFrame)")
    expect(heading).to_be_visible()
    assert page.locator("#heatmap").evaluate("canvas => canvas.toDataURL()") == picture


def test_a_slow_service_is_waited_for_stopped_and_its_failure_shown(
    open_page: OpenPage, settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    with slow_service(settings, tiny, serving) as (device, client, _):
        page = open_page(str(client.base_url))
        page.get_by_label("Text to write into memory").fill(DOCUMENT)
        button(page, "Write").click()
        expect(page.locator("#write-status")).to_have_text("Waiting for the service …")
        device.permits.release()
        expect(page.locator("#loss-chart .dot")).to_have_count(1)  # of two, while it is written
        expect(page.locator("#write-status")).to_have_text("Writing …")
        button(page, "Stop").click()
        expect(page.locator("#write-status")).to_contain_text("nothing was written")
        device.permits.release()

        button(page, "Write").click()
        device.permits.release()
        expect(page.locator("#loss-chart .dot")).to_have_count(1)
        device.error = RuntimeError(DOCUMENT)
        device.permits.release()
        expect(page.get_by_role("alert")).to_contain_text("Device failed")
        assert client.get("/memories").json()["memories"] == []


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(
    open_page: OpenPage, settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    key, record = make_key("acme", "write", KeyLimits())

    async def save_key() -> None:
        async with create_store(settings.store_url) as store:
            await store.save_key(record.key_id, record.model_dump_json())

    with ThreadPoolExecutor() as threads:  # this thread has the loop of Playwright
        threads.submit(asyncio.run, save_key()).result()
    with serving(create_app(settings, models=Models([tiny]))) as url:
        page = open_page(url)
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("A key is needed")
        dialog.get_by_label("Key").fill("gradmem_Schlüssel")
        button(page, "Use this key").click()  # no header can hold it
        expect(dialog.locator("input:invalid")).to_be_visible()
        dialog.get_by_label("Key").fill("gradmem_wrong")
        button(page, "Use this key").click()
        expect(dialog).to_contain_text("unknown or revoked")
        dialog.get_by_label("Key").fill(key)
        button(page, "Use this key").click()
        expect(button(page, "Key: acme, write")).to_be_visible()
        write(page, DOCUMENT)
        assert key not in page.content()
        assert page.evaluate("Object.values(localStorage)") == []
        expect(open_page(url).get_by_role("dialog")).to_contain_text("A key is needed")


def test_everything_can_be_done_with_the_keyboard(open_page: OpenPage, url: str) -> None:
    page = open_page(url)
    page.on("filechooser", lambda _: None)  # when the key is pressed it is too late to watch
    expect(page.locator("#card h3")).to_be_visible()

    def tab_to(target: Locator, key: str = "Tab") -> None:
        for _ in range(60):
            if target.evaluate("element => element === document.activeElement"):
                return
            page.keyboard.press(key)
        pytest.fail("the keyboard does not reach it")

    tab_to(button(page, "Try an example"))
    page.keyboard.press("Enter")
    expect(button(page, "Write")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Document")).to_be_focused()
    tab_to(page.get_by_role("radio", name="After WRITE"))
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("radio", name="Before WRITE")).to_be_checked()
    tab_to(page.get_by_role("listbox"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#token-detail")).to_contain_text("“a”")
    tab_to(page.get_by_label("Question", exact=True))
    page.keyboard.type("?!aB:")
    page.keyboard.press("Enter")
    expect(page.locator("article .reply")).to_have_text("7x")
    tab_to(button(page, "Import a file"))
    with page.expect_file_chooser():
        page.keyboard.press("Enter")
    tab_to(page.get_by_role("button", name=re.compile("^Delete [0-9a-f]{8}$")).first)
    page.keyboard.press("Enter")
    expect(button(page, "Keep it")).to_be_focused()
    tab_to(button(page, "Delete for good"), "Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Memories")).to_be_focused()


@contextmanager
def scanned(page: Page) -> Iterator[None]:
    """Look for barriers, and for parts that are too wide, once the body has changed the page."""
    yield
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    width, room = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= room


@pytest.mark.parametrize("profile", [{"color_scheme": "light"}, PHONE], ids=["light", "phone"])
def test_nothing_is_a_barrier_or_too_wide(
    open_page: OpenPage, url: str, profile: dict[str, object]
) -> None:
    page = open_page(url, reduced_motion="reduce", **profile)
    with scanned(page):
        page.get_by_text("Options").click()
        expect(page.locator("#card h3")).to_be_visible()
    with scanned(page):
        write(page, DOCUMENT)
        page.get_by_text("Ask it from elsewhere").click()
        ask(page, "?!kk:").get_by_text("each token").click()
        expect(page.locator("#vectors-caption")).to_contain_text("WRITE moved them")
    with scanned(page):
        page.get_by_role("button", name=re.compile("^Delete ")).first.click()
