"""Settings that cannot be are refused when they are made; open ones are settled by the data."""

from __future__ import annotations

from typing import Any

import pytest

from seqserve_export.config import TrainingConfig
from seqserve_export.errors import InvalidSettings
from seqserve_export.recipe import AUTO_BELOW, settle

BAD: list[tuple[dict[str, Any], str]] = [
    ({"hidden_size": 0}, "--hidden-size is at least 1, not 0"),
    ({"num_layers": 0}, "--num-layers is at least 1"),
    ({"batch_size": 0}, "--batch-size is at least 1"),
    ({"epochs": 0}, "--epochs is at least 1"),
    ({"updates": -5}, "--updates is at least 1, not -5"),
    ({"threads": 0}, "--threads is at least 1"),
    ({"dropout": 1.0}, "--dropout is at least 0 and below 1, not 1.0"),
    ({"dropout": float("nan")}, "--dropout is at least 0 and below 1, not nan"),
    ({"input_dropout": -0.1}, "--input-dropout is at least 0"),
    ({"input_noise": -1.0}, "--input-noise is at least 0"),
    ({"learning_rate": 0.0}, "--learning-rate is above 0"),
    ({"learning_rate": float("inf")}, "--learning-rate is above 0"),
    ({"weight_decay": -1e-3}, "--weight-decay is at least 0"),
    ({"clip_norm": -1.0}, "--clip-norm is at least 0"),
    ({"patience": -1}, "--patience is at least 0"),
    ({"seed": -1}, "--seed is at least 0"),
    ({"seed": 2**63}, "--seed is at least 0 and below"),
    ({"cell": "rnn"}, "--cell is one of lstm, gru, rnn-tanh, rnn-relu, not 'rnn'"),
    ({"head": "sum"}, "--head is one of last, mean, max, not 'sum'"),
    ({"optimizer": "sgd"}, "--optimizer is one of adamw, adam, not 'sgd'"),
    ({"device": "tpu"}, "--device is one of auto, cpu, cuda, not 'tpu'"),
    ({"proj_size": 2, "cell": "gru"}, "--proj-size projects the hidden state of an lstm"),
    ({"proj_size": 64}, "--proj-size 64 is not below --hidden-size 64"),
    ({"epochs": 1, "updates": 1}, "give one"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[str(settings) for settings, _ in BAD])
def test_bad_settings_are_refused_with_what_is_allowed(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSettings) as error:
        TrainingConfig(**settings)
    assert message in str(error.value)


@pytest.mark.parametrize("sequences", [2, 40, 270, 5_000, 100_000, 1_000_000])
def test_every_set_gets_enough_updates_and_no_more_than_it_can_use(sequences: int) -> None:
    recipe = settle(TrainingConfig(), sequences)

    assert 1000 <= recipe.total_updates(sequences) <= 10_000
    assert 8 <= recipe.batch_size <= 256
    seen = recipe.total_updates(sequences) * recipe.batch_size
    assert seen >= 2 * sequences


def test_epochs_given_are_exactly_the_epochs_run() -> None:
    recipe = settle(TrainingConfig(epochs=7), 1001)

    assert recipe.total_epochs(1001) == 7
    assert recipe.total_updates(1001) == 7 * recipe.batches(1001)


def test_plain_adam_is_without_regularisation_and_schedule() -> None:
    recipe = settle(TrainingConfig(optimizer="adam"), 1000)

    assert (recipe.dropout, recipe.input_noise, recipe.input_dropout) == (0, 0, 0)
    assert (recipe.weight_decay, recipe.head, recipe.auto) == (0, "last", False)


def test_what_is_given_stays_as_given() -> None:
    given = TrainingConfig(
        optimizer="adam", dropout=0.5, input_noise=0.1, weight_decay=0.3, head="mean", clip_norm=9
    )

    recipe = settle(given, 1000)

    assert (recipe.dropout, recipe.input_noise, recipe.weight_decay) == (0.5, 0.1, 0.3)
    assert (recipe.head, recipe.clip_norm) == ("mean", 9)


@pytest.mark.parametrize(
    ("settings", "sequences", "expected"),
    [
        ({}, AUTO_BELOW - 1, True),
        ({}, AUTO_BELOW, False),
        ({"auto": True}, AUTO_BELOW, True),
        ({"auto": False}, 40, False),
        ({"head": "last"}, 40, False),
        ({"epochs": 3}, 40, False),
        ({"optimizer": "adamw"}, 40, False),
        ({"learning_rate": 0.1}, 40, False),
        ({"head": "last", "auto": True}, 40, True),
        ({"hidden_size": 32, "updates": 10}, 40, True),
    ],
    ids=str,
)
def test_head_and_schedule_are_chosen_for_small_sets_unless_told(
    settings: dict[str, Any], sequences: int, expected: bool
) -> None:
    assert settle(TrainingConfig(**settings), sequences).auto is expected


def test_settings_are_written_by_their_command_line_names() -> None:
    settings = settle(TrainingConfig(bias=False), 40).settings()

    assert settings["hidden-size"] == "64"
    assert settings["bias"] == "false"
    assert settings["learning-rate"] == "0.003"
    assert "epochs" not in settings
