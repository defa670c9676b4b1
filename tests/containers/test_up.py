"""`docker compose up` with nothing told: a trained model, proven, that answers the host."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray

from seqserve_client import Client
from seqserve_client.errors import InvalidRequest
from seqserve_data import Dataset
from tests.containers.compose import ROOT, Project

if TYPE_CHECKING:
    from tests.containers.conftest import Model, Projects


def test_the_host_is_answered_by_a_model_trained_and_proven_there(
    project: Project, model: Model, sequences: Dataset, expected: NDArray[np.float32]
) -> None:
    with Client(project.address) as client:
        answer = client.classify(sequences.sequences, model=model.name)

    assert np.array_equal(answer.logits, expected)
    right = np.array(answer.labels) == np.array(sequences.labels)
    assert right.mean() > 0.95
    assert "64 golden sequences held" in project.logs("server")


def test_a_host_without_python_is_shown_labels_by_a_container(
    project: Project, model: Model
) -> None:
    classify = ("classify", "japanese-vowels/test", "--model", model.name)

    printed = project("run", "--rm", "-T", "score", *classify)

    assert printed.count("\n") > 370
    assert "accuracy: 0.9" in printed


def test_metrics_are_there_for_the_host(project: Project) -> None:
    with urllib.request.urlopen(f"http://{project.metrics_address}/metrics") as answer:
        assert b'golden_set="held"' in answer.read()


def test_a_server_is_healthy_only_once_a_model_has_held_its_golden_set(
    projects: Projects, model: Model
) -> None:
    empty = projects("empty", SEQSERVE_POLL="1")
    empty("up", "--detach", "--no-deps", "server")
    empty.wait_for_log("server", "listening on")

    asked = empty.run("exec", "-T", "server", "seqserve", "health")
    assert (asked.returncode, asked.stderr.count("\n")) == (1, 1), asked.stderr
    assert empty.inspect("server")["State"]["Health"]["Status"] == "starting"

    empty(
        *("run", "--rm", "--no-deps", "--volume", f"{model.repository}:/from:ro", "--user", "0"),
        *("--entrypoint", "cp", "export", "--recursive", f"/from/{model.name}", "/models/"),
    )
    empty.up("server", alone=True)
    assert "64 golden sequences held" in empty.logs("server")


def test_what_the_env_file_says_takes_effect(
    trained: Project, model: Model, sequences: Dataset, tmp_path: Path
) -> None:
    told = {"SEQSERVE_SERVER_MEMORY": "300m", "SEQSERVE_MAX_REQUEST_SEQUENCES": "3"}
    defaults = (ROOT / ".env.example").read_text()
    (tmp_path / ".env").write_text(defaults + "".join(f"{k}={v}\n" for k, v in told.items()))
    project = replace(trained, env_file=tmp_path / ".env")

    project.up("server")

    assert project.inspect("server")["HostConfig"]["Memory"] == 300 << 20
    with Client(project.address) as client, pytest.raises(InvalidRequest, match="at most 3"):
        client.classify(sequences.sequences, model=model.name)


def test_models_of_a_folder_are_served_without_training(
    trained: Project, model: Model, sequences: Dataset, expected: NDArray[np.float32]
) -> None:
    project = trained.told(SEQSERVE_MODELS=str(model.repository))
    model.repository.chmod(0o755)
    model.repository.parent.chmod(0o755)

    project.up("server", alone=True)

    mounted = {each["Destination"]: each for each in project.inspect("server")["Mounts"]}
    assert mounted["/models"]["Source"] == str(model.repository)
    with Client(project.address) as client:
        answer = client.classify(sequences.sequences, model=model.name)
    assert np.array_equal(answer.logits, expected)


def test_trusted_keys_are_given_as_the_docs_say(trained: Project, tmp_path: Path) -> None:
    docs = (ROOT / "docs/containers.md").read_text()
    [lines] = [block for block in docs.split("```") if "SEQSERVE_TRUSTED_KEYS:" in block]
    override = tmp_path / "docker-compose.override.yml"
    public = tmp_path / "trusted.pem"
    override.write_text(lines.removeprefix("yaml\n").replace("./secrets/trusted.pem", str(public)))
    made = subprocess.run(
        [Path(sys.executable).parent / "seqserve", "keygen", tmp_path / "signing.pem"],
        check=True,
        capture_output=True,
    )
    public.write_bytes(made.stdout)
    project = trained.told(override)

    project("up", "--detach", "--no-deps", "server")

    project.wait_for_log("server", "is missing; sign it with")
