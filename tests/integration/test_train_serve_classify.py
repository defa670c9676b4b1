"""The way of a user's own file, by the commands that the README shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.csv
import pytest
from numpy.typing import NDArray

from seqserve_client import Client
from tests.integration.conftest import serving

SEQSERVE = Path(sys.executable).with_name("seqserve")


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SEQSERVE, *arguments], cwd=cwd, capture_output=True, text=True)


def ramps(seed: int) -> tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.float64]]:
    """Forty noisy ramps that rise or fall: ids, labels and numbers of every step."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 15, 40)
    ids = np.repeat([f"r{index}" for index in range(40)], lengths)
    rising = np.repeat(np.arange(40) % 2 == 0, lengths)
    time = np.concatenate([np.linspace(-1, 1, length) for length in lengths])
    values = np.where(rising, time, -time) + rng.normal(0, 0.1, len(time))
    return ids, np.where(rising, "rises", "Falls"), values


def write(path: Path, seed: int, *, labels: bool) -> None:
    ids, classes, values = ramps(seed)
    table = pyarrow.table({"id": pyarrow.array(ids), "level": pyarrow.array(values)})
    if labels:
        table = table.append_column("label", pyarrow.array(classes))
    pyarrow.csv.write_csv(table, path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ramps")
    write(folder / "train.csv", 1, labels=True)
    write(folder / "test.csv", 2, labels=True)
    write(folder / "new.csv", 3, labels=False)
    trained = run(
        *("train", "train.csv", "--test", "test.csv", "--validation", "0.2", "--model", "ramps"),
        *("--repository", "models", "--updates", "150"),
        cwd=folder,
    )
    assert trained.returncode == 0, trained.stderr
    return folder


@pytest.mark.slow
def test_a_model_trained_on_a_csv_file_classifies_another(folder: Path) -> None:
    with serving(folder / "models") as address:
        tested = run("classify", "test.csv", "--model", "ramps", "--server", address, cwd=folder)
        scored = run(
            *("classify", "new.csv", "--model", "ramps", "--server", address, "--output", "json"),
            cwd=folder,
        )
        with Client(address) as client:
            description = client.describe("ramps")
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.splitlines()[-1] == "accuracy: 1.000"
    assert scored.returncode == 0, scored.stderr
    answers = json.loads(scored.stdout)["answers"]
    truth = {str(i): str(c) for i, c in zip(*ramps(3)[:2], strict=True)}
    assert {answer["id"]: answer["label"] for answer in answers} == truth
    assert list(description.manifest.input.features.names) == ["level"]
    assert description.manifest.training.test.accuracy == 1.0


@pytest.mark.slow
def test_the_published_artifact_proves_itself_again(folder: Path) -> None:
    assert run("verify", "models/ramps/1", cwd=folder).returncode == 0
    (folder / "models/ramps/1/model.onnx").open("r+b").write(b"\x00damage")
    damaged = run("verify", "models/ramps/1", cwd=folder)
    assert damaged.returncode == 1
    assert "differs from what was published" in damaged.stderr
