"""A run that was killed goes on to the same weights, bit for bit, wherever the kill fell."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seqserve_data import Dataset, read
from seqserve_export import run_folder
from seqserve_export.checkpoint import load_trained
from seqserve_export.config import TrainingConfig
from seqserve_export.errors import InvalidCheckpoint
from seqserve_export.fit import Epoch
from seqserve_export.progress import Silent
from seqserve_export.run_folder import FINAL, PREVIOUS, RUNNING
from seqserve_export.trained import TrainedModel
from seqserve_export.training import train

MakeRamps = Callable[..., Dataset]

CHOSEN = TrainingConfig(hidden_size=4, head="max", auto=True, updates=24, batch_size=16)
WATCHED = TrainingConfig(hidden_size=4, epochs=9, batch_size=16, patience=2, learning_rate=0.3)
CONSTANT = TrainingConfig(hidden_size=4, epochs=5, batch_size=16, optimizer="adam", num_layers=2)


class KilledAt(Silent):
    """Ends the run as it comes to an epoch, before that is saved."""

    def __init__(self, epoch: int) -> None:
        self._left = epoch
        self.notes: list[str] = []

    def epoch(self, epoch: Epoch) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def saves_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the epochs are."""
    monkeypatch.setattr(run_folder, "_SHARE", float("inf"))


def _weights_equal(one: TrainedModel, other: TrainedModel) -> bool:
    weights, others = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.usefixtures("saves_every_epoch")
@pytest.mark.parametrize(
    ("config", "validation"),
    [(CHOSEN, None), (CHOSEN, 0.3), (WATCHED, 0.3), (CONSTANT, None)],
    ids=["choosing by folds", "choosing by a validation set", "stopping early", "constant rate"],
)
def test_a_run_killed_at_every_single_epoch_ends_in_the_same_weights(
    config: TrainingConfig, validation: float | None, ramps: MakeRamps, tmp_path: Path
) -> None:
    def run(observer: Silent) -> TrainedModel:
        return train(
            ramps(),
            config,
            validation=validation,
            checkpoints=tmp_path,
            resume=True,
            observer=observer,
        )

    uninterrupted = train(ramps(), config, validation=validation)
    kills, resumed = 0, None
    while resumed is None:
        try:
            # Each life gets one epoch saved, and is killed at the next.
            resumed = run(KilledAt(2))
        except KeyboardInterrupt:
            kills += 1

    assert kills >= 4
    assert _weights_equal(resumed, uninterrupted)
    ours, theirs = resumed.training, uninterrupted.training
    assert (ours.epochs, ours.updates, ours.final_loss) == (
        theirs.epochs,
        theirs.updates,
        theirs.final_loss,
    )
    assert list(ours.validation.confusion) == list(theirs.validation.confusion)
    assert not (tmp_path / RUNNING).exists()
    assert _weights_equal(load_trained(tmp_path / FINAL), uninterrupted)


def test_a_kill_before_the_first_checkpoint_starts_anew(ramps: MakeRamps, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(ramps(), CONSTANT, checkpoints=tmp_path, observer=KilledAt(1))

    again = KilledAt(0)
    trained = train(ramps(), CONSTANT, checkpoints=tmp_path, resume=True, observer=again)

    assert _weights_equal(trained, train(ramps(), CONSTANT))
    assert f"nothing to resume in {tmp_path}; starting anew" in again.notes


def test_a_finished_run_is_not_trained_again(ramps: MakeRamps, tmp_path: Path) -> None:
    first = train(ramps(), CONSTANT, checkpoints=tmp_path)

    again = train(ramps(), CONSTANT, checkpoints=tmp_path, resume=True, observer=KilledAt(1))

    assert _weights_equal(first, again)


def test_what_another_run_ended_in_is_not_taken_for_this_ones(
    ramps: MakeRamps, tmp_path: Path
) -> None:
    train(ramps(), CONSTANT, checkpoints=tmp_path)

    other = replace(CONSTANT, seed=1)
    trained = train(ramps(), other, checkpoints=tmp_path, resume=True)

    assert _weights_equal(trained, train(ramps(), other))
    assert _weights_equal(trained, load_trained(tmp_path / FINAL))


@pytest.mark.usefixtures("saves_every_epoch")
def test_a_finished_run_is_tested_anew_by_another_test_set(
    ramps: MakeRamps, tmp_path: Path
) -> None:
    train(ramps(), CONSTANT, test=ramps(seed=1), checkpoints=tmp_path)

    other = ramps(20, seed=2)
    resumed = train(ramps(), CONSTANT, test=other, checkpoints=tmp_path, resume=True)

    assert resumed.training.test == train(ramps(), CONSTANT, test=other).training.test


def test_a_new_run_sets_an_unfinished_one_aside(ramps: MakeRamps, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(ramps(), CONSTANT, checkpoints=tmp_path, observer=KilledAt(4))
    unfinished = (tmp_path / RUNNING).read_bytes()

    observer = KilledAt(0)
    train(ramps(), replace(CONSTANT, seed=1), checkpoints=tmp_path, observer=observer)

    assert (tmp_path / PREVIOUS).read_bytes() == unfinished
    assert "--resume" in observer.notes[0]
    (tmp_path / PREVIOUS).rename(tmp_path / RUNNING)
    resumed = train(ramps(), CONSTANT, checkpoints=tmp_path, resume=True)
    assert _weights_equal(resumed, train(ramps(), CONSTANT))


@pytest.mark.usefixtures("saves_every_epoch")
def test_a_run_is_not_resumed_with_other_settings_or_data(ramps: MakeRamps, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(ramps(), CONSTANT, checkpoints=tmp_path, observer=KilledAt(3))

    with pytest.raises(InvalidCheckpoint, match="--hidden-size was 4, is 5") as error:
        train(ramps(), replace(CONSTANT, hidden_size=5), checkpoints=tmp_path, resume=True)
    assert "--seed" not in str(error.value)
    with pytest.raises(InvalidCheckpoint, match="the data is not the same"):
        train(ramps(seed=1), CONSTANT, checkpoints=tmp_path, resume=True)
    # More threads move no more than a rounding.
    train(ramps(), replace(CONSTANT, threads=2), checkpoints=tmp_path, resume=True)


@pytest.mark.usefixtures("saves_every_epoch")
def test_a_damaged_checkpoint_is_named(ramps: MakeRamps, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(ramps(), CONSTANT, checkpoints=tmp_path, observer=KilledAt(3))
    path = tmp_path / RUNNING
    path.write_bytes(path.read_bytes()[:-50])

    with pytest.raises(InvalidCheckpoint, match=r"running\.pt is not a checkpoint"):
        train(ramps(), CONSTANT, checkpoints=tmp_path, resume=True)


def test_a_folder_that_cannot_be_made_is_named(ramps: MakeRamps, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidCheckpoint, match="cannot write to"):
        train(ramps(), CONSTANT, checkpoints=tmp_path / "file" / "run")


@pytest.fixture(scope="module")
def whole() -> TrainedModel:
    """What the command of the test below gives where nothing kills it."""
    return train(read("japanese-vowels"), TrainingConfig(hidden_size=16, updates=100))


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["tried head mean", "epoch  2/"], ids=["choosing", "training"])
def test_a_trainer_killed_for_real_and_resumed_gives_the_same_weights(
    moment: str, whole: TrainedModel, tmp_path: Path
) -> None:
    killed = subprocess.Popen(_command(tmp_path), stdout=subprocess.PIPE, text=True)
    assert killed.stdout
    lines = iter(killed.stdout)
    assert any(line.startswith(moment) for line in lines)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    killed.stdout.close()
    assert (tmp_path / RUNNING).exists()

    resumed = subprocess.run(
        [*_command(tmp_path), "--resume"], capture_output=True, text=True, check=True
    )

    assert "resumed " in resumed.stdout
    assert _weights_equal(load_trained(tmp_path / FINAL), whole)


def _command(folder: Path) -> list[str]:
    return [
        *(sys.executable, "-c", "from seqserve_client.cli import main; main()"),
        *("train", "japanese-vowels", "--updates", "100", "--hidden-size", "16"),
        *("--model", "m", "--repository", str(folder / "models"), "--checkpoints", str(folder)),
    ]
