"""Alerts, the dashboard and their provisioning, against what the service exports."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from service.settings import ELSEWHERE, PREFIX
from tests.deploy.metrics import exported, named_in

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "gradmem.json").read_text())


def load(file: Path) -> Any:
    return YAML(typ="safe", pure=True).load(file)


COMPOSE: dict[str, Any] = load(ROOT / "docker-compose.yml")
ALERTS = [rule for group in load(DEPLOY / "alerts.yml")["groups"] for rule in group["rules"]]
EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in ALERTS},
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    },
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_names_metrics_that_the_service_exports(name: str) -> None:
    assert named_in(EXPRESSIONS[name]) <= exported()


def test_expressions_are_searched_for_metrics() -> None:
    assert named_in("rate(gradmem_nothing_total[5m]) > 0.1 * gradmem_else") - exported() == {
        "gradmem_nothing_total",
        "gradmem_else",
    }
    assert all(map(named_in, set(EXPRESSIONS.values()) - {'up{job="gradmem"} == 0'}))


def test_panels_have_places_of_their_own() -> None:
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in DASHBOARD["panels"]]
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(set(numbers)) == len(DASHBOARD["panels"])


def test_prometheus_scrapes_the_job_that_alerts_and_dashboard_select() -> None:
    (job,) = load(DEPLOY / "prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["gradmem:8080"]}]
    (instance,) = [each for each in DASHBOARD["templating"]["list"] if each["name"] == "instance"]
    queries = [*EXPRESSIONS.values(), instance["query"]["query"]]
    selected = {name for query in queries for name in re.findall(r'job="(\w+)"', query)}
    assert selected == {job["job_name"]}


def test_mounted_files_exist() -> None:
    for name in ("prometheus", "grafana"):
        for volume in COMPOSE["services"][name]["volumes"]:
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (ROOT / source).is_file()


def test_read_only_containers_take_secrets_from_files() -> None:
    declared = COMPOSE["secrets"]
    (job,) = load(DEPLOY / "prometheus.yml")["scrape_configs"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/metrics-key"
    for name in ("prometheus", "grafana"):
        service = COMPOSE["services"][name]
        assert service["profiles"] == ["monitoring"]
        assert service["read_only"]  # Compose refuses secrets from the environment then
        for secret in service["secrets"]:
            assert declared[secret].keys() == {"file"}
            assert declared[secret]["file"].removeprefix("./") in (DEPLOY / "README.md").read_text()


def test_the_example_environment_has_every_image_and_password() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    example = dict(
        line.split("=", 1)
        for line in (DEPLOY / "env.example").read_text().splitlines()
        if line and not line.startswith("#")
    )
    defaults = dict(re.findall(r"\$\{(GRADMEM_\w+_IMAGE):-([^}]+)\}", text))
    assert {name: value for name, value in example.items() if value} == defaults
    assert {name for name, value in example.items() if not value} == {"GRADMEM_REDIS_PASSWORD"}
    assert {name.removeprefix(PREFIX) for name in example} <= ELSEWHERE
