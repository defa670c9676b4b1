"""Real servers in processes of their own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import onnxruntime
import pytest

from seqserve import artifact
from seqserve.graph import GraphRunner

if TYPE_CHECKING:
    from tests.conftest import ModelRepository, PublishedOptions

ROOT = Path(__file__).parents[2]
PORTS = ("--address", "127.0.0.1:0", "--metrics-address", "off")
MODELS: dict[str, PublishedOptions] = {
    "lstm-last": {"cell": "lstm", "num_layers": 2},
    "lstm-mean": {"cell": "lstm", "proj_size": 3, "head": "mean"},
    "gru-max": {"cell": "gru", "head": "max"},
    "rnn-last": {"cell": "rnn-tanh"},
    "both-ways": {"cell": "lstm", "bidirectional": True, "head": "mean"},
}


@contextmanager
def serving(
    models: Path, *options: str, bin_folder: Path = Path(sys.executable).parent
) -> Iterator[str]:
    """`seqserve serve` on a free port; gives its address once it is ready, and drains it."""
    process = subprocess.Popen(
        [bin_folder / "seqserve", "serve", models, *PORTS, *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield _address(process)
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate()[1]
    assert process.returncode == 0, rest


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    printed, address = [], ""
    for line in process.stderr:
        printed.append(line)
        if found := re.search(r"listening on (\S+)", line):
            address = found[1]
        if " ready in " in line:
            return address
    raise AssertionError("the server did not start:\n" + "".join(printed))


@pytest.fixture(scope="session")
def models(repository: ModelRepository) -> Path:
    """A model of every kind of cell and head, each forward but for `both-ways`."""
    return repository(**MODELS)


@pytest.fixture(scope="session", params=["native", "grpcio"])
def server(request: pytest.FixtureRequest, models: Path) -> Iterator[str]:
    """Address of a server of `models`, on each transport."""
    with serving(models, "--transport", request.param) as address:
        yield address


def in_process(models: Path, name: str) -> GraphRunner:
    """The same artifact in onnxruntime, without a server."""
    folder = artifact.version_path(models, name, 1)
    session = onnxruntime.InferenceSession(
        folder / artifact.MODEL_FILE, providers=["CPUExecutionProvider"]
    )
    return GraphRunner(artifact.read_manifest(folder).graph, session.run)
