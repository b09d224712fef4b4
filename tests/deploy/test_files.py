"""Tests the files in deploy/: systemd accepts the units, the parts of the manifests fit together, and every named
setting exists.
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import SETTINGS, settings_of
from tests.support.running import ROOT

DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
FILES = sorted(DEPLOY.iterdir())


def manifest() -> dict[str, Any]:
    return {part["kind"]: part for part in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_named_setting_exists(path: Path) -> None:
    """Checks flags and variables, also those in comments."""
    text = path.read_text()
    names = set(SETTINGS)
    flags = {name.replace("-", "_") for name in re.findall(r"(?<![\w-])--([a-z][a-z-]+)", text)}
    assert flags - names <= {"scheduler", "from_literal", "from_file", "now"}
    assert {name.lower() for name in re.findall(r"SLUICE_([A-Z]\w+)", text)} <= names


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_accepts_the_unit(path: Path, tmp_path: Path) -> None:
    """Checks a copy of the unit in which the program is /bin/true, because the real program is not installed here."""
    unit = tmp_path / path.name.replace("@", "@8001")
    text = path.read_text()
    (program,) = re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE)
    unit.write_text(text.replace(program, "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=200
    )
    faults = [line for line in done.stderr.splitlines() if path.stem.split("@")[0] in line]
    assert faults == []


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_has_time_to_drain_and_no_more_rights_than_it_needs(path: Path) -> None:
    text = path.read_text()
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)", text, re.MULTILINE)
    assert int(seconds) > SETTINGS["drain_timeout"][1].default + 2
    for wanted in ("NoNewPrivileges=yes", "ProtectSystem=strict", "PrivateDevices=yes", "EnvironmentFile=/etc/sluice/"):
        assert f"\n{wanted}" in text
    assert "\nUser=sluice" in text or "\nDynamicUser=yes" in text
    assert "SECRET=" not in text.partition("[Unit]")[2], (
        "a secret must be in the file of EnvironmentFile, not in the unit"
    )


def test_a_pod_has_time_to_drain_and_the_right_probes() -> None:
    deployment = manifest()["Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("readiness", "liveness")}
    assert probes == {"readiness": "/readyz", "liveness": "/healthz"}
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > waits + SETTINGS["drain_timeout"][1].default + 10
    assert container["envFrom"] == [{"secretRef": {"name": "sluice"}}]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {argument.partition("=")[2] for argument in container["args"] if argument.startswith("--spool")} <= mounts


@pytest.mark.parametrize("path", sorted(DEPLOY.glob("*.yaml")), ids=lambda path: path.name)
def test_pods_do_not_get_variables_for_services(path: Path) -> None:
    """Kubernetes would set SLUICE_PORT=tcp://... for a Service with the name sluice. No server starts with
    that value.
    """
    specs = [part["spec"] for part in yaml.safe_load_all(path.read_text())]
    pods = [spec["template"]["spec"] for spec in specs if "template" in spec]
    assert pods
    assert all(pod["enableServiceLinks"] is False for pod in pods)


def test_the_parts_of_the_manifest_refer_to_each_other() -> None:
    parts = manifest()
    labels = parts["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert parts["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert parts["Service"]["spec"]["selector"] == labels
    assert parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert parts["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == parts["Deployment"]["metadata"]["name"]


def test_the_manifest_of_the_workers_matches_that_of_the_servers() -> None:
    workers = list(yaml.safe_load_all((DEPLOY / "kubernetes-workers.yaml").read_text()))
    scheduler, service, worker, scaler = workers
    pods = [part["spec"]["template"]["spec"] for part in (scheduler, worker)]
    flags = [dict(flag[2:].split("=", 1) for flag in pod["containers"][0]["args"]) for pod in pods]
    assert flags[1]["scheduler"] == f"tls://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert service["spec"]["selector"] == scheduler["spec"]["template"]["metadata"]["labels"]
    assert scaler["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]
    for pod, given in zip(pods, flags, strict=True):
        (container,) = pod["containers"]
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert {str(Path(given[name]).parent) for name in ("queue-ca", "queue-cert", "queue-key")} <= mounted
        assert container["securityContext"]["readOnlyRootFilesystem"]
    (server,) = manifest()["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert {f"--media={flags[1]['media']}", f"--store-region={flags[1]['store-region']}"} <= set(server["args"])


def test_the_arguments_and_secrets_of_the_manifest_are_valid_settings() -> None:
    (container,) = manifest()["Deployment"]["spec"]["template"]["spec"]["containers"]
    flags = dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])
    given = {"jwt_secret": "x" * 32, "events": "redis://redis/0"}
    settings = settings_of(**given, **{name.replace("-", "_"): value for name, value in flags.items()})
    assert settings.uploads.url(settings.results) == "s3://bucket/uploads/results"
