"""The page at `/` as HTTP: its headers, its files, and that it can be switched off."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gradmem_core.checkpoints.checkpoint import Checkpoint
from service.app import create_app
from service.models import Models
from service.settings import Settings
from tests.service.conftest import Serving

FOLDER = Path(__file__).parents[2] / "service" / "page"
FILES = sorted(f"page/{file.name}" for file in FOLDER.iterdir() if file.suffix != ".html")


@pytest.fixture
def http(base_url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=base_url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("path", ["", *FILES])
def test_the_page_runs_no_other_scripts_and_is_asked_for_again(
    http: httpx.Client, path: str
) -> None:
    response = http.get(f"/{path}")
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["cache-control"] == "no-cache"
    again = http.get(f"/{path}", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == policy


def test_the_page_names_each_of_its_files_and_nothing_elsewhere(http: httpx.Client) -> None:
    page = http.get("/").text
    named = set(re.findall(r'(?:src|href)="(page/[^"]+)"', page))
    assert named == set(FILES)  # modules too: they are fetched together, not one after another
    assert "<script>" not in page
    assert "style=" not in page
    for text in (page, *(http.get(f"/{file}").text for file in FILES)):
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}  # SVG's name


def test_the_page_can_be_switched_off(
    settings: Settings, tiny: Checkpoint, serving: Serving
) -> None:
    app = create_app(settings.model_copy(update={"page": False}), models=Models([tiny]))
    with serving(app) as url:
        for path in ("/", "/page/main.js"):
            assert httpx.get(url + path).status_code == 404
        assert httpx.get(f"{url}/docs").status_code == 200
