"""`seqserve export`: a checkpoint published without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner, Result

from seqserve import artifact
from seqserve_export.checkpoint import save_trained
from seqserve_export.commands import export
from seqserve_export.graph import build
from seqserve_export.verify import verify

if TYPE_CHECKING:
    from tests.conftest import RandomModel


@pytest.fixture
def checkpoint(random_model: RandomModel, tmp_path: Path) -> Path:
    path = tmp_path / "model.pt"
    save_trained(path, random_model(seed=5))
    return path


def test_a_checkpoint_becomes_a_proven_version(
    checkpoint: Path, random_model: RandomModel, tmp_path: Path
) -> None:
    result = _run(checkpoint, tmp_path, "--version", "3", "--max-steps", "77")
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "models" / "speakers" / "3"
    assert f"published {folder}" in result.stdout
    assert "the same bits in every case" in result.stdout
    assert verify(folder).manifest.limits.max_steps == 77
    model = build(random_model(seed=5).network).model
    assert (folder / "model.onnx").read_bytes() == model.SerializeToString(deterministic=True)


def test_a_model_admits_what_is_not_finite_where_that_is_asked_for(
    checkpoint: Path, tmp_path: Path
) -> None:
    assert _run(checkpoint, tmp_path, "--admit-non-finite").exit_code == 0
    assert _run(checkpoint, tmp_path).exit_code == 0
    admitting, not_admitting = (
        verify(tmp_path / "models" / "speakers" / version).manifest.input.features
        for version in ("1", "2")
    )
    assert (admitting.admit_non_finite, not_admitting.admit_non_finite) == (True, False)


def test_versions_count_on(checkpoint: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert _run(checkpoint, tmp_path).exit_code == 0
    assert artifact.versions(tmp_path / "models", "speakers") == [1, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--version", "1"), "speakers/1 is published already"),
        (("--model", ".hidden"), "cannot name a model"),
    ],
)
def test_what_cannot_be_published_ends_in_one_line(
    options: tuple[str, ...], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    assert _run(checkpoint, tmp_path).exit_code == 0
    result = _run(checkpoint, tmp_path, *options)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("seqserve export: ")
    assert message in line


def test_a_file_that_is_no_checkpoint_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"nothing")
    result = _run(path, tmp_path)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert str(path) in line


def _run(checkpoint: Path, folder: Path, *options: str) -> Result:
    app = typer.Typer()
    app.command()(export)
    repository = str(folder / "models")
    arguments = [str(checkpoint), "--repository", repository, "--model", "speakers", *options]
    return CliRunner().invoke(app, arguments)
