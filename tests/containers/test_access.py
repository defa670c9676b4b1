"""docker-compose.tls.yml, .access.yml and .live.yml: secrets as files, and who is let in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import numpy as np
import pytest
import trustme
from numpy.typing import NDArray

from seqserve_client import Client
from seqserve_client.errors import Unauthenticated, Unavailable
from seqserve_data import Dataset
from tests.containers.compose import Project

if TYPE_CHECKING:
    from tests.containers.conftest import Model

UID = 10001


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files that the three say, by the names of their variables."""
    folder = tmp_path_factory.mktemp("secrets")
    files = {
        "SEQSERVE_TLS_CERTIFICATE": folder / "tls.crt",
        "SEQSERVE_TLS_KEY": folder / "tls.key",
        "SEQSERVE_CA_FILE": folder / "ca.crt",
        "SEQSERVE_ACCESS_FILE": folder / "access.toml",
        "SEQSERVE_TOKEN_FILE": folder / "token",
        "SEQSERVE_TOKEN_KEY_FILE": folder / "token.key",
    }
    authority = trustme.CA()
    certificate = authority.issue_cert("server", "localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(files["SEQSERVE_TLS_KEY"])
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(files["SEQSERVE_TLS_CERTIFICATE"], append=True)
    authority.cert_pem.write_to_path(files["SEQSERVE_CA_FILE"])
    seqserve = Path(sys.executable).parent / "seqserve"
    made = subprocess.run(
        [seqserve, "token", "new", "nightly", "--rights", "classify,describe"],
        check=True,
        capture_output=True,
        text=True,
    )
    files["SEQSERVE_ACCESS_FILE"].write_text(made.stdout)
    files["SEQSERVE_TOKEN_FILE"].write_text(made.stderr.split()[-1])
    files["SEQSERVE_TOKEN_KEY_FILE"].write_text(token_hex(32))
    for file in files.values():
        if os.getuid() == 0:
            os.chown(file, UID, UID)
            file.chmod(0o400)
        else:  # cannot give them away
            file.chmod(0o444)
    return files


@pytest.fixture(scope="module")
def guarded(trained: Project, secrets: dict[str, Path]) -> Project:
    """The same project behind TLS, for those who have a token."""
    told = {name: str(path) for name, path in secrets.items()}
    files = (f"docker-compose.{name}.yml" for name in ("tls", "access", "live"))
    guarded = trained.told(*files, **told)
    guarded.up("server", alone=True)
    return guarded


def test_only_a_token_over_tls_lets_a_caller_in(
    guarded: Project,
    secrets: dict[str, Path],
    model: Model,
    sequences: Dataset,
    expected: NDArray[np.float32],
) -> None:
    authority, token = secrets["SEQSERVE_CA_FILE"], secrets["SEQSERVE_TOKEN_FILE"]
    batch = sequences.sequences
    with Client(guarded.address, ca_file=authority, token_file=token) as client:
        assert np.array_equal(client.classify(batch, model=model.name).logits, expected)
    with Client(guarded.address, ca_file=authority) as client, pytest.raises(Unauthenticated):
        client.classify(batch, model=model.name)
    with Client(guarded.address) as client, pytest.raises(Unavailable):
        client.classify(batch, model=model.name)


def test_a_job_shows_its_token_over_tls(guarded: Project, model: Model) -> None:
    classify = ("classify", "japanese-vowels/test", "--model", model.name)

    assert "accuracy: 0.9" in guarded("run", "--rm", "--no-deps", "-T", "score", *classify)


def test_a_live_sequence_outlasts_the_server_that_it_began_with(
    guarded: Project,
    secrets: dict[str, Path],
    model: Model,
    sequences: Dataset,
    expected: NDArray[np.float32],
) -> None:
    steps = sequences.sequences.values[: sequences.sequences.lengths[0]]
    authority, token = secrets["SEQSERVE_CA_FILE"], secrets["SEQSERVE_TOKEN_FILE"]
    with Client(guarded.address, ca_file=authority, token_file=token) as client:
        live = client.live(model=model.name)
        live.advance(steps[:3])
        guarded("restart", "server")
        guarded.up("server", alone=True)
        assert np.array_equal(live.advance(steps[3:]).logits, expected[0])


def test_what_a_container_is_told_holds_no_secret(
    guarded: Project, secrets: dict[str, Path]
) -> None:
    told = str(guarded.inspect("server")["Config"])
    for name in ("SEQSERVE_TLS_KEY", "SEQSERVE_TOKEN_FILE", "SEQSERVE_TOKEN_KEY_FILE"):
        assert secrets[name].read_text().strip().splitlines()[-1] not in told
    assert "/run/secrets/tls_key" in told
