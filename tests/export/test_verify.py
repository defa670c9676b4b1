"""An artifact proves itself again, and one that was changed does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import pytest
import typer
from onnx import numpy_helper
from typer.testing import CliRunner, Result

from seqserve import artifact
from seqserve.errors import GoldenMismatch, InvalidArtifact
from seqserve.v1.manifest_pb2 import ModelManifest
from seqserve_export.commands import verify as verify_command
from seqserve_export.publish import publish
from seqserve_export.verify import find_version, verify

if TYPE_CHECKING:
    from tests.conftest import ModelRepository, RandomModel


@pytest.fixture(scope="module")
def published(repository: ModelRepository) -> Path:
    return repository(speakers={}) / "speakers" / "1"


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """A copy of the artifact, to be tampered with."""
    return Path(shutil.copytree(published, tmp_path / "speakers" / "1"))


def test_a_published_artifact_holds_with_the_figures_it_was_published_with(
    published: Path,
) -> None:
    verified = verify(published)
    parity = verified.manifest.parity
    assert verified.proof.bit_equal
    assert verified.proof.max_difference == pytest.approx(parity.max_difference)
    assert verified.proof.cases == parity.cases


def test_a_corrupted_weight_is_refused(folder: Path) -> None:
    _change_weight(folder)
    with pytest.raises(InvalidArtifact, match=r"model\.onnx: differs from what was published"):
        verify(folder)


def test_a_corrupted_weight_is_refused_though_the_manifest_was_mended(folder: Path) -> None:
    _change_weight(folder)
    _mend_manifest(folder)
    with pytest.raises(GoldenMismatch, match=r"differs from torch by .* in case '"):
        verify(folder)


def test_a_graph_that_is_none_is_refused(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"no graph")
    _mend_manifest(folder)
    with pytest.raises(InvalidArtifact, match=r"model\.onnx: onnxruntime cannot run it"):
        verify(folder)


def test_a_manifest_that_asks_for_state_the_graph_lacks_is_refused(folder: Path) -> None:
    manifest = artifact.read_manifest(folder)
    manifest.graph.state[0].name = "another"
    artifact.write_manifest(manifest, folder)
    with pytest.raises(InvalidArtifact, match=r"onnxruntime cannot run it.*another_"):
        verify(folder)


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "manifest.json"])
def test_a_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(InvalidArtifact, match=name):
        verify(folder)


def test_a_model_stands_for_its_newest_version(random_model: RandomModel, tmp_path: Path) -> None:
    for version in (2, 10):
        publish(random_model(), tmp_path, "speakers", version=version)
    assert find_version(tmp_path / "speakers") == tmp_path / "speakers" / "10"
    assert find_version(tmp_path / "speakers" / "2") == tmp_path / "speakers" / "2"


def test_a_model_may_be_named_like_a_version(random_model: RandomModel, tmp_path: Path) -> None:
    publish(random_model(), tmp_path, "7")
    assert find_version(tmp_path / "7") == tmp_path / "7" / "1"


def test_a_version_that_is_not_there_is_answered_with_those_that_are(published: Path) -> None:
    with pytest.raises(InvalidArtifact, match=r"not published; versions of speakers: 1$"):
        find_version(published.parent / "2")


def test_command_prints_what_it_proved(published: Path) -> None:
    result = _run(str(published.parent))
    assert result.exit_code == 0
    for words in (
        "proven",
        str(published),
        "64 sequences in 17 cases",
        "at most 1e-05",
        "bit-equal           in every case",
        "CPUExecutionProvider",
    ):
        assert words in result.stdout


def test_command_says_why_it_does_not_hold_and_exits_with_1(folder: Path) -> None:
    _change_weight(folder)
    _mend_manifest(folder)
    result = _run(str(folder))
    assert result.exit_code == 1
    assert not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("seqserve verify: ")
    assert "differs from torch by" in line


def test_installed_command_exits_with_1_and_one_line(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("seqserve")
    result = subprocess.run(
        [command, "verify", tmp_path / "nothing"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert not result.stdout
    (line,) = result.stderr.splitlines()
    assert "neither REPOSITORY/MODEL/VERSION nor REPOSITORY/MODEL" in line


def _run(path: str) -> Result:
    app = typer.Typer()
    app.command()(verify_command)
    return CliRunner().invoke(app, [path])


def _change_weight(folder: Path) -> None:
    path = folder / "model.onnx"
    model = onnx.load(path)
    weight = next(t for t in model.graph.initializer if t.name == "layer0_r")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.01, "layer0_r"))
    path.write_bytes(model.SerializeToString())


def _mend_manifest(folder: Path) -> ModelManifest:
    manifest = artifact.read_manifest(folder)
    for file in manifest.files:
        file.bytes = (folder / file.path).stat().st_size
        file.sha256 = artifact.sha256(folder / file.path)
    artifact.write_manifest(manifest, folder)
    return manifest
