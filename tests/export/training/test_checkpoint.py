"""A checkpoint gives back what it was given, or says what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seqserve.v1.manifest_pb2 import SplitFigures, Training
from seqserve_export import checkpoint
from seqserve_export.checkpoint import MODEL, RUN, load_trained, save_trained
from seqserve_export.errors import InvalidCheckpoint
from seqserve_export.network import NetworkConfig, SequenceClassifier
from seqserve_export.trained import TrainedModel


@pytest.fixture
def trained() -> TrainedModel:
    network = SequenceClassifier(NetworkConfig(3, 2, cell="gru", hidden_size=4, head="mean"))
    network.mean += 0.25
    network.scale *= 3
    network.temperature.fill_(1.5)
    figures = SplitFigures(sequences=2, steps=5, accuracy=0.5, loss=0.7, confusion=[1, 0, 1, 0])
    return TrainedModel(
        network=network.eval(),
        labels=("no", "yes"),
        feature_names=("a", "b", "c"),
        longest_steps=29,
        training=Training(data="set", seed=2**63 - 1, settings={"cell": "gru"}, train=figures),
    )


def test_a_trained_model_comes_back_whole(trained: TrainedModel, tmp_path: Path) -> None:
    save_trained(tmp_path / "final.pt", trained)
    loaded = load_trained(tmp_path / "final.pt")

    assert loaded.network.config == trained.network.config
    assert not loaded.network.training
    for name, tensor in trained.network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], tensor), name
    assert (loaded.labels, loaded.feature_names) == (trained.labels, trained.feature_names)
    assert (loaded.longest_steps, loaded.training) == (29, trained.training)


def test_a_file_cut_short_anywhere_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    path = tmp_path / "final.pt"
    save_trained(path, trained)
    whole = path.read_bytes()
    for size in range(0, len(whole), 211):
        path.write_bytes(whole[:size])
        with pytest.raises(InvalidCheckpoint, match="not a checkpoint of seqserve, or is damaged"):
            load_trained(path)


def test_a_flipped_bit_is_never_taken_for_a_weight(trained: TrainedModel, tmp_path: Path) -> None:
    path = tmp_path / "final.pt"
    save_trained(path, trained)
    whole = path.read_bytes()
    refused = 0
    for place in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        try:
            loaded = load_trained(path)
        except InvalidCheckpoint:
            refused += 1
        else:  # It lies in what the archive's form leaves unused.
            assert loaded.training == trained.training
            for name, tensor in trained.network.state_dict().items():
                assert torch.equal(loaded.network.state_dict()[name], tensor), (place, name)
    assert refused


def _write_text(path: Path) -> None:
    path.write_text("epoch,loss\n1,0.5\n")


def _write_other_tensors(path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, path)


def _write_code(path: Path) -> None:
    torch.save(SequenceClassifier(NetworkConfig(1, 2)), path)


def _write_incomplete(path: Path) -> None:
    checkpoint.save(path, MODEL, {"labels": ["a", "b"]})


def _write_later_form(path: Path) -> None:
    torch.save({"kind": MODEL, "form_version": 99}, path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (_write_text, "not a checkpoint of seqserve, or is damaged"),
        (_write_other_tensors, "not a checkpoint of seqserve"),
        (_write_code, "not a checkpoint of seqserve"),
        (_write_incomplete, "incomplete"),
        (_write_later_form, "form 99; this version of seqserve reads form 1"),
        (Path.mkdir, "cannot read the checkpoint"),
        (lambda path: None, "cannot read the checkpoint"),
    ],
    ids=["text", "tensors", "a pickled network", "incomplete", "later", "a folder", "nothing"],
)
def test_another_file_is_refused_by_name(write: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    assert callable(write)
    write(path)
    with pytest.raises(InvalidCheckpoint, match=message) as error:
        load_trained(path)
    assert str(path) in str(error.value)


def test_a_run_in_progress_is_not_taken_for_a_model(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "running.pt", RUN, {"fit": None})
    with pytest.raises(InvalidCheckpoint, match="holds a seqserve training run, not a"):
        load_trained(tmp_path / "running.pt")


def test_a_write_that_fails_leaves_the_last_whole_file(
    trained: TrainedModel, tmp_path: Path
) -> None:
    path = tmp_path / "final.pt"
    save_trained(path, trained)
    whole = path.read_bytes()

    class Unwritable:
        def __reduce__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, MODEL, {"state": [torch.zeros(1000), Unwritable()]})
    assert path.read_bytes() == whole


def test_a_folder_that_is_not_there_is_named(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match="cannot write the checkpoint"):
        save_trained(tmp_path / "missing" / "final.pt", trained)
