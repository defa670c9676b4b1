"""docker-compose.tls.yml, .access.yml and .live.yml: secrets as files, and who is let in.

The files are made as docs/containers.md says, line by line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve_client import Client
from seqserve_client.errors import Unauthenticated, Unavailable
from seqserve_data import Dataset
from tests.containers.compose import ROOT, Project

if TYPE_CHECKING:
    from tests.containers.conftest import Model

FILES = "secrets"


@pytest.fixture(scope="module")
def recipe(trained: Project, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The lines of the docs, run in a folder with the Compose files alone; and what they print."""
    folder = tmp_path_factory.mktemp("recipe")
    for file in ROOT.glob("docker-compose*.yml"):
        shutil.copy(file, folder)
    docs = (ROOT / "docs/containers.md").read_text()
    [lines] = [
        block for block in docs.split("```") if block.startswith(f"sh\nmkdir -m 700 {FILES}")
    ]
    told = {**trained.docker.environment, "COMPOSE_PROJECT_NAME": trained.name}
    done = subprocess.run(
        ["bash", "-euc", lines.removeprefix("sh\n")],
        cwd=folder,
        env={**os.environ, **told},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture(scope="module")
def secrets(recipe: tuple[Path, str]) -> dict[str, Path]:
    """The files that the three say, by the names of their variables."""
    folder, _ = recipe
    return {
        "SEQSERVE_TLS_CERTIFICATE": folder / FILES / "tls.crt",
        "SEQSERVE_TLS_KEY": folder / FILES / "tls.key",
        "SEQSERVE_CA_FILE": folder / FILES / "ca.crt",
        "SEQSERVE_ACCESS_FILE": folder / FILES / "access.toml",
        "SEQSERVE_TOKEN_FILE": folder / FILES / "token",
        "SEQSERVE_TOKEN_KEY_FILE": folder / FILES / "token.key",
    }


@pytest.fixture(scope="module")
def guarded(trained: Project, secrets: dict[str, Path]) -> Project:
    """The same project behind TLS, for those who have a token."""
    told = {name: str(path) for name, path in secrets.items()}
    files = (f"docker-compose.{name}.yml" for name in ("tls", "access", "live"))
    guarded = trained.told(*files, **told)
    guarded.up("server", alone=True)
    return guarded


def test_the_docs_lines_set_up_tokens_over_tls(recipe: tuple[Path, str]) -> None:
    folder, printed = recipe
    assert "accuracy: 0.9" in printed
    assert (folder / FILES).stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_uid for each in (folder / FILES).iterdir()} == {os.getuid()}


def test_a_job_under_another_user_reads_its_secrets(guarded: Project, model: Model) -> None:
    told = guarded.told(SEQSERVE_SCORE_USER="4321:4321")
    classify = ("classify", "japanese-vowels/test", "--model", model.name)
    assert "accuracy: 0.9" in told("run", "--rm", "--no-deps", "-T", "score", *classify)


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
