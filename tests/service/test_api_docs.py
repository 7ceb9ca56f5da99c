"""The commands of docs/API.md."""

from pathlib import Path

import httpx

from service.client import Client
from tests.service.examples import read_examples, run_bash
from tests.service.test_quickstart import url as url

BATCH = {"documents": [{"document": "The key hangs in the bakery."}]}


def test_the_commands_run(url: str, tmp_path: Path) -> None:
    with Client(url) as client:
        memory = client.write("The roof was repaired.", verify=False)
    job = httpx.post(f"{url}/write/batch", json=BATCH, headers={"Prefer": "respond-async"}).json()
    ids = {"id": memory.memory_id, "page": memory.info.pages[0].page_id, "job": job["job_id"]}
    variables = "".join(f"{name}={value}\n" for name, value in ids.items())
    for example in read_examples("API.md", "bash"):
        assert "urn:gradmem:problem" not in run_bash(variables + example, url, tmp_path)
