"""Profile `observe` beside two replicas of the server: Prometheus as Compose runs it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.containers.compose import ROOT, Docker, Project
from tests.deploy.prometheus_process import OBSERVE, RunningPrometheus

if TYPE_CHECKING:
    from tests.containers.conftest import Projects

GIB = 1 << 30
REPLICAS = 2
# The model that another project has trained, and no port of the host's that replicas would share.
OVERRIDE = """
services:
  server:
    ports: !reset []
volumes:
  models:
    external: true
    name: {project}_models
"""


@pytest.fixture(scope="module")
def image(engine: Docker) -> str:
    """Prometheus's own where it is told, else what stands in for it."""
    if told := os.environ.get("PROMETHEUS_IMAGE"):
        return told
    base = os.environ.get("SEQSERVE_BASE_IMAGE", "python:3.11-slim-bookworm")
    file = (ROOT / "tests/containers/prometheus.Dockerfile").read_text()
    name = "seqserve-prometheus:tests"
    engine("build", "--quiet", "--build-arg", f"BASE_IMAGE={base}", "--tag", name, "-", text=file)
    return name


@pytest.fixture(scope="module")
def observed(
    projects: Projects,
    trained: Project,
    image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    override = tmp_path_factory.mktemp("observe") / "override.yml"
    override.write_text(OVERRIDE.format(project=trained.name))
    project = projects("observe", override, PROMETHEUS_IMAGE=image, PROMETHEUS_PORT="0")
    project(
        *("--profile", "observe", "up", "--detach", "--wait", "--no-build"),
        *("--scale", f"server={REPLICAS}", "server", "prometheus"),
    )
    yield project
    # Before the other project, whose volume it uses.
    project("--profile", "observe", "down", "--volumes", "--timeout", "0")


@pytest.fixture(scope="module")
def prometheus(observed: Project) -> RunningPrometheus:
    return RunningPrometheus(observed("port", "prometheus", "9090"))


def _addresses(project: Project) -> set[str]:
    """Of its servers, in their network."""
    found = set()
    for container in project("ps", "--quiet", "server").split():
        networks: dict[str, Any] = project.docker.inspect(container)["NetworkSettings"]["Networks"]
        [network] = networks.values()
        found.add(network["IPAddress"])
    return found


def test_prometheus_finds_every_replica_by_its_service_name(
    observed: Project, prometheus: RunningPrometheus
) -> None:
    prometheus.wait_for(f'sum(up{{job="seqserve"}}) == {REPLICAS}')

    found = {each["metric"]["instance"] for each in prometheus.query('up{job="seqserve"}')}
    addresses = _addresses(observed)
    assert len(addresses) == REPLICAS
    assert found == {f"{address}:8002" for address in addresses}
    assert prometheus.wait_for(f"sum(seqserve_serving) == {REPLICAS}")


def test_prometheus_has_the_rules_and_what_they_record(prometheus: RunningPrometheus) -> None:
    prometheus.wait_for(f"seqserve:servers:up == {REPLICAS}")
    groups = {group["name"]: group["rules"] for group in prometheus.ask("rules")["groups"]}

    written = {
        group["name"]: [rule.get("alert") or rule["record"] for rule in group["rules"]]
        for path in (OBSERVE / "rules").glob("*.yml")
        for group in yaml.safe_load(Path(path).read_text())["groups"]
    }
    assert {name: [rule["name"] for rule in rules] for name, rules in groups.items()} == written
    assert all(rule["health"] != "err" for rules in groups.values() for rule in rules)


def test_prometheus_may_do_as_little_as_the_servers(observed: Project) -> None:
    container = observed.inspect("prometheus")
    host = container["HostConfig"]

    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (GIB, 1_000_000_000, 512)
    published = container["NetworkSettings"]["Ports"]["9090/tcp"]
    assert {each["HostIp"] for each in published} == {"127.0.0.1"}
    assert observed("exec", "-T", "prometheus", "id", "-u") != "0"
