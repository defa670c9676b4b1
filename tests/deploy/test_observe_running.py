"""A real Prometheus that watches two real servers: what it knows of them, and what it fires."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml

from seqserve import artifact
from seqserve.golden import GoldenSet
from seqserve_client import Client, ModelNotFound
from tests.deploy.prometheus_process import (
    OBSERVE,
    TIMEOUT_S,
    RunningPrometheus,
    needs_prometheus,
    running,
)

if TYPE_CHECKING:
    from tests.conftest import ModelRepository

pytestmark = needs_prometheus

SEQSERVE = Path(sys.executable).with_name("seqserve")
DASHBOARD = OBSERVE / "grafana/dashboards/seqserve.json"
EMPTY = {
    "seqserve_model_refusals_total": "no version was refused",
}
"""Queries of the dashboard that give nothing where all is well, by what they ask for."""


@dataclass(frozen=True)
class Observed:
    """Two servers of repositories of their own, and who watches them."""

    servers: tuple[subprocess.Popen[str], ...]
    addresses: tuple[str, ...]
    instances: tuple[str, ...]
    repositories: tuple[Path, ...]
    prometheus: RunningPrometheus

    def call(self) -> None:
        """Calls each server, also for what it refuses."""
        rng = np.random.default_rng(0)
        sequences = [rng.standard_normal((length, 3), np.float32) for length in (5, 12, 29)]
        for address in self.addresses:
            with Client(address) as client:
                client.classify(sequences, model="gru")
                with pytest.raises(ModelNotFound):
                    client.classify(sequences, model="nobody")


@contextmanager
def _server(repository: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """The process, its address and that of its metrics."""
    options = {
        "--address": "127.0.0.1:0",
        "--metrics-address": "127.0.0.1:0",
        "--lanes": "1",
        "--poll": "0.2",
        "--drain-pause": "0",
    }
    words = [word for option in options.items() for word in option]
    process = subprocess.Popen(
        [SEQSERVE, "serve", repository, *words], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr
        said = ""
        for line in process.stderr:
            said += line
            if " ready in " in line:
                break
        metrics = re.search(r"metrics on http://(\S+)/metrics", said)
        address = re.search(r"listening on (\S+)", said)
        assert metrics, said
        assert address, said
        yield process, address[1], metrics[1]
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)


@pytest.fixture
def observed(repository: ModelRepository, tmp_path: Path) -> Iterator[Observed]:
    published = repository(gru={"cell": "gru"})
    repositories = tuple(shutil.copytree(published, tmp_path / name) for name in ("a", "b"))
    with ExitStack() as stack:
        found = [stack.enter_context(_server(each)) for each in repositories]
        servers, addresses, instances = zip(*found, strict=True)
        folder = tmp_path / "prometheus"
        folder.mkdir()
        prometheus = stack.enter_context(running(folder, instances))
        prometheus.wait_for("sum(up) == 2")
        yield Observed(servers, addresses, instances, repositories, prometheus)


def _asked_by_the_dashboard() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    variables = {"$__rate_interval": "1m", "$model": ".*", "$instance": ".*"}
    asked = []
    for panel in panels:
        for target in panel.get("targets", []):
            expression: str = target["expr"]
            for name, value in variables.items():
                expression = expression.replace(name, value)
            assert "$" not in expression
            asked.append(expression)
    return asked


def _rules(kind: str) -> dict[str, str]:
    """Expressions by name, of rules that record or alert."""
    return {
        rule[kind]: rule["expr"]
        for path in (OBSERVE / "rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if kind in rule
    }


def test_every_query_of_the_dashboard_and_every_rule_finds_what_it_asks_for(
    observed: Observed,
) -> None:
    prometheus = observed.prometheus
    prometheus.wait_for("seqserve:queue_wait_seconds:p99_1m == 0")  # nobody has come yet
    observed.call()
    # A series that appears has no rate until it is seen to rise.
    prometheus.wait_for('count(seqserve_requests_total{code="OK"}) == 2')
    prometheus.wait_for('count(seqserve_refusals_total{reason="ModelNotFound"}) == 2')
    observed.call()
    prometheus.wait_for("seqserve:request_duration_seconds:p99_5m > 0")
    prometheus.wait_for("seqserve:useful_steps:fraction_5m > 0")

    for expression in _asked_by_the_dashboard():
        if any(name in expression for name in EMPTY):
            assert prometheus.query(expression) == [], expression
            continue
        found = prometheus.wait_for(expression)
        # A quotient of nothing is a number to nobody.
        assert any(each["value"][1] != "NaN" for each in found), expression
    for name, expression in _rules("record").items():
        assert prometheus.wait_for(name), name
        assert prometheus.wait_for(expression), name
    for name, expression in _rules("alert").items():
        prometheus.query(expression)
        for metric in set(re.findall(r"\b(?:seqserve|process)[a-z_:0-9]+|\bup\b", expression)):
            assert prometheus.wait_for(metric), f"{name} asks for {metric}"
    for group in prometheus.ask("rules")["groups"]:
        assert all(rule["health"] == "ok" for rule in group["rules"])


def test_a_server_that_is_killed_is_told(observed: Observed) -> None:
    # That one is missing can be told only by who has counted both.
    observed.prometheus.wait_for("seqserve:servers:up == 2")
    observed.servers[1].send_signal(signal.SIGKILL)

    killed = observed.instances[1]
    alert = observed.prometheus.wait_for_alert("SeqserveDown", instance=killed)
    assert alert["labels"]["severity"] == "critical"
    assert alert["annotations"]["summary"] == f"{killed} does not answer."
    fewer = observed.prometheus.wait_for_alert("SeqserveFewerServers")
    assert fewer["annotations"]["summary"].endswith("servers are left.")
    observed.servers[0].send_signal(signal.SIGKILL)
    observed.prometheus.wait_for_alert("SeqserveNoneServing")


def test_a_version_that_is_refused_is_told_by_why(observed: Observed, tmp_path: Path) -> None:
    damaged, otherwise = (
        _second_version(repository, tmp_path / f"{repository.name}-new" / "gru" / "2")
        for repository in observed.repositories
    )
    model = damaged / artifact.MODEL_FILE
    model.write_bytes(model.read_bytes()[:-1])
    golden = GoldenSet.load(otherwise / artifact.GOLDEN_FILE)
    other = GoldenSet(golden.pool, golden.logits + 1e-3, golden.probabilities, golden.cases)
    other.save(otherwise / artifact.GOLDEN_FILE)
    _list_files_as_they_are(otherwise)
    for folder, repository in zip((damaged, otherwise), observed.repositories, strict=True):
        folder.rename(repository / "gru" / "2")

    prometheus = observed.prometheus
    refusals = ("SeqserveVersionRefused", "SeqserveGoldenSetFailed")
    for alert, instance in zip(refusals, observed.instances, strict=True):
        prometheus.wait_for_alert(alert, model="gru", version="2", instance=instance)
    [model_refusals] = [
        each for each in _asked_by_the_dashboard() if any(name in each for name in EMPTY)
    ]
    prometheus.wait_for(f"count({model_refusals}) == 2")
    # The old version goes on.
    prometheus.wait_for("count(seqserve_model_ready{version='1'} == 1) == 2")
    prometheus.wait_for("sum(seqserve_serving) == 2")


def _second_version(repository: Path, folder: Path) -> Path:
    """A copy of version 1 that calls itself version 2, not in the repository yet."""
    first = repository / "gru" / "1"
    shutil.copytree(first, folder)
    manifest = artifact.read_manifest(first)
    manifest.version = 2
    artifact.write_manifest(manifest, folder)
    return folder


def _list_files_as_they_are(folder: Path) -> None:
    manifest = artifact.read_manifest(folder)
    for file in manifest.files:
        path = folder / file.path
        file.bytes, file.sha256 = path.stat().st_size, artifact.sha256(path)
    artifact.write_manifest(manifest, folder)
