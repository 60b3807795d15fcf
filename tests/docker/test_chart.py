"""The Helm chart, linted and rendered by Helm itself; every manifest is checked against the schemas of Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from tests.docker.files import DOCKER, STOP_SECONDS, image_environment, setting, settings_names

CHART = DOCKER / "helm" / "darkroom"
KUBERNETES = ("1.27", "1.34")
"""The oldest version that the chart admits, and a new one."""
SEVERAL: dict[str, Any] = {"replicas": 2, "postgresql": {"enabled": True}, "data": {"shared": True}}
EVERYTHING: dict[str, Any] = {
    **SEVERAL,
    "shareTritons": True,
    "gpus": 2,
    "image": {"tag": "gpu"},
    "runtimeClassName": "nvidia",
    "families": ["upscale", "sd15"],
    "settings": {"TASK_TIMEOUT": 600, "CORS_ORIGINS": "https://shop.example"},
    "secretSettings": "tokens",
    "forwardedAllowIps": "10.0.0.0/8",
    "imagePullSecrets": [{"name": "registry"}],
    "autoscaling": {"enabled": True, "selector": {"release": "demo"}},
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "tls"},
    "nodeSelector": {"gpu": "yes"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"team": "images"},
}
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "several with a database elsewhere": {
        "replicas": 3,
        "database": {"url": "postgresql://a:b@c/d"},
        "data": {"existingClaim": "nfs"},
    },
    "secret of the user": {"database": {"existingSecret": "mine"}},
    "bare": {"networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
}


@pytest.fixture(scope="module")
def chart() -> Iterator[helm_python.Chart]:
    with helm_python.Chart.load(str(CHART)) as loaded:
        yield loaded


def manifests(chart: helm_python.Chart, values: dict[str, Any]) -> list[dict[str, Any]]:
    texts = chart.render(values, name="demo", namespace="images")
    files = [text for name, text in texts.items() if name.endswith(".yaml")]
    return [manifest for text in files for manifest in yaml.safe_load_all(text) if manifest]


def one(found: list[dict[str, Any]], kind: str, name: str = "demo-darkroom") -> dict[str, Any]:
    (manifest,) = [m for m in found if m["kind"] == kind and m["metadata"]["name"] == name]
    return manifest


def pod(found: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(one(found, "StatefulSet")["spec"]["template"]["spec"])


def test_helm_lint_finds_no_warning() -> None:
    found = helm_python.lint(str(CHART))
    assert found["errors"] == []
    assert [message["error"] for message in found["messages"]] == ["icon is recommended"]


@pytest.mark.parametrize("case", CASES)
def test_manifests_have_the_schemas_of_kubernetes(chart: helm_python.Chart, case: str) -> None:
    found = manifests(chart, CASES[case])
    assert "StatefulSet" in {manifest["kind"] for manifest in found}
    for manifest in found:
        for version in KUBERNETES:
            kubernetes_validate.validate(manifest, version, strict=True)
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in found]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"replicas": 2}, "need a database that all pods share"),
        ({"autoscaling": {"enabled": True}}, "need a database that all pods share"),
        ({"replicas": 2, "database": {"url": "postgresql://a@b/c"}}, "need a volume that all pods share"),
        ({"database": {"url": "postgresql://a@b/c"}, "postgresql": {"enabled": True}}, "exclude each other"),
        ({"database": {"url": "mysql://a@b/c"}}, "/database/url"),
        ({"replicas": 0}, "/replicas"),
        ({"gpus": -1}, "/gpus"),
        ({"drainTimeout": "5m"}, "/drainTimeout"),
        ({"settings": {"HF_TOKEN": "x"}}, "HF_TOKEN"),
        ({"settings": {"PORT": "9000"}}, "PORT"),
        ({"replica": 2}, "replica"),
    ],
)
def test_wrong_values_are_refused(chart: helm_python.Chart, values: dict[str, Any], words: str) -> None:
    with pytest.raises(helm_python.HelmError, match=re.escape(words)):
        chart.render(values, name="demo", namespace="images")


@pytest.mark.parametrize("drain", [0, 300, 3600])
def test_pods_have_time_to_drain(chart: helm_python.Chart, drain: int) -> None:
    spec = pod(manifests(chart, {"drainTimeout": drain}))
    assert spec["terminationGracePeriodSeconds"] == drain + STOP_SECONDS
    assert {"name": "DRAIN_TIMEOUT", "value": str(drain)} in spec["containers"][0]["env"]


def test_default_drain_is_that_of_the_settings(chart: helm_python.Chart) -> None:
    assert chart.values["drainTimeout"] == setting("drain_timeout")


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({}, "/health"),
        ({"families": ["upscale"]}, "/health/upscale"),
        ({"families": ["upscale", "sdxl"]}, "/health"),
        ({"families": ["upscale", "sdxl"], "probes": {"readinessFamily": "sdxl"}}, "/health/sdxl"),
    ],
)
def test_probes_ask_for_the_family(chart: helm_python.Chart, values: dict[str, Any], path: str) -> None:
    container = pod(manifests(chart, values))["containers"][0]
    assert container["readinessProbe"]["httpGet"]["path"] == path
    assert container["startupProbe"]["httpGet"]["path"] == path
    assert "httpGet" not in container["livenessProbe"], "a service that loads models must not be killed"


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_containers_cannot_write_to_their_root(chart: helm_python.Chart, values: dict[str, Any]) -> None:
    spec = pod(manifests(chart, values))
    image = image_environment("Dockerfile.cpu")
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {image["STATE_DIR"], image["LOG_DIR"], "/tmp", "/dev/shm"} <= set(mounted)
        volumes = {volume["name"] for volume in spec["volumes"]} | {"state"}
        assert set(mounted.values()) <= volumes
        names = {variable["name"] for variable in container["env"]}
        assert names <= settings_names(), names


def test_gpus_are_requested(chart: helm_python.Chart) -> None:
    spec = pod(manifests(chart, {"gpus": 2, "gpuResource": "nvidia.com/gpu"}))
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["resources"]["limits"]["nvidia.com/gpu"] == 2
    without = pod(manifests(chart, {}))["containers"][0]
    assert "nvidia.com/gpu" not in without["resources"]["limits"]
    assert {"name": "NUM_GPUS_TO_USE", "value": "0"} in without["env"]


def test_autoscaling_leaves_the_number_of_pods_alone(chart: helm_python.Chart) -> None:
    found = manifests(chart, EVERYTHING)
    scaler = one(found, "HorizontalPodAutoscaler")["spec"]
    assert scaler["metrics"][0]["type"] == "External"
    assert scaler["scaleTargetRef"]["name"] == one(found, "StatefulSet")["metadata"]["name"]
    assert "replicas" not in one(found, "StatefulSet")["spec"]
    assert "HorizontalPodAutoscaler" not in {m["kind"] for m in manifests(chart, {})}


def test_pods_of_the_database_are_reached_by_servers_only(chart: helm_python.Chart) -> None:
    found = manifests(chart, SEVERAL)
    policy = one(found, "NetworkPolicy", "demo-darkroom-postgresql")["spec"]
    assert policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "server"
    secret = one(found, "Secret", "demo-darkroom-database")["stringData"]
    password = secret["POSTGRES_PASSWORD"]
    assert len(password) == 32
    assert secret["DATABASE_URL"] == f"postgresql://darkroom:{password}@demo-darkroom-postgresql/darkroom"
    service = one(found, "Service", "demo-darkroom-postgresql")["spec"]["selector"]
    database = one(found, "StatefulSet", "demo-darkroom-postgresql")["spec"]["template"]["metadata"]["labels"]
    assert service.items() <= database.items()


def test_services_select_servers_only(chart: helm_python.Chart) -> None:
    found = manifests(chart, SEVERAL)
    server = one(found, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    database = one(found, "StatefulSet", "demo-darkroom-postgresql")["spec"]["template"]["metadata"]["labels"]
    for kind, name in (("Service", "demo-darkroom"), ("Service", "demo-darkroom-pods")):
        selector = one(found, kind, name)["spec"]["selector"]
        assert selector.items() <= server.items()
        assert not selector.items() <= database.items()
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        spec = one(found, kind)["spec"]
        selector = spec.get("selector", spec.get("podSelector"))["matchLabels"]
        assert selector.items() <= server.items()
        assert not selector.items() <= database.items()


def test_shared_tritons_are_reached_by_servers_only(chart: helm_python.Chart) -> None:
    found = manifests(chart, SEVERAL | {"shareTritons": True})
    values = {entry["name"]: entry.get("value") for entry in pod(found)["containers"][0]["env"]}
    headless = one(found, "Service", "demo-darkroom-pods")
    assert headless["spec"]["clusterIP"] == "None"
    port = int(setting("triton_grpc_port"))
    assert values["TRITON_GRPC"] == f"dns:///{headless['metadata']['name']}:{port}"
    ports = {port["name"]: port["containerPort"] for port in pod(found)["containers"][0]["ports"]}
    assert ports["triton-grpc"] == setting("triton_grpc_port")
    assert ports["triton-metrics"] == setting("triton_metrics_port")
    rules = one(found, "NetworkPolicy")["spec"]["ingress"]
    (rule,) = [rule for rule in rules if {"port": "triton-grpc"} in rule["ports"]]
    assert rule["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "server"
    alone = manifests(chart, SEVERAL)
    assert "TRITON_GRPC" not in {entry["name"] for entry in pod(alone)["containers"][0]["env"]}
    assert len(one(alone, "NetworkPolicy")["spec"]["ingress"]) == 1
