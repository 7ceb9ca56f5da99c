"""deploy/ray/serve.yaml, as far as it can be read without Ray; tests/fleet deploys it."""

import ast
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from service.settings import refuse_unknown_names

ROOT = Path(__file__).resolve().parents[2]
CONFIG: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "deploy" / "ray" / "serve.yaml")
(APPLICATION,) = CONFIG["applications"]
DEPLOYMENTS = {entry["name"]: entry for entry in APPLICATION["deployments"]}


def test_the_application_is_built_by_a_function_that_exists() -> None:
    module, _, name = APPLICATION["import_path"].partition(":")
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    functions = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]
    assert name in [function.name for function in functions]
    assert DEPLOYMENTS.keys() == {"Ingress", "Writer", "Reader"}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_sets_only_what_the_service_knows(name: str) -> None:
    own = DEPLOYMENTS[name]["ray_actor_options"]["runtime_env"]["env_vars"]
    everywhere = APPLICATION["runtime_env"]["env_vars"]
    refuse_unknown_names([*own, *everywhere])
    assert all(isinstance(value, str) for value in (own | everywhere).values())


def test_no_access_log_holds_paths() -> None:
    assert CONFIG["logging_config"]["enable_access_log"] is False


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_a_deployment_grows_before_its_replicas_are_full(name: str) -> None:
    deployment = DEPLOYMENTS[name]
    target = deployment["autoscaling_config"]["target_ongoing_requests"]
    assert target < deployment["max_ongoing_requests"]
