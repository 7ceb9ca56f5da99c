"""The Helm chart, as it is rendered; `deploy/fetch_helm.py` fetches helm."""

import os
import re
import shutil
import subprocess
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from service.server import ANSWER_SECONDS
from service.settings import Settings, refuse_unknown_names
from tests.deploy.metrics import exported

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "kubernetes"
HELM = shutil.which("helm", path=sysconfig.get_path("scripts")) or shutil.which("helm")
VERSIONS = ("1.30", "1.37")
"The oldest Kubernetes that the chart is for, and the newest with a schema."
VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "gpu": ("gpu.enabled=true", "encryption=true", "autoscaling.enabled=true"),
    "elsewhere": (
        "redis.enabled=false",
        "networkPolicy.enabled=false",
        'image.digest="sha256:1"',
        "settings.GRADMEM_MAX_PREFIX_BYTES=4294967296",
        'settings.GRADMEM_ALLOWED_HOSTS="memories.example, localhost"',
    ),
}
POD_SECURITY = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

pytestmark = pytest.mark.skipif(
    HELM is None and "CI" not in os.environ, reason="deploy/fetch_helm.py fetches helm"
)


def run_helm(*arguments: str) -> str:
    assert HELM is not None, "CI has no helm; .ci/run fetches it"
    return subprocess.run(
        [HELM, *arguments], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout


@cache
def render(variant: str) -> list[dict[str, Any]]:
    values = [f"--set-json={value}" for value in VARIANTS[variant]]
    text = run_helm("template", "memories", str(CHART), *values)
    return [document for document in YAML(typ="safe", pure=True).load_all(text) if document]


def find(variant: str, kind: str, name: str = "memories") -> dict[str, Any]:
    (found,) = [
        each for each in render(variant) if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


def pods(variant: str) -> list[dict[str, Any]]:
    kinds = ("Deployment", "StatefulSet")
    return [each["spec"]["template"]["spec"] for each in render(variant) if each["kind"] in kinds]


def service_container(variant: str) -> dict[str, Any]:
    container: dict[str, Any]
    [container] = find(variant, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container


def test_helm_finds_no_fault() -> None:
    run_helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_objects_follow_the_schemas_of_kubernetes(variant: str, version: str) -> None:
    for document in render(variant):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schemas_refuse_an_unknown_field() -> None:
    document = find("plain", "Service") | {"specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_pods_have_no_privileges_and_limits(variant: str) -> None:
    for pod in pods(variant):
        assert pod["automountServiceAccountToken"] is False
        assert POD_SECURITY.items() <= pod["securityContext"].items()
        for container in pod["containers"]:
            assert container["securityContext"] == CONTAINER_SECURITY
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_service_knows_every_variable(variant: str) -> None:
    names = {entry["name"] for entry in service_container(variant)["env"]}
    assert "GRADMEM_STORE_URL" in names
    refuse_unknown_names(names)


@pytest.mark.parametrize("variant", VARIANTS)
def test_secrets_are_in_the_secret_alone(variant: str) -> None:
    for pod in pods(variant):
        for entry in pod["containers"][0]["env"]:
            if re.search("PASSWORD|AUTH", entry["name"]):
                assert entry["valueFrom"]["secretKeyRef"]["name"] == "gradmem"
    if variant == "elsewhere":
        url = next(e for e in service_container(variant)["env"] if e["name"] == "GRADMEM_STORE_URL")
        assert url["valueFrom"]["secretKeyRef"]["key"] == "store-url"


def test_a_pod_has_time_to_stop() -> None:
    pod = find("plain", "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert float(environment["GRADMEM_SHUTDOWN_SECONDS"]) == Settings().shutdown_seconds
    least = waits + Settings().shutdown_seconds + ANSWER_SECONDS
    assert pod["terminationGracePeriodSeconds"] > least


def test_numbers_and_texts_of_settings_arrive_as_they_are() -> None:
    environment = {e["name"]: e.get("value") for e in service_container("elsewhere")["env"]}
    assert environment["GRADMEM_MAX_PREFIX_BYTES"] == "4294967296"
    assert environment["GRADMEM_LOG_FORMAT"] == "json"


@pytest.mark.parametrize(
    "value", ['settings.GRADMEM_ALLOWED_HOSTS="memories.example"', "networkPolicy.clients=[]"]
)
def test_values_that_would_break_the_deployment_are_refused(value: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        run_helm("template", "memories", str(CHART), f"--set-json={value}")
    assert value.partition("=")[0] in refused.value.stderr


def test_probes_ask_a_host_that_the_service_may_always_allow() -> None:
    container = service_container("plain")
    for name, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
        probe = container[name]["httpGet"]
        assert probe["path"] == path
        assert probe["httpHeaders"] == [{"name": "Host", "value": "localhost"}]


def test_the_number_of_pods_follows_a_metric_that_the_service_exports() -> None:
    scaler = find("gpu", "HorizontalPodAutoscaler")
    (metric,) = scaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in exported()
    assert scaler["spec"]["scaleTargetRef"]["name"] == "memories"
    assert "replicas" not in find("gpu", "Deployment")["spec"]


def test_redis_keeps_what_it_acknowledged_and_evicts_nothing() -> None:
    stateful = find("plain", "StatefulSet", "memories-redis")["spec"]
    words = stateful["template"]["spec"]["containers"][0]["args"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--requirepass"] == "$(REDISCLI_AUTH)"
    (claim,) = stateful["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"


def test_only_the_service_reaches_redis() -> None:
    policy = find("plain", "NetworkPolicy", "memories-redis")["spec"]
    service = find("plain", "Deployment")["spec"]["selector"]["matchLabels"]
    (rule,) = policy["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": service}}]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in policy


def test_a_gpu_is_asked_for_and_tolerated() -> None:
    pod = find("gpu", "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert [entry["key"] for entry in pod["tolerations"]] == ["nvidia.com/gpu"]
    assert {"name": "GRADMEM_DEVICE", "value": "cuda"} in pod["containers"][0]["env"]


def test_a_digest_counts_instead_of_the_tag() -> None:
    assert service_container("plain")["image"] == "gradmem:local"
    assert service_container("elsewhere")["image"] == "gradmem@sha256:1"
