"""Training learns, repeats itself, and keeps what it learns from apart from what it is held to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from seqserve.ragged import RaggedBatch
from seqserve_data import DataError, Dataset, bundled_test, read, stratified_split
from seqserve_export.config import TrainingConfig
from seqserve_export.errors import DeviceUnavailable, Diverged, InvalidSettings, UnsuitableData
from seqserve_export.fit import Epoch
from seqserve_export.progress import Silent
from seqserve_export.trained import TrainedModel
from seqserve_export.training import train

MakeRamps = Callable[..., Dataset]

QUICK = TrainingConfig(hidden_size=8, head="max", epochs=3)


class Recorder(Silent):
    """Keeps the epochs of the model's own fit, and the notes."""

    def __init__(self) -> None:
        self.epochs: list[Epoch] = []
        self.notes: list[str] = []

    def begin(self, what: str, epochs: int, *, done: int = 0, every: int = 1) -> None:
        self.epochs.clear()

    def epoch(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)

    def note(self, text: str) -> None:
        self.notes.append(text)


def _equal(one: TrainedModel, other: TrainedModel) -> bool:
    weights, others = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.slow
def test_forty_short_sequences_are_enough_to_learn_from(ramps: MakeRamps) -> None:
    trained = train(ramps(40), test=ramps(400, seed=1))

    assert trained.training.test.accuracy >= 0.97
    assert trained.training.updates == 1000
    assert trained.training.validation.sequences == 24  # Three of five folds of 40.


def test_a_model_answers_on_raw_input_as_it_was_evaluated(ramps: MakeRamps) -> None:
    data = ramps(40)
    data = replace(
        data, sequences=RaggedBatch(data.sequences.values * 30 + 100, data.sequences.lengths)
    )
    trained = train(data, replace(QUICK, epochs=40))

    network = trained.network
    logits = network(
        torch.from_numpy(data.sequences.padded()), torch.from_numpy(data.sequences.lengths)
    )
    predicted = [trained.labels[index] for index in logits.argmax(dim=1)]
    assert np.mean(np.array(predicted) == np.array(data.labels)) == pytest.approx(
        trained.training.train.accuracy
    )
    assert trained.training.train.accuracy > 0.9
    assert not network.training
    assert trained.longest_steps == data.sequences.lengths.max()


def test_a_seed_repeats_a_run_bit_for_bit(ramps: MakeRamps) -> None:
    config = TrainingConfig(hidden_size=8, updates=20, seed=3)

    first, again = train(ramps(), config), train(ramps(), config)

    assert _equal(first, again)
    assert list(first.training.train.confusion) == list(again.training.train.confusion)
    assert not _equal(first, train(ramps(), replace(config, seed=4)))


def test_the_callers_threads_and_random_numbers_neither_count_nor_change(
    ramps: MakeRamps,
) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(1)
    first = train(ramps(), QUICK)
    drawn = torch.rand(1)
    try:
        torch.set_num_threads(3)
        torch.manual_seed(1)
        torch.rand(100)
        assert _equal(first, train(ramps(), QUICK))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))


def test_epochs_given_are_run_and_told_one_by_one(ramps: MakeRamps) -> None:
    recorder = Recorder()
    trained = train(ramps(41), replace(QUICK, batch_size=8), observer=recorder)

    assert [epoch.number for epoch in recorder.epochs] == [1, 2, 3]
    assert (trained.training.epochs, trained.training.updates) == (3, 18)
    assert trained.training.final_loss == recorder.epochs[-1].mean_loss
    assert not trained.training.HasField("validation")
    assert float(trained.network.temperature) == 1


def test_updates_given_are_done_to_the_last_one(ramps: MakeRamps) -> None:
    config = TrainingConfig(hidden_size=8, head="max", auto=False, batch_size=8, updates=13)

    assert train(ramps(40), config).training.updates == 13


def test_training_stops_early_with_the_weights_that_validated_best(ramps: MakeRamps) -> None:
    # Nothing to learn: what lowers the training loss raises the validation loss.
    noise = replace(ramps(60, noise=100.0), labels=tuple("ab"[i % 7 % 2] for i in range(60)))
    config = TrainingConfig(
        head="last", optimizer="adam", learning_rate=0.03, epochs=200, patience=7
    )
    recorder = Recorder()

    trained = train(noise, config, validation=0.4, observer=recorder)

    losses = [epoch.validation.loss for epoch in recorder.epochs if epoch.validation]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 7 < 200
    scaled = _validation_loss(trained, noise, 0.4)
    assert scaled == pytest.approx(losses[best], rel=1e-5)


def _validation_loss(trained: TrainedModel, data: Dataset, share: float) -> float:
    _, held_out = stratified_split(data.labels or (), share, seed=0)
    part = data.take(held_out)
    with torch.no_grad():
        logits = trained.network(
            torch.from_numpy(part.sequences.padded()), torch.from_numpy(part.sequences.lengths)
        )
    targets = torch.tensor([trained.labels.index(label) for label in part.labels or ()])
    return float(torch.nn.functional.cross_entropy(logits, targets))


def test_patience_0_never_stops_early(ramps: MakeRamps) -> None:
    config = replace(QUICK, epochs=30, patience=0, learning_rate=1e-6)

    assert train(ramps(), config, validation=0.2).training.epochs == 30


def test_class_weights_find_more_of_a_rare_class(ramps: MakeRamps) -> None:
    data, test = ramps(200, rising=0.06, noise=2.0), ramps(400, seed=1, rising=0.5, noise=2.0)
    config = TrainingConfig(hidden_size=8, head="mean", optimizer="adam", epochs=15)

    def found(config: TrainingConfig) -> int:
        return train(data, config, test=test).training.test.confusion[3]

    assert found(replace(config, class_weights=True)) > found(config) + 40


def test_the_test_set_is_never_used_to_choose(ramps: MakeRamps) -> None:
    config = TrainingConfig(hidden_size=8, updates=20)

    without = train(ramps(), config)
    one = train(ramps(), config, test=ramps(50, seed=1))
    other = train(ramps(), config, test=ramps(50, seed=1, noise=50.0))

    assert _equal(without, one)
    assert _equal(one, other)
    assert one.training.test.accuracy != other.training.test.accuracy


def test_a_share_held_out_is_not_learnt_from(ramps: MakeRamps) -> None:
    trained = train(ramps(40), QUICK, validation=0.25)

    assert (trained.training.train.sequences, trained.training.validation.sequences) == (30, 10)
    assert float(trained.network.temperature) != 1


def test_a_validation_set_is_what_is_chosen_by(ramps: MakeRamps) -> None:
    recorder = Recorder()
    config = TrainingConfig(hidden_size=8, updates=20)

    trained = train(ramps(40), config, validation=ramps(17, seed=1), observer=recorder)

    assert trained.training.train.sequences == 40
    assert trained.training.validation.sequences == 17
    assert sum(note.startswith("tried") for note in recorder.notes) == 5
    assert all(epoch.validation for epoch in recorder.epochs)
    assert trained.training.settings["validation"] == "ramps"


def test_settings_and_figures_are_kept(ramps: MakeRamps) -> None:
    training = train(ramps(), replace(QUICK, cell="rnn-tanh", seed=5)).training

    assert (training.data, training.seed) == ("ramps", 5)
    assert training.settings["cell"] == "rnn-tanh"
    assert training.settings["batch-size"] == "8"
    assert training.settings["device"] in ("cpu", "cuda")
    assert training.seconds > 0
    assert sum(training.train.confusion) == training.train.sequences == 40


def _without_labels(data: Dataset) -> Dataset:
    return replace(data, labels=None)


def _of_one_class(data: Dataset) -> Dataset:
    return replace(data, labels=("a",) * len(data))


def _with_a_single_example(data: Dataset) -> Dataset:
    return replace(data, labels=("rare", *("a", "b") * (len(data) // 2))[: len(data)])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without_labels, "has no labels"),
        (_of_one_class, "at least two classes"),
        (_with_a_single_example, "'rare' has this one example"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused(
    spoil: Callable[[Dataset], Dataset], message: str, ramps: MakeRamps
) -> None:
    with pytest.raises(DataError, match=message):
        train(spoil(ramps()), QUICK)


def test_a_label_unseen_in_training_is_refused(ramps: MakeRamps) -> None:
    test = replace(ramps(2), labels=("rising", "level"))
    with pytest.raises(DataError, match="'level' was not seen in training"):
        train(ramps(), QUICK, test=test)


def test_a_set_of_other_features_is_refused(ramps: MakeRamps) -> None:
    wide = RaggedBatch.from_sequences([np.zeros((3, 2), np.float32)] * 2)
    test = replace(ramps(2), sequences=wide)
    with pytest.raises(UnsuitableData, match="ramps has 2 features a step, ramps has 1"):
        train(ramps(), QUICK, test=test)


def test_features_in_another_order_are_refused(ramps: MakeRamps) -> None:
    def named(*names: str) -> Dataset:
        values = np.repeat(ramps().sequences.values, 2, axis=1)
        return replace(
            ramps(), sequences=RaggedBatch(values, ramps().sequences.lengths), feature_names=names
        )

    with pytest.raises(UnsuitableData, match="has the features y, x; ramps has x, y"):
        train(named("x", "y"), QUICK, validation=named("y", "x"))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, float("nan")])
def test_a_share_that_is_none_is_refused(share: float, ramps: MakeRamps) -> None:
    with pytest.raises(InvalidSettings, match="share above 0 and below 1"):
        train(ramps(), QUICK, validation=share)


def test_a_loss_that_is_no_number_ends_the_run_with_advice(ramps: MakeRamps) -> None:
    config = TrainingConfig(
        cell="rnn-relu", optimizer="adam", learning_rate=1e12, clip_norm=0, epochs=20
    )
    with pytest.raises(Diverged, match="--learning-rate below 1e"):
        train(ramps(), config)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_cuda_where_there_is_none_is_refused_and_auto_takes_the_cpu(ramps: MakeRamps) -> None:
    with pytest.raises(DeviceUnavailable, match="--device cpu or auto"):
        train(ramps(), replace(QUICK, device="cuda"))

    assert _equal(train(ramps(), QUICK), train(ramps(), replace(QUICK, device="cpu")))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_model_trained_on_a_gpu_comes_back_on_the_cpu(ramps: MakeRamps) -> None:
    trained = train(ramps(), replace(QUICK, device="cuda"))

    assert all(tensor.device.type == "cpu" for tensor in trained.network.state_dict().values())


@pytest.mark.slow
def test_the_defaults_learn_japanese_vowels() -> None:
    name = bundled_test("japanese-vowels")
    assert name

    assert train(read("japanese-vowels"), test=read(name)).training.test.accuracy >= 0.96


@pytest.mark.slow
def test_the_textbook_run_repeats() -> None:
    runs = [_textbook_losses(seed) for seed in range(5)]

    for losses in runs:
        assert losses[0] == pytest.approx(np.log(2), abs=0.02)
        assert losses[19] < 0.2
    assert np.median([losses[19] for losses in runs]) < 0.1


def _textbook_losses(seed: int) -> list[float]:
    """The mean loss of each epoch."""
    recorder = Recorder()
    config = TrainingConfig(
        cell="lstm",
        hidden_size=50,
        num_layers=2,
        batch_size=64,
        optimizer="adam",
        learning_rate=0.01,
        epochs=20,
        seed=seed,
    )

    train(read("random"), config, observer=recorder)

    return [epoch.mean_loss for epoch in recorder.epochs]
