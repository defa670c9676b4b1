"""What must stay secret shows nowhere: not in logs, errors, settings, metrics, or arguments."""

from __future__ import annotations

import base64
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.message import Message

from seqserve import ragged
from seqserve.ragged import RaggedBatch
from seqserve.v1.catalog_pb2 import ListModelsRequest
from seqserve.v1.catalog_pb2_grpc import ModelCatalogStub
from seqserve.v1.classifier_pb2 import AdvanceRequest, ClassifyRequest
from seqserve.v1.classifier_pb2_grpc import SequenceClassifierStub
from seqserve.v1.repository_pb2 import LoadModelRequest
from seqserve.v1.repository_pb2_grpc import ModelRepositoryStub
from seqserve_server.security import access, tokens
from seqserve_server.security.access import Grant, Right
from seqserve_server.settings import Settings

TIMEOUT_S = 60.0
SEQSERVE = [sys.executable, "-m", "seqserve_client"]
SECRET_HEX = "5ec2e7" * 11

MakeSequences = Callable[..., list[Any]]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@dataclass(frozen=True)
class Secrets:
    """Files with secrets in them, and what they are started with."""

    folder: Path
    token: str
    """Knows all rights."""
    key_pem: str
    authority: trustme.CA

    def arguments(self) -> list[str]:
        files = {
            "--access-file": "access.toml",
            "--token-key-file": "token.key",
            "--tls-certificate": "server.pem",
            "--tls-key": "server.key",
        }
        return [word for flag, name in files.items() for word in (flag, str(self.folder / name))]

    def spelt(self) -> Iterator[str]:
        """The secrets, in every way that something might show them."""
        raw = SECRET_HEX.encode()
        yield from (self.token, SECRET_HEX, raw.hex(), base64.b64encode(raw).decode(), repr(raw))
        yield access.sha256(self.token).hex()
        body = [line for line in self.key_pem.splitlines() if line and "-----" not in line]
        yield from body

    def found_in(self, text: str) -> list[str]:
        assert text
        return [secret for secret in self.spelt() if secret in text]


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    token, authority = access.new_token(), trustme.CA()
    issued = authority.issue_cert("localhost")
    grant = Grant("ana", access.sha256(token), frozenset(Right))
    (tmp_path / "access.toml").write_text(access.entry(grant))
    (tmp_path / "token.key").write_text(SECRET_HEX)
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    return Secrets(tmp_path, token, issued.private_key_pem.bytes().decode(), authority)


def _arguments_of(pid: int) -> str:
    """Command line, title and name of a process, its threads and its children."""
    said = []
    for process in [pid, *_children(pid)]:
        said.append(Path(f"/proc/{process}/cmdline").read_text())
        said += [task.read_text() for task in Path(f"/proc/{process}/task").glob("*/comm")]
    return "\n".join(said)


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            yield child
            yield from _children(child)


def _failures(address: str, secrets: Secrets, sequences: list[Any]) -> str:
    """Calls of every kind, good and bad, with tokens good and bad; what their errors say."""
    said = []
    batch = ragged.encode(RaggedBatch.from_sequences(sequences))
    credentials = grpc.ssl_channel_credentials(secrets.authority.cert_pem.bytes())
    host = f"localhost:{address.rpartition(':')[2]}"
    with grpc.secure_channel(host, credentials) as channel:
        classifier, catalog = SequenceClassifierStub(channel), ModelCatalogStub(channel)
        operations = ModelRepositoryStub(channel)
        for shown in (secrets.token, f"{secrets.token}x", secrets.token[:-1], "", "é"):
            metadata = [("authorization", f"Bearer {shown}".encode("ascii", "ignore").decode())]
            calls: list[tuple[Callable[..., object], Message]] = [
                (classifier.Classify, ClassifyRequest(model_name="gru", sequences=batch)),
                (classifier.Classify, ClassifyRequest(model_name="none", sequences=batch)),
                (classifier.Advance, AdvanceRequest(model_name="gru", steps=batch)),
                (
                    classifier.Advance,
                    AdvanceRequest(model_name="gru", steps=batch, tokens=[SECRET_HEX.encode()]),
                ),
                (catalog.ListModels, ListModelsRequest()),
                (operations.LoadModel, LoadModelRequest(model_name="none")),
            ]
            for call, request in calls:
                try:
                    call(request, metadata=metadata, timeout=TIMEOUT_S)
                except grpc.RpcError as error:
                    said.append(f"{error} {error.details()} {error.trailing_metadata()}")
    assert len(said) > 10
    return "\n".join(said)


@pytest.mark.parametrize("processes", [1, 2], ids=["one process", "two"])
def test_a_server_at_debug_shows_no_secret_to_anybody(
    models: Path, secrets: Secrets, make_sequences: MakeSequences, processes: int
) -> None:
    command = [*SEQSERVE, "serve", str(models), "--address", "127.0.0.1:0"]
    command += ["--log-level", "debug", "--metrics-address", "127.0.0.1:0"]
    command += ["--processes", str(processes), *secrets.arguments()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr
            said = ""
            for line in process.stderr:
                said += line
                if " ready in " in line:
                    break
            address = re.search(r"listening on (127\.0\.0\.1:\d+)", said)
            metrics = re.search(r"(127\.0\.0\.1:\d+)/metrics", said)
            assert address, said
            arguments = _arguments_of(process.pid)
            errors = _failures(address[1], secrets, make_sequences(3, 5))
            measured = _read(f"http://{metrics[1]}/metrics") if metrics else "none"

            # Renewals that fail are told as well.
            (secrets.folder / "server.key").write_text(secrets.key_pem[:-60])
            broken = (secrets.folder / "access.toml").read_text().replace("sha256", secrets.token)
            (secrets.folder / "access.toml").write_text(broken)
            missing = {"--tls-key", "--access-file"}
            for line in process.stderr:
                said += line
                if "stays in force" in line:
                    missing -= {flag for flag in missing if flag in line}
                if not missing:
                    break
            arguments += _arguments_of(process.pid)
            process.send_signal(signal.SIGTERM)
            rest = process.communicate(timeout=TIMEOUT_S)
        finally:
            process.kill()

    assert "DEBUG" in said
    assert "ana called" in said or "ana called" in rest[1]
    for text in (said + rest[1] + rest[0], errors, measured, arguments):
        assert secrets.found_in(text) == []


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        content: bytes = response.read()
    return content.decode()


def test_the_settings_show_no_secret(secrets: Secrets, models: Path) -> None:
    printed = subprocess.run(
        [*SEQSERVE, "serve", str(models), "--print-config", *secrets.arguments()],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    settings = Settings(models, token_key=tokens.read_key(secrets.folder / "token.key"))

    assert "token-key-file" in printed.stdout
    assert secrets.found_in(printed.stdout + printed.stderr + " ") == []
    assert secrets.found_in(repr(settings) + str(replace(settings, lanes=2))) == []


SPOILT: dict[str, Callable[[Secrets], str]] = {
    "access.toml": lambda secrets: f'[[token]]\nname = "a"\nsha256 = "{secrets.token}"',
    "token.key": lambda secrets: SECRET_HEX[:16],
    "server.key": lambda secrets: secrets.key_pem[:-60],
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_server_that_does_not_start_shows_no_secret(
    secrets: Secrets, models: Path, name: str
) -> None:
    (secrets.folder / name).write_text(SPOILT[name](secrets))
    refused = subprocess.run(
        [*SEQSERVE, "serve", str(models), "--log-level", "debug", *secrets.arguments()],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert refused.returncode == 2
    assert name in refused.stderr
    assert secrets.found_in(refused.stderr) == []
    assert SECRET_HEX[:16] not in refused.stderr
