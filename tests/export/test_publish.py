"""Publishing: what an artifact holds, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import seqserve_export.publish
from seqserve import artifact
from seqserve.golden import GoldenSet
from seqserve.v1 import manifest_pb2
from seqserve_export.errors import GraphError, NotProven, PublishError, VersionExists
from seqserve_export.graph import ExportedGraph, build
from seqserve_export.network import Cell, Head, SequenceClassifier
from seqserve_export.publish import publish
from seqserve_export.trained import TrainedModel

if TYPE_CHECKING:
    from tests.conftest import RandomModel


def test_an_artifact_is_whole_and_says_what_it_is(
    random_model: RandomModel, tmp_path: Path
) -> None:
    trained = random_model(
        cell="lstm", hidden_size=9, num_layers=2, proj_size=4, dropout=0.25, head="mean"
    )
    published = publish(trained, tmp_path / "new" / "models", "speakers")

    assert published.folder == tmp_path / "new" / "models" / "speakers" / "1"
    manifest = artifact.read_manifest(published.folder)
    assert manifest == published.manifest
    artifact.check_files(manifest, published.folder)
    assert {file.path for file in manifest.files} == {"model.onnx", "golden.npz"}
    assert {path.name for path in published.folder.iterdir()} == {
        "model.onnx",
        "golden.npz",
        "manifest.json",
    }
    assert manifest.network == manifest_pb2.Network(
        cell=manifest_pb2.CELL_LSTM,
        hidden_size=9,
        num_layers=2,
        bias=True,
        dropout=0.25,
        proj_size=4,
        head=manifest_pb2.HEAD_MEAN,
        temperature=float(trained.network.temperature),
    )
    features = manifest.input.features
    assert (features.size, tuple(features.names)) == (3, trained.feature_names)
    np.testing.assert_array_equal(np.array(features.mean, np.float32), trained.network.mean.numpy())
    np.testing.assert_array_equal(
        np.array(features.scale, np.float32), trained.network.scale.numpy()
    )
    assert tuple(manifest.labels) == trained.labels
    assert manifest.training == trained.training
    assert manifest.graph == build(trained.network).contract
    assert {"seqserve", "torch", "onnx", "onnxruntime"} <= manifest.made_with.keys()
    assert manifest.created_at.seconds > 0


def test_the_manifest_holds_the_proof(random_model: RandomModel, tmp_path: Path) -> None:
    published = publish(random_model(), tmp_path, "speakers")
    parity, proof = published.manifest.parity, published.proof
    assert parity.tolerance == pytest.approx(1e-5)
    assert parity.max_difference == np.float32(proof.max_difference) <= 1e-5
    assert (parity.sequences, parity.cases) == (proof.sequences, proof.cases)
    assert parity.bit_equal
    assert parity.execution_provider == "CPUExecutionProvider"
    golden_set = GoldenSet.load(published.folder / "golden.npz")
    assert (len(golden_set.pool), len(golden_set.cases)) == (proof.sequences, proof.cases)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("lstm", manifest_pb2.CELL_LSTM),
        ("gru", manifest_pb2.CELL_GRU),
        ("rnn-tanh", manifest_pb2.CELL_RNN_TANH),
        ("rnn-relu", manifest_pb2.CELL_RNN_RELU),
    ],
)
@pytest.mark.parametrize("head", ["last", "mean", "max"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "both ways"])
def test_every_kind_of_network_is_published(
    cell: Cell,
    expected: manifest_pb2.Cell.ValueType,
    head: Head,
    bidirectional: bool,
    random_model: RandomModel,
    tmp_path: Path,
) -> None:
    trained = random_model(cell=cell, head=head, bidirectional=bidirectional)
    manifest = publish(trained, tmp_path, "speakers").manifest
    assert manifest.network.cell == expected
    assert manifest.network.bidirectional == bidirectional
    assert artifact.read_manifest(tmp_path / "speakers" / "1") == manifest


@pytest.mark.parametrize(
    ("longest_steps", "asked", "expected"),
    [(29, None, 1024), (500, None, 4000), (29, 64, 64), (29, 5, 5)],
)
def test_max_steps_is_generous_unless_told_otherwise(
    longest_steps: int,
    asked: int | None,
    expected: int,
    random_model: RandomModel,
    tmp_path: Path,
) -> None:
    trained = random_model(longest_steps=longest_steps)
    published = publish(trained, tmp_path, "speakers", max_steps=asked)
    assert published.manifest.limits.max_steps == expected


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn-tanh", "rnn-relu"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_model_may_admit_nan_and_infinities_which_its_golden_set_then_has(
    random_model: RandomModel, tmp_path: Path, cell: Cell, bidirectional: bool
) -> None:
    trained = random_model(cell=cell, bidirectional=bidirectional, num_layers=2)
    published = publish(trained, tmp_path, "speakers", admit_non_finite=True)

    assert published.manifest.input.features.admit_non_finite
    golden_set = GoldenSet.load(published.folder / artifact.GOLDEN_FILE)
    finite = np.array([np.isfinite(sequence).all() for sequence in golden_set.pool])
    assert 8 < (~finite).sum() < 32
    assert np.isfinite(golden_set.logits[finite]).all()
    for found in (np.isnan, np.isposinf, np.isneginf):
        assert found(golden_set.pool.values).any()
    assert not publish(trained, tmp_path, "other").manifest.input.features.admit_non_finite


def test_a_model_whose_answer_to_nan_depends_on_its_pieces_does_not_admit_it(
    random_model: RandomModel, tmp_path: Path
) -> None:
    trained = random_model(cell="rnn-tanh", head="max", num_layers=2)
    with pytest.raises(NotProven, match="depend on its company: case '64 rows, pieces of 5 steps'"):
        publish(trained, tmp_path, "speakers", admit_non_finite=True)
    assert not artifact.versions(tmp_path, "speakers")
    publish(trained, tmp_path, "speakers")


def test_an_existing_version_is_refused_before_any_work(
    random_model: RandomModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(random_model(), tmp_path, "speakers", version=4)
    monkeypatch.setattr(seqserve_export.publish, "build", _never)
    with pytest.raises(VersionExists, match="4 is published already"):
        publish(random_model(seed=1), tmp_path, "speakers", version=4)


def test_a_graph_that_differs_from_torch_is_not_published(
    random_model: RandomModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build_wrong(network: SequenceClassifier) -> ExportedGraph:
        """The gates in torch's order, the mistake most easily made."""
        monkeypatch.setattr(
            "seqserve_export.graph.weights.GATES", {"lstm": (0, 1, 2, 3), "gru": (0, 1, 2)}
        )
        return build(network)

    monkeypatch.setattr(seqserve_export.publish, "build", build_wrong)
    with pytest.raises(
        NotProven,
        match=r"not published: the graph differs from torch by .* in case '.*', sequence \d+ of "
        r".* at most 1e-05 is accepted \(logits reach .* differ from float64 by ",
    ):
        publish(random_model(), tmp_path, "speakers")
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_what_float32_can_follow_are_not_published(
    random_model: RandomModel, tmp_path: Path
) -> None:
    trained = random_model(hidden_size=32)
    with torch.no_grad():
        trained.network.linear.weight.mul_(1e4)
    with pytest.raises(NotProven, match=r"logits reach [\d.e+]+, and torch's own in float32"):
        publish(trained, tmp_path, "speakers")


def test_a_network_that_diverged_is_not_published(
    random_model: RandomModel, tmp_path: Path
) -> None:
    trained = random_model()
    with torch.no_grad():
        trained.network.linear.weight[0, 0] = float("nan")
    with pytest.raises(GraphError, match="training diverged"):
        publish(trained, tmp_path / "models", "speakers")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ("a", "b")}, "2 labels for 4 classes"),
        ({"labels": ("a", "b", "b", "c")}, "the same label"),
        ({"feature_names": ("x",)}, "1 feature names for 3 features"),
    ],
)
def test_labels_and_names_must_fit_the_network(
    change: dict[str, tuple[str, ...]], message: str, random_model: RandomModel, tmp_path: Path
) -> None:
    trained: TrainedModel = replace(random_model(), **change)  # type: ignore[arg-type]
    with pytest.raises(PublishError, match=message):
        publish(trained, tmp_path, "speakers")


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "x" * 129])
def test_a_name_that_names_no_model_is_refused(
    name: str, random_model: RandomModel, tmp_path: Path
) -> None:
    with pytest.raises(PublishError, match="cannot name a model"):
        publish(random_model(), tmp_path / "models", name)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_is_not_positive_is_refused(
    version: int, random_model: RandomModel, tmp_path: Path
) -> None:
    with pytest.raises(PublishError, match=f"{version} is no version"):
        publish(random_model(), tmp_path, "speakers", version=version)


def test_max_steps_of_none_at_all_is_refused(random_model: RandomModel, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="max_steps is 0"):
        publish(random_model(), tmp_path, "speakers", max_steps=0)


def test_a_network_still_in_training_mode_is_refused(
    random_model: RandomModel, tmp_path: Path
) -> None:
    trained = random_model(dropout=0.5)
    trained.network.train()
    with pytest.raises(PublishError, match=r"call eval\(\) first"):
        publish(trained, tmp_path, "speakers")


def test_a_repository_that_is_a_file_is_refused(random_model: RandomModel, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(PublishError, match=f"{tmp_path}/models is no folder"):
        publish(random_model(), tmp_path / "models", "speakers")


def _never(*_: object) -> None:
    raise AssertionError("this would have been work for nothing")
