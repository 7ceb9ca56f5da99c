"""`gradmem doctor` on settings, stores and services that are in order, and on others."""

import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from benchmarks.faults.redis_server import RedisServer
from service.cli import app
from tests.service.test_cli import NOBODY

KEY = "ab" * 32


@pytest.fixture
def settings(tmp_path: Path, tiny_folder: Path) -> dict[str, str]:
    """The environment of a service in order."""
    return {
        "GRADMEM_CHECKPOINTS": str(tiny_folder),
        "GRADMEM_STORE_URL": f"sqlite:///{tmp_path}/memories.db",
    }


def examine(**environment: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Return the exit status of `doctor`, and each finding's status and detail by its subject."""
    result = CliRunner(env=environment).invoke(app, ["doctor", "--json"])
    findings = json.loads(result.stdout)["findings"]
    return result.exit_code, {
        each["subject"]: (each["status"], each["detail"]) for each in findings
    }


def test_all_is_in_order(settings: dict[str, str], base_url: str, tmp_path: Path) -> None:
    url = base_url.replace("//", "//user:secret@")
    status, findings = examine(**settings, GRADMEM_URL=url)
    assert {state for state, _ in findings.values()} == {"ok"}
    assert status == 0
    assert list(findings) == [
        *("python", "libraries", "settings", "device"),
        *("checkpoint", "encryption", "store", "service"),
    ]
    assert "tiny" in findings["checkpoint"][1]
    assert f"make it in {tmp_path}" in findings["store"][1]
    assert findings["service"][1].startswith(f"{base_url} is ready")
    assert "admin of default" in findings["service"][1]
    assert list(tmp_path.glob("*.db")) == []


def test_without_its_libraries_the_service_is_not_examined(
    settings: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_version(name: str) -> str:
        if name == "cryptography":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("service.commands.diagnosis.version", find_version)
    status, findings = examine(**settings)
    assert (status, list(findings)) == (1, ["python", "libraries", "settings"])
    assert "cryptography>=46.0 is missing" in findings["libraries"][1]


def test_people_get_a_table(settings: dict[str, str]) -> None:
    result = CliRunner(env=settings).invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == ["STATUS", "SUBJECT", "FINDING"]
    assert "service" not in [line.split()[1] for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("change", "subject", "message"),
    [
        ({"GRADMEM_PORT": "70000"}, "settings", "setting port"),
        ({"GRADMEM_STORE": "x"}, "settings", "did you mean GRADMEM_STORE_URL?"),
        ({"GRADMEM_DEVICE": "cuda:99"}, "device", "set GRADMEM_DEVICE to another"),
        ({"GRADMEM_CHECKPOINTS": "/no/such"}, "checkpoint", "/no/such"),
        ({"GRADMEM_CHECKPOINTS_FILE": "/no/such"}, "checkpoints", "cannot be read"),
        ({"GRADMEM_STORE_URL": "ftp://user:secret@host"}, "store", "begins with sqlite"),
        ({"GRADMEM_STORE_URL": "sqlite:////no/such/folder/m.db"}, "store", "may not write"),
        ({"GRADMEM_STORE_URL": "redis://127.0.0.1:1"}, "store", "cannot be reached"),
        ({"GRADMEM_ENCRYPTION_KEYS": "secret"}, "encryption", "64 hexadecimal digits"),
        ({"GRADMEM_URL": NOBODY}, "service", "start it with `gradmem serve`"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    settings: dict[str, str], change: dict[str, str], subject: str, message: str
) -> None:
    status, findings = examine(**settings | change)
    assert (status, findings[subject][0]) == (1, "failed")
    assert message in findings[subject][1]
    assert "secret" not in json.dumps(findings)


def test_a_redis_that_drops_memories_is_refused(
    settings: dict[str, str], own_redis: RedisServer
) -> None:
    settings["GRADMEM_STORE_URL"] = own_redis.url
    assert examine(**settings)[1]["store"] == (
        "ok",
        "can be used; without keys, anyone who reaches the address is let in",
    )
    with redis.Redis.from_url(own_redis.url) as server:
        server.config_set("maxmemory-policy", "allkeys-lru")
    status, findings = examine(**settings)
    assert (status, findings["store"][0]) == (1, "failed")
    assert "GRADMEM_ALLOW_EVICTION" in findings["store"][1]


def test_a_store_needs_its_keys(settings: dict[str, str]) -> None:
    runner = CliRunner(env=settings)
    assert runner.invoke(app, ["purge"]).exit_code == 0  # which makes the file
    open_to_others = {**settings, "GRADMEM_HOST": "0.0.0.0"}
    assert "gradmem keys create" in examine(**open_to_others)[1]["store"][1]
    assert runner.invoke(app, ["keys", "create"]).exit_code == 0
    assert examine(**open_to_others)[1]["store"] == ("ok", "can be used; clients need a key")
    encrypted = {**settings, "GRADMEM_ENCRYPTION_KEYS": KEY}
    assert "on, with the key" in examine(**encrypted)[1]["encryption"][1]
    assert CliRunner(env=encrypted).invoke(app, ["rekey"]).exit_code == 0
    assert examine(**encrypted)[1]["store"][0] == "ok"
    assert "does not have; add it" in examine(**settings)[1]["store"][1]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_file_of_another_user_is_left_alone(settings: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "memories.db"
    file.touch()
    os.chown(file, 12345, 12345)
    status, findings = examine(**settings)
    assert (status, findings["store"][0]) == (0, "warning")
    assert file.stat().st_size == 0
