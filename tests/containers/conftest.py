"""A container engine, this tree's images, and Compose projects of their own.

A test that takes these fixtures names their types under TYPE_CHECKING:
`from tests.containers.conftest import Images, Model, Projects`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from seqserve import artifact
from seqserve.graph import GraphRunner
from seqserve_data import Dataset, read
from tests.containers.compose import BASE_FILE, Docker, Project

MODEL = "japanese-vowels"
_TAG = "tests"
_WHEELS = "seqserve-wheels:tests"
_NO_ENGINE = (
    "no container engine with Compose and Buildx answers: start one; or, as root on Debian, say "
    'eval "$(tests/containers/engine.sh up /tmp/engine)"'
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("containers")


@dataclass(frozen=True)
class Images:
    """The names of what was built from this tree."""

    server: str
    export: str
    jobs: str


@dataclass(frozen=True)
class Model:
    """A copy of what a project has trained, on the host."""

    name: str
    repository: Path

    @property
    def digest(self) -> str:
        """Of its first version."""
        return artifact.digest(artifact.version_path(self.repository, self.name, 1))

    def logits(self, sequences: Dataset) -> NDArray[np.float32]:
        """The host's own, each sequence by itself: what any server has to answer, bit by bit."""
        folder = artifact.version_path(self.repository, self.name, 1)
        session = onnxruntime.InferenceSession(
            folder / artifact.MODEL_FILE, providers=["CPUExecutionProvider"]
        )
        graph = GraphRunner(artifact.read_manifest(folder).graph, session.run)
        batch = sequences.sequences
        alone = np.split(batch.values, np.cumsum(batch.lengths)[:-1])
        return np.concatenate(
            [graph(each[None], np.array([len(each)], np.int32)).logits for each in alone]
        )


class Projects(Protocol):
    """Makes Compose projects, and removes all of them in the end: `projects("scale")`."""

    def __call__(self, name: str, *overrides: str | Path, **environment: str) -> Project: ...


@pytest.fixture(scope="session")
def engine() -> Docker:
    """The engine that answers; without one the tests fail in CI, and elsewhere are skipped."""
    docker = Docker()
    asked = (["version"], ["compose", "version"], ["buildx", "version"])
    try:
        answers = all(docker.run(*words).returncode == 0 for words in asked)
    except FileNotFoundError:
        answers = False
    if not answers:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(_NO_ENGINE)
    return docker


@pytest.fixture(scope="session")
def built(engine: Docker) -> Mapping[str, str]:
    """The environment for Compose in which this tree's images are the ones that were built."""
    environment = {"SEQSERVE_TAG": _TAG, **_wheels(engine)}
    Project(Docker(environment), "seqserve-build")("--profile", "jobs", "build", "--quiet")
    return environment


@pytest.fixture(scope="session")
def images(built: Mapping[str, str]) -> Images:
    """All three images, built once."""
    return Images(*(f"seqserve-{room}:{_TAG}" for room in ("server", "export", "jobs")))


@pytest.fixture(scope="session")
def projects(built: Mapping[str, str]) -> Iterator[Projects]:
    """Projects of this session, on free ports."""
    made: dict[str, Project] = {}

    def project(name: str, *overrides: str | Path, **environment: str) -> Project:
        ports = zip(("SEQSERVE_PORT", "SEQSERVE_METRICS_PORT"), _free_ports(2), strict=True)
        made[name] = Project(
            Docker({**built, "SEQSERVE_HEALTH_INTERVAL": "1s", **dict(ports), **environment}),
            f"seqserve-{os.getpid()}-{name}",
            (BASE_FILE, *overrides),
        )
        return made[name]

    yield project
    for each in made.values():
        each("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "0")


@pytest.fixture(scope="session")
def trained(projects: Projects) -> Project:
    """A project whose server has been up: the model is in its volume."""
    project = projects("basic")
    project.up("server")
    return project


@pytest.fixture
def project(trained: Project) -> Project:
    """The same, with its server up and healthy, whatever the test before has done to it."""
    trained.up("server", alone=True)
    return trained


@pytest.fixture(scope="session")
def model(trained: Project, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """What `trained` serves."""
    folder = tmp_path_factory.mktemp("trained")
    trained.docker("cp", f"{trained.container('server')}:/models", folder)
    return Model(MODEL, folder / "models")


@pytest.fixture(scope="session")
def sequences() -> Dataset:
    """370 sequences that the model was not trained on."""
    return read(f"{MODEL}/test")


@pytest.fixture(scope="session")
def expected(model: Model, sequences: Dataset) -> NDArray[np.float32]:
    """Their logits, computed on the host."""
    return model.logits(sequences)


def _wheels(docker: Docker) -> dict[str, str]:
    """Wheels that this machine's pip looks in first, as an image: builds look there as well."""
    asked = [sys.executable, "-m", "pip", "config", "get", "global.find-links"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    folders = [Path(folder) for folder in told if Path(folder).is_dir()]
    if not folders:
        return {}
    file = "FROM scratch\nCOPY . /\n"
    docker("build", "--quiet", "--tag", _WHEELS, "--file", "-", folders[0], text=file)
    return {"SEQSERVE_WHEELS": _WHEELS}


def _free_ports(count: int) -> list[str]:
    """Held together, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [str(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()
