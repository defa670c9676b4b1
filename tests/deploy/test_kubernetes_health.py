"""Servers as the Deployments start them, and what their probes hear.

They have the manifests' arguments and variables, but for ports and for where files are.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from seqserve.v1.classifier_pb2 import ClassifyRequest
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve.v1.sequences_pb2 import RaggedBatch
from seqserve_client import Client, Unauthenticated
from tests.deploy.manifests import server, variables

if TYPE_CHECKING:
    from tests.conftest import ModelRepository

BIN = Path(sys.executable).parent
TIMEOUT_S = 60.0
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
STATUS = health_pb2.HealthCheckResponse.ServingStatus


@dataclass(frozen=True)
class Replica:
    """A server as a pod of this folder has it."""

    folder: str
    process: subprocess.Popen[str]
    address: str
    environment: dict[str, str]

    def grpc_probe(self, probe: str) -> str:
        """What the kubelet's own probe is told."""
        asked = server(self.folder)[probe]["grpc"]
        with grpc.insecure_channel(self.address) as channel:
            request = health_pb2.HealthCheckRequest(service=asked.get("service", ""))
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=TIMEOUT_S)
        return str(STATUS.Name(answer.status))

    def exec_probe(self, probe: str) -> int:
        """How the probe's command ends."""
        _, port = self.address.split(":")
        words = server(self.folder)[probe]["exec"]["command"]
        command = [word.replace("localhost:8001", f"localhost:{port}") for word in words]
        assert command != words
        return subprocess.run(
            [BIN / command[0], *command[1:]], env=self.environment, check=False
        ).returncode


@contextmanager
def replica(folder: str, models: Path, etc: Path, wait_for: str = "ready in ") -> Iterator[Replica]:
    """Runs one until it has said so; it is killed if it still runs then."""
    told = variables(folder)
    assert told["SEQSERVE_ADDRESS"].startswith("0.0.0.0:")
    told |= {"SEQSERVE_ADDRESS": "127.0.0.1:0", "SEQSERVE_METRICS_ADDRESS": "127.0.0.1:0"}
    told = {
        name: value.replace("/etc/seqserve", str(etc)) if value.startswith("/etc/") else value
        for name, value in told.items()
    }
    others = {name: value for name, value in os.environ.items() if "SEQSERVE" not in name}
    environment = others | told
    arguments = [word if word != "/models" else str(models) for word in server(folder)["args"]]
    assert str(models) in arguments
    process = subprocess.Popen(
        [BIN / "seqserve", *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        yield Replica(folder, process, _address(process, wait_for), environment)
    finally:
        process.kill()
        process.communicate()


def _address(process: subprocess.Popen[str], wait_for: str) -> str:
    assert process.stderr
    printed, address = [], ""
    for line in process.stderr:
        printed.append(line)
        if found := re.search(r"listening on (\S+) ", line):
            address = found[1]
        if wait_for in line:
            return address
    raise AssertionError("the server did not start:\n" + "".join(printed))


@pytest.fixture(scope="module")
def models(repository: ModelRepository) -> Path:
    return repository(speakers={"cell": "lstm"})


@pytest.fixture(scope="module")
def etc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pods have in /etc/seqserve, from secrets."""
    folder, authority = tmp_path_factory.mktemp("etc"), trustme.CA()
    for name in ("tls", "access", "token-key"):
        (folder / name).mkdir()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(folder / "tls/tls.key")
    issued.cert_chain_pems[0].write_to_path(folder / "tls/tls.crt")
    authority.cert_pem.write_to_path(folder / "tls/ca.crt")
    (folder / "token-key/token.key").write_text("0123456789abcdef" * 4)
    made = subprocess.run(
        [BIN / "seqserve", "token", "new", "ana", "--rights", "classify,describe"],
        check=True,
        capture_output=True,
        text=True,
    )
    (folder / "access/access.toml").write_text(made.stdout)
    [token] = re.findall(r"\S{30,}", made.stderr)
    (folder / "access/token").write_text(token)
    return folder


@pytest.fixture(scope="module")
def base(models: Path, etc: Path) -> Iterator[Replica]:
    with replica("base", models, etc) as running:
        yield running


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_by_grpc_finds_a_server_with_a_model_well(base: Replica, probe: str) -> None:
    assert base.grpc_probe(probe) == "SERVING"


def test_a_replica_answers_calls(base: Replica) -> None:
    with Client(base.address) as client:
        answer = client.classify([np.ones((5, 3), np.float32)], model="speakers")
    assert len(answer.labels) == 1


def test_a_replica_without_a_sound_model_lives_and_is_not_ready(tmp_path: Path, etc: Path) -> None:
    with replica("base", tmp_path, etc, "no model can be served") as running:
        assert running.grpc_probe("startupProbe") == "SERVING"
        assert running.grpc_probe("livenessProbe") == "SERVING"
        assert running.grpc_probe("readinessProbe") == "NOT_SERVING"


def test_a_replica_that_is_to_go_says_so_and_still_answers(models: Path, etc: Path) -> None:
    """For the length of SEQSERVE_DRAIN_PAUSE, which is long enough for it to be noticed."""
    sequences = RaggedBatch(values=np.ones((5, 3), np.float32).tobytes(), lengths=[5])
    request = ClassifyRequest(model_name="speakers", sequences=sequences)
    with (
        replica("base", models, etc) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == STATUS.Value("SERVING")
        running.process.send_signal(signal.SIGTERM)
        assert next(watch).status == STATUS.Value("NOT_SERVING")
        assert running.grpc_probe("readinessProbe") == "NOT_SERVING"
        answer = SequenceClassifierStub(channel).Classify(request, timeout=TIMEOUT_S)
        assert len(answer.answers.labels) == 1


@pytest.fixture(scope="module")
def production(models: Path, etc: Path) -> Iterator[Replica]:
    with replica("overlays/production", models, etc) as running:
        yield running


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_by_command_finds_a_server_with_tls_well(production: Replica, probe: str) -> None:
    assert production.exec_probe(probe) == 0


def test_a_replica_with_tls_answers_only_who_shows_a_token(production: Replica, etc: Path) -> None:
    address = f"localhost:{production.address.rpartition(':')[2]}"
    sequence = [np.ones((5, 3), np.float32)]
    with Client(address, ca_file=etc / "tls/ca.crt", token_file=etc / "access/token") as client:
        assert len(client.classify(sequence, model="speakers").labels) == 1
    with (
        Client(address, ca_file=etc / "tls/ca.crt") as stranger,
        pytest.raises(Unauthenticated),
    ):
        stranger.classify(sequence, model="speakers")


def test_a_replica_with_tls_and_no_model_lives_and_is_not_ready(tmp_path: Path, etc: Path) -> None:
    with replica("overlays/production", tmp_path, etc, "no model can be served") as running:
        assert running.exec_probe("startupProbe") == 0
        assert running.exec_probe("livenessProbe") == 0
        assert running.exec_probe("readinessProbe") == 1


def test_the_replica_of_development_needs_no_secret(models: Path, tmp_path: Path) -> None:
    with replica("overlays/development", models, tmp_path) as running:
        assert [running.grpc_probe(probe) for probe in PROBES] == ["SERVING"] * 3
