"""Two replicas, called by their common name or through Envoy; one is killed under load.

The callers are in a container too, as only there the name stands for both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from seqserve.ragged import RaggedBatch
from seqserve_data import Dataset
from tests.containers.callers import sequences
from tests.containers.compose import ROOT, Docker, Project

if TYPE_CHECKING:
    from tests.containers.conftest import Images, Model

CALLERS, CALLS, BEFORE = 4, 2000, 500
ANY_PORT = "0"


@pytest.fixture(scope="module")
def envoy_image(engine: Docker, images: Images) -> str:
    name = "seqserve-envoy:tests"
    engine("build", "--quiet", "--tag", name, ROOT / "deploy/envoy")
    return name


@pytest.fixture(scope="module")
def scaled(trained: Project, envoy_image: str) -> Iterator[Project]:
    """The project that has the model, with a fleet in place of its server."""
    project = trained.told(
        SEQSERVE_REPLICAS="2",
        SEQSERVE_PORT=ANY_PORT,
        SEQSERVE_METRICS_PORT=ANY_PORT,
        ENVOY_PORT=ANY_PORT,
        ENVOY_IMAGE=envoy_image,
    )
    yield project
    project("rm", "--stop", "--force", "envoy")


@pytest.fixture
def replicas(scaled: Project) -> list[str]:
    """Their containers, both healthy."""
    scaled("up", "--detach", "--no-deps", "--wait", "server")
    return scaled("ps", "--quiet", "server").split()


@pytest.fixture
def expected(model: Model) -> dict[str, list[str]]:
    """What the callers are to be answered, and nothing else."""
    asked = RaggedBatch.from_sequences(sequences(features=12))
    ids = tuple(map(str, range(len(asked))))
    logits = model.logits(Dataset("calls", asked, None, ids))
    return {
        each: [row.astype("<f4").tobytes().hex()] for each, row in zip(ids, logits, strict=True)
    }


@pytest.mark.parametrize("balancing", ["client", "envoy"])
def test_no_call_fails_where_one_of_two_replicas_is_killed(
    balancing: str,
    scaled: Project,
    replicas: list[str],
    expected: dict[str, list[str]],
    images: Images,
    model: Model,
) -> None:
    if balancing == "envoy":
        scaled("up", "--detach", "--no-deps", "--wait", "envoy")
    address = {"client": "server:8001", "envoy": "envoy:8080"}[balancing]
    source = Path(__file__).with_name("callers.py").read_text()
    calling = scaled.docker.start(
        *("run", "--rm", "--network", f"{scaled.name}_default", "--entrypoint", "python"),
        *(images.server, "-c", source, address, model.name, str(CALLERS), str(CALLS)),
    )
    with calling:
        assert calling.stdout
        printed = []
        for line in calling.stdout:
            printed.append(line)
            if line.strip() == str(BEFORE):
                scaled.docker("kill", "--signal", "KILL", replicas[0])
    assert calling.returncode == 0, "".join(printed)

    told = json.loads(printed[-1])
    assert told["failed"] == []
    assert told["logits"] == expected
    assert np.all([scaled.docker.inspect(each)["State"]["Running"] for each in replicas[1:]])
    assert not scaled.docker.inspect(replicas[0])["State"]["Running"]


def test_another_up_keeps_the_replicas(scaled: Project, replicas: list[str]) -> None:
    scaled("up", "--detach", "--no-deps", "--wait", "server")
    assert sorted(scaled("ps", "--quiet", "server").split()) == sorted(replicas)
    assert len(replicas) == 2
